"""Versions 2.5 and 2.6 with the weights and inputs of the original programs, compared with what those computed."""

import json

import pytest
import torch
from minicpmv_records import original_records
from safetensors.torch import load_file
from torch.nn import functional as F

from polylens import plugins
from polylens.contracts import IGNORE_INDEX, Batch
from polylens.modeling.preprocessing import BicubicPreprocessor, normalise
from polylens_minicpmv.models.base import MEAN, STD

NEAR = {"rtol": 1e-5, "atol": 1e-5}


class Original:
    """The folder of an original program with tiny random weights, and everything the hooks give for it."""

    def __init__(self, folder, version):
        self.folder = folder
        self.hooks = plugins.load("minicpmv")
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (self.family,) = (f for f in self.hooks.families() if f.recognises(self.config))
        assert self.family.name == f"minicpmv-{version}"
        self.tokenizer = self.hooks.tokenizer(family=self.family, source=folder / "tokenizer")
        about = {"family": self.family, "config": self.config}
        self.slicer = self.hooks.image_slicer(**about, options=self.family.options())
        self.records = list(original_records(folder))
        self.stored = torch.load(folder / "batch.pt", weights_only=True)
        self.expected = torch.load(folder / "outputs.pt", weights_only=True)

    def template(self, **compat):
        options = self.family.options()
        options = self.family.options(compat=type(options.compat)(**compat))
        given = {"family": self.family, "config": self.config, "options": options}
        return self.hooks.chat_template(tokenizer=self.tokenizer, **given)

    def model(self, attn_implementation="sdpa"):
        with torch.device("meta"):
            empty = self.hooks.build_model(family=self.family, config=self.config)
        kind, config = type(empty), empty.config
        return kind.from_pretrained(self.folder, config=config, attn_implementation=attn_implementation).eval()

    def pixels(self):
        cut = BicubicPreprocessor()
        return [
            [crop for image in record.images for crop in cut.pixels(image, self.slicer.slice(image.size))]
            for record in self.records
        ]

    def batch(self):
        rows, stored = self.pixels(), self.stored
        visual = torch.zeros_like(stored["attention_mask"])
        for row, bounds in enumerate(stored["image_bound"]):
            for start, end in bounds.tolist():
                visual[row, start:end] = True
        owners = [row for row, own in enumerate(rows) for _ in own]
        return Batch(
            ids=[str(row) for row in range(len(rows))],
            input_ids=stored["input_ids"].long(),
            attention_mask=stored["attention_mask"],
            labels=stored["labels"].long(),
            visual_mask=visual,
            pixels=[crop for own in rows for crop in own],
            crop_rows=torch.tensor(owners),
            crop_tokens=torch.full((len(owners),), self.config["query_num"]),
            costs=stored["attention_mask"].sum(1),
        )


@pytest.fixture(scope="module", params=["2.5", "2.6"])
def original(request, golden):
    return Original(golden / "minicpmv" / f"minicpmv{request.param.replace('.', '')}", request.param)


@pytest.fixture(scope="module", params=[("eager", 1e-5), ("sdpa", 2e-5)], ids=["eager", "sdpa"])
def outputs(request, original):
    """What the model computes, the merged embeddings, and how far sums in another order may lead the resampler."""
    implementation, rounding = request.param
    model, batch, first = original.model(implementation), original.batch(), {}
    handle = model.llm.model.layers[0].register_forward_pre_hook(lambda _, args: first.update(embeddings=args[0]))
    with torch.no_grad():
        result = model(batch, outputs={"vision", "connector", "hidden", "logits"})
    handle.remove()
    result.embeddings, result.rounding = first["embeddings"], rounding
    return result


def test_targets_of_the_original_bit_for_bit(original):
    template = original.template(original_targets=True)
    for messages, images, expected in original.records:
        encoding = template.encode(messages, [original.slicer.slice(image.size) for image in images])
        assert encoding.input_ids == expected["input_ids"]
        assert [*encoding.labels[1:], IGNORE_INDEX] == expected["labels"]
        places = [place for start, end in expected["image_bound"] for place in range(start, end)]
        assert [place for place, visual in enumerate(encoding.visual_mask) if visual] == places


def test_the_right_targets_are_the_answers_and_their_ends(original):
    template = original.template()
    end = original.tokenizer.decode([template.stop_ids[0]])
    for messages, images, expected in original.records:
        encoding = template.encode(messages, [original.slicer.slice(image.size) for image in images])
        answers = ["".join(message.parts).strip() for message in messages[1::2]]
        supervised = original.tokenizer.decode([label for label in encoding.labels if label != IGNORE_INDEX])
        assert supervised == "".join(answer + end for answer in answers)
        if len(images) == 1 and (original.family.name == "minicpmv-2.5" or "<slice>" in expected["tokens"]):
            assert encoding.input_ids == expected["input_ids"]


def test_pixels(original):
    theirs = [crop for row in original.stored["pixel_values"] for crop in row]
    for own, their in zip((crop for row in original.pixels() for crop in row), theirs, strict=True):
        rows, columns = own.shape[1] // 14, own.shape[2] // 14
        flat = normalise(own, MEAN, STD, torch.float32).view(3, rows, 14, columns, 14).permute(0, 2, 1, 3, 4)
        assert torch.equal(flat.reshape(3, 14, -1), their)


def test_vision_features(outputs, original):
    for own, their in zip(outputs.vision, original.expected["vision_features"][0], strict=True):
        torch.testing.assert_close(own, their[: len(own)], **NEAR)


def test_visual_tokens(outputs, original):
    theirs = torch.cat(original.expected["vision_hidden_states"]).flatten(0, 1)
    torch.testing.assert_close(outputs.connector, theirs, rtol=1e-5, atol=outputs.rounding)


def test_input_embeddings_and_hidden_states(outputs, original):
    mask = original.stored["attention_mask"]
    merged = original.expected["inputs_embeds"][mask]
    torch.testing.assert_close(outputs.embeddings[mask], merged, rtol=1e-5, atol=outputs.rounding)
    last = original.expected["llm_hidden_states"][-1][mask]
    torch.testing.assert_close(outputs.hidden[mask], last, rtol=1e-5, atol=1e-4)


def test_logits_and_loss(outputs, original):
    mask = original.stored["attention_mask"]
    logits = outputs.logits.unflatten(0, mask.shape)
    torch.testing.assert_close(logits[mask], original.expected["logits"][mask], rtol=1e-5, atol=1e-4)
    shifted = original.stored["labels"].long()  # by the original itself
    loss = F.cross_entropy(logits.flatten(0, 1), shifted.flatten())
    torch.testing.assert_close(loss, original.expected["loss"], rtol=1e-5, atol=0)


def test_a_checkpoint_of_the_original_is_written_back_unchanged(original, tmp_path):
    original.model().save_pretrained(tmp_path)
    theirs, ours = load_file(original.folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written == {**original.config, "torch_dtype": "float32"}


def test_position_buckets(golden):
    from polylens_minicpmv.vision.navit import buckets

    table = json.loads((golden / "minicpmv" / "position_buckets_side70.json").read_text())["buckets"]
    assert len(table) > 300
    assert all(buckets(int(count), 70).tolist() == places for count, places in table.items())
