"""A training run, from its configuration to a model folder."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed
from transformers.utils.logging import disable_progress_bar

from polylens import plugins
from polylens.config.card import ModelCard
from polylens.config.parser import run_text
from polylens.config.run import RunConfig
from polylens.contracts import Objective
from polylens.data.documents import DocumentSource
from polylens.data.images import ImageOpener
from polylens.data.pairs import Pair, Pairs, read_pairs
from polylens.data.prepare import Preparer
from polylens.data.store import open_documents
from polylens.engine import distributed
from polylens.engine.arguments import checkpoint_to_resume, training_arguments
from polylens.engine.failures import explained
from polylens.engine.loading import Checkpoint, load_checkpoint
from polylens.engine.planner import Budget
from polylens.engine.resuming import check_checkpoint, only_values
from polylens.engine.run_folder import exclusive
from polylens.engine.saving import LAST_MODEL, copy_model_folder, remove
from polylens.engine.steps import PairBatches, PairRecords, StepPlanner, check_enough_documents
from polylens.engine.trainable import choose_trained
from polylens.engine.trainer import Evaluator, PolylensTrainer
from polylens.errors import InputError, closest
from polylens.files import write_text

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Validation:
    """What an evaluator measures on."""

    pairs: Sequence[Pair]
    documents: DocumentSource
    checkpoint: Checkpoint
    preparer: Preparer
    card: ModelCard
    batch_size: int
    device: torch.device
    loader: dict[str, Any]


@dataclass(slots=True)
class TrainingResult:
    """What a run leaves behind.

    Attributes:
        folder: model folder, or adapter folder with LoRA.
        steps: optimizer steps in all.
        loss: mean training loss of this call.
        best: the best value of ``metric_for_best_model``, if there was validation.
        is_main: whether this process is the one that reports.
    """

    folder: Path
    steps: int
    loss: float
    best: float | None
    is_main: bool

    def __str__(self) -> str:
        best = "" if self.best is None else f", best validation {self.best:.4f}"
        return f"{self.steps} steps, mean loss {self.loss:.4f}{best}: the model is in {self.folder}"


def train(config: RunConfig, evaluator: Callable[[Validation], Evaluator]) -> TrainingResult:
    """Train, and write the model, or the best checkpoint if there is validation data, into ``output_dir``.

    Args:
        evaluator: makes what measures the model on validation data.

    Raises:
        InputError: anything in the configuration, the data or the model that cannot be used.
    """
    with exclusive(Path(config.output_dir)), explained("then go on with --resume-from-checkpoint true"):
        return _train(config, evaluator)


def _train(config: RunConfig, evaluator: Callable[[Validation], Evaluator]) -> TrainingResult:
    disable_progress_bar()  # of transformers, for every checkpoint; the run has its own
    objective = build_objective(config)
    resume = checkpoint_to_resume(config)
    if resume is not None:
        check_checkpoint(Path(resume))
    args, accumulation = training_arguments(config)
    _check_kept_graphs(config, args)
    resume = distributed.gather_objects(resume)[0]  # rank 0 has the folder to itself
    set_seed(args.seed)
    data = _read_data(config)
    checkpoint = load_checkpoint(
        config.model_plugin,
        config.model,
        base=config.base,
        options=config.options,
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
        seed=args.seed,
        vision_chunk_size=config.gradient_cache.vision_chunk_size,
    )
    choose_trained(checkpoint.model, checkpoint.family, objective, config.tune, config.lora)
    card = _card(config, checkpoint, objective)
    preparer = checkpoint.preparer(
        ImageOpener(_image_root(config, config.data.train[0]), data.documents), style="plain"
    )
    planner = _planner(config, args, accumulation, data, preparer, objective)
    validation = _validation(config, args, checkpoint, card, data.documents) if config.data.validation else None
    measure = evaluator(validation) if validation else None
    trainer = PolylensTrainer(
        checkpoint,
        objective,
        args,
        planner,
        card,
        measure,
        cache=config.gradient_cache,
        verify_gradient=config.verify_gradient,
    )
    _write_run(config, args)
    with only_values(deepspeed=bool(args.deepspeed)):
        outcome = trainer.train(resume_from_checkpoint=resume)
    return _finish(trainer, outcome.training_loss, config.training.get("load_best_model_at_end", True))


def build_objective(config: RunConfig) -> Objective:
    """The objective that the run names, from any installed plugin.

    Raises:
        InputError: no plugin has it, or it does not know one of its options.
    """
    hooks, broken = plugins.load_all()
    found = hooks.objective(name=config.objective.name, options=config.objective.options)
    if found is None:
        from polylens.objectives import OBJECTIVES

        names = ", ".join(OBJECTIVES)
        hint = f"; plugins that do not load: {', '.join(broken)}" if broken else ""
        near = closest(config.objective.name, OBJECTIVES)
        raise InputError(f"no objective {config.objective.name!r}{near}; the core has: {names}{hint}")
    if found.records != "pairs":
        raise InputError(f"objective {config.objective.name!r} trains on {found.records}, not on pairs")
    return found


def _check_kept_graphs(config: RunConfig, args: TrainingArguments) -> None:
    zero3 = bool(args.deepspeed) and args.hf_deepspeed_config.is_zero3()  # an attribute with DeepSpeed alone
    if config.gradient_cache.keep_graphs_gb and config.gradient_cache.low_memory and zero3:
        raise InputError(
            "gradient_cache: keep_graphs_gb with low_memory under ZeRO-3 would give wrong gradients without a word; "
            "leave out one of them"
        )


def _read_data(config: RunConfig) -> Pairs:
    if not config.data.train:
        raise InputError("there is nothing to train on: give --train pairs.jsonl")
    documents = open_documents([Path(path) for path in config.data.documents]) if config.data.documents else None
    return _read_pairs(config, config.data.train, documents, "quarantine")


def _read_pairs(config: RunConfig, paths: Sequence[str], documents: DocumentSource | None, aside: str) -> Pairs:
    """Pairs of files; bad records are counted and go to the file ``aside`` if the run is to go on without them."""
    quarantine = _quarantine(config, aside)
    pairs = read_pairs(
        [Path(path) for path in paths],
        documents=documents,
        query_instruction=config.data.query_instruction,
        on_bad_record=config.data.on_bad_record,
        quarantine=quarantine,
    )
    if pairs.quarantined:
        log.warning("%d bad records were left out; see %s", pairs.quarantined, quarantine)
    return pairs


def _validation(
    config: RunConfig, args: TrainingArguments, checkpoint: Checkpoint, card: ModelCard, documents: DocumentSource
) -> Validation:
    path = str(config.data.validation)
    pairs = _read_pairs(config, [path], documents, "quarantine.validation")
    preparer = checkpoint.preparer(ImageOpener(_image_root(config, path), pairs.documents), style="plain")
    loader = {"num_workers": args.dataloader_num_workers}
    return Validation(
        pairs.pairs, pairs.documents, checkpoint, preparer, card, args.per_device_eval_batch_size, args.device, loader
    )


def _quarantine(config: RunConfig, name: str) -> Path:
    """Every rank reads all data; each writes a file of its own, for a folder may be shared."""
    rank = int(os.environ.get("RANK", "0"))
    return Path(config.output_dir) / (f"{name}.jsonl" if rank == 0 else f"{name}.rank{rank}.jsonl")


def _image_root(config: RunConfig, path: str) -> Path:
    return Path(config.data.image_root or Path(path).parent)


def _planner(
    config: RunConfig,
    args: TrainingArguments,
    accumulation: int,
    data: Pairs,
    preparer: Preparer,
    objective: Objective,
) -> StepPlanner:
    size = args.per_device_train_batch_size * args.world_size
    check_enough_documents(data.pairs, size)
    cache, lengths = config.gradient_cache, (config.data.query_max_length, config.data.document_max_length)
    batches = PairBatches(
        data.pairs,
        size,
        seed=args.data_seed if args.data_seed is not None else args.seed,
        shuffle=config.data.batches == "shuffle",
        drop_last=args.dataloader_drop_last,
    )
    if not len(batches):
        raise InputError(
            f"no batch has all its {size} queries, and --dataloader-drop-last leaves the others out: lower "
            "--per-device-train-batch-size, or leave that option out"
        )
    return StepPlanner(
        PairRecords(data.pairs, data.documents, preparer, lengths),
        batches,
        rank=args.process_index,
        ranks=args.world_size,
        budget=_budget(config),
        sort=cache.sort_by_cost,
        accumulation=accumulation,
        hard_negatives=config.data.hard_negatives,
        # an objective without a coupled part makes one pass, and sees every micro-batch at once
        pixel_cache_bytes=int(cache.pixel_cache_gb * 2**30) if objective.is_coupled else 2**63,
    )


def _budget(config: RunConfig) -> Budget:
    cache = config.gradient_cache
    if not cache.enable:
        return Budget()
    if cache.micro_batch_size is None and cache.micro_batch_tokens is None:
        return Budget(rows=8)
    try:
        return Budget(rows=cache.micro_batch_size, tokens=cache.micro_batch_tokens)
    except ValueError as error:
        raise InputError(f"gradient_cache: {error}") from error


def _card(config: RunConfig, checkpoint: Checkpoint, objective: Objective) -> ModelCard:
    """What evaluation has to know, so that it does what training did."""
    options: Any = getattr(objective, "options", None)
    base = _base_model(config, checkpoint)
    return dataclasses.replace(
        checkpoint.card,
        style="plain",
        objective={"name": config.objective.name, "options": dict(config.objective.options)},
        pooling=getattr(options, "pooling", checkpoint.card.pooling),
        normalize=getattr(options, "normalize", checkpoint.card.normalize),
        dimensions=sorted(getattr(options, "matryoshka_dims", None) or [], reverse=True),
        query_instruction=config.data.query_instruction,
        query_max_length=config.data.query_max_length,
        document_max_length=config.data.document_max_length,
        base_model=base,
        base_seed=None if base is None else checkpoint.seed,
        versions=ModelCard(plugin="", family="").versions,
    )


def _base_model(config: RunConfig, checkpoint: Checkpoint) -> str | None:
    """The model under the adapter: a folder by its absolute path, a preset or hub id by its name."""
    if not config.lora.enable and checkpoint.source.adapter is None:
        return None
    base = checkpoint.source.base or config.model
    folder = Path(base).expanduser()
    return str(folder.resolve()) if folder.is_dir() else base


def _write_run(config: RunConfig, args: TrainingArguments) -> None:
    if args.should_save:
        folder = Path(config.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "run.yaml", [run_text(config)])


def _finish(trainer: PolylensTrainer, loss: float, keep_best: bool) -> TrainingResult:
    """The best checkpoint, or the last weights, as a model folder.

    Args:
        keep_best: whether the best checkpoint is preferred; ``load_best_model_at_end: false`` says it is not.
    """
    folder, best = trainer.folder, trainer.state.best_model_checkpoint if keep_best else None
    partial = folder / LAST_MODEL
    if best is None:
        trainer.save_model(str(partial), _internal_call=True)
    if trainer.args.should_save:
        copy_model_folder(Path(best or partial), folder)
        remove(partial)
        trainer.remove_old_checkpoints()  # as a run that was killed before it could
    distributed.barrier()
    return TrainingResult(folder, trainer.state.global_step, loss, trainer.state.best_metric, trainer.args.should_save)
