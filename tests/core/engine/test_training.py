"""``polylens train`` as its users start it: real processes, the tiny VLM, real pages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import torchrun
from toy import write_toy

import polylens
from polylens.cli import main
from polylens.data.documents import Document
from polylens.data.store import DocumentWriter, open_documents
from polylens.engine.merge import merge_zero

STEPS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[Path, Path]:
    return write_toy(tmp_path_factory.mktemp("toy"))


def command(data: tuple[Path, Path], output: Path, *more: str, batch: int = 8) -> list[str]:
    pairs, store = data
    return [
        *("train", "--model-plugin", "minicpmv", "--model", "tiny", "--objective", "contrastive"),
        *("--train", str(pairs), "--documents", str(store), "--output-dir", str(output), "--temperature", "0.1"),
        *("--per-device-train-batch-size", str(batch), "--max-steps", str(STEPS), "--learning-rate", "1e-3"),
        *("--grad-cache-micro-batch-size", "3", "--logging-steps", "1", "--save-steps", "2"),
        *("--dataloader-num-workers", "1", "--disable-tqdm", "true", *more),
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    name = "adapter_model.safetensors" if (folder / "adapter_config.json").exists() else "model.safetensors"
    return load_file(folder / name)


def distance(one: Path, other: Path) -> float:
    """Relative difference of all weights, global L2."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    difference = sum(float((a[name] - b[name]).double().pow(2).sum()) for name in a)
    return (difference / sum(float(tensor.double().pow(2).sum()) for tensor in a.values())) ** 0.5


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    assert main(command(data, output)) == 0
    return output


def test_learns_and_leaves_a_model_that_loads(data, undisturbed):
    steps = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps if "loss" in step]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]
    assert {"accuracy", "pairs_per_second", "tokens_per_second", "memory_gib"} <= steps[0].keys()
    card = json.loads((undisturbed / "polylens.json").read_text())
    assert (card["plugin"], card["pooling"], card["query_max_length"]) == ("minicpmv", "wmean", 512)
    assert polylens.load(None, undisturbed).embed(texts=["red bar"]).norm() == pytest.approx(1)


def test_two_ranks_of_ddp_end_with_the_same_weights(data, undisturbed, tmp_path):
    torchrun("-m", "polylens", *command(data, tmp_path, batch=4))
    assert distance(undisturbed, tmp_path) < 1e-4


ZERO_3 = '{"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}'


