import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polylens.data.documents import check_id, group_of
from polylens.data.pdf_files import PdfFile, RenderedFile, assign_names, find_pdfs, page_id, path_text, safe_name
from polylens.errors import InputError

file_names = st.binary(min_size=1, max_size=12).map(lambda b: os.fsdecode(b.replace(b"/", b"_").replace(b"\0", b"_")))
paths = st.lists(file_names, min_size=1, max_size=3).map(tuple)


@given(paths, paths, st.integers(0, 10**6))
def test_ids_are_safe_different_and_lead_back_to_the_file(one, two, page):
    id = page_id(safe_name(one), page)
    assert check_id(id, "x") == id
    assert len(id.split()) == 1
    assert id.isprintable()
    assert group_of(id) == safe_name(one)
    assert (safe_name(one) == safe_name(two)) == (one == two)


folders = st.lists(st.sampled_from("ab"), min_size=1, max_size=3)
inputs = st.lists(st.tuples(folders, st.integers(1, 3)), min_size=1, max_size=8, unique_by=lambda f: tuple(f[0]))


@given(inputs)
def test_names_differ_whatever_folders_were_given_and_stay_when_files_are_added(given_files):
    files = []
    for parts, depth in given_files:
        path = Path("/", *parts, "x.pdf")
        files.append(PdfFile(path, path.parts[-min(depth, len(path.parts) - 1) :]))
    prints = {file.path: str(n) for n, file in enumerate(files)}
    names = assign_names(files, prints, [])
    assert names.keys() == set(prints)
    assert len(set(names.values())) == len(files)
    known = [RenderedFile(names[file.path], path_text(file.path), prints[file.path]) for file in files[:3]]
    again = assign_names(files, prints, known)
    assert {path: again[path] for path in list(prints)[:3]} == {path: names[path] for path in list(prints)[:3]}
    assert len(set(again.values())) == len(files)


def file(path: str, *parts: str) -> PdfFile:
    return PdfFile(Path(path), parts or (Path(path).name,))


def test_files_of_the_same_name_are_told_apart_by_their_folders():
    files = [file("/one/a.pdf"), file("/two/a.pdf"), file("/two/b.pdf")]
    names = assign_names(files, dict.fromkeys((f.path for f in files), "same"), [])
    assert list(names.values()) == ["one/a.pdf", "two/a.pdf", "b.pdf"]


def test_known_files_keep_their_names():
    known = [RenderedFile("a.pdf", "/one/a.pdf", "1")]
    assert assign_names([file("/two/a.pdf")], {Path("/two/a.pdf"): "2"}, known) == {Path("/two/a.pdf"): "two/a.pdf"}
    assert assign_names([file("/moved/a.pdf")], {Path("/moved/a.pdf"): "1"}, known) == {Path("/moved/a.pdf"): "a.pdf"}
    assert assign_names([file("/one/a.pdf")], {Path("/one/a.pdf"): "changed"}, known) == {}


def test_pdfs_are_found_once_in_order(tmp_path):
    for name in ("b.pdf", "sub/a.PDF", "sub/text.txt", "other"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_pdfs([tmp_path, tmp_path / "b.pdf", tmp_path / "other"])
    assert [f.parts for f in found] == [("b.pdf",), ("sub", "a.PDF"), ("other",)]
    with pytest.raises(InputError, match=r"no file or folder '.*none'"):
        find_pdfs([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \*\.pdf file in"):
        find_pdfs([tmp_path / "empty"])
