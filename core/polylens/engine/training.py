"""A training run, from its configuration to a model folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainingArguments, set_seed
from transformers.utils.logging import disable_progress_bar

from polylens import plugins
from polylens.config.card import ModelCard
from polylens.config.parser import run_text
from polylens.config.run import RunConfig
from polylens.contracts import Objective
from polylens.engine import distributed, hub
from polylens.engine.arguments import checkpoint_to_resume, loader_of, training_arguments
from polylens.engine.conversation_training import ConversationTask
from polylens.engine.failures import explained
from polylens.engine.learning_rates import check_learning_rates
from polylens.engine.loaders import expect_workers
from polylens.engine.loading import Checkpoint, load_checkpoint
from polylens.engine.pair_training import PairTask
from polylens.engine.quantization import check_adapters
from polylens.engine.rehearsal import rehearse_saving, repair_generation_config
from polylens.engine.resuming import check_checkpoint, only_values
from polylens.engine.run_folder import exclusive
from polylens.engine.saving import LAST_MODEL, copy_model_folder, remove
from polylens.engine.tasks import MakeEvaluator, Task
from polylens.engine.trainable import choose_trained
from polylens.engine.trainer import PolylensTrainer
from polylens.errors import InputError, closest
from polylens.files import write_text

log = logging.getLogger(__name__)


RUN_FILE = "run.yaml"
"""In the folder of a run: its configuration."""

TASKS: dict[str, type[Task]] = {"pairs": PairTask, "conversations": ConversationTask}
"""By the kind of records that an objective trains on."""


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


def train(config: RunConfig, evaluators: Mapping[str, MakeEvaluator]) -> TrainingResult:
    """Train, and write the model, or the best checkpoint if there is validation data, into ``output_dir``.

    Args:
        evaluators: by the kind of records, what measures the model on validation data: ``pairs`` is needed for them;
            ``conversations`` adds its figures to the loss, if it is there.

    Raises:
        InputError: anything in the configuration, the data or the model that cannot be used.
    """
    with exclusive(Path(config.output_dir)), explained("then go on with --resume-from-checkpoint true"):
        return _train(config, evaluators)


def _train(config: RunConfig, evaluators: Mapping[str, MakeEvaluator]) -> TrainingResult:
    disable_progress_bar()  # of transformers, for every checkpoint; the run has its own
    objective = build_objective(config)
    resume = checkpoint_to_resume(config)
    if resume is not None:
        check_checkpoint(Path(resume))
    args, accumulation = training_arguments(config, objective.records)
    _check_kept_graphs(config, args, objective)
    zero3 = bool(args.deepspeed) and args.hf_deepspeed_config.is_zero3()
    check_adapters(config.lora, config.tune, zero3=zero3)
    if args.push_to_hub:
        args.hub_model_id = distributed.agreed(lambda: hub.open_repository(args))[0]
    resume = distributed.gather_objects(resume)[0]  # rank 0 has the folder to itself
    set_seed(args.seed)
    task = TASKS[objective.records](config, objective)
    checkpoint = load_checkpoint(
        config.model_plugin,
        config.model,
        base=config.base,
        options=config.options,
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
        seed=args.seed,
        vision_chunk_size=config.gradient_cache.vision_chunk_size,
        lora=config.lora,
    )
    expect_workers(loader_of(args), checkpoint.parts)
    objective.use_tokenizer(checkpoint.tokenizer)
    choose_trained(checkpoint.model, checkpoint.family, objective, config.tune, config.lora, config.tune_from_layer)
    check_learning_rates(config.learning_rates, checkpoint.model, checkpoint.family)
    card = _card(config, checkpoint, task)
    repair_generation_config(checkpoint.model, checkpoint.source.folder)
    distributed.agreed(lambda: rehearse_saving(checkpoint, Path(config.output_dir)))
    planner = task.planner(checkpoint, args, accumulation)
    measure = task.evaluator(checkpoint, args, card, evaluators.get(objective.records))
    trainer = PolylensTrainer(
        checkpoint,
        objective,
        args,
        planner,
        card,
        measure,
        cache=config.gradient_cache,
        verify_gradient=config.verify_gradient,
        learning_rates=config.learning_rates,
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
    return found


def _check_kept_graphs(config: RunConfig, args: TrainingArguments, objective: Objective) -> None:
    if config.gradient_cache.keep_graphs_gb and not objective.is_coupled:
        raise InputError(
            f"gradient_cache: keep_graphs_gb has nothing to keep: {config.objective.name!r} takes a single pass"
        )
    if config.gradient_cache.keep_graphs_gb and type(objective).additive is not Objective.additive:
        raise InputError(
            f"gradient_cache: keep_graphs_gb has nothing to keep: a part of {config.objective.name!r} is a sum over "
            "records, and what that is divided by is known after the first pass"
        )
    zero3 = bool(args.deepspeed) and args.hf_deepspeed_config.is_zero3()  # an attribute with DeepSpeed alone
    if config.gradient_cache.keep_graphs_gb and config.gradient_cache.low_memory and zero3:
        raise InputError(
            "gradient_cache: keep_graphs_gb with low_memory under ZeRO-3 would give wrong gradients without a word; "
            "leave out one of them"
        )


def _card(config: RunConfig, checkpoint: Checkpoint, task: Task) -> ModelCard:
    """What evaluation has to know, so that it does what training did."""
    base = _base_model(config, checkpoint)
    return dataclasses.replace(
        task.card(checkpoint.card),
        style=task.style,
        objective={"name": config.objective.name, "options": dict(config.objective.options)},
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
        kept = {name: value for name, value in config.training.items() if name != "hub_token"}
        config = dataclasses.replace(config, training=kept)
        write_text(folder / RUN_FILE, [run_text(config)])


def _finish(trainer: PolylensTrainer, loss: float, keep_best: bool) -> TrainingResult:
    """The best checkpoint, or the last weights, as a model folder.

    Args:
        keep_best: whether the best checkpoint is preferred; ``load_best_model_at_end: false`` says it is not.
    """
    folder, best = trainer.folder, trainer.state.best_model_checkpoint if keep_best else None
    partial = folder / LAST_MODEL
    if best is None:
        trainer.save_model(str(partial), _internal_call=True)
    names = []
    if trainer.args.should_save:
        names = copy_model_folder(Path(best or partial), folder)
        remove(partial)
        trainer.remove_old_checkpoints()  # as a run that was killed before it could
    distributed.barrier()  # before a push, whose length is the network's: no rank waits for it
    if trainer.args.push_to_hub and trainer.is_world_process_zero():
        hub.push(folder, names, str(trainer.args.hub_model_id), trainer.args)
    return TrainingResult(folder, trainer.state.global_step, loss, trainer.state.best_metric, trainer.args.should_save)
