import json
import subprocess
import sys

import pytest

from polylens.cli import main


@pytest.fixture
def pdfs(tmp_path):
    import pymupdf

    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcd":
        document = pymupdf.open()
        for page in range(3):
            document.new_page(width=100, height=100).insert_text((10, 50), f"{name} {page}")
        document.save(folder / f"{name}.pdf")
    (folder / "broken.pdf").write_bytes(b"nothing")
    return folder


def test_from_pdf_files_to_training_files(pdfs, tmp_path, capsys):
    store, out = tmp_path / "store", tmp_path / "out"
    render = ["data", "render", str(pdfs), "--output", str(store), "--dpi", "36", "--workers", "1"]
    assert main(render) == 0
    skipped, last = capsys.readouterr().out.splitlines()
    assert skipped.startswith(f"skipped {pdfs}/broken.pdf: is no readable PDF")
    assert last == f"5 files, 12 new pages, 1 skipped (see {store}/skipped.jsonl): {store} has 12 pages"
    assert main([*render, "--quality", "50"]) == 2
    assert "quality was 90, now 50" in capsys.readouterr().err

    raw = tmp_path / "raw.jsonl"
    pairs = [{"query": f"{name} {page}", "positives": [f"{name}.pdf#{page}"]} for name in "abcd" for page in (1, 2, 3)]
    raw.write_text("".join(json.dumps(pair) + "\n" for pair in pairs) + '{"query": "x", "positives": ["e.pdf#1"]}\n')
    build = [
        "data",
        "pairs",
        "--records",
        str(raw),
        "--documents",
        str(store),
        "--output",
        str(out),
        "--batch-size",
        "4",
    ]
    assert main(build) == 2
    assert f"{raw}:13: /positives/0: there is no document 'e.pdf#1'" in capsys.readouterr().err
    assert main([*build, "--on-bad-record", "quarantine"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"1 bad records were set aside in {out}/quarantine.jsonl",
        f"6 train, 3 validation, 3 test pairs in {out}; training has 1 full and 1 smaller batches of 4",
    ]

    assert main(["data", "validate", str(raw), "--documents", str(store)]) == 2
    assert capsys.readouterr().out.splitlines()[-1] == f"{raw}: 13 pairs, 1 errors"
    assert main(["data", "validate", str(out / "train.jsonl"), "--documents", str(store)]) == 0
    assert main(["data", "validate", str(store)]) == 0
    capsys.readouterr()
    assert main(["data", "stats", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 12
    assert main(["data", "stats", str(out / "train.jsonl")]) == 0
    assert "sources: raw" in capsys.readouterr().out

    page = tmp_path / "page.png"
    assert main(["data", "show", str(store), "--id", "a.pdf#2", "--output", str(page)]) == 0
    assert page.read_bytes().startswith(b"\x89PNG")
    assert main(["data", "show", str(store), "--output", str(page)]) == 2
    assert main(["data", "show", str(out / "train.jsonl"), "--limit", "1"]) == 0
    capsys.readouterr()
    assert main(["data", "convert", str(store), "--output", str(tmp_path / "copy")]) == 0
    assert capsys.readouterr().out == f"12 new documents: {tmp_path / 'copy'} has 12\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["rendr"],
        ["render"],
        ["render", "x.pdf", "--output", "o", "--dpi", "72", "--long-side", "9"],
        ["render", "x.pdf", "--output", "o", "--workers", "0"],
        ["render", "/does/not/exist.pdf", "--output", "o"],
        ["validate", "/does/not/exist.jsonl"],
        ["stats", "/does/not/exist.jsonl"],
    ],
)
def test_wrong_arguments_end_with_one_line(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("polylens: error: ")
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_loads_nothing_heavy():
    code = """
import argparse, sys
from polylens.cli import data
data.add_arguments(argparse.ArgumentParser())
heavy = {"torch", "transformers", "h5py", "numpy", "PIL", "pymupdf", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
