"""Memory per GPU of every way to train a model, without loading a weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polylens import plugins
from polylens.config.options import build_options
from polylens.config.run import LoraSettings, RunConfig
from polylens.contracts import Objective
from polylens.engine.estimate.activations import Activations, Tokens, estimate_activations, logit_bytes, patches
from polylens.engine.estimate.parameters import Parameters, count_parameters
from polylens.engine.estimate.states import Numeric, Setup, States, states
from polylens.engine.sources import ModelSource, find_model
from polylens.engine.trainable import choose_trained
from polylens.engine.weights import described, outline_of
from polylens.errors import InputError

_MAX_GPUS = 4096


@dataclass(frozen=True, slots=True)
class Workload:
    """What a GPU sees in one micro-batch.

    Attributes:
        micro_batch: rows.
        sequence_length: tokens of a row, those of its pictures among them.
        images: pictures of a row.
        image_size: their width and height.
    """

    micro_batch: int = 1
    sequence_length: int = 2048
    images: int = 1
    image_size: tuple[int, int] = (1344, 1344)

    def __post_init__(self) -> None:
        lowest = {"micro_batch": 1, "sequence_length": 1, "images": 0}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if min(self.image_size) < 1:
            raise InputError(f"image_size is {self.image_size}; width and height must be at least 1")


@dataclass(frozen=True, slots=True)
class Request:
    """What to estimate.

    Attributes:
        model: model folder (``config.json`` is enough), hub id or preset.
        lora: for the estimate with adapters; ``enable`` is not read.
        tune: components whose weights are trained; see ``RunConfig.tune``.
        gpus: numbers of GPUs.
    """

    plugin: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    objective: str = "contrastive"
    lora: LoraSettings = field(default_factory=LoraSettings)
    tune: Sequence[str] | None = None
    numeric: Numeric = field(default_factory=Numeric)
    workload: Workload = field(default_factory=Workload)
    gpus: Sequence[int] = (1, 2, 4, 8)

    def __post_init__(self) -> None:
        wrong = [count for count in self.gpus if not 1 <= count <= _MAX_GPUS]
        if wrong or not self.gpus:
            raise InputError(f"gpus is {list(self.gpus)}; give numbers from 1 to {_MAX_GPUS}")
        RunConfig(self.plugin, self.model, "", lora=self.lora)  # checks the limits of a run


@dataclass(frozen=True, slots=True)
class Way:
    """A setup and what it needs."""

    setup: Setup
    states: States


@dataclass(frozen=True, slots=True)
class Plan:
    """Full fine-tuning, or LoRA.

    Attributes:
        name: ``full`` or ``lora``.
        ways: every setup that training accepts.
    """

    name: str
    parameters: Parameters
    activations: Activations
    ways: list[Way]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The answer.

    Attributes:
        family: that recognises the model.
        visual_tokens: of one picture in the sequence of the language model.
        tokens: of a micro-batch.
    """

    family: str
    visual_tokens: int
    tokens: Tokens
    plans: list[Plan]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; every amount of memory is a number of bytes."""
        return {
            "family": self.family,
            "tokens": {**dataclasses.asdict(self.tokens), "visual_tokens_per_image": self.visual_tokens},
            "plans": {plan.name: _plan_values(plan) for plan in self.plans},
        }


def estimate(request: Request) -> Estimate:
    """Estimate both plans under every setup.

    Raises:
        InputError: an unknown plugin, model, component, objective or option; an adapter folder; a sequence too short
            for its pictures.
    """
    hooks = plugins.load(request.plugin)
    found = find_model(request.model, hooks.families(), request.plugin, with_weights=False)
    if found.adapter is not None:
        raise InputError(f"{request.model} is an adapter: estimate its base, {found.folder}, and give --lora-r")
    tokens, visual = _tokens(hooks, found, request)
    objective = _objective(request.objective)
    plans = [_plan(name, hooks, found, request, objective, tokens) for name in ("full", "lora")]
    return Estimate(found.family.name, visual, tokens, plans)


def setups(gpus: int, *, full: bool) -> Iterator[Setup]:
    """Every way to train on so many GPUs that a run accepts; ``low_memory`` where it saves something."""
    yield Setup(0, gpus)
    for stage in (1, 2, 3):
        for low_memory in (False, True) if full and stage > 1 else (False,):
            yield Setup(stage, gpus, "none", low_memory)
            yield Setup(stage, gpus, "optimizer", low_memory)
            if stage == 3:
                yield Setup(stage, gpus, "optimizer,params", low_memory)


def _plan(name: str, hooks: Any, found: ModelSource, request: Request, objective: Objective, tokens: Tokens) -> Plan:
    model = outline_of(hooks, found)
    lora = dataclasses.replace(request.lora, enable=name == "lora")
    choose_trained(model, found.family, objective, request.tune, lora)
    counted = count_parameters(model, found.family)
    logits = logit_bytes(model, objective, tokens)
    activations = estimate_activations(model, found.family, tokens, request.numeric.compute_bytes, logits)
    ways = [
        Way(setup, states(counted.weights, counted.trained, setup, request.numeric))
        for gpus in request.gpus
        for setup in setups(gpus, full=name == "full")
    ]
    return Plan(name, counted, activations, ways)


def _tokens(hooks: Any, found: ModelSource, request: Request) -> tuple[Tokens, int]:
    """Tokens of a micro-batch, and the visual tokens of one picture."""
    work = request.workload
    options = build_options(found.family.options, request.options, f"model family {found.family.name!r}")
    with described(found):
        slicer = hooks.image_slicer(family=found.family, config=found.config, options=options)
    sliced = slicer.slice(work.image_size)
    visual = work.images * sliced.visual_tokens
    if visual >= work.sequence_length:
        raise InputError(
            f"{work.images} pictures of {work.image_size[0]} x {work.image_size[1]} are {visual} tokens, and "
            f"sequence_length is {work.sequence_length}: raise it, or give smaller or fewer pictures"
        )
    seen = patches(outline_of(hooks, found), found.family, [sliced] * work.images)
    return Tokens(work.micro_batch * seen, work.micro_batch * work.sequence_length), sliced.visual_tokens


def _objective(name: str) -> Objective:
    found = plugins.load_all()[0].objective(name=name, options={})
    if found is None:
        raise InputError(f"no installed plugin has an objective {name!r}")
    return found


def _plan_values(plan: Plan) -> dict[str, Any]:
    counted = plan.parameters
    return {
        "parameters": {
            "weights": counted.weights,
            "trained": counted.trained,
            "adapter": counted.adapter,
            "components": {name: dataclasses.asdict(count) for name, count in counted.components.items()},
        },
        "activations": dataclasses.asdict(plan.activations),
        "memory": [_way_values(way, plan.activations) for way in plan.ways],
    }


def _way_values(way: Way, activations: Activations) -> dict[str, Any]:
    return {
        **dataclasses.asdict(way.setup),
        **way.states.as_dict(),
        "total": way.states.total(activations.plain),
        "total_checkpointed": way.states.total(activations.checkpointed),
    }
