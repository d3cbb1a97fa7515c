"""The mean of models, whatever files their weights lie in."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from polylens.engine.loading import load_checkpoint
from polylens.engine.merge import average_models
from polylens.engine.saving import save_model_folder
from polylens.errors import InputError


def model_folder(tiny, folder: Path, seed: int, shard: str = "300KB", dtype: torch.dtype = torch.float32) -> Path:
    """The tiny model with other weights."""
    model = copy.deepcopy(tiny.model).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator).to(parameter)
    save_model_folder(replace(tiny, model=model), folder, replace(tiny.card, pooling="last"))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


@pytest.fixture
def three(tiny, tmp_path) -> list[Path]:
    shards = ("300KB", "5GB", "900KB")
    return [model_folder(tiny, tmp_path / str(seed), seed, shard) for seed, shard in enumerate(shards)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("model*.safetensors") for name, value in load_file(path).items()}


def test_the_mean_of_every_weight(three, tmp_path):
    said = average_models(three, tmp_path / "out")
    parts, found = [weights(folder) for folder in three], weights(tmp_path / "out")
    assert found.keys() == parts[0].keys()
    for name, value in found.items():
        mean = sum(part[name].double() for part in parts) / 3
        assert torch.equal(value, mean.float()), name
    assert str(said).startswith("the mean of 3 models: a model of ")
    card = load_checkpoint(None, str(tmp_path / "out")).card
    assert (card.plugin, card.pooling) == ("minicpmv", "last")
    assert {path.name for path in three[0].iterdir()} == {path.name for path in (tmp_path / "out").iterdir()}


def test_the_order_does_not_show(three, tmp_path):
    average_models(three, tmp_path / "one", dtype="bfloat16")
    average_models([three[0], three[2], three[1]], tmp_path / "two", dtype="bfloat16")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert {value.dtype for value in one.values()} == {torch.bfloat16}


def test_models_of_another_shape_have_no_mean(tiny, three, tmp_path):
    index = json.loads((three[0] / "model.safetensors.index.json").read_text())["weight_map"]
    path = three[0] / index["vpm.norm.weight"]
    save_file({**load_file(path), "vpm.norm.weight": torch.ones(3)}, path)
    with pytest.raises(InputError, match=r"have no mean: vpm\.norm\.weight is \[64\] and \[3\]"):
        average_models([three[1], three[0]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_weight_that_only_one_has(three, tmp_path):
    path = three[1] / "model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if name != "vpm.norm.bias"}, path)
    with pytest.raises(InputError, match=r"have no mean: only one of them has vpm\.norm\.bias"):
        average_models(three, tmp_path / "out")


@pytest.mark.parametrize(
    ("models", "said"),
    [(["tiny"], "needs two models or more"), (["tiny", "tiny"], "is a preset: its weights are random")],
)
def test_what_has_no_mean(tmp_path, models, said):
    with pytest.raises(InputError, match=said):
        average_models(models, tmp_path / "out", plugin="minicpmv")


def test_an_adapter_is_to_be_merged_first(three, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(three[0])}))
    with pytest.raises(InputError, match="is an adapter: merge it first, then average the models"):
        average_models([three[0], tmp_path / "adapter"], tmp_path / "out")
