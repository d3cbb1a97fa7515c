"""Small files of every format, with pictures of the right names."""

from __future__ import annotations

import json
from pathlib import Path

from toy import page

OCRBENCH = [
    {"dataset_name": "svt", "id": 1, "image_path": "svt/1.png", "question": "what is written in the image?"}
    | {"answers": "BAR", "type": "Regular Text Recognition"},
    {"dataset_name": "HME100k", "id": 1, "image_path": "hme/1.png", "question": "Write it in LaTeX."}
    | {"answers": ["a + b", "a+b"], "type": "Handwritten Mathematical Expression Recognition"},
    {"dataset_name": "docVQA", "id": "x", "image_path": "svt/1.png", "question": "Which colour?"}
    | {"answers": ["red", "crimson"], "type": "Doc-oriented VQA"},
]
LLAVA = [
    {"question_id": 7, "image": "1.png", "text": "Which colour?\nAnswer briefly.", "category": "detail"},
    {"question_id": "q8", "image": "1.png", "text": "How many bars?"},
    {"question_id": "q9", "text": "Say hello."},
]
TEXTVQA = {"data": [{"question": "Which brand?", "image_id": "1a", "question_id": 5, "answers": ["acme"] * 9 + ["a"]}]}
FORM = [
    {"id": 4, "text": "Name:", "label": "question", "linking": [[4, 6], [4, 5]]},
    {"id": 5, "text": "Miller", "label": "answer", "linking": [[4, 5]]},
    {"id": 6, "text": "Ann", "label": "answer", "linking": [[4, 6]]},
    {"id": 7, "text": "Town:", "label": "question", "linking": []},
    {"id": 8, "text": "Street:", "label": "question", "linking": [[8, 99]]},
]
WORDS = '<form><line><word id="b02-001-00" text="Hello,"/><word id="b02-001-01" text=";"/></line></form>'

LAYOUTS: dict[str, tuple[str, dict[str, str], list[str], str | None]] = {
    # what is read, its files, pictures, and --format where the fields do not tell
    "llava": ("q.jsonl", {"q.jsonl": "".join(json.dumps(one) + "\n" for one in LLAVA)}, ["1.png"], None),
    "textVQA": ("TextVQA.json", {"TextVQA.json": json.dumps(TEXTVQA)}, ["train_images/1a.jpg"], None),
    "docVQA": (
        "val.json",
        {"val.json": json.dumps({"data": [{"questionId": 3, "question": "Who?", "image": "documents/1.png"}]})},
        ["documents/1.png"],
        None,
    ),
    "ocrVQA": (
        "dataset.json",
        {"dataset.json": json.dumps({"b/1": {"questions": ["Who?", "What?"], "answers": ["me", "that"]}}, indent=1)},
        ["images/b/1.jpg"],
        None,
    ),
    "STVQA": (
        "task.json",
        {
            "task.json": json.dumps(
                {"data": [{"question": "Who?", "dataset": "d", "file_name": "1.png", "answers": []}]}
            )
        },
        ["d/1.png"],
        None,
    ),
    "ESTVQA": (
        "annotations/en.json",
        {
            "annotations/en.json": json.dumps(
                [{"image": "1.jpg", "annotation": [{"question": "Who?", "answer": "me"}]}]
            )
        },
        ["images/train/1.jpg"],
        None,
    ),
    "SROIE": (
        ".",
        {"ann/X1.txt": '{"total": "9.00", "company": "ACME"}', "ann/X1(1).txt": "a copy"},
        ["image/X1.jpg"],
        None,
    ),
    "FUNSD": (".", {"annotations/f.json": json.dumps({"form": FORM})}, ["images/f.png"], None),
    "POIE": (
        "test.txt",
        {"test.txt": json.dumps({"file_name": "image/1.jpg", "entity_dict": {"SS": "2 bars (30 g)", "TF-PS": "1g"}})},
        ["image/1.jpg"],
        None,
    ),
    "HME": ("labels.txt", {"labels.txt": "1.jpg\ta + b\n2.jpg\tc"}, ["test_images/1.jpg", "test_images/2.jpg"], None),
    "IAM": (".", {"xml/b02-001.xml": WORDS}, ["b02/b02-001/b02-001-00.png"], None),
    "ReCTS": ("test_label.txt", {"test_label.txt": "1.jpg 中文\n"}, ["crops/1.jpg"], "ReCTS"),
    "ocr": ("test_label.txt", {"test_label.txt": "image/1.png BAR more\n\n"}, ["image/1.png"], "ocr"),
    "ocrbench": ("bench.json", {"bench.json": json.dumps(OCRBENCH)}, ["svt/1.png", "hme/1.png"], None),
}


def write_layout(folder: Path, name: str) -> tuple[Path, str | None]:
    """Write the files of a format; gives the path to be read, and the format where it has to be said."""
    given, files, pictures, said = LAYOUTS[name]
    for file, text in files.items():
        _parent(folder / file).write_text(text, encoding="utf-8")
    for number, picture in enumerate(pictures):
        _parent(folder / picture).write_bytes(page(number))
    return folder / given, said


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
