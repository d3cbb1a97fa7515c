"""A file of answers: the same from any number of ranks, batches done before, and places of the weights."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pytest
from conversation_files import write_conversations
from PIL import Image
from support import torchrun

from polylens.cli import main
from polylens.config import schemas
from polylens.config.run import LoraSettings
from polylens.contracts import ImageRef, Message, Record
from polylens.engine.loading import load_checkpoint
from polylens.engine.saving import save_model_folder
from polylens.engine.trainable import choose_trained
from polylens.errors import InputError
from polylens.generation.parts import PartWriter
from polylens.generation.prompts import question
from polylens.objectives.lm import LanguageModelling

MODEL = ("predict", "--model-plugin", "minicpmv", "--model", "tiny", "--device", "cpu", "--num-workers", "0")


def predict(folder, output="answers.jsonl", *more, batch_size=4, tokens=6, model=MODEL):
    argv = [*model, "--input", str(folder / "records.jsonl"), "--output", str(folder / output)]
    return main([*argv, "--batch-size", str(batch_size), "--max-new-tokens", str(tokens), *more])


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answered")
    write_conversations(folder)
    assert predict(folder) == 0
    return folder


def test_answers_are_in_the_order_of_the_records_and_keep_the_schema(answered):
    lines = [json.loads(line) for line in (answered / "answers.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"r{number}" for number in range(9)]
    assert [line["references"] for line in lines] == [[f"answer {number}"] for number in range(8)] + [[]]
    assert lines[1]["question"] == "what is the colour what is the colour"
    assert all(line["tokens"] == 6 or line["finished"] for line in lines)
    assert not [error for line in lines for error in schemas.errors("answers", line)]
    card = json.loads((answered / "answers.jsonl.run.json").read_text())
    assert schemas.errors("prediction", card) == []
    assert {path.name for path in answered.glob("answers*")} == {"answers.jsonl", "answers.jsonl.run.json"}


def test_the_reference_is_not_shown_to_the_model(answered, tmp_path):
    text = (answered / "records.jsonl").read_text().replace("answer ", "quite something else ")
    (tmp_path / "records.jsonl").write_text(text)
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes((answered / f"{number}.png").read_bytes())
    assert predict(tmp_path, batch_size=1) == 0
    before, after = (_said(folder) for folder in (answered, tmp_path))
    assert before == after, "greedy answers depend on the reference, or on the batch"


def _said(folder, name="answers.jsonl"):
    return [json.loads(line)["answer"] for line in (folder / name).read_text().splitlines()]


DIES = """
import os, signal, sys
from polylens.cli import main
from polylens.generation.parts import PartWriter

add, written = PartWriter.add, []

def add_and_die(self, *given):
    add(self, *given)
    written.append(given)
    if os.environ["RANK"] == "1" and len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

