"""Search shared out over the ranks of torchrun, merged into one run file."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from polylens.engine import distributed
from polylens.engine.distributed import process_group
from polylens.files import replacing
from polylens.retrieval.search import SearchOptions, search_tiles
from polylens.retrieval.trec import Hits, run_lines, write_run
from polylens.retrieval.vectors import Vectors


def search_to_run(queries: Vectors, corpus: Vectors, output: Path, options: SearchOptions | None = None) -> bool:
    """Search and write a TREC run file, byte for byte the same on any number of ranks.

    Called by every rank. Each writes its tiles beside ``output``, which must lie on a file system that all ranks see;
    rank 0 puts them together in the order of the queries.

    Returns:
        Whether this rank is the one that wrote ``output``.

    Raises:
        InputError: as ``search``.
    """
    options = options or SearchOptions()
    output = Path(output)
    with process_group() as (rank, world_size):
        tiles = search_tiles(queries, corpus, options, rank, world_size)
        if world_size == 1:
            write_run(output, (hits for tile in tiles for hits in tile))
            return True
        parts = [output.with_name(f"{output.name}.part-{i:05d}-of-{world_size:05d}") for i in range(world_size)]
        try:
            lengths = distributed.gather_objects(_write_part(parts[rank], tiles))
            if rank == 0:
                _merge(output, parts, lengths)
            distributed.barrier()
        finally:
            parts[rank].unlink(missing_ok=True)
        return rank == 0


def _write_part(path: Path, tiles: Iterable[list[Hits]]) -> list[int]:
    """Write the tiles of this rank; the length of each in bytes."""
    lengths = []
    with replacing(path) as partial, partial.open("wb") as file:
        for tile in tiles:
            lengths.append(file.write("".join(map(run_lines, tile)).encode()))
    return lengths


def _merge(output: Path, parts: list[Path], lengths: list[list[int]]) -> None:
    """Tile i is the next one of rank i modulo the number of ranks."""
    with ExitStack() as stack, replacing(output) as partial, partial.open("wb") as merged:
        files = [stack.enter_context(part.open("rb")) for part in parts]
        for tile in range(sum(map(len, lengths))):
            rank, place = tile % len(parts), tile // len(parts)
            merged.write(files[rank].read(lengths[rank][place]))
