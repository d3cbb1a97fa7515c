"""Training: the stages of the example, both older objectives, ZeRO and its learning rate."""

from __future__ import annotations

import json
from math import cos, pi
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from support import torchrun
from toy import write_toy

from polylens import cli
from polylens.config.stages import load_stages

EXAMPLES = Path(__file__).parents[3] / "examples" / "runs"
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
BIG = ("bf16", "tf32", "gradient_checkpointing", "dataloader_num_workers", "save_steps", "save_strategy")
"""Settings of the examples that a machine without a GPU cannot have, or does not need."""


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    """Eight pictures of one colour each, a question about it, and a line of text in each."""
    folder, talk, lines = tmp_path_factory.mktemp("colours"), [], []
    for number, (name, colour) in enumerate([*COLOURS.items()] * 2):
        Image.new("RGB", (60, 40), colour).save(folder / f"{number}.png")
        turns = [
            {"from": "human", "value": "<image>\nWhich colour?"},
            {"from": "gpt", "value": f"The colour is {name}."},
        ]
        talk.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
        line = {"box": [5.0, 5.0, 40.0, 20.0], "text": name, "score": 0.9}
        said = {"image": f"{number}.png", "width": 60, "height": 40, "engine": "by hand 1", "lines": [line]}
        lines.append(json.dumps(said))
    (folder / "talk.json").write_text(json.dumps(talk))
    (folder / "ocr.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def small(name: str, colours: Path, output: Path) -> Path:
    """An example for the tiny model, its own data and the CPU."""
    run = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    run |= {"model": "tiny", "output_dir": str(output / "run")}
    for part in (run, *run.get("stages", [])):
        training = {key: value for key, value in part.get("training", {}).items() if key not in BIG}
        part["training"] = training | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        if "train" in part.get("data", {}):
            part["data"] |= {"train": [str(colours / "talk.json")]}
        if "ocr" in part.get("data", {}):
            part["data"] |= {"ocr": [str(colours / "ocr.jsonl")]}
        part.pop("zero", None), part.pop("offload", None)
    run["data"] |= {"image_root": str(colours)}
    run["training"] |= {"max_steps": 2, "disable_tqdm": True, "use_cpu": True, "dataloader_num_workers": 0}
    path = output / name
    path.write_text(yaml.safe_dump(run), encoding="utf-8")
    return path


def changed(one: Path, other: Path) -> set[str]:
    before, after = (load_file(folder / "model.safetensors") for folder in (one, other))
    return {part(name) for name in before if not torch.equal(before[name], after[name])}


def part(name: str) -> str:
    known = {"mm_projector": "projector", "vision_tower": "vision", "embed_tokens": "embeddings"}
    return next((short for word, short in known.items() if word in name), "llm")


def test_the_stages_of_the_example_train_one_after_the_other(colours, tmp_path):
    """A projector, then all but the tower, then the same with what REMGCL adds."""
    assert cli.main(["train", "--config", str(small("llava_stages.yaml", colours, tmp_path))]) == 0
    stages = [tmp_path / "run" / name for name in ("pretrain", "finetune", "remgcl")]
    assert changed(stages[0], stages[1]) == changed(stages[1], stages[2]) == {"projector", "embeddings", "llm"}
    first = json.loads((stages[0] / "polylens.json").read_text())
    last = json.loads((stages[2] / "polylens.json").read_text())
    assert (first["options"]["template"], first["options"]["image_aspect_ratio"]) == ("plain", "square")
    assert (last["options"]["template"], last["options"]["image_aspect_ratio"]) == ("v1", "pad")
    logged = [json.loads(line) for line in (stages[2] / "metrics.jsonl").read_text().splitlines()]
    terms = next(entry for entry in logged if "loss" in entry)
    assert {"loss_lm", "loss_global", "loss_local"} <= terms.keys()


def test_examples_have_the_hyper_parameters_of_the_originals():
    stages = load_stages([EXAMPLES / "llava_stages.yaml"]) or []
    said = {stage.name: stage.run for stage in stages}
    rates = {name: run.training["learning_rate"] for name, run in said.items()}
    assert rates == {"pretrain": 1e-3, "finetune": 2e-5, "remgcl": 2e-5}
    assert all((run.zero, run.training["lr_scheduler_type"]) == (3, "cosine") for run in said.values())
    assert said["remgcl"].objective.name == "multi_granularity"
    assert said["finetune"].data.batches == "modality"


def test_an_adapter_leaves_the_tower_alone(colours, tmp_path):
    """The example names components; the original names leaves, which its tower has too."""
    assert cli.main(["train", "--config", str(small("llava_lora.yaml", colours, tmp_path))]) == 0
    names = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.language_model.model.layers.") for name in names)
    leaves = {name.split(".lora_")[0].rpartition(".")[2] for name in names}
    assert leaves == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(load_file(tmp_path / "run" / "beside_adapter.safetensors")) == {
        f"mm_projector.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }


def train(output: Path, *more: str) -> list[str]:
    argv = ["train", "--model-plugin", "llava_remgcl", "--model", "tiny", "--output-dir", str(output)]
    argv += ["--dataloader-num-workers", "0", "--save-strategy", "no", "--logging-steps", "1", "--use-cpu", "true"]
    return [*argv, "--disable-tqdm", "true", *more]


def logged(folder: Path, name: str = "loss") -> list[float]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry[name] for entry in map(json.loads, lines) if name in entry]


STEPS, WARM, RATE = 8, 2, 1e-3


def cosine(step: int) -> float:
    """Learning rate of a step, counted from 0."""
    return RATE * (step / WARM if step < WARM else (1 + cos(pi * (step - WARM) / (STEPS - WARM))) / 2)


@pytest.mark.parametrize("zero", ["2", pytest.param("3", marks=pytest.mark.long)])
def test_the_learning_rate_under_zero_follows_the_cosine(colours, tmp_path, zero):
    """REMGCL's own runs had it constant, without a word: a block of its DeepSpeed file took over."""
    data = ("--objective", "lm", "--train", str(colours / "talk.json"), "--per-device-train-batch-size", "1")
    more = ("--learning-rate", str(RATE), "--lr-scheduler-type", "cosine", "--warmup-steps", str(WARM / STEPS))
    command = train(tmp_path / "out", *data, *more, "--max-steps", str(STEPS), "--zero", zero)
    torchrun("-m", "polylens", *command, nproc=1, timeout=300)
    assert logged(tmp_path / "out", "learning_rate") == pytest.approx([cosine(n) for n in range(STEPS)])


@pytest.mark.long
def test_contrastive_makes_a_retriever(tmp_path):
    """Small micro-batches, and the gradient is verified in the run."""
    pairs, store = write_toy(tmp_path / "toy")
    data = ("--objective", "contrastive", "--train", str(pairs), "--documents", str(store), "--temperature", "0.1")
    more = ("--max-steps", "16", "--learning-rate", "3e-4", "--verify-gradient", "true")
    sizes = ("--per-device-train-batch-size", "8", "--grad-cache-micro-batch-size", "3")
    assert cli.main(train(tmp_path / "out", *data, *more, *sizes)) == 0
    found = logged(tmp_path / "out")
    assert sum(found[-4:]) < sum(found[:4])


@pytest.mark.long
@pytest.mark.parametrize("zero", ["2", "3"])
def test_two_ranks_train_under_zero(colours, tmp_path, zero):
    """The losses of one process; records of text alone leave a rank without a picture now and then."""
    talk = json.loads((colours / "talk.json").read_text())[:4]
    turns = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes."}]
    talk += [{"id": f"t{number}", "conversations": turns} for number in range(4)]
    (tmp_path / "mixed.json").write_text(json.dumps(talk))
    data = ("--objective", "lm", "--train", str(tmp_path / "mixed.json"), "--image-root", str(colours))
    more = ("--max-steps", "3", "--learning-rate", "1e-3")
    assert cli.main(train(tmp_path / "one", *data, *more, "--per-device-train-batch-size", "4")) == 0
    command = train(tmp_path / "two", *data, *more, "--per-device-train-batch-size", "2", "--zero", zero)
    torchrun("-m", "polylens", *command, timeout=500)
    assert logged(tmp_path / "two") == pytest.approx(logged(tmp_path / "one"), rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("zero", ["2", "3"])
def test_two_ranks_align_under_zero(colours, tmp_path, zero):
    """``infonce``, whose negatives are on both ranks; its gradient is verified in the run."""
    files = ("--train", str(colours / "talk.json"), "--ocr", str(colours / "ocr.jsonl"))
    more = ("--objective", "multi_granularity", "--form", "infonce", "--max-steps", "2", "--learning-rate", "1e-3")
    assert cli.main(train(tmp_path / "one", *files, *more, "--per-device-train-batch-size", "8")) == 0
    command = train(tmp_path / "two", *files, *more, "--per-device-train-batch-size", "4", "--zero", zero)
    torchrun("-m", "polylens", *command, "--verify-gradient", "true", timeout=500)
    assert logged(tmp_path / "two") == pytest.approx(logged(tmp_path / "one"), rel=1e-4)
