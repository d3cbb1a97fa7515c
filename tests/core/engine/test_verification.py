"""``--verify-gradient``: finds wrong gradients, and leaves a run as it was."""

from __future__ import annotations

import contextlib
import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import ROOT, torchrun
from torch import nn

from polylens.cli import main
from polylens.config.run import LoraSettings
from polylens.data.images import ImageOpener
from polylens.data.pairs import read_pairs
from polylens.data.store import open_documents
from polylens.engine import gradient_cache
from polylens.engine.accumulation import Accumulation, Part
from polylens.engine.gradient_cache import GradientCache
from polylens.engine.pair_steps import PairBatches, PairPlanner, PairRecords
from polylens.engine.planner import Budget
from polylens.engine.steps import StepPlanner
from polylens.engine.trainable import choose_trained
from polylens.engine.training_module import TrainingModule
from polylens.engine.verification import GradientCheck, GradientReport, few_pairs, relative_errors
from polylens.errors import InputError
from polylens.objectives.contrastive import Contrastive, ContrastiveOptions

SCRIPT = ROOT / "tests" / "verification.py"


@pytest.fixture(scope="module")
def records(tiny, toy) -> PairRecords:
    documents = open_documents([toy[1]])
    pairs = read_pairs([toy[0]], documents=documents)
    return PairRecords(pairs.pairs, documents, tiny.preparer(ImageOpener(None, documents), "plain"), (512, 2048))


def planner(
    records: PairRecords, *, size: int = 6, rows: int | None = 8, ranks: int = 1, **options: Any
) -> StepPlanner:
    batches = PairBatches(records.pairs, size, seed=5, shuffle=True, drop_last=False)
    return PairPlanner(records, batches, rank=ranks - 1, ranks=ranks, budget=Budget(rows=rows), **options)


class Run:
    """A model that LoRA with dropout trains, and how a trainer would compute its gradients."""

    def __init__(self, tiny, objective: Contrastive | None = None) -> None:
        options = ContrastiveOptions(temperature=0.1, learned_temperature=True)
        self.family, self.collator = tiny.family, tiny.collator()
        self.objective, self.accumulation = objective or Contrastive(options), Accumulation()
        model = copy.deepcopy(tiny.model)
        choose_trained(model, tiny.family, self.objective, ["connector"], LoraSettings(enable=True, dropout=0.2))
        self.module = TrainingModule(model, self.objective).train()

    def gradients(self, model, parts) -> None:
        for i, (plan, batches) in enumerate(parts):
            part = Part(self.accumulation, share=1 / len(parts), last=i == len(parts) - 1)
            GradientCache.of_module(model, self.objective, part).step(batches, plan.targets)

    def check(self, steps: StepPlanner, step: int = 0) -> GradientReport:
        check = GradientCheck(self.objective, self.family, steps, self.collator, torch.device("cpu"), self.gradients)
        return check.run(self.module, 0, step)


def test_a_right_gradient_is_reported(tiny, records):
    report = Run(tiny).check(planner(records, accumulation=2, hard_negatives=1))
    assert report.error < 1e-5
    assert report.limit == pytest.approx(1e-3, rel=0.1)
    assert report.components.keys() == {"connector", "llm", "objective"}
    assert max(report.components.values()) < 1e-4
    assert (report.pairs, report.micro_batches, report.launcher) == (8, 2 * (2 + 4), "one process")
    assert report.compared == report.trained
    assert str(report).startswith("gradient verified: relative error ")


def test_nothing_is_left_behind(tiny, records):
    run = Run(tiny)
    counter = torch.zeros(3)

    def count(module: nn.Module, inputs) -> None:
        counter.add_(random.random() + np.random.rand())

    run.module.model.register_buffer("counter", counter)
    run.module.model.register_forward_pre_hook(count)
    weights = {name: value.clone() for name, value in run.module.state_dict().items()}
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    drawn = random.random(), np.random.rand(), float(torch.rand(()))
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    run.check(planner(records, rows=1))
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == drawn
    assert all(torch.equal(weights[name], value) for name, value in run.module.state_dict().items())
    assert all(parameter.grad is None for parameter in run.module.parameters())


class LastAlone(Accumulation):
    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def backward(self, loss, last):
        for parameter in self.module.parameters():
            parameter.grad = None
        loss.backward()


def only_the_last_micro_batch(run: Run, monkeypatch) -> None:
    run.accumulation = LastAlone(run.module)


def parts_are_not_averaged(run: Run, monkeypatch) -> None:
    monkeypatch.setattr(Part, "backward", lambda self, loss, last: self._whole.backward(loss, last))


def dropout_is_not_replayed(run: Run, monkeypatch) -> None:
    monkeypatch.setattr(gradient_cache, "_replayed", lambda state: contextlib.nullcontext())


def a_component_is_left_out(run: Run, monkeypatch) -> None:
    whole = run.gradients

    def gradients(model, parts) -> None:
        whole(model, parts)
        for parameter in model.model.resampler.parameters():
            parameter.grad = None

    run.gradients = gradients


