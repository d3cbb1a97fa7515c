from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from polylens.config import schemas
from polylens.data.conversations import read_conversations
from polylens.data.convert_conversations import Conversion, convert_conversations
from polylens.errors import InputError

LLAVA = [
    {"from": "human", "value": "What?"},
    {"from": "gpt", "value": "That."},
]


@pytest.fixture
def talk(tmp_path) -> Path:
    folder = tmp_path / "in"
    (folder / "pictures").mkdir(parents=True)
    for number in range(40):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / "pictures" / f"{number}.png")
    records = [{"id": f"r{n}", "image": f"pictures/{n}.png", "conversations": LLAVA, "source": "x"} for n in range(40)]
    (folder / "talk.json").write_text(json.dumps(records))
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_llava_to_minicpmv_and_back(talk, tmp_path):
    report = convert_conversations([talk / "talk.json"], tmp_path / "a", Conversion())
    assert (report.files, report.image_root, report.quarantined) == (
        {tmp_path / "a" / "conversations.jsonl": 40}, talk, 0
    )  # fmt: skip
    first = lines(tmp_path / "a" / "conversations.jsonl")[0]
    assert first == {
        "id": "r0",
        "image": "pictures/0.png",
        "conversations": [
            {"role": "user", "content": "<image>\nWhat?"},
            {"role": "assistant", "content": "That."},
        ],
        "source": "x",
    }
    back = convert_conversations(
        [tmp_path / "a" / "conversations.jsonl"], tmp_path / "b", Conversion(turns="from"), image_root=talk
    )
    assert back.image_root == talk
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    assert lines(tmp_path / "b" / "conversations.jsonl")[0] == {**first, "conversations": said}
    for folder in "ab":
        read = read_conversations([tmp_path / folder / "conversations.jsonl"], image_root=talk)
        assert read.records[0].images[0].value == "pictures/0.png"
        schemas.check("conversion", json.loads((tmp_path / folder / "conversion.json").read_text()), "conversion.json")


def test_paths_start_from_the_output_where_the_pictures_lie_below_it(talk, tmp_path):
    report = convert_conversations([talk / "talk.json"], tmp_path, Conversion())
    assert report.image_root is None
    read = read_conversations([tmp_path / "conversations.jsonl"])
    assert (read.image_root / str(read.records[3].images[0].value)).samefile(talk / "pictures" / "3.png")


def test_files_of_several_folders_keep_their_pictures(talk, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (4, 4)).save(other / "x.png")
    (other / "talk.jsonl").write_text(json.dumps({"id": "o", "image": "x.png", "conversations": LLAVA}))
    report = convert_conversations([talk / "talk.json", other / "talk.jsonl"], tmp_path / "out" / "deep", Conversion())
    assert report.image_root == tmp_path
    assert lines(tmp_path / "out" / "deep" / "conversations.jsonl")[-1]["image"] == "other/x.png"


def test_splits_do_not_depend_on_order_or_on_other_records(talk, tmp_path):
    conversion = Conversion(splits={"train": 0.7, "test": 0.3})
    convert_conversations([talk / "talk.json"], tmp_path / "a", conversion)
    records = json.loads((talk / "talk.json").read_text())
    (talk / "turned.json").write_text(json.dumps(records[::-1][:30]))
    convert_conversations([talk / "turned.json"], tmp_path / "b", conversion)
    whole, part = ({record["id"] for record in lines(tmp_path / name / "test.jsonl")} for name in "ab")
    assert 0 < len(part) < len(whole) < 20
    assert part == {id for id in whole if int(id[1:]) >= 10}


def test_what_stays_together(talk, tmp_path):
    records = json.loads((talk / "talk.json").read_text())
    for number, record in enumerate(records):
        record["image"] = f"pictures/{number % 8}.png"
        record["conversations"] = [LLAVA[0], {"from": "gpt", "value": f"answer {number % 10}"}]
    (talk / "talk.json").write_text(json.dumps(records))
    for by, key in (("image", lambda record: record["image"]),
                    ("answer", lambda record: record["conversations"][1]["content"])):  # fmt: skip
        conversion = Conversion(splits={"train": 0.5, "test": 0.5}, split_by=by)
        convert_conversations([talk / "talk.json"], tmp_path / by, conversion)
        train, test = (
            {key(record) for record in lines(tmp_path / by / f"{name}.jsonl")} for name in conversion.splits
        )
        assert train
        assert test
        assert not train & test


