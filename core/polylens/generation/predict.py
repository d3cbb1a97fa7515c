"""Answers the records of files: what ``polylens predict`` does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from polylens.engine import distributed
from polylens.engine.distributed import process_group
from polylens.engine.failures import explained
from polylens.engine.fingerprint import checkpoint_fingerprint
from polylens.engine.loaders import expect_workers
from polylens.engine.loading import Checkpoint
from polylens.engine.run_folder import exclusive
from polylens.errors import InputError
from polylens.generation.chunks import Chunk
from polylens.generation.formats.answer_files import AnswerFormat, Author, answer_format, write_answer_values
from polylens.generation.model_choice import ModelChoice
from polylens.generation.options import GenerationOptions
from polylens.generation.parts import Parts, parts_folder
from polylens.generation.predictor import Predictor
from polylens.generation.prompts import Question
from polylens.generation.questions import Asked, QuestionFiles, read_questions


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What is answered, and how; which answers come out does not depend on the number of ranks.

    Attributes:
        asked: how files are read; bad records are set aside in ``<output>.quarantine.jsonl``.
        batch_size: records that are answered at a time.
        max_length: tokens of a prompt; its text is shortened to fit, never a picture.
        num_workers: processes that prepare pictures; with 0 the model's own does.
        keep_special_tokens: leave special tokens in the answers.
        answers_format: in which answers are written; by default the one that belongs to the questions.
        model_id: what answers call the model; by default the last part of its name.

    Raises:
        InputError: a number is too small.
    """

    generation: GenerationOptions = field(default_factory=GenerationOptions)
    asked: Asked = field(default_factory=Asked)
    batch_size: int = 8
    max_length: int | None = None
    num_workers: int = 2
    keep_special_tokens: bool = False
    answers_format: str | None = None
    model_id: str | None = None

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
    chunk = options.asked.chunk
    own = chunk.output(output)
    with exclusive(parts_folder(own)), explained("then start it again: what is done stays"), process_group():
        chunk.check_whole(output)
        asked = read_questions(records, options.asked)
        format = answer_format(options.answers_format or asked.answers)
        format.check(asked.questions)
        predictor = _predictor(model, asked, options)
        batches = asked.plan(predictor)
        author = Author(options.model_id or model_name(model.model), asked.image_root)
        card = {"answers": {"format": format.name, "model_id": author.model_id if format.signed else None}}
        parts = Parts(own, _run(model, predictor.checkpoint, asked.questions, batches, options) | card)
        (done,) = distributed.agreed(parts.done)
        if distributed.rank() == 0:
            asked.set_aside(quarantine_file(own))
        if done is not None:
            _answer(predictor, asked.questions, batches, parts, done)
        distributed.barrier()
        if distributed.rank():
            return None
        written = _finish(parts, asked.questions, format, author)
        return f"{written}{_left_out(asked, own)}{_joined(chunk, output, format)}"


def model_name(model: str) -> str:
    """What LLaVA calls a model: the last part of its path, and of a checkpoint the one before it, too.

    >>> model_name("runs/tuned/checkpoint-20"), model_name("openbmb/MiniCPM-V-2_6")
    ('tuned_checkpoint-20', 'MiniCPM-V-2_6')
    """
    parts = [part for part in model.split("/") if part] or [model]
    return "_".join(parts[-2:]) if parts[-1].startswith("checkpoint-") else parts[-1]


def _predictor(model: ModelChoice, asked: QuestionFiles, options: PredictOptions) -> Predictor:
    loader = {"num_workers": options.num_workers}
    checkpoint, device = model.load()
    expect_workers(loader, checkpoint.parts)
    return Predictor(
        checkpoint,
        options.generation,
        asked.images,
        device,
        options.batch_size,
        options.max_length,
        loader,
        options.keep_special_tokens,
    )


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


def _finish(parts: Parts, questions: Sequence[Question], format: AnswerFormat, author: Author) -> str:
    """Put the parts together, and say so."""
    if not parts.output.exists():
        answered = zip(questions, parts.answers(), strict=True)
        write_answer_values(parts.output, format, (format.make(one, answer, author) for one, answer in answered))
    parts.clear()
    return f"{len(questions)} answers are in {parts.output}"


def _joined(chunk: Chunk, output: Path, format: AnswerFormat) -> str:
    if chunk.count == 1:
        return ""
    missing = chunk.join(output, format)
    if missing:
        return f"; chunks that are not done yet: {', '.join(map(str, missing))}"
    return f"; those of all {chunk.count} chunks are in {output}"


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
