"""Whether the gradient of a run is right, tried on its own model, data and launcher before it trains.

A few pairs go through the same step as all that follow, and once more through plain autograd graphs
(``engine/direct_gradient.py``). Both give the same gradient but for rounding; what they give is compared, and the run
then starts as if nothing had been (``engine/untouched.py``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polylens.contracts import Batch, Collator, ModelFamily, Objective
from polylens.engine import distributed
from polylens.engine.direct_gradient import DirectGradient, Forward, direct_gradient, full_shape
from polylens.engine.gradient_cache import PassesDiffer
from polylens.engine.planner import Budget
from polylens.engine.random_state import RandomState
from polylens.engine.steps import BatchPlan, StepPlanner
from polylens.engine.stream import MicroBatches, unpack
from polylens.engine.trainable import component_of
from polylens.engine.untouched import is_deepspeed, loss_scale, untouched
from polylens.errors import InputError

FLOAT32_LIMIT = 1e-3
"""Largest relative error of float32 weights. Sums in another order differ by 1e-7 to 1e-5; every known way to lose a
micro-batch, a rank or a dropout mask by 0.1 and more."""

HALF_LIMIT = 3e-2
"""With bfloat16 or float16: a rounding step is 0.4 % and 0.05 %, and micro-batches add up in that precision."""

OBJECTIVE_LIMIT = 1e-3
"""Largest relative error of an objective's own gradient; differences in float64 are right to about 1e-6."""

UNDECIDED = 0.5
"""A limit from which on right and wrong cannot be told apart."""

COMPARED_BYTES = 2 << 30
"""Gradients that are compared, as float32: of larger models a sample."""

Part = tuple[BatchPlan, list[Batch]]
Gradients = Callable[[nn.Module, Sequence[tuple[BatchPlan, Iterable[Batch]]]], Any]


@dataclass(frozen=True, slots=True)
class GradientReport:
    """How the two gradients compare, the same on every rank.

    Attributes:
        error: length of the difference over that of the direct gradient, over all compared weights.
        limit: what it may be.
        components: component -> its own relative error, ``objective`` being the objective's own parameters.
        objective_error: relative error of the objective's gradient against differences of its loss.
        pairs, micro_batches: pairs or conversations of all ranks; micro-batches of one rank.
        compared, trained: numbers of weights.
        launcher: how the gradient was summed.
        records: ``pairs`` or ``conversations``.
    """

    error: float
    limit: float
    components: dict[str, float]
    objective_error: float
    pairs: int
    micro_batches: int
    compared: int
    trained: int
    launcher: str
    records: str = "pairs"

    @property
    def is_decided(self) -> bool:
        return self.limit < UNDECIDED

    @property
    def is_right(self) -> bool:
        return max(self.error, *self.components.values()) <= self.limit

    def __str__(self) -> str:
        each = ", ".join(f"{name} {error:.1e}" for name, error in self.components.items())
        verdict = "" if self.is_decided else ", too little to tell: the loss of these pairs is nearly 0"
        weights = f"{self.compared:,} of {self.trained:,} trained weights"
        return (
            f"gradient verified: relative error {self.error:.1e} (limit {self.limit:.0e}{verdict}; {each}) on "
            f"{self.pairs} {self.records} in {self.micro_batches} micro-batches a rank, {weights}, {self.launcher}"
        )


