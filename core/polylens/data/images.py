"""Opens the pictures that records name, and refuses those that cannot or must not be opened."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from polylens.contracts import ImageRef
from polylens.data.documents import DocumentSource
from polylens.errors import InputError

__all__ = ["FORMATS", "MAX_PIXELS", "ImageOpener", "decode_image", "encoded_image", "find_pictures", "image_size"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that are read. Others (EPS, which runs Ghostscript; PSD; ...) are refused."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif", ".ppm")
"""By which pictures are found in folders."""

MAX_PIXELS = 89_478_485
"""Pixels of the largest picture that is opened by default: Pillow's own guard against decompression bombs."""

_BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, RuntimeError),
    *(struct.error, zlib.error),
)
"""What Pillow's decoders raise on damaged files; ``RuntimeError`` is that of AVIF."""


class ImageOpener:
    """Opens any ``ImageRef``.

    Pictures are not turned by their EXIF orientation: the published checkpoints were trained without it.

    Args:
        image_root: folder that relative paths start from, and that no path may leave.
        documents: where pictures of documents lie.
        max_pixels: larger pictures are refused before a pixel is decoded. Pillow itself opens none of more than
            twice ``MAX_PIXELS``.
    """

    def __init__(
        self,
        image_root: Path | None = None,
        documents: DocumentSource | None = None,
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._root = None if image_root is None else Path(image_root).resolve()
        self._documents = documents
        self._max_pixels = max_pixels

    def size(self, ref: ImageRef, where: str) -> tuple[int, int]:
        """Width and height from the header alone.

        Raises:
            InputError: the picture is missing, damaged, empty, too large, or lies outside the image root.
        """
        source, name = self._source(ref, where)
        return image_size(source, name, max_pixels=self._max_pixels)

    def open(self, ref: ImageRef, where: str, *, at_least: tuple[int, int] | None = None) -> Image.Image:
        """The picture in RGB, decoded; of a film its first picture.

        Args:
            at_least: width and height that are enough: a JPEG may then come at a half, a quarter or an eighth of its
                size, in a fraction of the time.

        Raises:
            InputError: as ``size``, and if the picture is cut short.
        """
        source, name = self._source(ref, where)
        return decode_image(source, name, max_pixels=self._max_pixels, at_least=at_least)

    def _source(self, ref: ImageRef, where: str) -> tuple[bytes | Path, str]:
        if isinstance(ref.value, bytes):
            return ref.value, f"{where}: picture"
        if ref.kind == "document":
            return self._document(ref.value, where), f"{where}: picture of document {ref.value!r}"
        return self._file(ref.value, where), f"{where}: picture {ref.value!r}"

    def _document(self, id: str, where: str) -> bytes:
        if self._documents is None:
            raise InputError(f"{where}: no document store was given, so document {id!r} cannot be read")
        image = self._documents.read(id).image
        if image is None:
            raise InputError(f"{where}: document {id!r} has no picture")
        return image

    def _file(self, value: str, where: str) -> Path:
        if self._root is None:
            raise InputError(f"{where}: picture {value!r} is a path, but no image root was given")
        try:
            path = (self._root / value).resolve()
            is_file = path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{where}: {value!r} is not a path of a picture: {error}") from None
        if not path.is_relative_to(self._root):
            raise InputError(f"{where}: picture {value!r} lies outside the image root {self._root}")
        if not is_file:
            raise InputError(f"{where}: picture {value!r} does not exist under the image root {self._root}")
        return path


def find_pictures(folder: Path) -> list[str]:
    """Pictures below a folder by their relative paths, in an order that no file system has a part in.

    Raises:
        InputError: there is no such folder, or it has none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder of pictures")
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    found = sorted(path.relative_to(folder).as_posix() for path in paths)
    if not found:
        raise InputError(f"the folder {folder} has no pictures ({', '.join(SUFFIXES)})")
    return found


def image_size(source: bytes | Path, name: str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of an encoded picture, from its header; ``name`` begins the message of an ``InputError``."""
    with _opened(source, name, max_pixels) as image:
        return image.size


def decode_image(
    source: bytes | Path, name: str, *, max_pixels: int = MAX_PIXELS, at_least: tuple[int, int] | None = None
) -> Image.Image:
    """An encoded picture in RGB; ``name`` begins the message of an ``InputError``. See ``ImageOpener.open``."""
    with _opened(source, name, max_pixels) as image:
        try:
            if at_least is not None:
                image.draft(None, at_least)  # only JPEG does anything
            image.load()
            return _to_rgb(image)
        except (*_BROKEN, Image.DecompressionBombError) as error:
            raise InputError(f"{name} is damaged or cut short: {error}") from error


def encoded_image(image: Image.Image | bytes | str | Path) -> bytes:
    """A picture as the bytes of a file, without loss.

    Args:
        image: a picture, the bytes of a file, or its path.

    Raises:
        InputError: the file cannot be read.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except (OSError, ValueError) as error:  # a NUL in the path
            raise InputError(f"{image}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _opened(source: bytes | Path, name: str, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats())
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} is too large: {error}") from None
    except UnidentifiedImageError:
        raise InputError(f"{name} is not a readable picture; the formats are {', '.join(FORMATS)}") from None
    except _BROKEN as error:
        raise InputError(f"{name} cannot be opened: {error}") from error
    width, height = image.size
    if not 0 < width * height <= max_pixels:
        image.close()
        raise InputError(f"{name} has {width} x {height} pixels; 1 to {max_pixels} are allowed")
    return image


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    if image.has_transparency_data:
        # Transparent pixels are often black below: on a page that hides the text.
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """16-bit and float samples, which Pillow would clip at 255: scaled by 65535, or taken as 0 to 1."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    top = values.max()
    scale = 255.0 if image.mode == "F" and top <= 1 else 1.0 if top <= 255 and image.mode == "F" else 255.0 / 65535.0
    return Image.fromarray(np.clip(np.round(values * scale), 0, 255).astype(np.uint8)).convert("RGB")
