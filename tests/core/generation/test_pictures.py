"""Pictures of files and addresses, from a server that behaves well and badly."""

from __future__ import annotations

import io
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from PIL import Image
from support import free_port
from toy import page

from polylens.cli import main
from polylens.errors import InputError
from polylens.generation import pictures
from polylens.generation.chat import Conversation
from polylens.generation.pictures import picture_bytes
from polylens.generation.terminal import Terminal


class Server(BaseHTTPRequestHandler):
    """Serves a picture under several names, and trouble under others."""

    agents: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        Server.agents.append(self.headers["User-Agent"])
        name = self.path.removeprefix("/")
        if name in MOVED:
            self.send_response(302)
            self.send_header("Location", MOVED[name])
            self.end_headers()
        elif name == "slow":
            self._send(page(1), pause=0.05)
        elif name in BODIES:
            self._send(BODIES[name])
        else:
            self.send_error(404)

    def _send(self, data: bytes, pause: float = 0.0) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) + (9 if self.path == "/short" else 0)))
        self.end_headers()
        for start in range(0, len(data), 100 if pause else len(data) or 1):
            self.wfile.write(data[start : start + 100] if pause else data)
            time.sleep(pause)

    def log_message(self, format: str, *args: object) -> None: ...


BODIES = {
    "a.png": page(1),
    "text": b"<html>no picture</html>",
    "half": page(1)[:-30],
    "short": page(1)[:-9],
    "empty": b"",
}
BODIES |= {"large": b"x" * 5000}
MOVED = {
    "moved": "/a.png",
    "twice": "/moved",
    "loop": "/loop",
    "file": "file:///etc/hostname",
    "ftp": "ftp://127.0.0.1/a",
}


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


SIZE = Image.open(io.BytesIO(page(1))).size


@pytest.mark.parametrize("name", ["a.png", "moved", "twice"])
def test_a_picture_is_fetched(site, name):
    assert picture_bytes(f"{site}/{name}") == (page(1), SIZE)
    assert (Server.agents[-1] or "").startswith("polylens/")


def test_a_picture_of_a_file(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(page(1))
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), "~/a.png"):
        assert picture_bytes(source) == (page(1), SIZE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "cannot be fetched: the server answers 404 Not Found"),
        ("text", "text is not a readable picture"),
        ("half", "half is damaged or cut short"),
        ("short", "bytes read, 9 more expected"),
        ("empty", "empty is not a readable picture"),
        ("large", "large is larger than 4000 bytes"),
        ("loop", "infinite loop"),
        ("file", "file:///etc/hostname"),
        ("ftp", "unknown url type: ftp"),
    ],
)
def test_what_is_no_picture_is_refused(site, name, message):
    with pytest.raises(InputError, match=message):
        picture_bytes(f"{site}/{name}", max_bytes=4000)


def test_the_largest_that_is_allowed(site):
    assert picture_bytes(f"{site}/a.png", max_bytes=len(page(1)))[1] == SIZE
    with pytest.raises(InputError, match="is larger than"):
        picture_bytes(f"{site}/a.png", max_bytes=len(page(1)) - 1)


def test_a_server_that_takes_its_time(site):
    """Every byte comes in time, and all of them do not."""
    began = time.monotonic()
    with pytest.raises(InputError, match=r"slow was not fetched within 0.1 seconds"):
        picture_bytes(f"{site}/slow", time_limit=0.1)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:{port}/a.png", "Connection refused; where there is no network, give the path of a picture"),
        ("file:///etc/hostname", "by http and https alone; a file is given by its path"),
        ("ftp://a/b", "by http and https alone"),
        ("http://[", "cannot be fetched: "),
        ("http://a b/", "cannot be fetched: "),
        ("http:///a.png", "cannot be fetched: no host given"),
    ],
)
def test_an_address_that_leads_nowhere(url, message):
    with pytest.raises(InputError, match=message):
        picture_bytes(url.format(port=free_port()))


def test_without_a_network(monkeypatch):
    def unknown(*given: object, **more: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InputError, match="Name or service not known; where there is no network"):
        picture_bytes("https://example.org/a.png")


def test_a_search_for_a_name_that_does_not_end(monkeypatch):
    released = threading.Event()

    def hangs(*given: object, **more: object) -> None:
        released.wait(20)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    with pytest.raises(InputError, match="was not fetched within"):
        picture_bytes("http://example.org/a.png", time_limit=0.1)
    released.set()


def test_pictures_of_a_conversation(site):
    shown = []

    def reply(messages):
        shown.append([part.value for part in messages[-1].parts if not isinstance(part, str)])
        yield "yes"

    output = io.StringIO()
    conversation = Conversation(reply, pictures=[page(2)])
    lines = f"what?\nand?\n/image {site}/moved\nthis?\n"
    Terminal(conversation, io.StringIO(lines), output, interactive=False).run()
    assert shown == [[page(2)], [], [page(1)]]


def chat(*more):
    return main(
        ["chat", "--model-plugin", "minicpmv", "--model", "tiny", "--device", "cpu", "--max-new-tokens", "3", *more]
    )


def test_chat_about_pictures(site, tmp_path, monkeypatch, capsys):
    (tmp_path / "b.png").write_bytes(page(2))
    monkeypatch.setattr("sys.stdin", io.StringIO("what?\n"))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    seen = []
    ask = Conversation.ask
    monkeypatch.setattr(Conversation, "ask", lambda self, text: seen.extend(self.pictures) or ask(self, text))
    assert chat("--image", f"{site}/moved", "--image", str(tmp_path / "b.png")) == 0
    assert [ref.value for ref in seen] == [page(1), page(2)]
    assert capsys.readouterr().out.strip()


def test_a_picture_that_is_not_there_ends_the_chat_before_the_model_is_read(monkeypatch, capsys, site):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(pictures, "TIME_LIMIT", 1)
    assert main(["chat", "--model", "no_model", "--image", f"{site}/none"]) == 2
    assert "the server answers 404" in capsys.readouterr().err
