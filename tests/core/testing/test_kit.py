"""The conformance kit passes a good plugin, and names the check that a broken one fails."""

from __future__ import annotations

import shutil

import pytest

from polylens.errors import InputError
from polylens.testing import (
    Failure,
    Subject,
    alignment,
    check,
    checkpoints,
    checks,
    chunks,
    components,
    families,
    generation,
    gradients,
    models,
    places,
    slicing,
    templates,
)
from polylens.testing.results import run


@pytest.mark.parametrize("one", checks(), ids=lambda one: one.__name__)
def test_minicpmv_keeps_the_contract(one, subject):
    one(subject)


def test_every_check_is_explained():
    assert len({one.__name__ for one in checks()}) == len(checks())
    assert all(one.__doc__ and one.__doc__.split("\n")[0].endswith(".") for one in checks())


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"no plugin named 'minicpm' \(did you mean 'minicpmv'"):
        check("minicpm")
    with pytest.raises(InputError, match=r"has no family 'minicpmv-2' \(did you mean 'minicpmv-2\."):
        check("minicpmv", family="minicpmv-2")


def failure(one, plugin):
    with pytest.raises(Failure) as failed:
        one(Subject(plugin))
    return str(failed.value)


LOSES_A_COLUMN = """
    from dataclasses import replace

    class Slicer:
        def __init__(self, inner):
            self.inner = inner

        def slice(self, size):
            sliced = self.inner.slice(size)
            last = [i for i, c in enumerate(sliced.crops) if c.window[2] == c.scaled[0] and c.window[0] > 0]
            kept = tuple(c for i, c in enumerate(sliced.crops) if i not in last)
            boxes = [b for c, b in zip(sliced.crops, cut(sliced)) if c in kept]
            import numpy as np
            return replace(sliced, crops=kept, token_boxes=np.concatenate(boxes))

    def cut(sliced):
        import numpy as np
        return np.split(sliced.token_boxes, np.cumsum([c.tokens for c in sliced.crops])[:-1])

    @hookimpl
    def image_slicer(config, options):
        return Slicer(base.image_slicer(config, options))
"""


def test_slicer_that_loses_a_column(broken):
    found = failure(slicing.windows_cover_the_picture, broken(LOSES_A_COLUMN))
    assert "of the picture, resized to" in found
    assert "lies in no crop" in found


def test_slicer_with_token_boxes_off_their_crop(broken):
    plugin = broken("""
        class Slicer:
            def __init__(self, inner):
                self.inner = inner

            def slice(self, size):
                sliced = self.inner.slice(size)
                half = sliced.token_boxes.copy()
                half[:, 2] /= 2
                from dataclasses import replace
                return replace(sliced, token_boxes=half)

        @hookimpl
        def image_slicer(config, options):
            return Slicer(base.image_slicer(config, options))
    """)
    assert "lies in no token's box" in failure(slicing.token_boxes_cover_the_picture, plugin)
    assert "off its window" in failure(slicing.token_boxes_lie_in_their_crops, plugin)


def test_preprocessor_that_mirrors_pictures(broken):
    plugin = broken("""
        @hookimpl
        def image_preprocessor():
            from polylens.modeling.preprocessing import BicubicPreprocessor

            class Mirrored(BicubicPreprocessor):
                def pixels(self, image, sliced):
                    return super().pixels(image.transpose(0), sliced)

            return Mirrored()
    """)
    assert "with the box" in failure(places.painted_pixels_lie_in_the_boxes, plugin)
    assert "moves tokens of crop" in failure(places.tokens_see_their_boxes, plugin)


def test_slicer_whose_token_boxes_go_column_by_column(broken):
    plugin = broken("""
        class Slicer:
            def __init__(self, inner):
                self.inner = inner

            def slice(self, size):
                from dataclasses import replace
                import numpy as np

                sliced = self.inner.slice(size)
                crops = np.split(sliced.token_boxes, np.cumsum([c.tokens for c in sliced.crops])[:-1])
                boxes = np.concatenate([crop[np.lexsort((crop[:, 1], crop[:, 0]))] for crop in crops])
                return replace(sliced, token_boxes=boxes)

        @hookimpl
        def image_slicer(config, options):
            return Slicer(base.image_slicer(config, options))
    """)
    with pytest.raises(Failure, match=r"noise in .* moves token \d+ most, with the box"):
        places.tokens_see_their_boxes(Subject(plugin, "minicpmv-4.6"))


