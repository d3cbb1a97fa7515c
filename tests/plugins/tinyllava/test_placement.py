import copy

import pytest
import torch

from polylens.engine.placement import Placement, place
from polylens.testing import Subject


@pytest.mark.parametrize(
    ("device_map", "max_memory"),
    [({"vision_tower": "cpu", "connector": "disk", "language_model": "disk"}, None), ("auto", {"cpu": "3MB"})],
    ids=["by module", "by memory"],
)
@torch.no_grad()
def test_a_model_spread_over_cpu_and_disk_gives_what_it_gives_in_one_place(tmp_path, device_map, max_memory):
    subject = Subject("tinyllava")
    batch, model = subject.batch(subject.examples()), copy.deepcopy(subject.model)
    place(model, Placement(device_map, max_memory, tmp_path / "weights"))
    assert any(weight.is_meta for weight in model.parameters())
    torch.testing.assert_close(model(batch).hidden, subject.model(batch).hidden)
