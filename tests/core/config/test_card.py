"""``polylens.json``: what is written is read back, and a broken card is named."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from typing import get_args

import pytest

from polylens.config.card import NAME, ModelCard
from polylens.config.schemas import schema
from polylens.errors import InputError
from polylens.modeling.pooling import Pooling


def test_a_card_is_read_back(tmp_path):
    card = ModelCard(
        plugin="minicpmv",
        family="minicpmv-2.0",
        options={"max_slice_nums": 9},
        objective={"name": "contrastive", "options": {"temperature": 0.02}},
        dimensions=[64, 32],
        query_instruction="Represent this query: 页",
        base_model="openbmb/MiniCPM-V-2",
    )
    card.save(tmp_path)
    assert ModelCard.read(tmp_path) == card
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_folder_without_a_card_has_none(tmp_path):
    assert ModelCard.read(tmp_path) is None


def test_every_error_of_a_card_is_named(tmp_path):
    (tmp_path / NAME).write_text(json.dumps({"plugin": "p", "poolin": "mean", "normalize": 1}))
    with pytest.raises(InputError) as error:
        ModelCard.read(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / NAME}: ")
    for part in ("/poolin: unknown key (did you mean 'pooling'?)", "'family' is a required property", "/normalize: "):
        assert part in message


def test_a_card_that_is_cut_off_is_named(tmp_path):
    (tmp_path / NAME).write_text('{"plugin": "p"')
    with pytest.raises(InputError, match=r"polylens\.json: not JSON"):
        ModelCard.read(tmp_path)


def test_the_schema_says_what_the_dataclass_says():
    rules = schema("polylens")
    assert list(rules["properties"]) == [item.name for item in fields(ModelCard)]
    assert rules["required"] == [item.name for item in fields(ModelCard) if _is_required(item)]
    for item in fields(ModelCard):
        if item.default is not MISSING:
            assert rules["properties"][item.name]["default"] == item.default
    assert set(rules["properties"]["pooling"]["enum"]) == set(get_args(Pooling))


def _is_required(item) -> bool:
    return item.default is MISSING and item.default_factory is MISSING
