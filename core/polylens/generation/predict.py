"""Answers the records of files: what ``polylens predict`` does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from polylens.engine import distributed
from polylens.engine.distributed import process_group
from polylens.engine.failures import explained
from polylens.engine.fingerprint import checkpoint_fingerprint
from polylens.engine.loaders import expect_workers
from polylens.engine.loading import Checkpoint
from polylens.engine.run_folder import exclusive
from polylens.errors import InputError
from polylens.generation.answers import AnsweredQuestion, write_answers
from polylens.generation.generator import Answer
from polylens.generation.model_choice import ModelChoice
from polylens.generation.options import GenerationOptions
from polylens.generation.parts import Parts, parts_folder
from polylens.generation.predictor import Predictor
from polylens.generation.prompts import Question
from polylens.generation.questions import QuestionFiles, read_questions


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What is answered, and how; which answers come out does not depend on the number of ranks.

    Attributes:
        image_root: where relative picture paths start; by default the folder of the records.
        documents: document stores that pictures lie in.
        batch_size: records that are answered at a time.
        max_length: tokens of a prompt; its text is shortened to fit, never a picture.
        num_workers: processes that prepare pictures; with 0 the model's own does.
        keep_special_tokens: leave special tokens in the answers.
        on_bad_record: ``quarantine`` sets records that cannot be used aside in ``<output>.quarantine.jsonl``.

    Raises:
        InputError: a number is too small.
    """

    generation: GenerationOptions = field(default_factory=GenerationOptions)
    image_root: Path | None = None
    documents: Sequence[Path] = ()
    batch_size: int = 8
    max_length: int | None = None
    num_workers: int = 2
    keep_special_tokens: bool = False
    on_bad_record: Literal["error", "quarantine"] = "error"

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("max_length", 1), ("num_workers", 0)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, it must be at least {least}")


def predict(model: ModelChoice, records: Sequence[Path], output: Path, options: PredictOptions) -> str | None:
    """Answer the last user turn of every record; returns a line that says what was written, on rank 0.

    Stopped at any moment, it is started again and goes on. Under torchrun the batches are shared out over the ranks.

    Raises:
        InputError: the model, a record or the output cannot be used.
    """
    with exclusive(parts_folder(output)), explained("then start it again: what is done stays"), process_group():
        asked = read_questions(
            records,
            image_root=options.image_root,
            documents=options.documents,
            on_bad_record=options.on_bad_record,
        )
        loader = {"num_workers": options.num_workers}
        checkpoint, device = model.load()
        expect_workers(loader, checkpoint.parts)
        predictor = Predictor(
            checkpoint,
            options.generation,
            asked.images,
            device,
            options.batch_size,
            options.max_length,
            loader,
            options.keep_special_tokens,
        )
        batches = asked.plan(predictor)
        parts = Parts(output, _run(model, checkpoint, asked.questions, batches, options))
        (done,) = distributed.agreed(parts.done)
        if distributed.rank() == 0:
            asked.set_aside(quarantine_file(output))
        if done is not None:
            _answer(predictor, asked.questions, batches, parts, done)
        distributed.barrier()
        return f"{_finish(parts, asked.questions)}{_left_out(asked, output)}" if distributed.rank() == 0 else None


def quarantine_file(output: Path) -> Path:
    """Where records that cannot be answered are set aside."""
    return output.with_name(f"{output.name}.quarantine.jsonl")


def _left_out(asked: QuestionFiles, output: Path) -> str:
    count = len(asked.bad.errors) if asked.bad else 0
    return f"; {count} bad records were set aside in {quarantine_file(output)}" if count else ""


def _answer(
    predictor: Predictor,
    questions: Sequence[Question],
    batches: Sequence[Sequence[int]],
    parts: Parts,
    done: set[int],
) -> None:
    """Have this rank do its part of what is not done."""
    records, rank, ranks = [one.record for one in questions], distributed.rank(), distributed.world_size()
    if rank == 0:
        parts.begin()
    distributed.barrier()
    left = [number for number in range(len(batches)) if number not in done]
    total, before = sum(map(len, batches)), sum(len(batches[number]) for number in done)
    hidden = None if rank == 0 else True
    with parts.writer(rank) as part, tqdm(total=total, initial=before, desc="answer", disable=hidden) as bar:
        for number, answers in predictor.run(records, batches, left[rank::ranks]):
            part.add(number, batches[number], answers)
            bar.update(min(len(answers) * ranks, total - bar.n))


def _finish(parts: Parts, questions: Sequence[Question]) -> str:
    """Put the parts together, and say so."""
    if not parts.output.exists():
        answered = zip(questions, parts.answers(), strict=True)
        write_answers(parts.output, (_answered(one, answer) for one, answer in answered))
    parts.clear()
    return f"{len(questions)} answers are in {parts.output}"


def _answered(asked: Question, answer: Answer) -> AnsweredQuestion:
    return AnsweredQuestion(asked.record.id, answer.text, asked.references, asked.text, answer.tokens, answer.finished)


def _run(
    model: ModelChoice,
    checkpoint: Checkpoint,
    questions: Sequence[Question],
    batches: Sequence[Sequence[int]],
    options: PredictOptions,
) -> dict[str, Any]:
    """All that answers depend on."""
    return {
        "model": model.model,
        "plugin": checkpoint.plugin,
        "family": checkpoint.family.name,
        "weights": checkpoint_fingerprint(checkpoint),
        "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
        "options": checkpoint.card.options,
        "generation": asdict(options.generation),
        "batch_size": options.batch_size,
        "max_length": options.max_length,
        "keep_special_tokens": options.keep_special_tokens,
        "records": hashlib.sha256(repr((questions, batches)).encode("utf-8", "surrogatepass")).hexdigest(),
        "versions": {name: version(name) for name in ("polylens", "torch", "transformers")},
    }
