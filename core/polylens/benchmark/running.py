"""Runs a comparison: data, then every entry, then the table and the page."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from polylens.benchmark.comparison import Comparison, ComparisonData
from polylens.benchmark.counting import count_entry
from polylens.benchmark.entries import Entry, Files, entries
from polylens.benchmark.page import write_page
from polylens.benchmark.results import Failure, Result, read_result, write_csv
from polylens.benchmark.steps import StepFailed, fingerprint, run_step
from polylens.contracts import Record
from polylens.data.conversations import Conversations, read_conversations
from polylens.data.convert_conversations import Conversion, convert_conversations
from polylens.data.images import ImageOpener
from polylens.data.subtitles.settings import subtitle_settings
from polylens.data.subtitles.synthesis import PROMPT, synthesize_subtitles
from polylens.engine.run_folder import exclusive
from polylens.errors import InputError
from polylens.generation.text_scores import Normalisation

__all__ = ["Outcome", "run_comparison"]

_LOG = logging.getLogger(__name__)
WORST = 6
"""Answers of an entry that the page shows."""

TABLE, PAGE = "results.csv", "report.html"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out: the results in the order of the file, and where the table and the page are."""

    results: list[Result]
    table: Path
    page: Path


def run_comparison(comparison: Comparison, where: str) -> Outcome:
    """Make all entries, and write ``results.csv`` and ``report.html``.

    A step that was done before is not done again, as long as nothing that it depends on has changed; one that was
    stopped goes on. An entry that fails does not keep the others from being made.

    Args:
        where: the file of the comparison, for messages.

    Raises:
        InputError: the file, its data, or a run that it describes cannot be used; seen before anything is trained.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("start polylens benchmark once, without torchrun: it starts the ranks itself (processes)")
    with exclusive(comparison.folder):
        files = _files(comparison, where)
        found = entries(comparison, files, where)
        asked = read_conversations([files.test], image_root=files.image_root)
        images = ImageOpener(asked.image_root)
        counts = {entry.name: count_entry(entry, asked.records, images) for entry in found}
        failures = _run_all(found)
        ignore = comparison.score
        normalisation = Normalisation(ignore.case == "ignore", ignore.punctuation == "ignore")
        results = [
            Result(entry, counts[entry.name], failure=failures[entry.name])
            if entry.name in failures
            else read_result(entry, counts[entry.name], normalisation, WORST)
            for entry in found
        ]
        return _written(comparison, results, asked, images)


def _written(comparison: Comparison, results: list[Result], asked: Conversations, images: ImageOpener) -> Outcome:
    table, page = comparison.folder / TABLE, comparison.folder / PAGE
    write_csv(table, results)
    write_page(page, comparison, results, len(asked.records), _pictures(asked.records), images)
    return Outcome(results, table, page)


def _pictures(records: Sequence[Record]) -> Mapping[str, Record]:
    return {record.id: record for record in records if record.images}


def _run_all(found: Sequence[Entry]) -> dict[str, Failure]:
    """Run all steps; gives the failed step of every entry that has one."""
    failures = {}
    progress = tqdm(total=sum(len(entry.steps) for entry in found), unit="step", desc="benchmark", disable=None)
    with progress:
        for entry in found:
            for number, step in enumerate(entry.steps.values()):
                progress.set_postfix_str(f"{entry.name}: {step.name}")
                _LOG.info("%s: %s, see %s", entry.name, step.line, step.log)
                try:
                    run_step(step)
                except StepFailed as error:
                    failures[entry.name] = Failure(step.name, str(error), step.log)
                    _LOG.error("%s: %s failed: %s; see %s", entry.name, step.name, error, step.log)
                    progress.update(len(entry.steps) - number)
                    break
                progress.update()
    return failures


def _files(comparison: Comparison, where: str) -> Files:
    data = comparison.data
    if data.synthesis is not None:
        return _synthesized(comparison.folder, data, where)
    root = Path(data.image_root) if data.image_root is not None else None
    files = Files(Path(str(data.train)), Path(str(data.test)), root)
    for name, path in (("train", files.train), ("test", files.test)):
        if not path.is_file():
            raise InputError(f"{where}: /data/{name}: there is no file {path}")
    return files


def _synthesized(folder: Path, data: ComparisonData, where: str) -> Files:
    """Pictures with subtitles, in a folder that follows from their settings."""
    chosen = data.synthesis
    assert chosen is not None
    sources = Path(chosen.sentences), Path(chosen.images)
    if not sources[0].is_file() or not sources[1].is_dir():
        raise InputError(f"{where}: /data/synthesis: there is no file {sources[0]} or no folder {sources[1]}")
    settings = subtitle_settings(chosen.settings, f"{where}: /data/synthesis/settings")
    names = sorted((path.name, path.stat().st_size) for path in sources[1].rglob("*") if path.is_file())
    output = folder / f"data-{fingerprint(chosen, hashlib.sha256(sources[0].read_bytes()).hexdigest(), names)}"
    prompt = PROMPT if chosen.prompt is None else chosen.prompt
    report = synthesize_subtitles(
        sources[1], sources[0], output, chosen.count, seed=chosen.seed, settings=settings, prompt=prompt
    )
    if report.interrupted:
        raise KeyboardInterrupt
    divided = output / f"divided-{fingerprint(data.test_part, data.split_by)}"
    splits = {"train": 1 - data.test_part, "test": data.test_part}
    conversion = Conversion(splits=splits, split_by=data.split_by, seed=chosen.seed, pictures="trust")
    convert_conversations([output / "labels.jsonl"], divided, conversion)
    return Files(divided / "train.jsonl", divided / "test.jsonl", output)
