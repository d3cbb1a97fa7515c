"""What a run would do, found without training: its data are read, its model is built without weights."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import TrainingArguments

from polylens import plugins
from polylens.config.card import ModelCard
from polylens.config.run import RunConfig
from polylens.config.stages import Stage
from polylens.engine.arguments import training_arguments
from polylens.engine.estimate.parameters import Parameters, count_parameters
from polylens.engine.frontend import load_frontend
from polylens.engine.learning_rates import check_learning_rates
from polylens.engine.loading import Checkpoint, load_checkpoint
from polylens.engine.quantization import check_adapters
from polylens.engine.sources import find_model
from polylens.engine.stages import state_of_its_own
from polylens.engine.steps import StepPlanner
from polylens.engine.trainable import choose_trained
from polylens.engine.training import TASKS, build_objective
from polylens.engine.weights import outline_of


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a run would do.

    Attributes:
        model: what it starts from.
        folder: where its model would be.
        objective: name of the objective, and the kind of records that it trains on.
        records, batch: how many records there are, and how many one step sees.
        steps_an_epoch, steps: optimizer steps.
        parameters: of the model, and how many of them are trained.
        learning_rates: the run's own, and those of single components.
    """

    model: str
    folder: str
    objective: tuple[str, str]
    records: int
    batch: int
    steps_an_epoch: int
    steps: int
    parameters: Parameters
    learning_rates: dict[str, float]
    scheduler: str

    def __str__(self) -> str:
        name, kind = self.objective
        found = self.parameters
        each = [f"{name} {count.trained:,}" for name, count in found.components.items() if count.trained]
        each += [f"adapters {found.adapter:,}"] if found.adapter else []
        rates = ", ".join(f"{name} {rate:g}" if name else f"{rate:g}" for name, rate in self.learning_rates.items())
        return "\n".join(
            [
                f"{self.model} -> {self.folder}",
                f"  {name} on {self.records:,} {kind}: {self.steps:,} steps of {self.batch:,}, "
                f"{self.steps_an_epoch:,} an epoch",
                f"  trains {found.trained:,} of {found.weights:,} weights: {', '.join(each)}",
                f"  learning rate {rates}, {self.scheduler}",
            ]
        )


def dry_run(config: RunConfig) -> Prospect:
    """Read the data of a run, build its model without weights, and plan its first epoch; nothing is written.

    Raises:
        InputError: what the run itself would raise before it trains.
    """
    return _prospect(config, [config])


def dry_run_stages(stages: Sequence[Stage]) -> list[Prospect]:
    """The same for stages; where the model of one is not there yet, it has the form of what that one starts from."""
    by_name = {stage.name: stage for stage in stages}
    return [_prospect(stage.run, _line(stage, by_name)) for stage in stages]


def _line(stage: Stage, by_name: dict[str, Stage]) -> list[RunConfig]:
    """The runs that lead to a stage, the first one first; its own is the last."""
    before = [] if stage.source is None else _line(by_name[stage.source], by_name)
    return [*before, stage.run]


def _prospect(config: RunConfig, line: Sequence[RunConfig]) -> Prospect:
    objective = build_objective(config)
    with tempfile.TemporaryDirectory() as folder, state_of_its_own():
        aside = replace(config, output_dir=folder)  # bad records that are set aside
        args, accumulation = training_arguments(aside, objective.records)
        zero3 = bool(args.deepspeed) and args.hf_deepspeed_config.is_zero3()
        check_adapters(config.lora, config.tune, zero3=zero3)
        task = TASKS[objective.records](aside, objective)
        checkpoint = _outline(config, line)
        check_learning_rates(config.learning_rates, checkpoint.model, checkpoint.family)
        objective.use_tokenizer(checkpoint.tokenizer)
        planner = task.planner(checkpoint, args, accumulation)
        return Prospect(
            model=config.model,
            folder=config.output_dir,
            objective=(config.objective.name, objective.records),
            records=planner.batches.count,
            batch=args.per_device_train_batch_size * args.world_size * accumulation,
            steps_an_epoch=len(planner),
            steps=_steps(args, planner),
            parameters=count_parameters(checkpoint.model, checkpoint.family),
            learning_rates={"": args.learning_rate, **config.learning_rates},
            scheduler=str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        )


def _steps(args: TrainingArguments, planner: StepPlanner) -> int:
    return args.max_steps if args.max_steps > 0 else int(-(-args.num_train_epochs * len(planner) // 1))


def _outline(config: RunConfig, line: Sequence[RunConfig]) -> Checkpoint:
    """The model as the run would train it, on the meta device; with its weights only if it starts from an adapter."""
    first = line[0]
    hooks = plugins.load(config.model_plugin)
    found = find_model(first.model, hooks.families(), config.model_plugin, first.base, options=first.options)
    if found.adapter is not None:
        checkpoint = load_checkpoint(config.model_plugin, first.model, base=first.base, options=config.options)
    else:
        front = load_frontend(hooks, found, config.options)
        card = found.card or ModelCard(plugin=config.model_plugin, family=found.family.name, **found.family.defaults)
        checkpoint = Checkpoint(
            config.model_plugin,
            found.family,
            found,
            hooks,
            front.options,
            outline_of(hooks, found),
            front.tokenizer,
            front.slicer,
            front.preprocessor,
            front.template,
            dataclasses.replace(card, options=dataclasses.asdict(front.options)),
        )
    declared = [(weight, weight.requires_grad) for weight in checkpoint.model.parameters()]
    for run in line:
        for weight, trained in declared:  # as a model that was saved and loaded again has it
            weight.requires_grad_(trained)
        objective = build_objective(run)
        choose_trained(checkpoint.model, found.family, objective, run.tune, run.lora, run.tune_from_layer)
    return checkpoint
