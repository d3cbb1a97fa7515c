"""Saving is tried before training."""

from __future__ import annotations

import json
import logging
import shutil
from types import SimpleNamespace

import pytest
from toy import write_conversations

from polylens.cli import main
from polylens.engine import rehearsal
from polylens.engine.loading import load_checkpoint
from polylens.engine.rehearsal import rehearse_saving, repair_generation_config, saved_bytes
from polylens.engine.saving import save_model_folder
from polylens.errors import InputError

VICUNA = {"do_sample": False, "temperature": 0.9, "top_p": 0.6, "eos_token_id": 2, "max_length": 4096}
"""Settings as published, which transformers does not save once one of them was touched."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsal") / "model"
    made = load_checkpoint("tinyllava", "tiny-phi")
    save_model_folder(made, folder, made.card)
    return folder


def with_settings(source, folder, settings):
    shutil.copytree(source, folder)
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


def train(model, folder, capsys):
    talk = write_conversations(folder, 4)
    argv = [
        "train",
        "--model-plugin",
        "tinyllava",
        "--model",
        str(model),
        "--objective",
        "lm",
        "--train",
        str(talk),
        "--max-steps",
        "1",
    ]
    argv += ["--output-dir", str(folder / "run"), "--disable-tqdm", "true", "--dataloader-num-workers", "0"]
    return main(argv), capsys.readouterr().err


def test_settings_that_transformers_would_not_save_are_found_before_training(source, tmp_path, capsys, caplog):
    """LLaVA's runs failed in the last second; here idle settings are left out with a warning."""
    folder = with_settings(source, tmp_path / "vicuna", VICUNA)
    with caplog.at_level(logging.WARNING):
        code, _ = train(folder, tmp_path, capsys)
    assert code == 0
    assert "temperature and top_p are of no effect without do_sample" in caplog.text
    written = json.loads((tmp_path / "run" / "generation_config.json").read_text())
    assert not {"temperature", "top_p"} & {name for name, value in written.items() if value is not None}
    assert (written["eos_token_id"], written["max_length"]) == (2, 4096)


def test_settings_that_contradict_each_other_are_refused_before_training(source, tmp_path, capsys):
    folder = with_settings(source, tmp_path / "wrong", {**VICUNA, "pad_token_id": -1})
    code, said = train(folder, tmp_path, capsys)
    assert code == 2
    assert "generation_config.json: transformers refuses to save it: GenerationConfig is invalid" in said
    assert not (tmp_path / "run" / "run.yaml").exists()


def test_settings_of_sampling_stay(source, tmp_path):
    folder = with_settings(source, tmp_path / "sampling", {**VICUNA, "do_sample": True})
    found = load_checkpoint(None, str(folder))
    repair_generation_config(found.model, folder)
    assert found.model.generation_config.temperature == 0.9


def test_a_full_disk_and_a_place_that_is_none_are_found(source, tmp_path, monkeypatch):
    found = load_checkpoint(None, str(source))
    needed = saved_bytes(found.model)
    assert needed == pytest.approx((source / "model.safetensors").stat().st_size, rel=0.05)
    rehearse_saving(found, tmp_path / "not" / "yet")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(rehearsal.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(InputError, match=f"takes {needed:,} bytes, and the disk has {needed - 1:,} left"):
        rehearse_saving(found, tmp_path / "run")
