"""Conversations: what the model is shown, what counts when an answer is stopped, and the terminal."""

from __future__ import annotations

import io
import os
import signal

import pytest
from PIL import Image
from toy import page

import polylens
from polylens.api import VLM
from polylens.cli import main
from polylens.contracts import ImageRef, Message, Record
from polylens.data.images import ImageOpener
from polylens.errors import InputError
from polylens.generation.chat import Conversation, Room, message, room
from polylens.generation.options import GenerationOptions
from polylens.generation.predictor import Predictor
from polylens.generation.terminal import Terminal


@pytest.fixture(scope="module")
def vlm(tiny) -> VLM:
    return polylens.load("minicpmv", "tiny", seed=tiny.seed, device="cpu")


class Echo:
    """A model that says what it was shown."""

    def __init__(self) -> None:
        self.seen: list[list[Message]] = []

    def __call__(self, messages):
        self.seen.append(list(messages))
        yield "I see "
        yield str(sum(isinstance(part, ImageRef) for part in messages[-1].parts))


def talk(text, reply=None, *, interactive=False):
    echo, output = reply or Echo(), io.StringIO()
    Terminal(Conversation(echo), io.StringIO(text), output, interactive=interactive).run()
    return echo, output.getvalue()


def test_turns_and_pictures(tmp_path):
    (tmp_path / "a b.png").write_bytes(page(1))
    echo, said = talk(f"hello\n\n/image {tmp_path}/a b.png\nwhat?\nand now?\n//x\n/reset\nnew\n/exit\nnever\n")
    assert said == "I see 0\nI see 1\nI see 0\nI see 0\nI see 0\n"
    assert [len(seen) for seen in echo.seen] == [1, 3, 5, 7, 1]
    assert echo.seen[1][-1].parts == (ImageRef("bytes", page(1)), "\n", "what?")
    assert echo.seen[1][1] == Message("assistant", ("I see 0",))
    assert echo.seen[3][-1].parts == ("/x",)


def test_an_answer_that_is_stopped_counts_as_far_as_it_went():
    def stopped(messages):
        yield "one "
        raise KeyboardInterrupt

    conversation, output = Conversation(stopped), io.StringIO()
    Terminal(conversation, io.StringIO("count\n"), output, interactive=False).run()
    assert output.getvalue() == "one  [stopped]\n"
    assert conversation.messages == [Message("user", ("count",)), Message("assistant", ("one",))]


def test_a_turn_without_an_answer_is_forgotten_and_its_pictures_wait(tmp_path):
    (tmp_path / "a.png").write_bytes(page(1))
    conversation = Conversation(lambda messages: iter(()))
    assert conversation.attach(tmp_path / "a.png") == Image.open(tmp_path / "a.png").size
    assert list(conversation.ask("what?")) == []
    assert conversation.messages == []
    assert len(conversation.pictures) == 1


def words(messages) -> int:
    return sum(len(part.split()) for message in messages for part in message.parts)


def test_the_oldest_turns_are_forgotten_where_there_is_no_room(caplog):
    echo = Echo()
    conversation = Conversation(echo, Room(8, words))
    for question in ("a b", "c d", "e f", "1 2 3 4 5 6 7 8 9", "g"):
        list(conversation.ask(question))
    assert [[m.parts[0] for m in seen if m.role == "user"] for seen in echo.seen] == [
        ["a b"],
        ["a b", "c d"],
        ["c d", "e f"],
        ["1 2 3 4 5 6 7 8 9"],
        ["g"],
    ]
    assert [record.message for record in caplog.records] == [
        "the conversation is longer than 8 tokens: the model no longer sees its first 2 turns",
        "the question is longer than 8 tokens: its text is shortened",
        "the conversation is longer than 8 tokens: the model no longer sees its first 8 turns",
    ]


def test_nothing_is_forgotten_for_a_question_that_cannot_be_asked():
    def refuses(messages):
        if "x" in messages[-1].parts[0]:
            raise InputError("no")
        yield "yes"

    conversation = Conversation(refuses, Room(5, words))
    list(conversation.ask("a b"))
    with pytest.raises(InputError):
        list(conversation.ask("x y z"))
    assert [turn.parts for turn in conversation.messages] == [("a b",), ("yes",)]


