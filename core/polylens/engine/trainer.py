"""transformers' Trainer, with the step, the batches and the checkpoints of polylens."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState, PrinterCallback, ProgressCallback
from transformers.trainer_utils import sort_checkpoints

from polylens.config.card import ModelCard
from polylens.config.run import GradientCacheConfig
from polylens.contracts import Batch, Objective
from polylens.engine import distributed
from polylens.engine.accumulation import Accumulation, Part, accumulation_for
from polylens.engine.arguments import loader_of
from polylens.engine.frozen import FrozenOutputs
from polylens.engine.gradient_cache import GradientCache, StepResult
from polylens.engine.learning_rates import set_learning_rates
from polylens.engine.loading import Checkpoint
from polylens.engine.progress import ConsoleLine, MetricsFile
from polylens.engine.reading import refusing
from polylens.engine.saving import (
    CHECKPOINT,
    PARTIAL,
    hide,
    publish,
    read_objective_parameters,
    remove,
    save_model_folder,
)
from polylens.engine.steps import BatchPlan, StepPlanner
from polylens.engine.stream import MicroBatchStream
from polylens.engine.training_module import TrainingModule
from polylens.engine.verification import GradientCheck
from polylens.engine.weights import reload_weights
from polylens.errors import InputError

GIB = 2**30
Evaluator = Callable[[TrainingModule], dict[str, float]]
"""Measures the model inside its wrapper, without gradients; called on every rank."""


class StepNumbers(Dataset[tuple[int, int]]):
    """What Trainer's loader iterates over: (epoch, step). Batches come from the ``MicroBatchStream``."""

    def __init__(self, planner: StepPlanner) -> None:
        self.planner = planner
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.planner)

    def __getitem__(self, step: int) -> tuple[int, int]:
        return self.epoch, step


