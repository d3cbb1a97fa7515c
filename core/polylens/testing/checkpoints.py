"""Checks of what is written to disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.core_model_loading import WeightRenaming, apply_renamings

from polylens.contracts import CheckpointLayout
from polylens.testing.results import require
from polylens.testing.subject import Subject


def save_and_load_are_bit_equal(subject: Subject) -> str | None:
    """A saved model folder loads through the plugin with the same bits and the same hidden states."""
    from polylens.engine.loading import load_checkpoint

    with tempfile.TemporaryDirectory() as name:
        _save(subject, Path(name))
        loaded = load_checkpoint(subject.plugin, name, dtype="float64").model.eval()
    before, after = subject.model.state_dict(), loaded.state_dict()
    require(before.keys() == after.keys(), f"weights come and go: {sorted(before.keys() ^ after.keys())[:3]}")
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    require(not changed, f"{len(changed)} weights differ after loading, such as {', '.join(changed[:3])}")
    batch = subject.batch(subject.examples())
    with torch.no_grad():
        first, second = (m(batch, outputs=frozenset({"hidden"})).hidden for m in (subject.model, loaded))
    real = batch.attention_mask
    require(
        torch.equal(first[real], second[real]), "the same weights give other hidden states: a lost buffer or option"
    )
    return f"{len(before)} tensors"


def names_on_disk_follow_the_first_layout(subject: Subject) -> str | None:
    """Weights are written under the names of the first layout, each tied weight once or under all its names."""
    layout = subject.family.layouts[0]
    with tempfile.TemporaryDirectory() as folder:
        _save(subject, Path(folder))
        found = _names(Path(folder).glob("*.safetensors"))
    state = subject.model.state_dict()
    wanted = {name_on_disk(name, layout): name for name in state}
    strange = sorted(found - wanted.keys())
    require(not strange, f"not names of layout {layout.name!r}: {', '.join(strange[:3])}")
    written = {state[wanted[name]].data_ptr() for name in found}
    missing = sorted(name for name, inner in wanted.items() if state[inner].data_ptr() not in written)
    require(not missing, f"weights of layout {layout.name!r} that were not written: {', '.join(missing[:3])}")
    return f"{len(found)} names in layout {layout.name!r}"


def name_on_disk(name: str, layout: CheckpointLayout) -> str:
    """The name that a weight of the model has in files of the layout."""
    renames = [WeightRenaming(disk, model).reverse_transform() for disk, model in layout.renames.items()]
    return apply_renamings(name, renames[::-1])  # type: ignore[arg-type]


def _save(subject: Subject, folder: Path) -> None:
    from polylens.engine.saving import save_model_folder

    save_model_folder(subject.checkpoint, folder, subject.checkpoint.card)


def _names(paths: Iterable[Path]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        with safe_open(path, "pt") as file:
            found.update(file.keys())
    return found


CHECKS = (save_and_load_are_bit_equal, names_on_disk_follow_the_first_layout)