PartWriter.add = add_and_die
sys.exit(main(sys.argv[1:]))
"""
"""``polylens`` whose second rank is killed, as kill -9 does it, when it has written two batches."""


def test_a_killed_run_of_two_ranks_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    write_conversations(tmp_path, count=24)
    command = [*MODEL, "--input", str(tmp_path / "records.jsonl"), "--batch-size", "2", "--max-new-tokens", "4"]
    command += ["--output", str(tmp_path / "killed.jsonl")]
    ranks = torchrun("-c", DIES, *command, nproc=2, check=False)
    assert [rank.returncode for rank in ranks] == [2, -signal.SIGKILL]
    assert "another rank ended" in ranks[0].output
    parts = {path.name: path.read_bytes() for path in (tmp_path / "killed.jsonl.parts").glob("*.jsonl")}
    assert {name: text.count(b"\n") for name, text in parts.items()} == {"0-0.jsonl": 6, "1-0.jsonl": 2}
    torn = tmp_path / "killed.jsonl.parts" / "1-0.jsonl"
    torn.write_bytes(parts["1-0.jsonl"] + parts["0-0.jsonl"][:30])  # as a kill in the middle of a line leaves it
    assert not (tmp_path / "killed.jsonl").exists()

    added = []
    add = PartWriter.add
    monkeypatch.setattr(PartWriter, "add", lambda *given: added.append(given[1]) or add(*given))
    assert main(command) == 0
    assert sorted(added) == [5, 7, 9, 11], "what the second rank had yet to do"
    assert main([*command[:-1], str(tmp_path / "whole.jsonl")]) == 0
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not torn.parent.exists()


def test_what_is_done_is_not_done_again(answered, capsys):
    before = (answered / "answers.jsonl").stat().st_mtime_ns
    assert predict(answered) == 0
    assert (answered / "answers.jsonl").stat().st_mtime_ns == before
    assert "9 answers are in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "tokens", "message"),
    [
        ([], 7, "was begun with max_new_tokens 6, and now it is 7"),
        (["--seed", "3"], 6, "was begun with other weights"),
        (["--option", "max_slice_nums=1"], 6, "was begun with max_slice_nums None, and now it is 1"),
    ],
)
def test_another_run_does_not_go_on(answered, capsys, more, tokens, message):
    assert predict(answered, "answers.jsonl", *more, tokens=tokens) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_was_not_predicted_is_left_alone(answered, capsys):
    (answered / "mine.jsonl").write_text("mine")
    assert predict(answered, "mine.jsonl") == 2
    assert "mine.jsonl exists, and no mine.jsonl.run.json says how it was made" in capsys.readouterr().err
    assert (answered / "mine.jsonl").read_text() == "mine"


def test_a_model_on_the_disk_gives_the_same_answers(answered):
    without_device = tuple(part for part in MODEL if part not in ("--device", "cpu"))
    spread = ["--device-map", "{llm: disk, vpm: cpu, resampler: cpu}", "--offload-folder", str(answered / "weights")]
    assert predict(answered, "spread.jsonl", *spread, model=without_device) == 0
    assert _said(answered, "spread.jsonl") == _said(answered)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-memory", "{cpu: 1GiB}"], "--max-memory belongs to --device-map"),
        (["--device-map", "auto"], "leave the device out"),
        (["--device-map", "{vpm: "], "--device-map '{vpm: ' is not a mapping"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--max-length", "3"], "record 'r0': the pictures and tags alone are"),
    ],
)
def test_bad_input_is_named(answered, capsys, more, message):
    assert predict(answered, "bad.jsonl", *more) == 2
    assert message in capsys.readouterr().err
    assert not list(answered.glob("bad*")), "it left something behind"


def test_a_missing_picture_is_found_before_anything_is_generated(tmp_path, capsys):
    write_conversations(tmp_path)
    (tmp_path / "1.png").unlink()
    assert predict(tmp_path) == 2
    error = capsys.readouterr().err
    assert "records.jsonl:4" in error
    assert "'1.png' does not exist" in error


def spoilt(folder):
    """Records of which three cannot be asked: a placeholder too many, no picture, half a picture."""
    write_conversations(folder, count=9)
    path = folder / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace("what is", "<image> what is", 1)
    lines[3] = lines[3].replace("1.png", "none.png")
    (folder / "half.png").write_bytes((folder / "0.png").read_bytes()[:-40])
    lines[6] = lines[6].replace("0.png", "half.png")
    path.write_text("".join(lines))


BAD = {
    2: "<image> has no picture: the record has no pictures",
    4: "none.png' does not exist",
    7: "half.png'",
}


def test_bad_records_are_set_aside_and_counted(tmp_path, capsys):
    """By any number of ranks, and by a run that goes on; the others get the answers that they get without them."""
    spoilt(tmp_path)
    assert predict(tmp_path, "bad.jsonl") == 2
    assert "records.jsonl:2: record 'r1': /conversations/0/content: <image> has no" in capsys.readouterr().err
    assert predict(tmp_path, "one.jsonl", "--on-bad-record", "quarantine") == 0
    assert "6 answers are in" in (said := capsys.readouterr().out)
    assert f"; 3 bad records were set aside in {tmp_path}/one.jsonl.quarantine.jsonl" in said
    aside = [json.loads(line) for line in (tmp_path / "one.jsonl.quarantine.jsonl").read_text().splitlines()]
    assert not [error for line in aside for error in schemas.errors("quarantine", line)]
    assert [line["where"].rpartition(":")[2] for line in aside] == [str(number) for number in BAD]
    assert all(words in line["reason"] for line, words in zip(aside, BAD.values(), strict=True))
    kept = [line for number, line in enumerate((tmp_path / "records.jsonl").open(), 1) if number not in BAD]
    (tmp_path / "records.jsonl").write_text("".join(kept))
    assert predict(tmp_path, "good.jsonl", "--on-bad-record", "quarantine") == 0
    assert (tmp_path / "good.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert not (tmp_path / "good.jsonl.quarantine.jsonl").exists()


def test_ranks_set_the_same_records_aside(tmp_path):
    spoilt(tmp_path)
    assert predict(tmp_path, "one.jsonl", "--on-bad-record", "quarantine") == 0
    command = [*MODEL, "--input", str(tmp_path / "records.jsonl"), "--batch-size", "4", "--max-new-tokens", "6"]
    torchrun("-m", "polylens", *command, "--output", str(tmp_path / "two.jsonl"), "--on-bad-record", "quarantine")
    for name in ("{}.jsonl", "{}.jsonl.quarantine.jsonl"):
        assert (tmp_path / name.format("two")).read_bytes() == (tmp_path / name.format("one")).read_bytes()
    assert len(list(tmp_path.glob("two*"))) == 3


def test_of_an_array_on_one_line_the_bad_ones_alone_are_set_aside(tmp_path):
    spoilt(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").open()]
    (tmp_path / "records.jsonl").write_text(json.dumps(records))
    assert predict(tmp_path, "one.jsonl", "--on-bad-record", "quarantine") == 0
    aside = [json.loads(line) for line in (tmp_path / "one.jsonl.quarantine.jsonl").read_text().splitlines()]
    assert [json.loads(line["record"])["id"] for line in aside] == ["r1", "r3", "r6"]


def test_nothing_but_bad_records(tmp_path, capsys):
    (tmp_path / "records.jsonl").write_text('{"conversations": []}\n')
    assert predict(tmp_path, "bad.jsonl", "--on-bad-record", "quarantine") == 2
    assert "records.jsonl can be answered; the first: " in capsys.readouterr().err
    assert not list(tmp_path.glob("bad*"))


def test_a_picture_that_changed_its_size_is_another_run(tmp_path, capsys):
    """It moves records to other batches, whose answers are counted as done by their numbers."""
    write_conversations(tmp_path)
    assert predict(tmp_path) == 0
    Image.new("RGB", (900, 900)).save(tmp_path / "0.png")
    assert predict(tmp_path) == 2
    assert "was begun with other records" in capsys.readouterr().err


def test_the_base_of_an_adapter_may_have_moved(tmp_path, capsys):
    write_conversations(tmp_path, count=3)
    made = load_checkpoint("minicpmv", "tiny")
    save_model_folder(made, tmp_path / "base", made.card)
    choose_trained(made.model, made.family, LanguageModelling(), None, LoraSettings(enable=True))
    save_model_folder(made, tmp_path / "adapter", replace(made.card, base_model=str(tmp_path / "gone")))
    model = ("predict", "--model", str(tmp_path / "adapter"), "--num-workers", "0")
    assert predict(tmp_path, model=model) == 2
    assert "gone" in (said := capsys.readouterr().err)
    assert "if it lies elsewhere by now, give it as --base" in said
    assert predict(tmp_path, "answers.jsonl", "--base", str(tmp_path / "base"), model=model) == 0
    assert predict(tmp_path, "base.jsonl", model=("predict", "--model", str(tmp_path / "base"))) == 0
    assert _said(tmp_path) == _said(tmp_path, "base.jsonl"), "a new adapter changes nothing"


def test_questions_and_references():
    user, system = Message("user", (ImageRef("path", "a.png"), "\nwhat?")), Message("system", ("be brief",))
    said = Message("assistant", (" red ",))
    found = question(Record("r", (system, user, said, user, said)))
    assert found.record.messages == (system, user, said, user)
    assert (found.references, found.text) == (("red",), "what?")
    assert question(Record("r", (user,))).references == ()
    for messages in ((), (system,), (said,)):
        with pytest.raises(InputError, match="record 'r': there is no user turn to answer"):
            question(Record("r", messages, "f:1"))
