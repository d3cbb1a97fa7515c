"""``polylens train --objective multi_granularity`` on pictures with lines of text, for families of both kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from support import torchrun

from polylens.cli import main

TEXTS = ["open market", "red wheel", "price three", "summer music", "phone street"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Ten conversations: pictures with up to three lines, one picture twice, and two without a picture."""
    folder = tmp_path_factory.mktemp("signs")
    talk, ocr = [], []
    for i in range(8):
        width, height = [(300, 200), (220, 340), (420, 160)][i % 3]
        image, found = Image.new("RGB", (width, height), "white"), []
        draw = ImageDraw.Draw(image)
        for k in range(i % 4):
            place, text = (20 + 10 * i, 10 + 45 * k), TEXTS[(i + k) % 5]
            draw.text(place, text, fill="black")
            found.append({"box": list(draw.textbbox(place, text)), "text": text, "score": 0.7 + 0.05 * k})
        image.save(folder / f"{i}.png")
        ocr.append({"image": f"{i}.png", "width": width, "height": height, "engine": "drawn", "lines": found})
        talk.append(conversation(f"c{i}", f"It says {TEXTS[i % 5]}.", f"{i % 7}.png"))
    talk += [conversation(f"t{i}", f"The answer is {TEXTS[i]}.") for i in range(2)]
    (folder / "ocr.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ocr))
    (folder / "talk.json").write_text(json.dumps(talk, indent=1))
    return folder


def conversation(id: str, answer: str, image: str | None = None) -> dict:
    question = "<image>\nWhat does it say?" if image else "What is it?"
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": id, "conversations": said} | ({"image": image} if image else {})


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def command(data: Path, output: Path, *more: str, plugin: str = "minicpmv", batch: int = 10) -> list[str]:
    return [
        *("train", "--model-plugin", plugin, "--model", "tiny", "--objective", "multi_granularity"),
        *("--train", str(data / "talk.json"), "--ocr", str(data / "ocr.jsonl"), "--output-dir", str(output)),
        *("--per-device-train-batch-size", str(batch), "--micro-batch-size", "3", "--max-steps", "3"),
        *("--learning-rate", "1e-2", "--logging-steps", "1", "--disable-tqdm", "true"),
        *("--objective.options.global_weight", "0.3", "--objective.options.local_weight", "0.3", *more),
    ]


@pytest.mark.parametrize("plugin", ["minicpmv", "tinyllava", "qwen2_5_vl"])
def test_alignment_brings_texts_nearer_to_what_shows_them(data, tmp_path, plugin):
    """Every conversation in every step, so that figures can be compared; minus cosine over 0.5, times 0.3."""
    assert main(command(data, tmp_path, "--max-length", "1024", plugin=plugin)) == 0
    found = [line for line in lines(tmp_path) if "loss_lm" in line]
    for term in ("loss_lm", "loss_global", "loss_local"):
        assert found[-1][term] < found[0][term]
    total = found[0]["loss_lm"] + found[0]["loss_global"] + found[0]["loss_local"]
    assert found[0]["loss"] == pytest.approx(total, rel=1e-5)
    assert abs(found[0]["loss_global"]) <= 0.6


@pytest.fixture(scope="module")
def with_negatives(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("infonce")
    more = ("--objective.options.form", "infonce", "--validation", str(data / "talk.json"), "--eval-strategy", "steps")
    assert main(command(data, output, *more, "--eval-steps", "3", "--verify-gradient")) == 0
    return output


def test_negatives_too(with_negatives, data):
    found = lines(with_negatives)
    steps = [line for line in found if "loss_lm" in line]
    assert steps[-1]["loss_local"] < steps[0]["loss_local"]
    assert {"accuracy_global", "accuracy_local"} <= steps[0].keys()
    measured = [line["eval_loss"] for line in found if "eval_loss" in line]
    assert measured[-1] < steps[0]["loss"]


@pytest.mark.long
def test_two_ranks_of_zero_3_are_one_process(with_negatives, data, tmp_path):
    """Negatives from the other rank, with a tower that is not trained and so computed once."""
    config = tmp_path / "zero3.json"
    config.write_text('{"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}')
    more = ("--objective.options.form", "infonce", "--tune", "connector,llm,embed_tokens", "--verify-gradient")
    assert main(command(data, tmp_path / "one", *more)) == 0
    ranks = torchrun("-m", "polylens", *command(data, tmp_path / "two", *more, "--deepspeed", str(config), batch=5))
    assert "gradient verified: relative error" in ranks[0].output
    one, two = ([line for line in lines(tmp_path / name) if "loss_lm" in line] for name in ("one", "two"))
    for term in ("loss_lm", "loss_global", "loss_local", "accuracy_global"):
        assert [line[term] for line in two] == pytest.approx([line[term] for line in one], rel=1e-3)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    apart = sum(float((ours[name] - theirs[name]).pow(2).sum()) for name in ours) ** 0.5
    assert apart < 1e-3 * sum(float(weight.pow(2).sum()) for weight in ours.values()) ** 0.5


def test_a_dry_run_reads_the_lines(data, tmp_path, capsys):
    assert main(command(data, tmp_path / "none", "--dry-run")) == 0
    assert "multi_granularity on 10 conversations" in capsys.readouterr().out


def test_without_lines_it_does_not_start(data, tmp_path, capsys):
    given = command(data, tmp_path)
    del given[given.index("--ocr") : given.index("--ocr") + 2]
    assert main(given) == 2
    assert "polylens data ocr" in capsys.readouterr().err
    assert main([*given, "--objective.options.local_weight", "0", "--max-steps", "1"]) == 0


def test_an_objective_that_reads_no_lines_refuses_them(data, tmp_path, capsys):
    assert main([*command(data, tmp_path), "--objective.options.local_weight", "0"]) == 2
    assert "reads no lines of text" in capsys.readouterr().err


def test_pictures_that_are_not_in_the_file(data, tmp_path, capsys):
    few = tmp_path / "few.jsonl"
    few.write_text("".join((data / "ocr.jsonl").read_text().splitlines(keepends=True)[:4]))
    given = [*command(data, tmp_path / "run"), "--ocr", str(few), "--max-steps", "1"]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert "has no entry in" in said
    assert "2 more such records" in said
    assert main([*given, "--on-bad-record", "quarantine"]) == 0
    assert len((tmp_path / "run" / "quarantine.unfit.jsonl").read_text().splitlines()) == 3


def test_kept_graphs_have_nothing_to_keep(data, tmp_path, capsys):
    given = command(data, tmp_path, "--objective.options.form", "infonce", "--keep-graphs-gb", "1")
    assert main(given) == 2
    assert "keep_graphs_gb has nothing to keep" in capsys.readouterr().err


def test_the_grid_of_the_original_needs_its_tower(data, tmp_path, capsys):
    assert main(command(data, tmp_path, "--objective.options.compat", '["remgcl_grid"]')) == 2
    assert "a grid of 14 x 14 does not fit" in capsys.readouterr().err