def test_preprocessor_that_swaps_red_and_blue(broken):
    plugin = broken("""
        @hookimpl
        def image_preprocessor():
            from polylens.modeling.preprocessing import BicubicPreprocessor

            class Swapped(BicubicPreprocessor):
                def pixels(self, image, sliced):
                    return [crop.flip(0) for crop in super().pixels(image, sliced)]

            return Swapped()
    """)
    assert "(200, 120, 10) has (10, 120, 200)" in failure(slicing.pixels_keep_their_colour, plugin)


TEMPLATE = """
    from dataclasses import replace

    class Template:
        def __init__(self, inner):
            self.inner = inner

        def encode(self, messages, images, **options):
            return change(self.inner.encode, messages, images, options)

    @hookimpl
    def chat_template(family, tokenizer, config, options):
        return Template(base.chat_template(family, tokenizer, config, options))
"""


@pytest.mark.parametrize(
    ("stops", "message"),
    [
        ((7,), r"ends? with token 2 in training, which is not in stop_ids \[7\]"),
        ((), "generation would never end"),
        ((2, 10**6), "holds .1000000., which is no token of the vocabulary of 2048"),
    ],
)
def test_template_that_does_not_know_where_answers_end(subject, monkeypatch, stops, message):
    monkeypatch.setattr(subject.checkpoint.template, "stop_ids", stops)
    with pytest.raises(Failure, match=message):
        templates.answers_stop_where_they_end(subject)


def test_template_that_miscounts_slots(broken):
    plugin = broken(
        TEMPLATE
        + """
    def change(encode, messages, images, options):
        encoding = encode(messages, images, **options)
        mask = list(encoding.visual_mask)
        if any(mask):
            mask[mask.index(True)] = False
        return replace(encoding, visual_mask=mask)
    """
    )
    results = {result.name: result for result in check(plugin, "minicpmv-2.0")}
    assert not results["slots_match_the_slices"].ok
    assert "15 visual slots for 16 visual tokens" in results["slots_match_the_slices"].detail
    assert results["windows_cover_the_picture"].ok
    assert results["text_survives_the_template"].ok
    assert len(results) == len(checks())


def test_template_that_shifts_its_labels(broken):
    plugin = broken(
        TEMPLATE
        + """
    def change(encode, messages, images, options):
        encoding = encode(messages, images, **options)
        return replace(encoding, labels=[*encoding.labels[1:], -100])
    """
    )
    assert "shifted?" in failure(templates.chat_labels_are_the_answers, plugin)


def test_template_that_supervises_what_stands_before_an_answer(broken):
    plugin = broken(
        TEMPLATE
        + """
    def change(encode, messages, images, options):
        encoding = encode(messages, images, **options)
        labels = list(encoding.labels)
        for i in range(1, len(labels)):
            if encoding.labels[i] != -100 and encoding.labels[i - 1] == -100:
                labels[i - 1] = encoding.input_ids[i - 1]
        return replace(encoding, labels=labels)
    """
    )
    found = failure(templates.supervision_begins_where_generation_does, plugin)
    assert "a picture first: the prompt of turn 1 has" in found
    assert "is the first one supervised" in found


def test_template_that_cuts_into_a_picture(broken):
    plugin = broken(
        TEMPLATE
        + """
    def change(encode, messages, images, options):
        limit = options.pop("max_length", None)
        encoding = encode(messages, images, **options)
        return type(encoding)(encoding.input_ids[:limit], encoding.labels[:limit], encoding.visual_mask[:limit])
    """
    )
    assert "visual slots for" in failure(templates.max_length_never_cuts_a_picture, plugin)


MODEL = """
    @hookimpl
    def build_model(config):
        from polylens_minicpmv.models.minicpmv2 import MiniCPMV2Config
        return changed()(MiniCPMV2Config(**config))

    import functools

    @functools.cache
    def changed():
        import torch
        from dataclasses import replace
        from polylens_minicpmv.models.minicpmv2 import MiniCPMV2

        class Changed(MiniCPMV2):
"""


def model(*lines):
    return MODEL + "".join(f"            {line}\n" for line in lines) + "        return Changed\n"


FORWARD = "def forward(self, batch, outputs=frozenset({'hidden'}), logit_positions=None, embed_ids=None):"


def test_model_that_ignores_the_attention_mask(broken):
    plugin = broken(
        model(
            FORWARD,
            "    batch = replace(batch, attention_mask=torch.ones_like(batch.attention_mask))",
            "    return super().forward(batch, outputs, logit_positions, embed_ids)",
        )
    )
    assert "padded left and right: differ by" in failure(models.left_padding_equals_right_padding, plugin)