class PolylensTrainer(Trainer):
    """Trains a checkpoint with an objective through the gradient cache.

    ``gradient_accumulation_steps`` of the arguments must be 1: accumulation lies inside the step of ``planner``.

    Args:
        checkpoint: model and what belongs to it.
        card: written as ``polylens.json`` into every checkpoint.
        evaluator: measures the model.
        cache: what the gradient cache may keep, and how gradients are reduced.
        verify_gradient: check the gradient before the first step; see ``GradientCheck``.
        learning_rates: component -> its own rate.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        objective: Objective,
        args: TrainingArguments,
        planner: StepPlanner,
        card: ModelCard,
        evaluator: Evaluator | None = None,
        cache: GradientCacheConfig | None = None,
        verify_gradient: bool = False,
        learning_rates: Mapping[str, float] | None = None,
    ) -> None:
        self.learning_rates = learning_rates or {}
        self.cache, self.verify_gradient = cache or GradientCacheConfig(), verify_gradient
        self.checkpoint, self.objective, self.card, self.evaluator = checkpoint, objective, card, evaluator
        self.folder = Path(str(args.output_dir))
        self.steps = StepNumbers(planner)
        # Trainer wants an evaluation set before it evaluates; what is measured on is the evaluator's own business.
        measured = self.steps if evaluator is not None else None
        module = TrainingModule(checkpoint.model, objective)
        super().__init__(module, args, train_dataset=self.steps, eval_dataset=measured)
        self.frozen = self._frozen_outputs()
        self.stream = MicroBatchStream(planner, checkpoint.collator(), loader_of(args), args.device)
        self._window = _Window(objective.records)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.add_callback(ConsoleLine)
        self.add_callback(MetricsFile(self.folder))

    # Batches

    def get_train_dataloader(self) -> DataLoader[tuple[int, int]]:
        order = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(self.steps), 1, drop_last=False)
        return DataLoader(self.steps, batch_sampler=order, collate_fn=_only, generator=torch.Generator())

    def num_examples(self, dataloader: Any) -> int:
        return self.steps.planner.batches.count

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], None]:
        return [step for _, step in zip(range(num_batches), epoch_iterator, strict=False)], None

    def _run_epoch(self, model: nn.Module, epoch: int, *args: Any, **kwargs: Any) -> None:
        self.steps.epoch = epoch
        super()._run_epoch(model, epoch, *args, **kwargs)

    # The step

    def training_step(self, model: nn.Module, inputs: tuple[int, int], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward passes of one optimizer step, over all its global batches."""
        model.train()
        if self.verify_gradient:
            self.verify_gradient = False
            self._verify_gradient(model, inputs)
        parts = self.stream.step(*inputs)
        total = torch.zeros((), device=self.args.device)
        for plan, result in self._gradients(model, parts):
            self._window.add(plan, result, len(parts))
            total += result.loss.detach().to(total) / len(parts)
        if self.is_deepspeed_enabled:
            engine: Any = model  # which steps the optimizer itself
            engine.set_gradient_accumulation_boundary(True)
            engine.step()
        return total

    def _gradients(
        self, model: nn.Module, parts: Sequence[tuple[BatchPlan, Iterable[Batch]]]
    ) -> list[tuple[BatchPlan, StepResult]]:
        """Adds the gradient of all parts to what the optimizer sees."""
        results = []
        accumulation = self._accumulation(model)
        with accumulation.step():
            for i, (plan, micro_batches) in enumerate(parts):
                part = Part(accumulation, share=1 / len(parts), last=i == len(parts) - 1)
                options: dict[str, Any] = {"graph_bytes": int(self.cache.keep_graphs_gb * GIB), "frozen": self.frozen}
                cache = GradientCache.of_module(model, self.objective, part, **options)
                results.append((plan, cache.step(micro_batches, plan.targets, plan.normalisers)))
                self._check(results[-1][1])
        return results

    def _frozen_outputs(self) -> FrozenOutputs:
        whole = self.objective.first_inputs is None
        model: Any = self.model
        return FrozenOutputs(model, int(self.cache.frozen_cache_gb * GIB), whole_first_pass=whole)

    def _verify_gradient(self, model: nn.Module, inputs: tuple[int, int]) -> None:
        check = GradientCheck(
            self.objective,
            self.checkpoint.family,
            self.steps.planner,
            self.checkpoint.collator(),
            self.args.device,
            self._gradients,
            self.accelerator.scaler,
            half=self.args.bf16 or self.args.fp16 or self.checkpoint.model.dtype.itemsize == 2,
        )
        report = check.run(model, *inputs)
        self.frozen = self._frozen_outputs()  # which in its first step finds what to keep
        self._window = _Window(self.objective.records)  # the check is no part of the first step's time
        if self.is_world_process_zero():
            tqdm.write(str(report))

    def _accumulation(self, model: nn.Module) -> Accumulation:
        scaled = self.accelerator if self.accelerator.scaler is not None else None
        return accumulation_for(model, scaled, low_memory=self.cache.low_memory)

    def _check(self, result: StepResult) -> None:
        loss = float(result.loss)
        if not math.isfinite(loss):
            raise InputError(
                f"the loss of step {self.state.global_step + 1} is {loss}: training stops before it reaches the "
                f"weights, and the checkpoints in {self.args.output_dir} are kept. Go on from one of them with a "
                "lower --learning-rate, or with --bf16 instead of --fp16; if the last one fails again, take an earlier"
            )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        if self.learning_rates:
            set_learning_rates(optimizer, self.learning_rates, self.checkpoint.model, self.checkpoint.family)
        return optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weight decay does not pull at a temperature."""
        return [name for name in super().get_decay_parameter_names(model) if "objective_parameters" not in name]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self._window.figures())
        super().log(logs, start_time)

    # Evaluation

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Figures of the evaluator, named ``eval_<measure>``."""
        if self.evaluator is None:
            raise InputError("there is nothing to evaluate on: give --validation")
        model: Any = self.model_wrapped
        model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            found = self.evaluator(_inner(model))
        model.train()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # Checkpoints

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Nothing: the repository was made before anything was loaded."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a model folder; under ZeRO every rank takes part."""
        state_dict: Any = self.accelerator.get_state_dict(self.model_wrapped)
        if self.args.should_save:
            weights = {k.removeprefix("model."): v for k, v in state_dict.items() if k.startswith("model.")}
            prefix = "objective_parameters."
            parameters = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
            folder = Path(output_dir) if output_dir else self.folder
            save_model_folder(self.checkpoint, folder, self.card, state_dict=weights, parameters=parameters)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint under another name first: it appears whole or not at all."""
        final = self.folder / f"{CHECKPOINT}-{self.state.global_step}"
        partial = final.with_name(f".{final.name}{PARTIAL}")
        try:
            self._write_checkpoint(partial, final)
        except BaseException:  # an interrupt too: a part of a checkpoint is of no use, and the disk may be full
            if self.args.should_save:
                remove(partial)
            raise
        if self.args.should_save:
            publish(partial, final)
            self.remove_old_checkpoints()
        distributed.barrier()

    def _write_checkpoint(self, partial: Path, final: Path) -> None:
        if self.args.should_save:
            remove(partial)
            partial.mkdir(parents=True)
        distributed.barrier()
        self.save_model(str(partial), _internal_call=True)
        if self.state.best_global_step:
            best = final.with_name(f"{CHECKPOINT}-{self.state.best_global_step}")
            self.state.best_model_checkpoint = str(best) if best == final or best.exists() else None
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(partial))
            self._save_scaler(str(partial))
            self._save_rng_state(str(partial))
        self._save_state(partial)
        distributed.barrier()

    def remove_old_checkpoints(self) -> None:
        """Keep ``save_total_limit`` checkpoints; that of this step and the best are among them."""
        limit, newest = self.args.save_total_limit or 0, f"{CHECKPOINT}-{self.state.global_step}"
        kept = {newest, Path(self.state.best_model_checkpoint or newest).name}
        found = [Path(path) for path in sort_checkpoints(str(self.folder), use_mtime=True)]
        surplus = max(len(found) - max(limit, len(kept)), 0) if limit > 0 else 0
        for folder in [path for path in found if path.name not in kept][:surplus]:
            remove(hide(folder))

    def _save_state(self, folder: Path) -> None:
        if not self.args.should_save:
            return
        stateful: Any = self.state.stateful_callbacks
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                stateful[type(callback).__name__] = callback.state()
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        reload_weights(self.checkpoint.model, self.checkpoint.source, folder)
        saved, own = read_objective_parameters(folder), self.objective.parameters()
        if saved.keys() != own.keys():
            raise InputError(
                f"{folder}: trained the objective's values {sorted(saved)}, and this run trains {sorted(own)}: go on "
                "with the options that it was started with"
            )
        with torch.no_grad(), refusing(f"{folder}: the objective's values do not fit"):
            for name, parameter in own.items():
                parameter.copy_(saved[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with refusing(f"{checkpoint}: its optimizer or scheduler does not fit this run"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with refusing(f"{checkpoint}: its random state cannot be restored"):
            super()._load_rng_state(checkpoint)


class _Window:
    """Figures since the last log."""

    def __init__(self, records: str) -> None:
        self._name = f"{records}_per_second"
        self._reset()

    def _reset(self) -> None:
        self._start = time.monotonic()
        self._metrics: dict[str, float] = {}
        self._steps = 0.0
        self._records = self._tokens = self._padded = 0

    def add(self, plan: BatchPlan, result: StepResult, parts: int) -> None:
        for name, value in result.metrics.items():
            self._metrics[name] = self._metrics.get(name, 0.0) + value / parts
        self._steps += 1 / parts
        self._records += plan.size
        self._tokens += plan.tokens
        self._padded += plan.padded_tokens

    def figures(self) -> dict[str, float]:
        """Mean metrics, and what was done a second over all ranks; memory is this process's peak, in GiB."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        found = {name: value / max(self._steps, 1) for name, value in self._metrics.items()}
        found[self._name] = self._records / seconds
        found["tokens_per_second"] = self._tokens / seconds
        found["memory_gib"] = peak_memory() / GIB
        self._reset()
        return found


def peak_memory() -> int:
    """Bytes: the accelerator's peak where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _inner(model: Any) -> TrainingModule:
    """What lies in the wrapper: evaluation needs no gradient reduction, and ZeRO-3's hooks lie on the modules."""
    return model.module if hasattr(model, "module") else model


def _only(items: list[Any]) -> Any:
    return items[0]