@dataclass(slots=True)
class GradientCheck:
    """Compares the gradient that a trainer computes with a direct one.

    Args:
        gradients: adds the gradient of all parts to what the optimizer sees, as in every step.
        scaler: of fp16 losses, outside DeepSpeed.
        half: whether anything is computed in a 16-bit type.
    """

    objective: Objective
    family: ModelFamily
    planner: StepPlanner
    collator: Collator
    device: torch.device
    gradients: Gradients
    scaler: Any = None
    half: bool = False

    def run(self, model: nn.Module, epoch: int, step: int) -> GradientReport:
        """Check on the first pairs of a step; every rank must call it. The run is left as it was.

        Raises:
            InputError: the gradient is wrong, or cannot be computed directly.
        """
        parts = self._parts(epoch, step)
        module: Any = model.module if hasattr(model, "module") else model
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        owners = {name: self._component(name) for name in trained}
        names = sample({name: full_shape(p).numel() for name, p in trained.items()}, owners)
        chosen = {name: trained[name] for name in names}
        with untouched(model, self.scaler) as trial:
            start, scale = RandomState.capture(), loss_scale(model, self.scaler)
            self._cached(trial, parts)
            start.restore()
            direct = self._direct(model, parts, chosen, scale)
            squares = _squares(model, chosen, direct.values, owners, scale)
        error, components = relative_errors(squares)
        report = GradientReport(
            error=max(distributed.gather_objects(error)),
            limit=(HALF_LIMIT if self.half else FLOAT32_LIMIT) + 10 * direct.rounding,
            components=_largest(distributed.gather_objects(components)),
            objective_error=direct.objective_error,
            pairs=sum(plan.size for plan, _ in parts),
            micro_batches=sum(len(batches) for _, batches in parts),
            compared=sum(full_shape(p).numel() for p in chosen.values()),
            trained=sum(full_shape(p).numel() for p in trained.values()),
            launcher=_launcher(model),
            records=self.objective.records,
        )
        _refuse(report, type(self.objective).__name__)
        return report

    def _parts(self, epoch: int, step: int) -> list[Part]:
        """The first pairs of the step's first batches, in micro-batches small enough for each rank to have several."""
        planner = few_pairs(self.planner, epoch, step)
        data = MicroBatches(planner.records, self.collator)
        return [
            (plan, [unpack(data[rows]).to(self.device) for rows in plan.micro_batches])
            for plan in planner.step(epoch, 0)
        ]

    def _component(self, name: str) -> str:
        if name.startswith("objective_parameters."):
            return "objective"
        return component_of(name.removeprefix("model."), self.family) or "other"

    def _cached(self, model: nn.Module, parts: Sequence[Part]) -> None:
        try:
            self.gradients(model, parts)
        except PassesDiffer as error:
            raise InputError(f"--verify-gradient: {error}. Training has not started") from error

    def _direct(
        self, model: Any, parts: Sequence[Part], chosen: Mapping[str, nn.Parameter], scale: float
    ) -> DirectGradient:
        try:
            batches = [(plan.targets, own) for plan, own in parts]
            return direct_gradient(_forward(model), self.objective, batches, chosen, scale=scale)
        except torch.OutOfMemoryError as error:
            raise InputError(
                "--verify-gradient: there is no memory for the graphs of "
                f"{sum(len(batch.input_ids) for _, own in parts for batch in own)} rows at a time, which the direct "
                "gradient needs; try it with shorter pages or fewer slices, or on a smaller model of the family"
            ) from error


def few_pairs(planner: StepPlanner, epoch: int, step: int) -> StepPlanner:
    """A planner of one step: the first pairs of the first batches of ``step``, two of them at most.

    Where the batches allow it, every rank has two micro-batches of each role; they hold two rows, or one where the
    run's own do.
    """
    rows = 1 if planner.budget.rows == 1 else 2
    start = step * planner.accumulation
    batches = planner.batches.epoch(epoch)[start : start + min(planner.accumulation, 2)]
    few = [batch[: 2 * rows * planner.ranks] for batch in batches]
    return planner.smaller(_Batches(few), Budget(rows=rows))


@dataclass(frozen=True, slots=True)
class _Batches:
    chosen: list[Any]

    def __len__(self) -> int:
        return len(self.chosen)

    def epoch(self, epoch: int) -> list[Any]:
        return self.chosen


def sample(sizes: Mapping[str, int], owners: Mapping[str, str], limit: int = COMPARED_BYTES) -> list[str]:
    """Parameters whose gradients, four bytes a weight, fit the limit: of each component by turns the first, the last,
    the second, and so on.

    >>> sample({"a.1": 1, "a.2": 1, "a.3": 1, "b.1": 2}, {"a.1": "a", "a.2": "a", "a.3": "a", "b.1": "b"}, limit=16)
    ['a.1', 'a.3', 'b.1']
    """
    waiting: dict[str, deque[str]] = {}
    for name in sizes:
        waiting.setdefault(owners[name], deque()).append(name)
    left, turn, chosen = limit // 4, 0, set()
    while any(waiting.values()):
        for names in filter(None, waiting.values()):
            name = names.pop() if turn % 2 else names.popleft()
            if sizes[name] <= left:
                left -= sizes[name]
                chosen.add(name)
        turn += 1
    return [name for name in sizes if name in chosen]


