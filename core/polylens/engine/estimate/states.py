"""What a GPU holds of weights, gradients and optimizer, by the way of training.

The bytes follow the tables of ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 3) and DeepSpeed's own
estimators (``deepspeed.runtime.zero.stage3.estimate_zero3_model_states_mem_needs``), with two differences that are
those of this engine: gradients of a step add up whole, in float32, unless ``low_memory`` reduces them after every
micro-batch; and frozen weights have neither gradients nor optimizer states. A test compares them with what DeepSpeed
holds in a run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from polylens.errors import InputError

Precision = Literal["float32", "bf16", "fp16"]
Offload = Literal["none", "optimizer", "optimizer,params"]

REDUCE_BUCKET = 500_000_000
"""Elements of DeepSpeed's ``reduce_bucket_size``, by default."""

_MAX_LIVE = 1_000_000_000
_SUB_GROUP = 1_000_000_000
"""Elements of ``stage3_max_live_parameters`` and ``sub_group_size``, by default."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A way to train.

    Attributes:
        stage: of ZeRO; 0 is no DeepSpeed at all (one process, or DDP).
        low_memory: ``--low-memory``, which is for stages 2 and 3.
    """

    stage: int
    gpus: int
    offload: Offload = "none"
    low_memory: bool = False


@dataclass(frozen=True, slots=True)
class Numeric:
    """How numbers are kept.

    Attributes:
        precision: of the arithmetic. DeepSpeed keeps weights in it, and float32 copies of those that it trains.
        weight_bytes: of a weight without DeepSpeed, which ``--dtype`` says.
        reduce_bucket: elements of DeepSpeed's ``reduce_bucket_size``.
    """

    precision: Precision = "bf16"
    weight_bytes: int = 4
    reduce_bucket: int = REDUCE_BUCKET

    def __post_init__(self) -> None:
        if self.reduce_bucket < 1:
            raise InputError(f"reduce_bucket_size is {self.reduce_bucket}; it must be at least 1")

    @property
    def compute_bytes(self) -> int:
        return 4 if self.precision == "float32" else 2


@dataclass(frozen=True, slots=True)
class States:
    """Bytes of one GPU, and of host memory for it; activations are not among them.

    Attributes:
        weights: as the forward pass reads them.
        optimizer: the two moments of AdamW, and float32 copies of the weights under DeepSpeed.
        gradients: at the end of the last backward pass of a step.
        update: gradients while the optimizer runs, after they were reduced; ``gradients`` and activations are gone.
        buffers: buckets of DeepSpeed, weights that ZeRO-3 gathers, copies that autocast makes.
        host: offloaded, in host memory.
    """

    weights: int
    optimizer: int
    gradients: int
    update: int
    buffers: int
    host: int = 0

    def total(self, activations: int) -> int:
        """The GPU's bytes at the worst moment: the backward pass or the optimizer's step."""
        return self.weights + self.optimizer + self.buffers + max(self.gradients + activations, self.update)

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def states(weights: int, trained: int, setup: Setup, numeric: Numeric) -> States:
    """What a GPU holds for a model of ``weights`` numbers of which ``trained`` are trained.

    Partitions are taken as equal parts; DeepSpeed pads them by a few numbers.
    """
    if setup.stage == 0:
        return _data_parallel(weights, trained, setup, numeric)
    return _zero(weights, trained, setup, numeric)


def _data_parallel(weights: int, trained: int, setup: Setup, numeric: Numeric) -> States:
    """DDP keeps all on every GPU: gradients twice, for its buckets are no views of them."""
    size = numeric.weight_bytes
    gradients = size * trained * (2 if setup.gpus > 1 else 1)
    copies = 2 * weights if numeric.precision != "float32" and size == 4 else 0
    return States(size * weights, 2 * size * trained, gradients, gradients, copies)


def _zero(weights: int, trained: int, setup: Setup, numeric: Numeric) -> States:
    size, part = numeric.compute_bytes, _part(trained, setup)
    own = size * (_part(weights, setup) if setup.stage == 3 else weights)
    optimizer = 12 * part
    gradients, update = _gradients(trained, setup, size)
    buffers = size * numeric.reduce_bucket + _gathered(weights, setup, size)
    host = 0
    if setup.offload != "none":
        host, optimizer, update = optimizer + 4 * part, 0, 0
    if setup.offload == "optimizer,params":
        host, own = host + own, 0
    return States(own, optimizer, gradients, update, buffers, host)


def _gradients(trained: int, setup: Setup, size: int) -> tuple[int, int]:
    """Bytes at the end of the backward pass, and while the optimizer runs."""
    part, offloaded = _part(trained, setup), setup.offload != "none"
    partitioned = setup.low_memory and setup.stage > 1
    kept = 4 if partitioned else size
    step = min(part, _SUB_GROUP) if setup.stage == 3 else part
    update = kept * part + 4 * step
    if partitioned:
        return (0 if offloaded else kept * part), update
    sums = 4 * trained if size == 2 else 0
    flat = size * part if setup.stage == 3 and not offloaded else 0
    return size * trained + sums + flat, update


def _gathered(weights: int, setup: Setup, size: int) -> int:
    """Weights that ZeRO-3 has gathered at one time, at most."""
    if setup.stage < 3 or (setup.gpus == 1 and setup.offload != "optimizer,params"):
        return 0
    return size * min(weights, _MAX_LIVE)


def _part(numbers: int, setup: Setup) -> int:
    return -(-numbers // setup.gpus)