def test_model_whose_rows_see_each_other(broken):
    plugin = broken(
        model(
            FORWARD,
            "    made = super().forward(batch, outputs, logit_positions, embed_ids)",
            "    return made if made.hidden is None else replace(made, hidden=made.hidden - made.hidden.mean((0, 1)))",
        )
    )
    assert "alone and in a batch of 5: differ by" in failure(models.batch_of_one_equals_batch_of_many, plugin)
    assert "of one row moves another one" in failure(models.pictures_are_seen_in_place, plugin)


def test_model_that_cuts_the_tower_off(broken):
    plugin = broken(
        model(
            "def _visual_tokens(self, batch, items, stages):",
            "    return super()._visual_tokens(batch, items, stages).detach()",
        )
    )
    assert "no gradient reaches vision, connector" in failure(gradients.every_component_is_trained, plugin)


def test_model_that_skips_the_tower_for_text(broken):
    plugin = broken(
        model(
            "def _visual_tokens(self, batch, items, stages):",
            "    return super()._visual_tokens(batch, items, stages if items else ())",
        )
    )
    found = failure(gradients.text_alone_gives_zero_gradients, plugin)
    assert "trained weights have no gradient" in found
    assert "a batch without pictures does not call resampler" in failure(models.weights_are_reached_by_calls, plugin)


def test_model_that_borrows_a_weight(broken):
    plugin = broken(
        model(
            FORWARD,
            "    made = super().forward(batch, (set(outputs) | {'hidden'}) - {'logits'})",
            "    weight = self.llm.lm_head.weight",
            "    return replace(made, logits=torch.nn.functional.linear(made.hidden[batch.attention_mask], weight))",
        )
    )
    found = failure(models.weights_are_reached_by_calls, plugin)
    assert "with pictures, a weight is used outside a call of the module that owns it" in found


def test_model_that_gives_visual_tokens_in_another_order(broken):
    """As one would that looks at crops in the order of their lengths."""
    plugin = broken(
        model(
            FORWARD,
            "    made = super().forward(batch, outputs, logit_positions, embed_ids)",
            "    return made if made.connector is None else replace(made, connector=made.connector.flip(0))",
        )
    )
    assert "visual tokens of a batch are not those of its rows" in failure(
        alignment.visual_tokens_are_in_the_order_of_their_rows, plugin
    )


def test_model_whose_visual_tokens_know_the_size_of_the_batch(broken):
    plugin = broken(
        model(
            FORWARD,
            "    made = super().forward(batch, outputs, logit_positions, embed_ids)",
            "    far = None if made.connector is None else made.connector + 0.1 * len(batch)",
            "    return replace(made, connector=far)",
        )
    )
    assert "relative error" in failure(alignment.alignment_does_not_depend_on_micro_batches, plugin)


def test_model_that_averages_over_the_batch(broken):
    """A gradient that depends on how the batch is cut."""
    plugin = broken(
        model(
            FORWARD,
            "    made = super().forward(batch, outputs, logit_positions, embed_ids)",
            "    made.hidden = made.hidden * (1 + 0.01 * len(batch)) + 0.01 * made.hidden.mean()",
            "    return made",
        )
    )
    assert "micro-batches of 1: relative error" in failure(gradients.cached_gradient_equals_full_batch, plugin)


def test_model_whose_tower_sees_the_other_crops_of_its_chunk(broken):
    plugin = broken(
        model(
            "def _look(self, crops):",
            "    seen = super()._look(crops)",
            "    seen.states = seen.states + 0.01 * seen.states[:, 0].mean(0)",
            "    return seen",
        )
    )
    assert "pictures: vision with chunks of 1: differ by" in failure(chunks.vision_chunks_change_no_output, plugin)
    found = failure(chunks.vision_chunks_change_no_gradient, plugin)
    assert "pictures, vision, connector, llm trained, chunks of 1: relative error" in found


def test_model_whose_chunk_size_does_nothing(broken):
    plugin = broken(
        model(
            "def _visual_tokens(self, batch, items, stages):",
            "    kept, self.vision_chunk_size = self.vision_chunk_size, None",
            "    tokens = super()._visual_tokens(batch, items, stages)",
            "    self.vision_chunk_size = kept",
            "    return tokens",
        )
    )
    assert "called no more often than without" in failure(chunks.vision_chunks_change_no_output, plugin)


