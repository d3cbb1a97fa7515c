"""Generation scores during training are those that predict and evaluate give afterwards."""

from __future__ import annotations

import json

import pytest
from toy import write_conversations

import polylens
from polylens.cli import main
from polylens.data.conversations import read_conversations
from polylens.generation.answers import AnsweredQuestion
from polylens.generation.evaluation import evaluate_answers
from polylens.generation.prompts import question
from polylens.generation.text_scores import MEASURES, Normalisation


def command(folder, *more):
    data, output = write_conversations(folder), folder / "out"
    given = {
        "--model-plugin": "minicpmv",
        "--model": "tiny",
        "--train": data,
        "--output-dir": output,
        "--validation-max-new-tokens": 6,
        "--per-device-train-batch-size": 4,
        "--per-device-eval-batch-size": 3,
        "--max-steps": 4,
        "--eval-strategy": "steps",
        "--eval-steps": 4,
        "--learning-rate": 1e-2,
        "--disable-tqdm": "true",
    }
    return ["train", *(str(part) for pair in given.items() for part in pair), *more]


def test_scores_of_the_trained_model(tmp_path):
    validated = ("--objective", "lm", "--validation", str(tmp_path / "talk.json"), "--validation-answers", "99")
    assert main(command(tmp_path, *validated, "--metric-for-best-model", "cer")) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    (measured,) = [line for line in lines if "eval_loss" in line]
    vlm = polylens.load(None, tmp_path / "out", device="cpu")
    records = read_conversations([tmp_path / "talk.json"]).records
    answers = vlm.predict(records, max_new_tokens=6, image_root=tmp_path)
    asked = [question(record) for record in records]
    said = [AnsweredQuestion("", a.text, q.references) for a, q in zip(answers, asked, strict=True)]
    expected = evaluate_answers(said, MEASURES, Normalisation()).scores
    assert {name: measured[f"eval_{name}"] for name in MEASURES} == pytest.approx(expected)
    state = json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_metric"] == pytest.approx(expected["cer"])


@pytest.mark.parametrize(
    "more",
    [("--objective", "lm"), ("--objective", "contrastive", "--validation", "pairs.jsonl")],
    ids=["no records to answer", "pairs"],
)
def test_nothing_to_answer_is_refused(tmp_path, capsys, more):
    assert main(command(tmp_path, *more, "--validation-answers", "3")) == 2
    assert "/data/validation_answers: answers are measured on conversations" in capsys.readouterr().err
