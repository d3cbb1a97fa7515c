"""Small real pictures, PDF files and stores."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from PIL import Image

from polylens.data.store import Document, DocumentWriter


def encode(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """``picture(color, size, format)``: the bytes of a picture file."""

    def make(color="red", size=(8, 6), format="PNG") -> bytes:
        return encode(Image.new("RGB", size, color), format)

    return make


@pytest.fixture(scope="session")
def make_pdf() -> Callable[..., Path]:
    """``make_pdf(path, pages)``: a PDF whose pages hold a line of text; ``password`` encrypts it."""
    import pymupdf

    def make(path: Path, pages: int = 2, password: str | None = None, size=(200, 300)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        document = pymupdf.open()
        for number in range(pages):
            document.new_page(width=size[0], height=size[1]).insert_text((20, 40), f"{path.name} {number + 1}")
        options = {"encryption": pymupdf.PDF_ENCRYPT_AES_256, "user_pw": password, "owner_pw": password}
        document.save(path, **(options if password else {}))
        return path

    return make


@pytest.fixture
def store(tmp_path: Path, picture) -> Path:
    """A store of three files with three pages each, and a text."""
    folder = tmp_path / "store"
    with DocumentWriter(folder, documents_per_shard=4) as writer:
        for file in "abc":
            for page in range(1, 4):
                writer.write(Document(f"{file}.pdf#{page}", picture((page, ord(file), 0))))
        writer.write(Document("note", None, "only text"))
    return folder


@pytest.fixture
def original_h5(tmp_path: Path, picture) -> Path:
    """The original's layout: a group per document; an id with '/' became groups within groups."""
    path = tmp_path / "train_pid_image.h5"
    with h5py.File(path, "w") as file:
        for id, color in (("page.pdf_0", "red"), ("sub/page.pdf_1", "green"), ("sub", "blue")):
            group = file.require_group(id)
            group.create_dataset("image", data=base64.b64encode(picture(color)).decode())
            group.create_dataset("source", data="somewhere")
            group.create_dataset("pdf", data="not a picture")
    return path