def relative_errors(squares: Mapping[str, tuple[float, float]]) -> tuple[float, dict[str, float]]:
    """The relative error over all components, and of each.

    A component whose gradient is small is measured against a thousandth of the whole, below which rounding decides.

    Args:
        squares: component -> squared lengths of the difference and of the direct gradient.
    """
    apart, length = (sum(pair[i] for pair in squares.values()) ** 0.5 for i in (0, 1))
    each = {name: _ratio(a**0.5, max(b**0.5, 1e-3 * length)) for name, (a, b) in squares.items()}
    return _ratio(apart, length), each


def _ratio(apart: float, length: float) -> float:
    if apart == length == 0:
        return 0.0
    return apart / length if length and apart == apart else float("inf")


def _largest(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: max(each[name] for each in found) for name in found[0]}


def _squares(
    model: Any, chosen: Mapping[str, nn.Parameter], direct: dict[str, Tensor], owners: Mapping[str, str], scale: float
) -> dict[str, tuple[float, float]]:
    """Squared lengths by component; frees the direct gradients on the way."""
    arrived = _has_gradients(model)
    found = dict.fromkeys((owners[name] for name in chosen), (0.0, 0.0))
    for name, parameter in chosen.items():
        wanted = direct.pop(name).double()
        made = _accumulated(model, parameter) if arrived else None
        difference = wanted if made is None else made.double() / scale - wanted
        apart, length = found[owners[name]]
        found[owners[name]] = apart + float(difference.pow(2).sum()), length + float(wanted.pow(2).sum())
    return found


def _has_gradients(model: Any) -> bool:
    """Whether ZeRO 1 and 2 have any: DeepSpeed raises an error on some ranks only if they have not."""
    if not is_deepspeed(model) or model.zero_optimization_stage() not in (1, 2) or model.optimizer.cpu_offload:
        return True
    own = [model.optimizer.averaged_gradients.get(i) is not None for i in range(len(model.optimizer.bit16_groups))]
    return all(map(all, distributed.gather_objects(own)))


def _accumulated(model: Any, parameter: nn.Parameter) -> Tensor | None:
    """The whole gradient that the optimizer would use; under ZeRO every rank must ask for it."""
    if is_deepspeed(model):
        from deepspeed.utils import safe_get_full_grad

        return safe_get_full_grad(parameter)
    return parameter.grad


def _forward(model: Any) -> Forward:
    """The forward pass of the module inside its wrapper."""
    if not is_deepspeed(model):
        module = model.module if hasattr(model, "module") else model
        return lambda batch, normalisers: module(batch, normalisers)
    from deepspeed.runtime.torch_autocast import autocast_if_enabled

    def forward(batch: Batch, normalisers: Mapping[str, float]) -> Any:
        with autocast_if_enabled(model):
            return model.module(batch, normalisers)

    return forward


def _launcher(model: Any) -> str:
    ranks = distributed.world_size()
    way = f"ZeRO {model.zero_optimization_stage()}" if is_deepspeed(model) else "DDP" if ranks > 1 else "one process"
    return f"{way}, {ranks} ranks" if ranks > 1 else way


def _refuse(report: GradientReport, objective: str) -> None:
    if not report.objective_error <= OBJECTIVE_LIMIT:
        raise InputError(
            f"--verify-gradient: the gradient that {objective}.coupled gives is not that of its loss: relative error "
            f"{report.objective_error:.1e} against differences of the loss in float64 (at most {OBJECTIVE_LIMIT}); "
            "polylens.objectives.slope.gradient_error shows it without a model. Training has not started"
        )
    if report.is_right or not report.is_decided:
        return
    worst = max(report.components, key=lambda name: report.components[name])
    raise InputError(
        f"--verify-gradient: the cached gradient is wrong: relative error {report.error:.1e} against a direct one "
        f"(at most {report.limit:.0e}), largest in {worst!r} ({report.components[worst]:.1e}), {report.launcher}. If "
        "one process fails as well, a module does not compute the same twice: random numbers of its own, a counter, a "
        "cache. If this launcher alone fails, it does not sum gradients as it should: try another ZeRO stage, or "
        "--low-memory, and report it. Training has not started"
    )
