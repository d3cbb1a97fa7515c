"""A model spread over CPU and disk gives what it gives in one place."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from toy import page

from polylens.contracts import ImageRef, Message, Record
from polylens.data.images import ImageOpener
from polylens.engine.placement import Placement, place
from polylens.errors import InputError

RECORDS = (
    Record("picture", (Message("user", (ImageRef("bytes", page(1)), "\nwhat?")),)),
    Record("text", (Message("user", ("what is the colour of the bar?",)),)),
)


def hidden(checkpoint, model, records):
    preparer = checkpoint.preparer(ImageOpener())
    batch = checkpoint.collator("left")([preparer.example(record) for record in records])
    with torch.no_grad():
        return model(batch).hidden


@pytest.mark.parametrize(
    ("device_map", "max_memory", "on_disk"),
    [
        ({"vpm": "cpu", "resampler": "disk", "llm": "disk"}, None, True),
        ({"": "disk"}, None, True),
        ("auto", {"cpu": "3MB"}, True),
        ({"": "cpu"}, None, False),
        ("sequential", None, False),
    ],
    ids=["by module", "all on disk", "by memory", "all on cpu", "what fits"],
)
def test_places_change_nothing(tiny, tmp_path, device_map, max_memory, on_disk):
    model = copy.deepcopy(tiny.model)
    main = place(model, Placement(device_map, max_memory, tmp_path / "weights"))
    assert main.type == "cpu"
    assert any(weight.is_meta for weight in model.parameters()) is on_disk
    for records in (RECORDS, RECORDS[:1], RECORDS[1:]):
        torch.testing.assert_close(
            hidden(tiny, model, records), hidden(tiny, tiny.model, records), atol=1e-5, rtol=1e-5
        )
    del model
    gc.collect()  # hooks refer to one another
    assert not any((tmp_path / "weights").glob("*/*.dat"))


def test_weights_on_disk_are_those_of_the_model(tiny, tmp_path):
    """A folder that another model has used holds nothing that counts."""
    for factor in (2.0, 1.0):
        model = copy.deepcopy(tiny.model)
        with torch.no_grad():
            model.llm.model.norm.weight.mul_(factor)
        wanted = hidden(tiny, model, RECORDS)
        place(model, Placement({"": "disk"}, offload_folder=tmp_path))
        torch.testing.assert_close(hidden(tiny, model, RECORDS), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Placement("atuo"), r"device_map is 'atuo' \(did you mean 'auto'\?\); it may be auto, balanced"),
        (Placement({"vmp": "cpu"}), r"the model has no module 'vmp' \(did you mean 'vpm'\?\)"),
        (Placement({"vpm": "cpu"}), "weights have no device, such as llm.model.embed_tokens.weight"),
        (Placement({"": 99}), "there is no GPU 99"),
        (Placement({"": "tpu"}), "'tpu' is no device of a device map"),
        (Placement({"": "disk"}), "name a folder for them with --offload-folder"),
        (Placement("auto", {"cpu": "lots"}), "cannot be made"),
    ],
)
def test_what_cannot_be_placed_is_named(tiny, placement, message):
    with pytest.raises(InputError, match=message):
        place(copy.deepcopy(tiny.model), placement)