def test_model_that_loses_gradients_in_chunks(broken):
    plugin = broken(
        model(
            "def _look(self, crops):",
            "    seen = super()._look(crops)",
            "    if self.vision_chunk_size == 2:",
            "        seen.states = (seen.states + seen.states.detach()) / 2",
            "    return seen",
        )
    )
    assert chunks.vision_chunks_change_no_output(Subject(plugin))
    found = failure(chunks.vision_chunks_change_no_gradient, plugin)
    assert "vision, connector, llm trained, chunks of 2: relative error" in found


def test_model_that_generates_from_padding(broken):
    plugin = broken(
        model(
            "def generate(self, batch, **options):",
            "    seen = replace(batch, attention_mask=torch.ones_like(batch.attention_mask))",
            "    return super().generate(seen, **options)",
        )
    )
    assert "is answered" in failure(generation.answers_do_not_depend_on_the_batch, plugin)


def test_model_that_says_the_prompt_again(broken):
    plugin = broken(
        model(
            "def generate(self, batch, **options):",
            "    return torch.cat([batch.input_ids, super().generate(batch, **options)], dim=1)",
        )
    )
    assert "it returns the new ids alone" in failure(generation.answers_do_not_depend_on_the_batch, plugin)


def test_model_that_generates_without_pictures(broken):
    plugin = broken(
        model(
            "def generate(self, batch, **options):",
            "    return super().generate(replace(batch, pixels=[255 - crop for crop in batch.pixels]), **options)",
        )
    )
    assert generation.answers_do_not_depend_on_the_batch(Subject(plugin))
    assert "generate says" in failure(generation.answers_are_what_the_model_finds_likely, plugin)


def test_model_that_counts_its_calls(broken):
    plugin = broken(
        model(
            "def __init__(self, config):",
            "    super().__init__(config)",
            "    self.register_buffer('calls', torch.zeros(()))",
            FORWARD,
            "    self.calls += 1",
            "    return super().forward(batch, outputs, logit_positions, embed_ids)",
        )
    )
    found = failure(components.tuning_touches_its_component_alone, plugin)
    assert "tune vision: 1 others change, such as calls" in found


def test_adapter_over_a_layer_that_is_never_called(broken):
    plugin = broken(
        model("def head(self, hidden):", "    return torch.nn.functional.linear(hidden, self.llm.lm_head.weight)")
        + """
    @hookimpl
    def families():
        return [replace(f, lora_targets={"llm": ("lm_head",)}) for f in base.families()]

    from dataclasses import replace
    """
    )
    found = failure(components.adapters_touch_their_component_alone, plugin)
    assert "LoRA on llm: 2 adapter weights never change" in found


def test_merge_that_forgets_the_adapter(subject, monkeypatch):
    def forget(adapter, merged, plugin):
        shutil.copytree(adapter.parent / "base", merged)

    monkeypatch.setattr("polylens.engine.merge.merge_adapter", forget)
    with pytest.raises(Failure, match="hidden states of the merged model: differ by"):
        components.merged_adapters_change_nothing(subject)


def test_model_that_loses_a_value_on_disk(broken):
    plugin = broken(
        model(
            "def __init__(self, config):",
            "    super().__init__(config)",
            "    self.register_buffer('shift', torch.rand(1), persistent=False)",
            FORWARD,
            "    made = super().forward(batch, outputs, logit_positions, embed_ids)",
            "    return made if made.hidden is None else replace(made, hidden=made.hidden + self.shift)",
        )
    )
    assert "a lost buffer or option" in failure(checkpoints.save_and_load_are_bit_equal, plugin)


def test_plugin_that_imports_torch(broken):
    plugin = broken("import torch\n")
    assert "imports torch" in failure(families.hooks_import_no_heavy_library, plugin)


def test_family_that_forgets_a_component(broken):
    plugin = broken("""
        from dataclasses import replace

        @hookimpl
        def families():
            return [replace(f, components={"vision": f.components["vision"]}) for f in base.families()]
    """)
    assert "parameters lie in no component" in failure(families.components_cover_the_model, plugin)


def test_whatever_a_plugin_raises_is_a_result(broken):
    plugin = broken("""
        @hookimpl
        def image_slicer():
            raise RuntimeError("out of paper")
    """)
    result = run(slicing.slices_follow_from_the_size, Subject(plugin))
    assert (result.ok, result.detail) == (False, "raised RuntimeError: out of paper")
