"""``polylens predict`` on the files of benchmarks, then ``evaluate``; chunks, ranks, and a run that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from formats_of_benchmarks import LAYOUTS, write_layout
from support import torchrun
from toy import page

import polylens
from polylens.cli import main
from polylens.config import schemas
from polylens.generation.formats.answer_files import ANSWER_FORMATS
from polylens.generation.formats.registry import QUESTION_FORMATS
from polylens.generation.questions import Asked, read_questions

MODEL = ("predict", "--model-plugin", "minicpmv", "--model", "tiny", "--device", "cpu", "--num-workers", "0")
MODEL += ("--max-new-tokens", "2")
EVALUATED = {"llava": None, "textVQA": "textvqa", "ocrbench": "ocrbench", "docVQA": None, "STVQA": None}
"""Tasks of ``polylens evaluate``, where they are not ``mmocr``; some files have no right answers."""


def predict(path, output, *more):
    return main([*MODEL, "--input", str(path), "--output", str(output), *more])


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_format_from_questions_to_scores(tmp_path, name, capsys):
    path, said = write_layout(tmp_path, name)
    output = tmp_path / ("svt.json" if name == "ocr" else f"{name}.json")
    assert predict(path, output, *(["--format", said] if said else []), "--model-id", "mine") == 0
    assert "answers are in" in capsys.readouterr().out
    text = output.read_text(encoding="utf-8")
    answers = [json.loads(line) for line in text.splitlines()] if name == "llava" else json.loads(text)
    kind = {"llava": "llava", "ocrbench": "ocrbench"}.get(name, "mmocr")
    assert not [error for one in answers for error in schemas.errors(f"answers_{kind}", one)]
    assert {one.get("model_id", one.get("model_name", "mine")) for one in answers} == {"mine"}
    if kind == "mmocr":
        assert all(os.path.exists(one["image_path"]) for one in answers)
    task = EVALUATED.get(name, "mmocr")
    if task:
        assert main(["evaluate", task, "--answers", str(output)]) == 0
        assert f"{len(answers)} answers measured" in capsys.readouterr().out


def test_answers_of_a_benchmark_in_other_formats(tmp_path):
    path, _ = write_layout(tmp_path, "textVQA")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1a.jpg").write_bytes(page(3))
    more = ["--image-root", str(tmp_path / "pictures"), "--prompt", "{question} Say it briefly."]
    for format in ("llava", "polylens"):
        assert predict(path, tmp_path / f"{format}.jsonl", *more, "--answers-format", format) == 0
    (llava,), (own,) = (
        [json.loads(line) for line in (tmp_path / f"{format}.jsonl").open()] for format in ("llava", "polylens")
    )
    assert (llava["question_id"], llava["prompt"], llava["model_id"]) == (5, "Which brand?", "tiny")
    assert (own["id"], own["question"]) == ("5", "Which brand? Say it briefly.")
    assert own["references"] == ["acme"] * 9 + ["a"]
    assert llava["text"] == own["answer"]
    scores = ["evaluate", "textvqa", "--answers", str(tmp_path / "llava.jsonl"), "--annotations", str(path)]
    assert main(scores) == 0


def test_help_names_every_format(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    words = capsys.readouterr().out.replace(",", " ").split()
    assert {*QUESTION_FORMATS, *ANSWER_FORMATS} <= set(words)


def questions(folder, count):
    """LLaVA's questions about two pictures, one of which every third is about."""
    for number in range(2):
        (folder / f"{number}.png").write_bytes(page(number))
    lines = [
        {"question_id": n, "image": f"{n % 2}.png", "text": "what is the colour " * (n % 4 + 1)} for n in range(count)
    ]
    (folder / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "q.jsonl"


def test_chunks_are_joined_by_the_last(tmp_path, capsys):
    path = questions(tmp_path, 7)
    assert predict(path, tmp_path / "whole.jsonl") == 0
    said = []
    for index in (2, 0, 1):
        assert predict(path, tmp_path / "a.jsonl", "--num-chunks", "3", "--chunk-index", str(index)) == 0
        said.append(capsys.readouterr().out.splitlines()[-1])
    assert [line.partition("; ")[2].split(" are in")[0] for line in said] == [
        "chunks that are not done yet: 0, 1",
        "chunks that are not done yet: 1",
        "those of all 3 chunks",
    ]
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    card = json.loads((tmp_path / "a.jsonl.run.json").read_text())
    assert (schemas.errors("prediction", card), card["chunks"]) == ([], 3)
    chunk = [json.loads(line)["question_id"] for line in (tmp_path / "a.chunk-2-of-3.jsonl").open()]
    assert chunk == [4, 5, 6]

    assert predict(path, tmp_path / "a.jsonl", "--num-chunks", "3", "--chunk-index", "1") == 0, "it is done"
    other = ["--num-chunks", "2", "--chunk-index", "0"]
    assert predict(path, tmp_path / "a.jsonl", *other) == 2
    assert "a.jsonl exists, and is not made of 2 chunks" in capsys.readouterr().err
    assert predict(path, tmp_path / "whole.jsonl", *other) == 2
    assert predict(path, tmp_path / "a.jsonl") == 2
    assert "was begun with other records" in capsys.readouterr().err


def test_chunks_of_other_questions_do_not_replace_what_is_joined(tmp_path, capsys):
    path = questions(tmp_path, 4)
    chunks = ["--num-chunks", "2", "--chunk-index"]
    for index in "01":
        assert predict(path, tmp_path / "a.jsonl", *chunks, index) == 0
    before = (tmp_path / "a.jsonl").read_bytes()
    path.write_text(path.read_text().replace("colour", "price"))
    for left in tmp_path.glob("a.chunk-1-of-2*"):
        left.unlink()
    assert predict(path, tmp_path / "a.jsonl", *chunks, "1") == 2
    assert "a.jsonl is made of other chunks; choose another --output" in capsys.readouterr().err
    assert (tmp_path / "a.jsonl").read_bytes() == before


@pytest.mark.long
def test_chunks_at_the_same_time(tmp_path):
    path = questions(tmp_path, 4)
    command = [sys.executable, "-m", "polylens", *MODEL, "--input", str(path), "--output", str(tmp_path / "a.jsonl")]
    both = [subprocess.Popen([*command, "--num-chunks", "2", "--chunk-index", index]) for index in "01"]
    assert [one.wait(200) for one in both] == [0, 0]
    assert [json.loads(line)["question_id"] for line in (tmp_path / "a.jsonl").open()] == [0, 1, 2, 3]
    assert not list(tmp_path.glob("*.parts"))


def test_chunks_of_different_runs_are_not_joined(tmp_path, capsys):
    path = questions(tmp_path, 2)
    chunks = ["--num-chunks", "2", "--chunk-index"]
    assert predict(path, tmp_path / "a.jsonl", *chunks, "0") == 0
    assert predict(path, tmp_path / "a.jsonl", *chunks, "1", "--batch-size", "3") == 2
    assert "the chunks cannot be joined: batch_size is 8 in one and 3 in another" in capsys.readouterr().err
    assert not (tmp_path / "a.jsonl").exists()


WRONG = [
    (["--num-chunks", "2"], "--num-chunks 2 needs --chunk-index"),
    (["--num-chunks", "2", "--chunk-index", "2"], "there is no chunk 2 of 2: --chunk-index goes from 0 to"),
    (["--num-chunks", "9", "--chunk-index", "1"], "2 records cannot be divided into 9 chunks"),
    (["--chunk-index", "1"], "there is no chunk 1 of 1"),
    (["--limit", "0"], "limit is 0"),
    (["--prompt", "what?"], "the prompt 'what?' does not say where the question stands: write {question}"),
    (["--answers-format", "mmocrr"], "no format of answers 'mmocrr' (did you mean 'mmocr'?)"),
    (["--answers-format", "ocrbench"], "q.jsonl:1: answers of the format ocrbench need questions of OCRBench"),
    (["--format", "textVQA"], "q.jsonl:2: not JSON: Extra data"),
    (["--format", "conversations"], "'conversations' is a required property"),
    (["--format", "conversations", "--prompt", "{question}!"], "and these are conversations"),
    (["--documents", "x"], "document stores belong to conversations; the pictures of llava are files"),
    (["--image-root", "gone"], "'0.png' does not exist under the image root"),
]


@pytest.mark.parametrize(("more", "message"), WRONG)
def test_bad_input_is_named(tmp_path, capsys, more, message):
    assert predict(questions(tmp_path, 2), tmp_path / "a.jsonl", *more) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("a*"))


