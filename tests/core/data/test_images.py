import contextlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from polylens.contracts import ImageRef
from polylens.data.images import ImageOpener, decode_image, image_size
from polylens.data.store import DocumentStore
from polylens.errors import InputError


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixel(image: Image.Image) -> tuple[int, int, int]:
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def test_size_and_pixels_of_every_kind_of_reference(tmp_path, picture, store):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(picture("blue", (5, 7)))
    opener = ImageOpener(tmp_path, DocumentStore([store]))
    refs = {
        ImageRef("path", "in/a.png"): ((5, 7), (0, 0, 255)),
        ImageRef("path", str(tmp_path / "in/a.png")): ((5, 7), (0, 0, 255)),
        ImageRef("document", "b.pdf#2"): ((8, 6), (2, 98, 0)),
        ImageRef("bytes", picture("red", (3, 2))): ((3, 2), (255, 0, 0)),
    }
    for ref, (size, color) in refs.items():
        assert opener.size(ref, "x:1") == size
        assert opener.open(ref, "x:1").size == size
        assert pixel(opener.open(ref, "x:1")) == color


def test_size_reads_no_more_than_the_header(picture):
    whole = picture("red", (640, 480))
    assert image_size(whole[:60], "x") == (640, 480)


@pytest.mark.parametrize("path", ["../secret.png", "in/../../secret.png", "link.png", "linked/secret.png"])
def test_paths_must_not_leave_the_root(tmp_path, picture, path):
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(picture())
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "linked").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"pairs.jsonl:7: .*outside the image root"):
        ImageOpener(root).open(ImageRef("path", path), "pairs.jsonl:7")
    with pytest.raises(InputError, match="outside the image root"):
        ImageOpener(root).size(ImageRef("path", str(tmp_path / "secret.png")), "pairs.jsonl:7")


def test_a_link_within_the_root_is_followed(tmp_path, picture):
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "b.png").symlink_to("a.png")
    assert ImageOpener(tmp_path).size(ImageRef("path", "b.png"), "x") == (8, 6)


@pytest.mark.parametrize("path", ["none.png", "", ".", "a\0b.png", "x" * 5000])
def test_what_is_no_file_is_refused(tmp_path, path):
    with pytest.raises(InputError, match="x:1"):
        ImageOpener(tmp_path).open(ImageRef("path", path), "x:1")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="does not exist"):
        ImageOpener(tmp_path).size(ImageRef("path", "pipe.png"), "x")


def test_references_that_nothing_was_given_for(store):
    with pytest.raises(InputError, match="no image root"):
        ImageOpener().size(ImageRef("path", "a.png"), "x:1")
    with pytest.raises(InputError, match="no document store"):
        ImageOpener().size(ImageRef("document", "a"), "x:1")
    with pytest.raises(InputError, match="'note' has no picture"):
        ImageOpener(documents=DocumentStore([store])).open(ImageRef("document", "note"), "x:1")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_pictures_are_refused(format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, format)
    assert decode_image(whole, "x").size == (64, 64)
    with pytest.raises(InputError, match=r"^a\.jsonl:3: picture"):
        decode_image(whole[: len(whole) // 2], "a.jsonl:3: picture")


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(InputError, match="x:1"):
        decode_image(data, "x:1")


def png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 10_000), (100_000, 100_000), (0, 10), (10, 0)])
def test_bombs_and_empty_pictures_are_refused_by_their_header(size):
    with pytest.raises(InputError, match=r"x:1"):
        image_size(png_of_size(*size), "x:1")


def test_the_pixel_limit_is_an_option(picture):
    ref = ImageRef("bytes", picture(size=(20, 10)))
    assert ImageOpener(max_pixels=200).size(ref, "x") == (20, 10)
    with pytest.raises(InputError, match="20 x 10 pixels; 1 to 199 are allowed"):
        ImageOpener(max_pixels=199).size(ref, "x")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (2, 2), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.new("L", (2, 2), 100), (100, 100, 100)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("RGB", (2, 2), (9, 8, 7)).quantize(4), (9, 8, 7)),
        (Image.fromarray(np.full((2, 2), 32768, dtype=np.uint16)), (128, 128, 128)),
    ],
    ids=["transparent", "opaque", "gray transparent", "gray", "bilevel", "palette", "16 bit"],
)
def test_every_mode_becomes_rgb(image, expected):
    assert pixel(decode_image(encoded(image), "x")) == expected


