from pathlib import Path

import pytest
import torch
from support import torchrun

LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("tiny25", "tiny26", "tiny46", "tiny47")]


@pytest.mark.parametrize("name", ["tiny", *LONG])
def test_a_rank_without_pictures_keeps_step_under_zero3(name, request, tmp_path):
    kit = request.getfixturevalue(name)
    model = kit.model().float()
    if name == "tiny":
        model.resampler.pos_embed.add_(0.25)  # what is stored must reach every rank
    model.save_pretrained(tmp_path)
    pages = [kit.picture(60, 90), kit.picture(400, 560, seed=1), kit.picture(700, 60, seed=2)]
    batches = [
        kit.batch([kit.example("", page) for page in pages]),
        kit.batch([kit.example("filter"), kit.example("a")]),
    ]
    torch.save(batches, tmp_path / "batches.pt")
    ranks = torchrun(Path(__file__).with_name("zero3.py"), tmp_path, timeout=500)
    assert all(rank.output.count("relative difference") == 3 for rank in ranks)
