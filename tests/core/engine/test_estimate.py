"""Estimates beside what is really held: by DeepSpeed on two ranks, and by autograd for the backward pass."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import replace
from itertools import product

import pytest
import torch
from support import ROOT, torchrun

from polylens.config.run import LoraSettings
from polylens.contracts import Message, Record
from polylens.data.images import ImageOpener
from polylens.engine.estimate.activations import Tokens, estimate_activations, patches
from polylens.engine.estimate.estimation import Request, Workload, estimate, setups
from polylens.engine.estimate.states import Numeric, Setup, states
from polylens.engine.trainable import choose_trained
from polylens.errors import InputError
from polylens.objectives.contrastive import Contrastive, ContrastiveOptions
from polylens.testing.subject import encoded, picture

TINY = Request("minicpmv", "tiny", workload=Workload(sequence_length=512, image_size=(200, 100)))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_states_are_those_of_a_run_on_two_ranks():
    main, _ = torchrun(ROOT / "tests" / "held_states.py", timeout=500)
    assert len(re.findall(r"held .* estimated", main.output)) == 3


def test_parameters_are_those_of_the_model(tiny):
    full, lora = estimate(replace(TINY, lora=LoraSettings(r=4, components=["llm"]))).plans
    model = tiny.model
    held = sum(tensor.numel() for tensor in model.state_dict().values())
    assert full.parameters.weights == held
    assert lora.parameters.weights == held + lora.parameters.adapter
    linear = [m for n, m in model.llm.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    assert lora.parameters.adapter == lora.parameters.trained
    assert lora.parameters.adapter == sum(4 * (layer.in_features + layer.out_features) for layer in linear)


def test_components_that_are_tuned(tiny):
    full, lora = estimate(replace(TINY, tune=["vision"])).plans
    vision = sum(weight.numel() for weight in tiny.model.vpm.parameters())
    assert full.parameters.trained == vision
    assert lora.parameters.trained == vision + lora.parameters.adapter


def test_a_folder_with_config_json_alone(tiny, tmp_path):
    shutil.copy(tiny.source.folder / "config.json", tmp_path)
    assert estimate(replace(TINY, model=str(tmp_path))).as_dict() == estimate(TINY).as_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("lora", "tune"), [(False, None), (True, None), (True, ["vision"])])
def test_blocks_keep_what_is_estimated(tiny, lora, tune, dtype):
    """Two layers more, kept for the backward pass: the difference is theirs alone."""

    def kept(vision: int, llm: int) -> tuple[int, int]:
        config = copy.deepcopy(tiny.source.config)
        config["num_hidden_layers"], config["polylens_vision"]["num_hidden_layers"] = llm, vision + 1
        model = tiny.hooks.build_model(family=tiny.family, config=config).to(dtype)
        settings = LoraSettings(enable=lora, r=4, dropout=0.1)
        choose_trained(model, tiny.family, Contrastive(ContrastiveOptions()), tune, settings)
        return autograd_keeps(model.train(), batch), estimated(model)

    def estimated(model) -> int:
        tokens = Tokens(patches(model, tiny.family, example.images), batch.input_ids.numel())
        return estimate_activations(model, tiny.family, tokens, dtype.itemsize).plain

    parts = (encoded(picture(200, 150)), "\n" + "the serial number of the pump " * 20)
    example = tiny.preparer(ImageOpener(), "plain").example(Record("r", (Message("user", parts),)))
    batch = tiny.collator()([example])
    base = kept(2, 2)
    for more in ((4, 2), (2, 4)):
        found, said = (a - b for a, b in zip(kept(*more), base, strict=True))
        assert said == pytest.approx(found, rel=0.03, abs=16)


def autograd_keeps(model, batch) -> int:
    """Bytes of what the forward pass saves for the backward pass, without weights."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(batch, outputs={"hidden"})
        assert output.hidden.requires_grad
    return sum(t.untyped_storage().nbytes() for place, t in saved.items() if place not in own)


def test_checkpointing_keeps_less_and_more_tokens_keep_more():
    def activations(**changes):
        return estimate(replace(TINY, workload=replace(TINY.workload, **changes))).plans[0].activations

    one, two = activations(), activations(micro_batch=2)
    assert (two.plain, two.checkpointed) == (2 * one.plain, 2 * one.checkpointed)
    assert 0 < one.checkpointed < one.plain
    assert activations(sequence_length=600).plain > one.plain
    assert activations(images=2).plain > one.plain > activations(images=0).plain


def test_logits_count_where_the_objective_looks_at_them(tiny):
    hidden, logits = (estimate(replace(TINY, objective=name)).plans[0] for name in ("contrastive", "lm"))
    head = tiny.model.llm.lm_head.weight
    assert logits.parameters.trained == hidden.parameters.trained + head.numel()
    assert logits.activations.plain == hidden.activations.plain + 12 * 512 * len(head)


def test_every_setup_that_a_run_accepts():
    """As ``polylens.config.deepspeed`` says: offload of the optimizer from ZeRO-1 on, of weights on ZeRO-3 alone."""
    found = {(s.stage, s.offload) for s in setups(2, full=True)}
    offloads = {0: ["none"], 1: ["none", "optimizer"], 2: ["none", "optimizer"]}
    offloads[3] = ["none", "optimizer", "optimizer,params"]
    assert found == {(stage, offload) for stage, names in offloads.items() for offload in names}


@pytest.mark.parametrize(("stage", "precision"), product((1, 2, 3), ("bf16", "float32")))
def test_more_gpus_never_need_more(stage, precision):
    ways = [states(10**9, 10**9, Setup(stage, gpus), Numeric(precision)) for gpus in (2, 3, 4, 8)]
    totals = [way.total(0) for way in ways]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 4


def test_offload_takes_from_the_gpu_and_gives_to_the_host():
    kept, optimizer, both = (
        states(10**9, 10**9, Setup(3, 4, offload, low_memory=True), Numeric())
        for offload in ("none", "optimizer", "optimizer,params")
    )
    assert (kept.host, optimizer.host, both.host) == (0, 4 * 10**9, 4 * 10**9 + 10**9 // 2)
    assert kept.total(0) > optimizer.total(0) > both.total(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": ["visoin"]}, r"no component 'visoin' \(did you mean 'vision'"),
        ({"objective": "nothing"}, "no installed plugin has an objective 'nothing'"),
        ({"gpus": [0]}, r"gpus is \[0\]"),
        ({"options": {"slices": 3}}, "no option 'slices'"),
        ({"lora": LoraSettings(target_modules=["w"])}, "LoRA finds no linear layer named w"),
        ({"workload": Workload(sequence_length=16, image_size=(200, 100))}, "sequence_length is 16: raise it"),
    ],
)
def test_what_cannot_be_estimated(changes, message):
    with pytest.raises(InputError, match=message):
        estimate(replace(TINY, **changes))


def test_an_adapter_is_no_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "tiny"}))
    with pytest.raises(InputError, match="is an adapter: estimate its base"):
        estimate(replace(TINY, model=str(tmp_path)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Numeric(reduce_bucket=0), "reduce_bucket_size is 0"),
        (lambda: replace(TINY, lora=LoraSettings(r=0)), "lora.r"),
        (lambda: replace(TINY, lora=LoraSettings(dropout=2)), "lora.dropout"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("changes", [{"micro_batch": 0}, {"images": -1}, {"image_size": (0, 5)}])
def test_a_workload_without_sense(changes):
    with pytest.raises(InputError, match="must be at least"):
        Workload(**changes)
