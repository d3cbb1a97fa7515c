"""Components with learning rates of their own."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from polylens.cli import main
from polylens.config.run import LoraSettings
from polylens.engine.learning_rates import check_learning_rates, set_learning_rates
from polylens.engine.trainable import choose_trained, component_of
from polylens.errors import InputError
from polylens.objectives.contrastive import Contrastive


@pytest.fixture
def model(tiny):
    return copy.deepcopy(tiny.model)


def optimizer_of(model) -> torch.optim.Optimizer:
    """Two groups, as transformers makes them: with and without weight decay."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    flat = [weight for _, weight in named if weight.ndim == 1]
    deep = [weight for _, weight in named if weight.ndim > 1]
    return torch.optim.AdamW([{"params": deep, "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0}], lr=1e-3)


def test_groups_by_component(tiny, model):
    choose_trained(model, tiny.family, Contrastive(), None, LoraSettings())
    optimizer = optimizer_of(model)
    before = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    set_learning_rates(optimizer, {"vision": 1e-6, "embed_tokens": 0}, model, tiny.family)
    names = {id(weight): name for name, weight in model.named_parameters()}
    seen = []
    for group in optimizer.param_groups:
        for weight in group["params"]:
            component = component_of(names[id(weight)], tiny.family)
            assert group["lr"] == {"vision": 1e-6, "embed_tokens": 0}.get(component, 1e-3)
            assert group["weight_decay"] == before[id(weight)]
            seen.append(id(weight))
    assert sorted(seen) == sorted(before)
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_adapters_are_part_of_their_component(tiny, model):
    lora = LoraSettings(enable=True, r=2, components=["vision", "llm"])
    choose_trained(model, tiny.family, Contrastive(), None, lora)
    optimizer = optimizer_of(model)
    set_learning_rates(optimizer, {"vision": 1e-5}, model, tiny.family)
    own = {id(weight) for group in optimizer.param_groups if group["lr"] == 1e-5 for weight in group["params"]}
    assert {name for name, w in model.named_parameters() if id(w) in own} == {
        name for name, w in model.named_parameters() if w.requires_grad and name.startswith("vpm.")
    }


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"visoin": 1e-6}, r"no component 'visoin' \(did you mean 'vision'\?\)"),
        ({"vision": 1e-6}, "no weight of vision is trained: add it to --tune, or leave it out"),
        ({"llm": "fast"}, "/llm is 'fast'; it must be a number from 0 up"),
        ({"llm": -1.0}, r"/llm is -1\.0; it must be a number from 0 up"),
    ],
)
def test_rates_that_mean_nothing(tiny, model, rates, said):
    choose_trained(model, tiny.family, Contrastive(), ["llm"], LoraSettings())
    with pytest.raises(InputError, match=said):
        check_learning_rates(rates, model, tiny.family)


@pytest.mark.long
def test_a_run_stopped_and_resumed_keeps_them(toy, tmp_path):
    """A rate of 0 leaves a component as it was, through a checkpoint too; the others learn."""
    pairs, store = toy
    command = [
        *(
            "train",
            "--model-plugin",
            "minicpmv",
            "--model",
            "tiny",
            "--objective",
            "contrastive",
            "--train",
            str(pairs),
        ),
        *("--documents", str(store), "--output-dir", str(tmp_path / "run"), "--per-device-train-batch-size", "4"),
        *("--save-steps", "1", "--learning-rate", "1e-3", "--disable-tqdm", "true", "--logging-steps", "1"),
        *("--learning-rates.vision", "0", "--learning-rates.connector", "1e-2", "--lr-scheduler-type", "constant"),
    ]
    assert main([*command, "--max-steps", "1"]) == 0
    first = load_file(tmp_path / "run" / "model.safetensors")
    assert main([*command, "--max-steps", "2", "--resume-from-checkpoint", "true"]) == 0
    second = load_file(tmp_path / "run" / "model.safetensors")
    state = torch.load(tmp_path / "run" / "checkpoint-2" / "optimizer.pt", weights_only=True)
    assert sorted({group["lr"] for group in state["param_groups"]}) == [0, 1e-3, 1e-2]
    moved = {name.partition(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert moved == {"llm", "resampler"}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["learning_rate"] for line in lines if "learning_rate" in line} == {1e-3}
