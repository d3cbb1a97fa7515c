"""The page shows every record as the model is given it, and the bad ones with their errors."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from polylens import cli
from polylens.data.images import ImageOpener
from polylens.engine.loading import Checkpoint
from polylens.errors import InputError
from polylens.inspection.entries import read_entries
from polylens.inspection.page import Request, inspect_records
from polylens.inspection.samples import make_sample, runs, token_text

MARKUP = '<script>alert(1)</script> & "quotes" <b>'


class Page(HTMLParser):
    """What a browser would make of the page: its elements, and the text of each section."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.sections: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag == "section":
            self.sections.append("")

    def handle_data(self, data):
        if self.sections:
            self.sections[-1] += data


def conversation(question: str, answer: str, **more) -> dict:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"conversations": turns, **more}


@pytest.fixture
def records(tmp_path) -> Path:
    Image.new("RGB", (300, 200), (200, 30, 30)).save(tmp_path / "red.png")
    lines = [
        json.dumps(conversation("<image>\nWhat is it?", MARKUP, id="red " + MARKUP, image="red.png")),
        json.dumps(conversation("One and one?", "two " * 200, id="long")),
        '{"id": "cut short", "conversations": [',
        json.dumps(conversation("Who?", "", id="empty")),
        json.dumps(conversation("<image>\nWhere?", "Here.", id="lost", image="lost.png")),
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(lines))
    return path


def shown(records: Path, **more) -> Page:
    output = records.parent / "page.html"
    inspect_records(Request(records, "minicpmv", "tiny", **more), output)
    return Page(output.read_text())


def test_every_line_has_its_section(records):
    page = shown(records, max_length=150)
    one, long, broken, empty, lost = page.sections
    assert "What is it?" not in one  # token by token
    assert all(text in one for text in ("cut into 2 × 2", "80 visual tokens", "1.5 · 16 visual tokens", "</slice>"))
    assert re.search(r"\d+ tokens of text were cut: the limit is 150", long)
    assert "records.jsonl:3: not JSON" in broken
    assert '{"id": "cut short", "conversations": [' in broken
    assert "an empty answer" in empty
    assert "'lost.png' does not exist" in lost


def test_markup_of_records_stays_text(records):
    page = shown(records)
    assert "script" not in page.tags
    assert "red " + MARKUP in page.sections[0]


def test_the_page_stands_alone(records):
    page = shown(records)
    assert page.links
    assert all(link.startswith(("#r", "data:image/jpeg;base64,")) for link in page.links)
    assert not re.search(r"@import|url\(|https?://", (records.parent / "page.html").read_text())


def test_pictures_are_the_crops_that_the_model_sees(records, tiny: Checkpoint):
    page = shown(records, limit=1)
    pictures = [link.partition(",")[2] for link in page.links if link.startswith("data:")]
    sizes = [Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in pictures]
    assert sizes == [(300, 200), *(crop.size for crop in tiny.slicer.slice((300, 200)).crops)]


def test_runs_are_the_whole_sequence(records, tiny: Checkpoint):
    record = read_entries(records, limit=1).entries[0].members[0][1]
    preparer = tiny.preparer(ImageOpener(records.parent))
    encoding, images = preparer.outline(record)  # type: ignore[arg-type]
    found = list(runs(encoding, images, tiny.tokenizer))
    tokens = [token for run in found for token in run.tokens]
    assert [token.position for token in tokens] == list(range(len(encoding.input_ids)))
    assert [token.id for token in tokens] == encoding.input_ids
    assert [token.supervised for token in tokens] == [label != -100 for label in encoding.labels]
    assert [run.crop is not None for run in found for _ in run.tokens] == encoding.visual_mask
    assert [run.crop for run in found if run.crop] == [(1, n) for n in range(1, 6)]


def test_text_is_cut_as_training_cuts_it(records, tiny: Checkpoint):
    record = read_entries(records, limit=2).entries[1].members[0][1]
    preparer = tiny.preparer(ImageOpener())
    sample = make_sample(record, preparer, tiny.tokenizer, 20)  # type: ignore[arg-type]
    whole = len(preparer.outline(record)[0].input_ids)  # type: ignore[arg-type]
    assert (sample.tokens, sample.cut) == (20, whole - 20)


def test_blanks_and_line_ends_can_be_seen(tiny: Checkpoint):
    ids = tiny.tokenizer.encode("in the pump\n", add_special_tokens=False)
    assert "".join(token_text(id, tiny.tokenizer) for id in ids) == "·in·the·pump⏎"


def test_pairs_are_a_query_and_its_documents(toy, tmp_path):
    pairs, store = toy
    request = Request(pairs, "minicpmv", "tiny", documents=(store,), id="q0", hard_negatives=1)
    done = inspect_records(request, tmp_path / "page.html")
    (section,) = Page((tmp_path / "page.html").read_text()).sections
    assert (done.records, done.bad) == (1, 0)
    assert re.findall(r"query|positive|negative", section) == ["query", "positive", "negative"]
    assert section.count("Picture 1") == 2
    assert "supervised" not in section
    assert "<用户>" not in section  # style plain, as embedding models are trained


def test_a_pair_that_names_no_document_is_shown_with_its_error(toy, tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"query": "where?", "positives": ["nowhere.pdf#1"]}\n')
    request = Request(tmp_path / "pairs.jsonl", "minicpmv", "tiny", documents=(toy[1],))
    assert inspect_records(request, tmp_path / "page.html").bad == 1
    assert "/positives/0" in Page((tmp_path / "page.html").read_text()).sections[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "reed"}, "there is no record 'reed'"),
        ({"limit": 0}, "limit is 0; it must be at least 1"),
        ({"options": {"slices": 1}}, "no option 'slices'"),
        ({"plugin": None}, "say which plugin knows it"),
    ],
)
def test_what_cannot_be_shown(records, changes, message):
    with pytest.raises(InputError, match=message):
        inspect_records(Request(**{"records": records, "plugin": "minicpmv", "model": "tiny", **changes}), Path("x"))


def test_queries_alone_are_not_trained_on(tmp_path):
    (tmp_path / "queries.jsonl").write_text('{"id": "q", "text": "where?"}\n')
    with pytest.raises(InputError, match="holds queries; inspect shows what models are trained on"):
        read_entries(tmp_path / "queries.jsonl")


def test_the_command(records, capsys):
    output = records.parent / "out.html"
    assert (
        cli.main(["inspect", str(records), "--model-plugin", "minicpmv", "--model", "tiny", "--output", str(output)])
        == 0
    )
    assert capsys.readouterr().out == f"5 records, 3 of them with errors: {output}\n"
    assert len(Page(output.read_text()).sections) == 5
