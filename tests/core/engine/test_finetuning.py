"""``polylens train --objective lm`` as its users start it: real processes, the tiny VLM, real pages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import torchrun
from toy import page, write_conversations

import polylens
from polylens.cli import main

STEPS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_conversations(tmp_path_factory.mktemp("talk"))


def command(data: Path, output: Path, *more: str, batch: int = 4) -> list[str]:
    """With the spellings of the original program."""
    return [
        *("train", "--model-plugin", "minicpmv", "--model_name_or_path", "tiny", "--objective", "lm"),
        *("--data_path", str(data), "--output_dir", str(output), "--model_max_length", "512"),
        *("--llm_type", "minicpm", "--max_slice_nums", "9"),
        *("--per_device_train_batch_size", str(batch), "--max_steps", str(STEPS), "--learning_rate", "1e-3"),
        *(
            "--logging_steps",
            "1",
            "--save_steps",
            "2",
            "--dataloader_num_workers",
            "1",
            "--disable_tqdm",
            "true",
            *more,
        ),
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    name = "adapter_model.safetensors" if (folder / "adapter_config.json").exists() else "model.safetensors"
    return load_file(folder / name)


def distance(one: Path, other: Path) -> float:
    """Relative difference of all weights, global L2."""
    a, b = weights(one), weights(other)
    difference = sum(float((a[name] - b[name]).double().pow(2).sum()) for name in a)
    return (difference / sum(float(tensor.double().pow(2).sum()) for tensor in a.values())) ** 0.5


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    more = ("--eval_data_path", str(data), "--eval_strategy", "steps", "--eval_steps", "2")
    assert main(command(data, output, *more)) == 0
    return output


def test_learns_and_validates(undisturbed):
    found = lines(undisturbed)
    losses = [line["loss"] for line in found if "loss" in line]
    measured = {line["step"]: line["eval_loss"] for line in found if "eval_loss" in line}
    assert len(losses) == STEPS
    assert measured[4] < measured[2] < losses[0]
    assert {"conversations_per_second", "tokens_per_second", "memory_gib"} <= found[0].keys()
    card = json.loads((undisturbed / "polylens.json").read_text())
    assert (card["style"], card["objective"]["name"]) == ("chat", "lm")
    ours, best = weights(undisturbed), weights(undisturbed / "checkpoint-4")
    assert all(torch.equal(ours[name], best[name]) for name in best)


def test_the_loss_of_the_first_step_is_that_of_the_model(data, undisturbed):
    """Of all conversations in one step, against all logits of the untrained model."""
    vlm = polylens.load("minicpmv", "tiny", seed=42, dtype="float32")
    from polylens.data.conversations import read_conversations

    records = read_conversations([data]).records
    batch = vlm.collate([vlm.prepare(record, image_root=data.parent, max_length=512) for record in records])
    logits = vlm.forward(batch, ["logits"]).logits.view(*batch.input_ids.shape, -1)
    wanted = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch.labels[:, 1:])
    output = undisturbed.parent / "whole"
    assert main(command(data, output, "--max_steps", "1", "--gradient_accumulation_steps", "2")) == 0
    assert lines(output)[0]["loss"] == pytest.approx(float(wanted), rel=1e-5)


def test_accumulation_and_micro_batches_do_not_show(data, undisturbed, tmp_path):
    assert main(command(data, tmp_path, "--gradient_accumulation_steps", "4", batch=1)) == 0
    assert distance(undisturbed, tmp_path) < 1e-4
    assert [line["loss"] for line in lines(tmp_path) if "loss" in line] == pytest.approx(
        [line["loss"] for line in lines(undisturbed) if "loss" in line], rel=1e-4
    )


def test_two_ranks_of_zero_3_with_lora_and_validation(data, tmp_path):
    """As ``finetune_lora.sh`` starts it; one rank may see text alone."""
    config = tmp_path / "zero3.json"
    config.write_text('{"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}')
    more = ("--use_lora", "true", "--tune_llm", "false", "--tune_vision", "false", "--lora_dropout", "0")
    more += ("--eval_data_path", str(data), "--eval_strategy", "steps", "--eval_steps", "2", "--verify-gradient")
    more += ("--max_steps", "2")
    assert main(command(data, tmp_path / "one", *more)) == 0
    ranks = torchrun("-m", "polylens", *command(data, tmp_path / "two", "--deepspeed", str(config), *more, batch=2))
    assert "gradient verified: relative error" in ranks[0].output
    assert " conversations in " in ranks[0].output
    assert distance(tmp_path / "one", tmp_path / "two") < 1e-3
    one, two = ([line["eval_loss"] for line in lines(tmp_path / n) if "eval_loss" in line] for n in ("one", "two"))
    assert one == pytest.approx(two, rel=1e-3)


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(data, undisturbed, tmp_path):
    arguments = command(data, tmp_path)
    process = subprocess.Popen([sys.executable, "-m", "polylens", *arguments], start_new_session=True)
    while not (tmp_path / "checkpoint-2").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert main([*arguments, "--resume_from_checkpoint", "true"]) == 0
    ours, theirs = weights(tmp_path), weights(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_does_not_fit_is_an_error_or_set_aside(data, tmp_path, capsys):
    """A text is shortened; a picture and the end of an answer are not."""
    records = json.loads(data.read_text())
    records[0]["conversations"][0]["content"] += " why" * 900
    records[2]["image"] = "missing.png"
    records[3]["image"] = "half.png"
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(8):
        (folder / f"page{i}.png").write_bytes(page(i))
    (folder / "half.png").write_bytes(page(3)[:-40])
    talk = folder / "talk.json"
    talk.write_text(json.dumps(records, indent=1))
    assert main(command(talk, tmp_path / "a")) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "record 'c2'" in error
    assert "missing.png' does not exist under the image root" in error
    assert main(command(talk, tmp_path / "b", "--on_bad_record", "quarantine", "--max_steps", "1")) == 0
    aside = (tmp_path / "b" / "quarantine.unfit.jsonl").read_text().splitlines()
    assert [json.loads(json.loads(line)["record"]) for line in aside] == records[2:4]
    assert "half.png'" in aside[1]
    assert main(command(data, tmp_path / "c", "--model_max_length", "20")) == 2
    assert "the pictures and tags alone are" in capsys.readouterr().err


def test_a_loss_that_is_no_number_ends_the_run(data, tmp_path, capsys):
    assert main(command(data, tmp_path, "--learning_rate", "1e20", "--max_grad_norm", "0")) == 2
    assert "the loss of step" in capsys.readouterr().err
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--hard_negatives", "2"), "/data/hard_negatives: 'lm' trains on conversations"),
        (("--keep-graphs-gb", "1"), "keep_graphs_gb has nothing to keep: 'lm' takes a single pass"),
        (
            ("--per_device_train_batch_size", "50", "--dataloader_drop_last"),
            "do not fill a step of 50",
        ),
        (("--eval_data_path", "none.json"), "none.json cannot be read"),
        (("--normaliser", "words"), "words"),
        (
            ("--llm_type", "llama3"),
            "llm_type is 'llama3', and config.json describes MiniCPM-V 2.0, whose type is 'minicpm'",
        ),
    ],
)
def test_options_that_cannot_be_kept(data, tmp_path, capsys, more, message):
    assert main(command(data, tmp_path, *more)) == 2
    assert message in capsys.readouterr().err