def test_a_folder_of_pictures_that_is_not_there(tmp_path, capsys):
    path, _ = write_layout(tmp_path, "textVQA")
    (tmp_path / "train_images").rename(tmp_path / "images")
    assert predict(path, tmp_path / "a.json") == 2
    assert "train_images does not exist; say where they lie with --image-root" in capsys.readouterr().err


def test_pictures_stay_below_the_image_root(tmp_path, capsys):
    (tmp_path / "out.png").write_bytes(page(0))
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "q.jsonl"
    path.write_text(json.dumps({"question_id": 1, "image": "../out.png", "text": "?"}))
    assert predict(path, tmp_path / "a.jsonl") == 2
    assert "lies outside the image root" in capsys.readouterr().err


def test_files_of_several_folders(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        questions(tmp_path / name, 2)
    paths = [str(tmp_path / name / "q.jsonl") for name in ("one", "two")]
    output = tmp_path / "a.json"
    assert main([*MODEL, "--input", *paths, "--output", str(output), "--answers-format", "mmocr", "--limit", "3"]) == 0
    pictures = [one["image_path"] for one in json.loads(output.read_text())]
    assert pictures == [str(tmp_path / name) for name in ("one/0.png", "one/1.png", "two/0.png")]


def test_bad_questions_are_set_aside(tmp_path, capsys):
    """Of the files by the first chunk, and each chunk those that turn out to be bad among its own."""
    path = questions(tmp_path, 6)
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = '{"question_id": 1}\n'
    lines[2] = lines[2].replace("what is", "<image> and <image> what", 1)
    lines[4] = lines[4].replace("0.png", "gone.png")
    path.write_text("".join(lines))
    bad = ["--on-bad-record", "quarantine", "--num-chunks", "2", "--chunk-index"]
    for index in (0, 1):
        assert predict(path, tmp_path / "a.jsonl", *bad, str(index)) == 0
    aside = {
        index: [json.loads(line) for line in (tmp_path / f"a.chunk-{index}-of-2.jsonl.quarantine.jsonl").open()]
        for index in (0, 1)
    }
    assert [[one["where"].rpartition(":")[2] for one in lines] for lines in aside.values()] == [["2", "3"], ["5"]]
    assert not [error for lines in aside.values() for one in lines for error in schemas.errors("quarantine", one)]
    assert [json.loads(line)["question_id"] for line in (tmp_path / "a.jsonl").open()] == [0, 3, 5]


DIES = """
import os, signal, sys
import polylens
from polylens.cli import main
from polylens.generation.parts import PartWriter

add = PartWriter.add

def add_and_die(self, *given):
    add(self, *given)
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)

PartWriter.add = add_and_die
sys.exit(main(sys.argv[1:]))
"""


def test_two_ranks_of_which_one_is_killed_and_resumed(tmp_path):
    path = questions(tmp_path, 12)
    command = [*MODEL, "--input", str(path), "--batch-size", "2", "--answers-format", "mmocr", "--output"]
    killed = str(tmp_path / "killed.json")
    ranks = torchrun("-c", DIES, *command, killed, nproc=2, check=False)
    assert ranks[1].returncode == -signal.SIGKILL
    assert not (tmp_path / "killed.json").exists()
    assert len(list((tmp_path / "killed.json.parts").glob("*.jsonl"))) == 2
    assert main([*command, killed]) == 0
    assert main([*command, str(tmp_path / "whole.json")]) == 0
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert len(json.loads((tmp_path / "whole.json").read_text())) == 12


def test_questions_from_python(tmp_path):
    path, _ = write_layout(tmp_path, "FUNSD")
    asked = read_questions([path], Asked(limit=1))
    vlm = polylens.load("minicpmv", "tiny", device="cpu")
    (answer,) = vlm.predict([one.record for one in asked.questions], image_root=asked.image_root, max_new_tokens=2)
    assert predict(path, tmp_path / "FUNSD.json") == 0
    assert json.loads((tmp_path / "FUNSD.json").read_text())[0]["answer"] == answer.text