def test_palette_transparency_cmyk_and_float():
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0] * 256)
    assert pixel(decode_image(encoded(palette, transparency=0), "x")) == (255, 255, 255)
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.allclose(pixel(decode_image(encoded(cmyk, "JPEG"), "x")), (255, 0, 0), atol=6)
    real = Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32))
    assert pixel(decode_image(encoded(real, "TIFF"), "x")) == (128, 128, 128)


def test_exif_orientation_is_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif), "x").size == (8, 4)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 2000),
)
def test_damaged_bytes_give_a_picture_or_an_input_error(format, changes, end):
    data = bytearray(encoded(Image.linear_gradient("L").resize((24, 24)).convert("RGB"), format))
    for place, value in changes:
        data[place % len(data)] = value
    with contextlib.suppress(InputError):
        assert decode_image(bytes(data[: max(end, 8)]), "x:1").mode == "RGB"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_single_pixel_is_a_picture(format):
    image = decode_image(encoded(Image.new("RGB", (1, 1), (200, 200, 200)), format), "x")
    assert image.size == (1, 1)
    assert np.allclose(pixel(image), 200, atol=2)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_a_film_the_first_picture_counts(format):
    first, *others = (Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue"))
    data = encoded(first, format, save_all=True, append_images=others)
    with Image.open(io.BytesIO(data)) as film:
        assert getattr(film, "n_frames", 1) == 3
    assert np.allclose(pixel(decode_image(data, "x")), (255, 0, 0), atol=2)


def png_of_16_bits(kind: int, *values: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, kind, 0, 0, 0)
    row = b"\0" + struct.pack(f">{len(values)}H", *values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png_of_16_bits(0, 32768), (128, 128, 128)),
        (png_of_16_bits(2, 65535, 32768, 0), (255, 128, 0)),
        (png_of_16_bits(4, 32768, 0), (255, 255, 255)),
        (png_of_16_bits(6, 65535, 32768, 0, 65535), (255, 128, 0)),
        (b"P6 1 1 65535\n" + struct.pack(">3H", 65535, 32768, 0), (255, 128, 0)),
        (b"P5 1 1 4095\n" + struct.pack(">H", 2048), (128, 128, 128)),
        (encoded(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (encoded(Image.new("1", (2, 2), 1), "TIFF", compression="group4"), (255, 255, 255)),
        (encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 51)), "WEBP", lossless=True), (204, 204, 204)),
    ],
    ids=["gray", "RGB", "gray and alpha", "RGBA", "PPM", "12 bits", "CMYK", "fax", "half transparent"],
)
def test_deep_and_odd_samples(data, expected):
    assert pixel(decode_image(data, "x")) == expected


def test_a_jpeg_may_come_smaller_where_that_is_enough(tmp_path):
    Image.new("RGB", (1600, 900), (200, 30, 30)).save(tmp_path / "a.jpg")
    Image.new("RGB", (1600, 900)).save(tmp_path / "a.png")
    opener = ImageOpener(tmp_path)
    sizes = {
        (name, enough): opener.open(ImageRef("path", name), "x", at_least=enough).size
        for name in ("a.jpg", "a.png")
        for enough in ((640, 360), (1000, 100))
    }
    assert sizes.pop(("a.jpg", (640, 360))) == (800, 450)
    assert set(sizes.values()) == {(1600, 900)}


def test_an_avif_whose_planes_are_damaged_is_refused():
    """Its decoder raises errors of a kind of its own."""
    data = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(data, "AVIF")
    damaged = bytearray(data.getvalue())
    damaged[damaged.index(b"mdat") + 4] ^= 0xFF
    with pytest.raises(InputError, match="page is damaged or cut short"):
        decode_image(bytes(damaged), "page")