def test_the_room_of_a_model(vlm):
    """The tiny model knows 2048 positions."""

    def predictor(max_length=None, new=1024):
        options = GenerationOptions(max_new_tokens=new)
        return Predictor(vlm.checkpoint, options, ImageOpener(), vlm.device, max_length=max_length)

    assert [room(predictor(new=new)).tokens for new in (1, 1024, 5000)] == [2047, 1024, 1024]
    found = room(predictor(77))
    asked = [Message("user", ("what is a pump?",))]
    batch = vlm.collate([predictor().preparer.example(Record("r", tuple(asked)))])
    assert (found.tokens, found.needed(asked)) == (77, batch.input_ids.shape[1])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/imge a.png", r"unknown command '/imge' \(did you mean '/image'\?\)"),
        ("/image", "say which picture"),
        ("/image gone.png", "gone.png: cannot be read"),
        (f"/image {__file__}", "is not a readable picture"),
    ],
)
def test_mistakes_end_a_pipe_and_not_a_person(line, problem, monkeypatch):
    with pytest.raises(InputError, match=problem):
        talk(f"{line}\nhello\n")
    typed = iter([line, "hello"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed, None) or _end())
    _, said = talk("", interactive=True)
    assert "error: " in said
    assert "I see 0\n" in said


def _end():
    raise EOFError


def test_streamed_or_not_an_answer_is_the_same(vlm):
    asked = [
        {"role": "user", "content": [Image.open(io.BytesIO(page(1))), "what is this?"]},
        {"role": "assistant", "content": "a bar"},
        Message("user", ("which colour?",)),
    ]
    whole = vlm.chat(asked, max_new_tokens=8)
    pieces = list(vlm.chat(asked, stream=True, max_new_tokens=8))
    assert "".join(pieces).strip() == whole
    assert len(pieces) > 1
    assert vlm.chat(asked[2:], max_new_tokens=8) != whole, "what was said before is not seen"


def test_contents_of_messages(tmp_path):
    (tmp_path / "a.png").write_bytes(page(1))
    picture = ImageRef("bytes", page(1))
    assert message({"role": "user", "content": "hello"}).parts == ("hello",)
    found = message({"role": "user", "content": [tmp_path / "a.png", page(1), "what?"]})
    assert found.parts == (picture, "\n", picture, "\n", "what?")
    assert message(found) is found


@pytest.mark.parametrize(
    ("messages", "options", "problem"),
    [
        ([], {}, "the last turn of the conversation is not of the user"),
        ([{"role": "assistant", "content": "hello"}], {}, "the last turn of the conversation is not of the user"),
        ([{"role": "bot", "content": "hello"}], {}, "a message is {'role'"),
        ([{"role": "user", "content": [3]}], {}, "not int"),
        ([{"role": "user", "content": "hello"}], {"max_tokens": 3}, r"no option 'max_tokens' \(did you mean"),
    ],
)
def test_wrong_uses_are_named(vlm, messages, options, problem):
    with pytest.raises(InputError, match=problem):
        vlm.chat(messages, **options)


def test_records_are_answered_without_their_references(vlm):
    asked, said = Message("user", ("which colour?",)), Message("assistant", ("red",))
    records = [Record(str(n), messages) for n, messages in enumerate([(asked,), (asked, said)])]
    one, other = vlm.predict(records, max_new_tokens=5)
    assert one == other
    assert one.text == vlm.chat([asked], max_new_tokens=5)


def test_a_pipe_of_questions(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.png").write_bytes(page(1))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"hello\n/image {tmp_path}/a.png\nwhat?\n"))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    argv = ["chat", "--model-plugin", "minicpmv", "--model", "tiny", "--device", "cpu", "--max-new-tokens", "4"]
    assert main(argv) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2


class Signals(io.StringIO):
    """Sends a signal to this process at the first word of each answer."""

    def __init__(self, *signals: signal.Signals) -> None:
        super().__init__()
        self._signals, self._quiet = list(signals), True

    def write(self, text: str) -> int:
        written = super().write(text)
        begins, self._quiet = self._quiet and bool(text.strip()), text.endswith("\n")
        if begins and self._signals:
            os.kill(os.getpid(), self._signals.pop(0))
        return written


def test_ctrl_c_stops_an_answer_and_sigterm_ends_all(monkeypatch):
    output, before = Signals(signal.SIGINT, signal.SIGTERM), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("sys.stdin", io.StringIO("talk\nand on\nand on\n"))
    monkeypatch.setattr("sys.stdout", output)
    argv = ["chat", "--model-plugin", "minicpmv", "--model", "tiny", "--device", "cpu", "--max-new-tokens", "1500"]
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 130
    first, second, *rest = output.getvalue().splitlines()
    assert first.endswith(" [stopped]")
    assert second
    assert rest == []
    assert signal.getsignal(signal.SIGTERM) == before