def test_records_without_an_id_are_divided_by_what_they_hold(talk, tmp_path):
    records = json.loads((talk / "talk.json").read_text())
    for record in records:
        del record["id"]
    (talk / "plain.json").write_text(json.dumps(records))
    (talk / "turned.json").write_text(json.dumps(records[::-1]))
    conversion = Conversion(splits={"train": 0.5, "test": 0.5})
    found = []
    for name in ("plain", "turned"):
        convert_conversations([talk / f"{name}.json"], tmp_path / name, conversion)
        found.append(sorted(record["image"] for record in lines(tmp_path / name / "test.jsonl")))
    assert found[0] == found[1]


def test_a_list_becomes_conversations(talk, tmp_path):
    (talk / "list.csv").write_text('image,text\npictures/1.png,"one, ""1"""\npictures/2.png,two\n')
    conversion = Conversion(turns="from", prompt="Which number?")
    convert_conversations([talk / "list.csv"], talk, conversion)
    assert lines(talk / "conversations.jsonl")[0] == {
        "id": "pictures/1.png",
        "image": "pictures/1.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhich number?"},
            {"from": "gpt", "value": 'one, "1"'},
        ],
    }
    card = json.loads((talk / "conversion.json").read_text())
    schemas.check("conversion", card, "conversion.json")


def test_several_pictures_keep_their_placeholders(talk, tmp_path):
    records = [
        {"image": {"<image_00>": "pictures/1.png", "<image_01>": {"document": "d"}},
         "conversations": [{"role": "system", "content": "Be brief."},
                           {"role": "user", "content": "<image_01> or <image_00>?"}]},
        {"image": ["pictures/1.png", "pictures/2.png"],
         "conversations": [{"role": "user", "content": "<image><image>?"}]},
        {"conversations": [{"role": "user", "content": "Hello?"}]},
    ]  # fmt: skip
    (talk / "more.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    convert_conversations([talk / "more.jsonl"], tmp_path, Conversion(turns="from"))
    several, two, none = lines(tmp_path / "conversations.jsonl")
    assert several["image"] == {"<image_00>": "in/pictures/1.png", "<image_01>": {"document": "d"}}
    assert several["conversations"] == [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "<image_01> or <image_00>?"},
    ]
    assert two["image"] == ["in/pictures/1.png", "in/pictures/2.png"]
    assert none == {"conversations": [{"from": "human", "value": "Hello?"}]}


def test_bad_records_are_errors_or_set_aside(talk, tmp_path):
    records = json.loads((talk / "talk.json").read_text())
    records[1]["image"] = "pictures/none.png"
    records[2]["conversations"] = LLAVA[1:]
    (talk / "pictures" / "3.png").write_bytes(b"no picture")
    (talk / "bad.json").write_text(json.dumps(records, indent=1))
    with pytest.raises(InputError, match=r"bad\.json:\d+: record 'r1': picture 'pictures/none\.png' does not exist"):
        convert_conversations([talk / "bad.json"], tmp_path / "a", Conversion())
    report = convert_conversations([talk / "bad.json"], tmp_path / "a", Conversion(), on_bad_record="quarantine")
    assert (sum(report.files.values()), report.quarantined) == (37, 3)
    for line in lines(tmp_path / "a" / "quarantine.jsonl"):
        schemas.check("quarantine", line, "quarantine.jsonl")
    trusting = Conversion(pictures="trust")
    report = convert_conversations([talk / "bad.json"], tmp_path / "b", trusting, on_bad_record="quarantine")
    assert report.quarantined == 1


def test_what_cannot_be_done_is_said(talk, tmp_path):
    with pytest.raises(InputError, match="split test gets none of 40 records; give it a larger part"):
        convert_conversations([talk / "talk.json"], tmp_path, Conversion(splits={"train": 0.9999, "test": 0.0001}))
    with pytest.raises(InputError, match="the prompt '' must be a question"):
        Conversion(prompt="")
    (talk / "conversations.jsonl").write_text(json.dumps({"conversations": LLAVA}))
    with pytest.raises(InputError, match="would be replaced by what is made of it"):
        convert_conversations([talk / "conversations.jsonl"], talk, Conversion())
