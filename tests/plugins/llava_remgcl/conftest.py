"""The outputs of the original program, and its tiny model as a checkpoint of this one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from polylens.contracts import Batch, ImageRef, Message, Record
from polylens.data.images import ImageOpener
from polylens.engine.loading import Checkpoint, load_checkpoint

ROLES = {"human": "user", "gpt": "assistant"}


def parts(text: str, picture: ImageRef) -> tuple[str | ImageRef, ...]:
    """The original puts the picture of a turn before its text, wherever it stood."""
    return (picture, text.replace("<image>", "").strip()) if "<image>" in text else (text,)


def messages(conversation: list[dict[str, str]], picture: ImageRef) -> tuple[Message, ...]:
    """The original drops a first turn that is not the user's."""
    kept = conversation[conversation[0]["from"] == "gpt" :]
    return tuple(Message(ROLES[turn["from"]], parts(turn["value"], picture)) for turn in kept)  # type: ignore[arg-type]


@dataclass
class Original:
    """Five samples of one training step: what went in, and what came out."""

    folder: Path

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / "compact_main5.safetensors")

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads((self.folder / "forward_main5" / "meta.json").read_text(encoding="utf-8"))

    def records(self) -> list[Record]:
        samples = json.loads((self.folder / "conversations.json").read_text(encoding="utf-8"))
        chosen = [samples[number] for number in self.meta["sample_indices"]]
        return [
            Record(s["id"], messages(s["conversations"], ImageRef("path", f"images/{s['image']}"))) for s in chosen
        ]

    def load(self, name: str = "tiny-llava", **options: Any) -> Checkpoint:
        """Its tiny model, whose ``config.json`` names a tower by a path of another machine."""
        given = {"vision_tower": str(self.folder / "tiny-clip"), **options}
        return load_checkpoint("llava_remgcl", str(self.folder / name), options=given)

    def batch(self, found: Checkpoint, side: str = "right") -> Batch:
        preparer = found.preparer(ImageOpener(self.folder), style="chat")
        return found.collator(side)([preparer.example(record) for record in self.records()])


@pytest.fixture(scope="session")
def original(golden: Path) -> Original:
    return Original(golden / "llava_remgcl")


@pytest.fixture(scope="session")
def found(original: Original) -> Checkpoint:
    """The original's checkpoint with the token ids that its run had."""
    made = original.load(compat={"reference_ids": "legacy"})
    made.model.eval()
    return made


@pytest.fixture(scope="session")
def batch(original: Original, found: Checkpoint) -> Batch:
    return original.batch(found)
