"""Training: a run of the original step by step, and both objectives with the engine as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support import torchrun
from toy import write_toy

import polylens
from polylens import cli
from polylens.contracts import ImageRef, Message, Record
from polylens.data.images import ImageOpener
from polylens.engine.loading import load_checkpoint
from polylens.engine.training_module import TrainingModule
from polylens.objectives.lm import LanguageModelling, LmOptions

TRAINED = "connector."
IMAGE = -200


def example(found, sample, folder):
    """A sample of the original's file, written as its first stage writes it."""
    _, answer = sample["conversations"]
    image = (folder / "images" / sample["image"]).read_bytes()
    turns = (Message("user", (ImageRef("bytes", image),)), Message("assistant", (answer["value"],)))
    return found.preparer(ImageOpener(), style="chat").example(Record(sample["id"], turns))


def ids_of(found, made) -> list[int]:
    ids = [IMAGE if slot else int(token) for token, slot in zip(made.input_ids, made.visual_mask, strict=True)]
    return [token for place, token in enumerate(ids) if token != IMAGE or ids[place - 1 : place] != [IMAGE]]


def test_a_pretraining_run_of_the_original_is_repeated(original, tmp_path):
    """Its four steps give its losses and its connector, from pictures and texts on: AdamW at its learning rates."""
    run = original / "train" / "tiny-llava-base-pretrain"
    log = json.loads((run / "GOLDEN_run.json").read_text(encoding="utf-8"))
    samples = json.loads((run.parent / "data" / "pretrain.json").read_text(encoding="utf-8"))
    for name in ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(run / name, tmp_path / name)
    shutil.copyfile(run / "GOLDEN_initial_parameters.safetensors", tmp_path / "model.safetensors")
    found = load_checkpoint("tinyllava", str(tmp_path), options={"template": "pretrain"})
    made = {
        tuple(ids_of(found, one)): one for one in (example(found, sample, run.parent / "data") for sample in samples)
    }
    model, objective = found.model.train(), LanguageModelling(LmOptions())
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith(TRAINED))
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=0.0, weight_decay=0.0)
    module, pad = TrainingModule(model, objective), found.tokenizer.pad_token_id
    rates = [0.0, *(step["learning_rate"] for step in log["log_history"][:3])]  # of the next step; the first warms up
    for step, rate, given in zip(log["log_history"], rates, log["batches"], strict=False):
        rows = [made[tuple(without(row, pad))] for row in given["input_ids"]]
        batch = found.collator()(rows)
        optimizer.param_groups[0]["lr"] = rate
        loss = module(batch, objective.normalisers(batch)).additive
        assert loss.item() == pytest.approx(step["loss"], abs=2e-4)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert norm.item() == pytest.approx(step["grad_norm"], rel=1e-4)
        optimizer.step()
    expected = load_file(run / "GOLDEN_final_trainable.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(model.get_parameter(name).data, value, rtol=1e-4, atol=1e-5)


def without(row: list[int], pad: int) -> list[int]:
    return [token for token in row if token != pad]


COLOURS = {"紅": (255, 0, 0), "綠": (0, 255, 0), "藍": (0, 0, 255), "黃": (255, 255, 0)}


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    """Eight pictures of one colour each, and a question about it."""
    folder, lines = tmp_path_factory.mktemp("colours"), []
    for number, (name, colour) in enumerate([*COLOURS.items()] * 2):
        Image.new("RGB", (60, 40), colour).save(folder / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": f"{name}色"}]
        lines.append(json.dumps({"id": str(number), "image": f"{number}.png", "conversations": turns}))
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def train(output: Path, *more: str) -> None:
    argv = ["train", "--model-plugin", "tinyllava", "--output-dir", str(output), "--disable-tqdm", "true"]
    argv += ["--dataloader-num-workers", "0", "--save-strategy", "no", "--logging-steps", "1", *more]
    assert cli.main(argv) == 0


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def test_lm_trains_an_adapter_that_is_merged_and_answers(colours, tmp_path):
    """LoRA on the language model and the tower, the connector as it is; then one model folder, which answers."""
    data = ("--objective", "lm", "--train", str(colours / "train.jsonl"), "--per-device-train-batch-size", "8")
    lora = ("--use-lora", "true", "--lora-components", "llm", "vision", "--tune", "connector", "embed_tokens")
    more = ("--model", "tiny-phi", "--max-steps", "4", "--learning-rate", "3e-3", "--lora-dropout", "0")
    train(tmp_path / "adapter", *data, *lora, *more)
    found = losses(tmp_path / "adapter")
    assert found[-1] < 0.95 * found[0]
    polylens.merge(tmp_path / "adapter", tmp_path / "merged")
    argv = ["predict", "--model", str(tmp_path / "merged"), "--input", str(colours / "train.jsonl")]
    assert cli.main([*argv, "--output", str(tmp_path / "answers.jsonl"), "--max-new-tokens", "3"]) == 0
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 8


def test_contrastive_makes_a_retriever(tmp_path):
    """The engine knows nothing of the second family; small micro-batches, and the gradient is verified in the run."""
    pairs, store = write_toy(tmp_path / "toy")
    data = ("--objective", "contrastive", "--train", str(pairs), "--documents", str(store), "--temperature", "0.1")
    more = ("--model", "tiny-phi", "--max-steps", "4", "--learning-rate", "1e-3", "--verify-gradient", "true")
    train(tmp_path / "out", *data, *more, "--per-device-train-batch-size", "8", "--grad-cache-micro-batch-size", "3")
    found = losses(tmp_path / "out")
    assert found[-1] < found[0]


@pytest.mark.long
@pytest.mark.parametrize("zero", ["2", "3"])
def test_two_ranks_train_under_zero(colours, tmp_path, zero):
    """The losses of one process; one record of text alone leaves a rank without a picture now and then."""
    text = {"id": "t", "conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes."}]}
    lines = (colours / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (colours / "mixed.jsonl").write_text(
        "\n".join([*lines[:4], *[json.dumps({**text, "id": f"t{i}"}) for i in range(4)]])
    )
    argv = ["--objective", "lm", "--train", str(colours / "mixed.jsonl"), "--model", "tiny-phi", "--max-steps", "3"]
    argv += ["--learning-rate", "1e-3"]
    train(tmp_path / "one", *argv, "--per-device-train-batch-size", "4")
    command = ["-m", "polylens", "train", "--model-plugin", "tinyllava", "--output-dir", str(tmp_path / "two"), *argv]
    command += ["--per-device-train-batch-size", "2", "--zero", zero, "--dataloader-num-workers", "0"]
    torchrun(*command, "--save-strategy", "no", "--logging-steps", "1", timeout=500)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
