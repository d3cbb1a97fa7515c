"""Tells the weights of models apart without reading all of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from polylens.engine.loading import Checkpoint


def fingerprint(folder: Path) -> str:
    """Tells the weights of two model folders apart without reading all of them: names, sizes, and both ends."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.bin")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            digest.update(file.read(2**20))
            file.seek(max(size - 2**20, 0))
            digest.update(file.read())
    return digest.hexdigest()


def checkpoint_fingerprint(checkpoint: Checkpoint) -> str:
    """Tells models apart that have the same card: the same recipe trained twice, or another seed."""
    source = checkpoint.source
    base = f"seed {checkpoint.seed}" if source.is_preset else fingerprint(source.folder)
    return base if source.adapter is None else f"{base} {fingerprint(source.adapter)}"