def a_state_between_the_passes(run: Run, monkeypatch) -> None:
    calls = iter(range(1000))

    def later(module: nn.Module, inputs, outputs):
        outputs.hidden = outputs.hidden * (1 + 0.1 * torch.arange(outputs.hidden.shape[-1]).add(next(calls)).cos())
        return outputs

    run.module.model.register_forward_hook(later)


FAULTS = [
    only_the_last_micro_batch,
    parts_are_not_averaged,
    dropout_is_not_replayed,
    a_component_is_left_out,
    a_state_between_the_passes,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_gradient_is_refused(fault, tiny, records, monkeypatch):
    run = Run(tiny)
    fault(run, monkeypatch)
    with pytest.raises(InputError, match=r"cached gradient is wrong: .* one process|second forward pass gave other"):
        run.check(planner(records, rows=1, accumulation=2 if fault is parts_are_not_averaged else 1))


def test_an_objective_with_a_wrong_gradient_is_refused(tiny, records):
    class Doubled(Contrastive):
        def coupled(self, *args, **options):
            found = super().coupled(*args, **options)
            found.gradients["document"] *= 2
            return found

    with pytest.raises(InputError, match=r"the gradient that Doubled.coupled gives is not that of its loss"):
        Run(tiny, Doubled(ContrastiveOptions(temperature=0.1))).check(planner(records, rows=1))


def test_a_small_component_counts_by_itself():
    whole, each = relative_errors({"llm": (0.0, 1.0), "vision": (1e-8, 1e-8), "objective": (1e-16, 0.0)})
    assert whole == pytest.approx(1e-4)
    assert each == {"llm": 0.0, "vision": pytest.approx(0.1), "objective": pytest.approx(1e-5)}


def test_a_loss_of_almost_nothing_decides_nothing():
    report = GradientReport(0.2, 0.7, {"llm": 0.2}, 0.0, 4, 4, 1, 1, "one process")
    assert not report.is_decided
    assert "too little to tell" in str(report)


@pytest.mark.parametrize(
    ("rows", "ranks", "size", "expected"),
    [(8, 1, 6, [2, 2]), (1, 1, 6, [1, 1]), (None, 1, 6, [2, 2]), (2, 2, 8, [2, 2]), (8, 2, 3, [2])],
    ids=["usual", "one row", "no limit", "two ranks", "few pairs"],
)
def test_every_rank_has_several_micro_batches(records, rows, ranks, size, expected):
    few = few_pairs(planner(records, rows=rows, ranks=ranks, size=size), 0, 0)
    (plan,) = few.step(0, 0)
    for role in (0, 1):
        assert [len(part) for part in plan.micro_batches if part[0].role == role] == expected


def command(toy, output: Path, *more: str) -> list[str]:
    return [
        *("train", "--model-plugin", "minicpmv", "--model", "tiny", "--save-strategy", "no", "--temperature", "0.1"),
        *("--train", str(toy[0]), "--documents", str(toy[1]), "--output-dir", str(output), "--max-steps", "2"),
        *("--per-device-train-batch-size", "4", "--grad-cache-micro-batch-size", "3", "--learning-rate", "1e-3"),
        *("--dataloader-num-workers", "0", "--disable-tqdm", "true", *more),
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{file.stem}/{n}": value for file in folder.glob("*.safetensors") for n, value in load_file(file).items()}


def test_a_run_ends_with_the_same_weights_bit_for_bit(toy, tmp_path, capsys):
    more = (
        "--use_lora",
        "true",
        "--lora_dropout",
        "0.1",
        "--learned-temperature",
        "--gradient-accumulation-steps",
        "2",
    )
    assert main(command(toy, tmp_path / "without", *more)) == 0
    assert main(command(toy, tmp_path / "with", *more, "--verify-gradient")) == 0
    assert capsys.readouterr().out.count("gradient verified: relative error") == 1
    without, checked = weights(tmp_path / "without"), weights(tmp_path / "with")
    assert without.keys() == checked.keys()
    assert all(torch.equal(without[name], checked[name]) for name in without)


def test_a_run_stops_before_it_trains(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Accumulation, "backward", lambda self, loss, last: loss.backward() if last else None)
    assert main(command(toy, tmp_path, "--verify-gradient")) == 2
    error = capsys.readouterr().err
    assert "the cached gradient is wrong" in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "same",
    [
        ("ddp lora", "zero 2 low memory", "zero 3"),
        pytest.param(("zero 0", "zero 1", "zero 2"), marks=pytest.mark.long),
    ],
)
def test_two_ranks(same, tmp_path):
    ranks = torchrun(SCRIPT, str(tmp_path), *same, "zero 2, only the last micro-batch counts", timeout=500)
    assert [rank.output.count("gradient verified") for rank in ranks] == [len(same), 0]
    assert all(rank.output.count("refused") == 1 for rank in ranks)