@pytest.mark.parametrize(
    ("way", "more"),
    [
        pytest.param(("--deepspeed", ZERO_3), (), id="full", marks=pytest.mark.long),
        pytest.param(("--zero", "3"), ("--use_lora", "true", "--lora_dropout", "0"), id="lora"),
    ],
)
def test_two_ranks_of_zero_3_end_with_the_same_weights(data, tmp_path, way, more):
    assert main(command(data, tmp_path / "one", *more)) == 0
    torchrun("-m", "polylens", *command(data, tmp_path / "two", *way, *more, batch=4))
    assert distance(tmp_path / "one", tmp_path / "two") < 1e-3
    one, two = (polylens.load(None, tmp_path / name).embed(texts=["red bar"]) for name in ("one", "two"))
    torch.testing.assert_close(one, two, atol=1e-2, rtol=0)
    if not more:  # an adapter's checkpoint holds it whole
        merge_zero(tmp_path / "two" / f"checkpoint-{STEPS}", tmp_path / "merged")
        assert distance(tmp_path / "two", tmp_path / "merged") == 0


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(data, undisturbed, tmp_path):
    arguments = command(data, tmp_path)
    process = subprocess.Popen([sys.executable, "-m", "polylens", *arguments], start_new_session=True)
    while not (tmp_path / "checkpoint-2").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert main([*arguments, "--resume-from-checkpoint", "true"]) == 0
    ours, theirs = weights(tmp_path), weights(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [steps.count(step) for step in range(1, STEPS)] == [1] * (STEPS - 1)


def test_accumulation_hard_negatives_and_the_best_checkpoint(data, tmp_path):
    pairs, _ = data
    more = ("--gradient-accumulation-steps", "2", "--hard-negatives", "1", "--validation", str(pairs))
    more += ("--eval-strategy", "steps", "--eval-steps", "2", "--learned-temperature", "--symmetric")
    assert main(command(data, tmp_path, *more, batch=4)) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    measured = {line["step"]: line["eval_nDCG@10"] for line in lines if "eval_nDCG@10" in line}
    assert set(measured) == {2, 4}
    best = max(measured, key=lambda step: measured[step])
    ours, theirs = weights(tmp_path), weights(tmp_path / f"checkpoint-{best}")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    temperature = load_file(tmp_path / "objective.safetensors")["log_scale"]
    assert temperature.exp().item() != pytest.approx(10, abs=1e-4)


def test_lora_with_a_trained_component_comes_back_whole(data, tmp_path):
    assert main(command(data, tmp_path, "--use_lora", "true", "--tune", "connector")) == 0
    found = polylens.load(None, tmp_path)
    base = polylens.load("minicpmv", "tiny", seed=42)
    name = "resampler.kv_proj.weight"
    trained = dict(found.checkpoint.model.named_parameters())[name]
    assert not torch.equal(trained, dict(base.checkpoint.model.named_parameters())[name])
    torch.testing.assert_close(trained.data, load_file(tmp_path / "beside_adapter.safetensors")[name])


BAD = {
    "unknown plugin": (("--model-plugin", "minicpm"), "did you mean 'minicpmv'?"),
    "unknown objective": (("--objective", "contrastiv"), "did you mean 'contrastive'?"),
    "unknown option": (("--temprature", "1"), "did you mean"),
    "missing file": (("--train", "missing.jsonl"), "missing.jsonl"),
    "large batch": (("--per-device-train-batch-size", "64"), "too few for a batch of 64"),
    "cut picture": (("--document-max-length", "20"), "picture"),
    "no such model": (("--model", "tinny"), "did you mean 'tiny'?"),
    "temperature": (("--temperature", "0"), "temperature"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_error(case, data, tmp_path, capsys):
    options, message = BAD[case]
    assert main(command(data, tmp_path, *options)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("checkpoint-*"))


def altered(pairs: Path, target: Path, **changes: object) -> Path:
    """The pairs file with other values in its third line."""
    lines = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    lines[2] |= changes
    target.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return target


def truncated(store: Path, target: Path) -> Path:
    """The store with one picture that ends too early."""
    source = open_documents([store])
    with DocumentWriter(target) as writer:
        for id in source.ids():
            document = source.read(id)
            image = document.image[:-40] if id == "book.pdf#2" else document.image
            writer.write(Document(id, image, document.text))
    return target


def in_twos(pairs: Path, target: Path) -> Path:
    """The pairs in batches of two."""
    lines = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    text = "".join(json.dumps(line | {"batch": i // 2}) + "\n" for i, line in enumerate(lines))
    target.write_text(text, encoding="utf-8")
    return target


def foreign(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llava", "architectures": ["LlavaForCausalLM"]}')
    return folder


def broken(target: Path) -> Path:
    target.write_text('{"query": "no documents"}\nnot JSON\n')
    return target


BAD_FILES = {
    "missing picture": (
        lambda pairs, store, new: ("--train", altered(pairs, new, query={"text": "a", "image": "gone.png"})),
        "pairs.jsonl:3: record 'q2': picture 'gone.png'",
    ),
    "truncated picture": (
        lambda pairs, store, new: ("--documents", truncated(store, new)),
        "picture of document 'book.pdf#2' is damaged or cut short",
    ),
    "unknown document": (
        lambda pairs, store, new: ("--train", altered(pairs, new, positives=["book.pdf#77"])),
        "pairs.jsonl:3: /positives/0: there is no document 'book.pdf#77'",
    ),
    "nothing left": (
        lambda pairs, store, new: ("--train", broken(new), "--on-bad-record", "quarantine"),
        "no pairs are left in",
    ),
    "another family": (
        lambda pairs, store, new: ("--model", foreign(new)),
        "a checkpoint of model_type 'llava' (architectures ['LlavaForCausalLM']): it is none of the families",
    ),
    "no whole batch": (
        lambda pairs, store, new: (
            "--train",
            in_twos(pairs, new),
            *["--batches", "file", "--dataloader-drop-last", "true"],
        ),
        "no batch has all its 8 queries",
    ),
    "sizes beyond the vectors": (
        lambda pairs, store, new: ("--matryoshka-dims", "64", "4096"),
        "matryoshka_dims has 4096, and vectors have 128 dimensions",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_error(case, data, tmp_path, capsys):
    options, message = BAD_FILES[case]
    output = tmp_path / "run"
    assert main(command(data, output, *map(str, options(*data, tmp_path / "pairs.jsonl")))) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(output.glob("checkpoint-*"))


def test_what_was_set_aside_is_kept_when_nothing_is_left(data, tmp_path):
    pairs = broken(tmp_path / "pairs.jsonl")
    output = tmp_path / "run"
    assert main(command(data, output, "--train", str(pairs), "--on-bad-record", "quarantine")) == 2
    assert len((output / "quarantine.jsonl").read_text().splitlines()) == 2


def test_lora_resumes_to_the_same_weights_bit_for_bit(data, tmp_path):
    """With dropout: the generators go on where the checkpoint left them."""
    more = ("--use_lora", "true", "--lora_dropout", "0.1", "--learned-temperature")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert main(command(data, whole, *more)) == 0
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    assert main(command(data, resumed, *more, "--resume-from-checkpoint", "true")) == 0
    for name in ("adapter_model.safetensors", "objective.safetensors"):
        ours, theirs = load_file(resumed / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert json.loads((whole / "polylens.json").read_text())["base_seed"] == 42, "or another model would be loaded"


def test_a_checkpoint_of_another_objective_is_refused(data, undisturbed, tmp_path, capsys):
    more = ("--learned-temperature", "--resume-from-checkpoint", str(undisturbed / "checkpoint-2"))
    assert main(command(data, tmp_path, *more)) == 2
    error = capsys.readouterr().err
    assert "trained the objective's values [], and this run trains ['log_scale']" in error
    assert "Traceback" not in error


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(data, tmp_path, capsys):
    more = ("--learning-rate", "1e30", "--max-grad-norm", "0", "--save-steps", "1")
    assert main(command(data, tmp_path, *more)) == 2
    assert "the loss of step 2 is nan" in capsys.readouterr().err
    assert (tmp_path / "checkpoint-1" / "model.safetensors").exists()


def test_a_second_run_into_the_same_folder_is_refused(data, undisturbed, capsys):
    assert main(command(data, undisturbed)) == 2
    assert "--resume-from-checkpoint true" in capsys.readouterr().err


def test_bad_records_of_training_and_of_validation_are_set_aside_apart(data, tmp_path):
    pairs, store = data
    broken = tmp_path / "broken.jsonl"
    broken.write_text(pairs.read_text() + '{"query": {"text": "no document"}}\n')
    more = ("--validation", str(broken), "--on-bad-record", "quarantine", "--eval-strategy", "no")
    assert main(command((broken, store), tmp_path / "out", *more)) == 0
    for name in ("quarantine.jsonl", "quarantine.validation.jsonl"):
        (line,) = (tmp_path / "out" / name).read_text().splitlines()
        assert "positives" in line
