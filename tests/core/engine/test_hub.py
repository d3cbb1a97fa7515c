"""What a run pushes to the hub, with everything but the hub itself."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import HfApi

from polylens.cli import main


def command(toy: tuple[Path, Path], output: Path, *more: str) -> list[str]:
    pairs, store = toy
    return [
        *("train", "--model-plugin", "minicpmv", "--model", "tiny", "--train", str(pairs), "--documents", str(store)),
        *("--output-dir", str(output), "--per-device-train-batch-size", "4", "--max-steps", "1", "--save-steps", "1"),
        *("--dataloader-num-workers", "0", "--disable-tqdm", "true", "--push-to-hub", *more),
    ]


@pytest.fixture
def uploads(monkeypatch):
    """What would be sent: a list of (repository, revision, names)."""
    sent = []

    def create_repo(self, repo_id, **options):
        sent.append(("repository", repo_id, self.token, options))
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, *, folder_path, allow_patterns, repo_id, revision, **_):
        """Chosen by the library's own filter."""
        additions = self._prepare_upload_folder_additions(folder_path, "", allow_patterns=allow_patterns)
        sent.append(("files", repo_id, revision, sorted(file.path_in_repo for file in additions)))

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "auth_check", lambda self, repo_id, write: sent.append(("right", repo_id, write)))
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return sent


def test_the_finished_model_is_pushed_once_and_nothing_else(toy, uploads, tmp_path):
    output = tmp_path / "pages"
    (tmp_path / "pages").mkdir()
    for stranger in ("quarantine.jsonl", "notes.txt"):
        (output / stranger).write_text("private")
    more = ("--hub-token", "hf_secret", "--hub-private-repo", "--hub-revision", "v2")
    assert main(command(toy, output, *more)) == 0
    assert uploads[:2] == [
        ("repository", "pages", "hf_secret", {"private": True, "exist_ok": True}),
        ("right", "me/pages", True),
    ]
    kind, repository, revision, names = uploads[2]
    assert (kind, repository, revision, len(uploads)) == ("files", "me/pages", "v2", 3)
    assert set(names) >= {"config.json", "model.safetensors", "polylens.json"}
    inside = {path.name for path in (output / "checkpoint-1").iterdir()}
    training = {"optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth"}
    assert training < inside
    assert set(names) == inside - training
    assert not any("hf_secret" in path.read_text(errors="ignore") for path in output.glob("*.yaml"))


def test_no_network_is_one_error_before_training(toy, monkeypatch, tmp_path, capsys):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody listens
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{held.getsockname()[1]}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        assert main(command(toy, tmp_path / "out", "--hub-model-id", "me/pages")) == 2
    error = capsys.readouterr().err
    assert "push_to_hub: me/pages: the hub cannot be written to: " in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_push_that_fails_leaves_the_model_and_says_how_to_go_on(toy, uploads, monkeypatch, tmp_path, capsys):
    def upload_folder(self, **_):
        raise ConnectionError("the line is cut")

    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    assert main(command(toy, tmp_path, "--hub-model-id", "pages")) == 2
    assert f"push it with `hf upload me/pages {tmp_path}`: the line is cut" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize("more", [("--hub-strategy", "every_save"), ("--hub-always-push",)])
def test_what_would_send_checkpoints_is_refused(toy, uploads, tmp_path, capsys, more):
    assert main(command(toy, tmp_path, *more)) == 2
    assert "is not supported" in capsys.readouterr().err
    assert not uploads
