"""A conversation with a person, or with lines that come through a pipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

from polylens.errors import InputError, closest
from polylens.generation.chat import Conversation

HELP = """\
/image PATH  show a picture with the next question, of a file or an address (http, https)
/reset       begin anew
/help        this list
/exit        end (or Ctrl-D)
Ctrl-C stops an answer. A question that begins with a slash is written with two of them."""

_PROMPT = "> "


class Terminal:
    """Reads questions, line by line, and writes answers as they come.

    Args:
        lines: where questions come from, unless a person types them.
        output: where answers go.
        interactive: a person types: there is a prompt, and mistakes end nothing.
    """

    def __init__(self, conversation: Conversation, lines: TextIO, output: TextIO, *, interactive: bool) -> None:
        self._conversation, self._lines, self._output = conversation, lines, output
        self._interactive = interactive
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/reset": lambda _: conversation.reset(),
            "/help": lambda _: self._write(f"{HELP}\n"),
        }

    def run(self) -> None:
        """Until the input ends, or ``/exit``.

        Raises:
            InputError: a line that cannot be used, unless a person types.
        """
        if self._interactive:
            self._write(f"{HELP}\n\n")
        while (line := self._read()) is not None and line != "/exit":
            try:
                self._do(line)
            except InputError as error:
                if not self._interactive:
                    raise
                self._write(f"error: {error}\n")

    def _read(self) -> str | None:
        if not self._interactive:
            line = self._lines.readline()
            return line.strip() if line else None
        try:
            return input(_PROMPT).strip()
        except EOFError:
            self._write("\n")
            return None

    def _do(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if line.startswith("//"):
            self._answer(line[1:])
        elif line.startswith("/"):
            if name not in self._commands:
                raise InputError(
                    f"unknown command {name!r}{closest(name, self._commands)}; /help lists them, and a question that "
                    "begins with a slash is written with two of them"
                )
            self._commands[name](rest.strip())
        elif line:
            self._answer(line)

    def _image(self, source: str) -> None:
        if not source:
            raise InputError("say which picture: /image PATH, or its address")
        width, height = self._conversation.attach(source)
        if self._interactive:
            self._write(f"({width} x {height} pixels)\n")

    def _answer(self, question: str) -> None:
        pieces = self._conversation.ask(question)
        try:
            for piece in pieces:
                self._write(piece)
        except KeyboardInterrupt:
            self._write(" [stopped]")
        finally:
            pieces.close()  # type: ignore[attr-defined]
            self._write("\n")

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()
