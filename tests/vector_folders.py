"""Small folders of vectors for the tests of search and of its commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from polylens.config.card import ModelCard
from polylens.retrieval.vectors import VectorStore, VectorWriter

CARD = ModelCard("minicpmv", "minicpmv-2.0", dimensions=[8, 4])


def write_vectors(
    folder: Path,
    values: np.ndarray,
    *,
    ids: Sequence[str] | None = None,
    kind: Literal["query", "document"] = "document",
    rows_per_shard: int = 7,
    card: ModelCard = CARD,
    fingerprint: str = "",
) -> VectorStore:
    """A finished folder; ids are ``query 0``, ... or ``document 0``, ... by default."""
    writer = VectorWriter(
        folder,
        ids=[f"{kind} {i}" for i in range(len(values))] if ids is None else ids,
        dimensions=values.shape[1],
        rows_per_shard=rows_per_shard,
        kind=kind,
        card=card,
        fingerprint=fingerprint,
    )
    for shard in writer.missing():
        rows = writer.rows(shard)
        writer.write(shard, torch.from_numpy(values[rows.start : rows.stop]))
    writer.finish()
    return VectorStore(folder)


def whole_numbers(rows: int, dimensions: int, *, seed: int = 0, size: int = 4) -> np.ndarray:
    """float32 vectors whose inner products are exact in float32, with many ties."""
    return np.random.default_rng(seed).integers(-size, size + 1, (rows, dimensions)).astype(np.float32)


def unit_vectors(rows: int, dimensions: int, *, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((rows, dimensions)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)
