"""POIE's labels (``test.txt``, Kuang et al. 2023, arXiv 2305.07498): nutrition facts, asked one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from polylens.errors import InputError, closest
from polylens.generation.formats.entries import Entry, record_entries
from polylens.generation.formats.items import Item, QuestionFormat

ENTITIES = {
    "CE-PS": "Calories/Energy of per serving",
    "TF-PS": "Total fat of per serving",
    "CAR-PS": "Total carbohydrate of per serving",
    "PRO-PS": "Protein of per serving",
    "SS": "Serving size",
    "SO-PS": "Sodium of per serving",
    "TF-D": "Total fat of daily value",
    "CAR-D": "Total carbohydrate of daily value",
    "SO-D": "Sodium of daily value",
    "CE-P1": "Calories/Energy of per 100g/ml",
    "PRO-P1": "Protein of per 100g/ml",
    "CAR-P1": "Total carbohydrate of per 100g/ml",
    "TF-P1": "Total Fat of per 100g/ml",
    "PRO-D": "Protein of daily value",
    "SO-P1": "Sodium of per 100g/ml",
    "CE-D": "Calories/Energy of daily value",
    "TF-PP": "Total fat of per 100g/ml percentage",
    "CAR-PP": "Total carbohydrate of per 100g/ml percentage",
    "SO-PP": "Sodium of per 100g/ml percentage",
    "PRO-PP": "Protein of per 100g/ml percentage",
    "CE-PP": "Calories/Energy of per 100g/ml percentage",
}
"""What a key asks for, in MultimodalOCR's words."""

_BRACKETS = re.compile(r"\((.*?)\)")


def _items(entry: Entry) -> Iterator[Item]:
    image = entry.value["file_name"]
    for key, value in entry.value["entity_dict"].items():
        where = f"{entry.where}: /entity_dict/{key}"
        if key not in ENTITIES:
            raise InputError(f"{where}: no such entity{closest(key, ENTITIES)}; there are {', '.join(ENTITIES)}")
        answers = [found.strip() for found in _BRACKETS.findall(value)] + [_BRACKETS.sub("", value).strip()]
        yield Item(f"{image}-{key}", image, f"what is {ENTITIES[key]} in the image?", answers, where)


POIE = QuestionFormat(
    name="POIE",
    about="POIE's test.txt",
    fits=lambda peek: {"file_name", "entity_dict"} <= peek.record.keys(),
    entries=record_entries,
    items=_items,
    schema="questions_poie",
)
