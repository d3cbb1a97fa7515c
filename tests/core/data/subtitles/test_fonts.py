from __future__ import annotations

import shutil

import pytest

from polylens.data.subtitles import fonts
from polylens.data.subtitles.fonts import find_faces
from polylens.errors import InputError


def test_a_file_a_folder_and_a_family(tmp_path, make_font, monkeypatch):
    make_font(tmp_path / "b" / "blocks.ttf", "ab", "Blocks")
    make_font(tmp_path / "b" / "deep" / "other.ttf", "今", "Other Blocks")
    (tmp_path / "b" / "readme.txt").write_text("no font")
    (tmp_path / "b" / "broken.otf").write_bytes(b"OTTO and nothing more")
    (face,) = find_faces([str(tmp_path / "b" / "blocks.ttf")])
    assert (face.family, face.index, face.lacks("a今b今天")) == ("Blocks", 0, ["今", "天"])
    assert [face.family for face in find_faces([str(tmp_path / "b")])] == ["Blocks", "Other Blocks"]

    monkeypatch.setattr(fonts.shutil, "which", lambda name: None)
    monkeypatch.setattr(fonts, "_FOLDERS", (str(tmp_path / "none"), str(tmp_path / "b")))
    assert [face.family for face in find_faces(["other blocks"])] == ["Other Blocks"]
    assert len(find_faces()) == 2
    with pytest.raises(InputError, match=r"'Blockz' is neither a font file.*did you mean 'Blocks'"):
        find_faces(["Blockz"])


def test_what_is_no_font_is_refused(tmp_path, monkeypatch):
    (tmp_path / "broken.ttf").write_bytes(b"\0\1\0\0")
    with pytest.raises(InputError, match=r"broken\.ttf is no font with outlines"):
        find_faces([str(tmp_path / "broken.ttf")])
    monkeypatch.setattr(fonts.shutil, "which", lambda name: None)
    monkeypatch.setattr(fonts, "_FOLDERS", ())
    with pytest.raises(InputError, match="this system has no font; name font files"):
        find_faces()


def test_every_font_of_a_collection(tmp_path, make_font):
    from fontTools.ttLib import TTCollection, TTFont

    collection = TTCollection()
    collection.fonts = [TTFont(make_font(tmp_path / f"{name}.ttf", name, name)) for name in ("a", "今")]
    collection.save(tmp_path / "both.ttc")
    found = find_faces([str(tmp_path / "both.ttc")])
    assert [(face.index, face.family, face.lacks("a今")) for face in found] == [(0, "a", ["今"]), (1, "今", ["a"])]


@pytest.mark.skipif(shutil.which("fc-list") is None, reason="this machine has no fontconfig")
def test_fontconfig_gives_the_fonts_of_the_system():
    assert all(face.file.is_file() and face.characters for face in find_faces())
