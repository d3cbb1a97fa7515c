from pathlib import Path

import torch
from support import torchrun


def test_a_rank_without_pictures_keeps_step_under_zero3(tiny, examples, tmp_path):
    model = tiny.model().float()
    model.resampler.pos_embed.add_(0.25)  # what is stored must reach every rank
    model.save_pretrained(tmp_path)
    batches = [tiny.batch(examples[1:4]), tiny.batch([examples[0], examples[4]])]
    torch.save(batches, tmp_path / "batches.pt")
    ranks = torchrun(Path(__file__).with_name("zero3.py"), tmp_path, timeout=500)
    assert all(rank.output.count("relative difference") == 3 for rank in ranks)
