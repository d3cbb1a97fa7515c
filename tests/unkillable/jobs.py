"""The jobs that are killed: their command, and what they must have made in the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import pymupdf
from toy import write_toy

from polylens.config.run import LoraSettings
from polylens.data.store import DocumentStore
from polylens.engine.loading import load_checkpoint
from polylens.engine.saving import save_model_folder
from polylens.engine.trainable import choose_trained
from polylens.objectives.lm import LanguageModelling

JOBS = ("render", "encode", "train", "checkpoint", "merge")


@dataclass(frozen=True, slots=True)
class Job:
    """A command that may be killed and started again.

    Attributes:
        command: arguments of polylens for an output folder; the same to start and to go on.
        content: of an output folder: what must not depend on kills. It also checks that nothing is left over.
        partial: pattern of the files or folders that exist while something is being written.
        ranks: processes that run the command together.
        grows: what ``partial`` names is there all the time, and grows when it is written.
        whole: pattern of what is there when all is done: a command that overwrites nothing is not started over it.
    """

    command: Callable[[Path], list[str]]
    content: Callable[[Path], Any]
    partial: str
    ranks: int = 1
    grows: bool = False
    whole: str | None = None

    def is_done(self, output: Path) -> bool:
        """Whether the command is not to be started again."""
        return self.whole is not None and any(output.glob(self.whole))

    def torn(self, output: Path) -> bool:
        """Whether a kill fell into a write."""
        return any(_torn(path) for path in output.glob(self.partial))


def make_job(name: str, folder: Path, steps: int = 6) -> Job:
    """A job over small data of its own in ``folder``.

    Args:
        name: ``render``, ``encode``, ``train`` (two ranks under torchrun), ``checkpoint`` (one process that writes
            a checkpoint every step) or ``merge``.
        steps: of training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if name == "render":
        return _render(folder)
    if name == "encode":
        return _encode(folder)
    if name == "merge":
        return _merge(folder)
    return _training(folder, steps, ranks=2, save_steps=2) if name == "train" else _training(folder, steps)


def _render(folder: Path) -> Job:
    for name, pages in (("a.pdf", 150), ("b.pdf", 40), ("sub/c.pdf", 110)):
        write_pdf(folder / "pdf" / name, pages)
    arguments = ("data", "render", str(folder / "pdf"), "--dpi", "50", "--workers", "2", "--output")
    return Job(lambda output: [*arguments, str(output)], _store, "pages-*.h5.tmp", grows=True)


def write_pdf(path: Path, pages: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = pymupdf.open()
    for number in range(pages):
        page = document.new_page(width=200, height=300)
        page.insert_text((20, 40), f"{path.name}, page {number + 1}")
        page.draw_rect((20, 60, 40 + number, 80 + number), fill=(number % 7 / 7, 0.5, number % 3 / 3))
    document.save(path)


def _store(folder: Path) -> dict[str, Any]:
    assert not list(folder.glob("*.tmp"))
    assert not (folder / "skipped.jsonl").exists()
    store = DocumentStore([folder])
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    for line in lines:
        assert hashlib.sha256((folder / line["shard"]).read_bytes()).hexdigest() == line["sha256"]
    assert sum(line["documents"] for line in lines) == len(store)
    documents = [store.read(id) for id in store.ids()]
    names = ("files.jsonl", "render.json")
    return {"documents": documents, **{name: (folder / name).read_bytes() for name in names}}


def _encode(folder: Path) -> Job:
    _, store = write_toy(folder, pages=40)
    arguments = ["encode", "--model", "tiny", "--model-plugin", "minicpmv", "--documents", str(store)]
    arguments += ["--device", "cpu", "--batch-size", "2", "--rows-per-shard", "4", "--num-workers", "1", "--output"]
    return Job(lambda output: [*arguments, str(output)], _files, "*.tmp")


def _files(folder: Path) -> dict[str, bytes]:
    assert not list(folder.glob("*.tmp"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _merge(folder: Path) -> Job:
    """An adapter over a model of many files."""
    made = load_checkpoint("minicpmv", "tiny", seed=1)
    save_model_folder(made, folder / "base", made.card)
    (folder / "base" / "model.safetensors").unlink()
    made.model.save_pretrained(folder / "base", max_shard_size="50KB")
    choose_trained(made.model, made.family, LanguageModelling(), ["connector"], LoraSettings(enable=True))
    save_model_folder(made, folder / "adapter", replace(made.card, base_model=str(folder / "base")))
    arguments = ["merge", str(folder / "adapter"), "--dtype", "float64", "--output-dir"]
    return Job(lambda output: [*arguments, str(output / "model")], _merged, ".model.tmp", whole="model")


def _merged(folder: Path) -> dict[str, bytes]:
    assert not list(folder.glob("*.tmp"))
    return _files(folder / "model")


def _training(folder: Path, steps: int, ranks: int = 1, save_steps: int = 1) -> Job:
    """LoRA with dropout, and trained modules beside it: two files of weights, and generators that must go on."""
    pairs, store = write_toy(folder)
    arguments = [
        *("train", "--model-plugin", "minicpmv", "--model", "tiny", "--objective", "contrastive"),
        *("--train", str(pairs), "--documents", str(store), "--learned-temperature", "--learning-rate", "1e-3"),
        *("--use_lora", "true", "--lora_dropout", "0.2", "--tune", "connector"),
        *("--per-device-train-batch-size", str(8 // ranks), "--grad-cache-micro-batch-size", "3"),
        *("--max-steps", str(steps), "--save-steps", str(save_steps), "--logging-steps", "1"),
        *("--dataloader-num-workers", "1", "--disable-tqdm", "true", "--resume-from-checkpoint", "true"),
    ]
    return Job(
        lambda output: [*arguments, "--output-dir", str(output)],
        lambda output: _trained(output, steps),
        ".checkpoint-*.tmp",
        ranks,
    )


def _trained(folder: Path, steps: int) -> dict[str, Any]:
    """The model, bit for bit, the state of the last checkpoint, and one loss for every step."""
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert [step for step, _ in losses] == list(range(1, steps + 1))
    last = folder / f"checkpoint-{steps}"
    checkpoints = sorted(path.name for path in folder.glob("checkpoint-*"))
    volatile = ("metrics.jsonl", "run.yaml", "trainer_state.json", "training_args.bin")
    files = {
        str(path.relative_to(folder)): _sorted(path) if path.name == "adapter_config.json" else path.read_bytes()
        for place in (folder, last)
        for path in sorted(place.iterdir())
        if path.is_file() and path.name not in volatile
    }
    return {"losses": losses, "checkpoints": checkpoints, **files}


def _sorted(path: Path) -> dict[str, Any]:
    """peft writes the names of modules in the order of a set."""
    found = json.loads(path.read_text())
    return {key: sorted(value) if isinstance(value, list) else value for key, value in found.items()}


def _torn(path: Path) -> bool:
    """Whether a file or folder that is on its way is one that its writer was at work on.

    A shard of the document store is on its way as long as the run lasts: it counts if what it holds does not agree.
    """
    if not path.name.endswith(".h5.tmp"):
        return True
    try:
        with h5py.File(path, "r", locking=False) as file:
            counts = {len(file[name]) for name in ("end", "text_bytes", "crc32", "id")}  # type: ignore[arg-type]
            end = file["end"][-1] if counts != {0} else 0  # type: ignore[index]
            return len(counts) != 1 or len(file["blob"]) != end  # type: ignore[arg-type]
    except (OSError, KeyError, RuntimeError, ValueError):
        return True
