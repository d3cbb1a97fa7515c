"""Frozen modules are computed once: what they gave in the first pass of the gradient cache serves the second one.

A module without trained weights gives the same output in both passes if no trained weight lies before it: a frozen
vision tower, a frozen connector behind it, the lower layers of a language model. Inf-CLIP (Cheng et al. 2024, arXiv
2410.17243) keeps the features of a frozen tower in this way; here any module of any model may be frozen.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from polylens.engine.random_state import RandomState

_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict)
_PLAIN = (Tensor, bool, int, float, str, torch.dtype, torch.device, torch.Size, type(None))
_SHAPE_ALONE = {getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "is_cuda")}
_SHAPE_ALONE |= {Tensor.size, Tensor.dim, Tensor.numel}


class FrozenOutputs:
    """Outputs of the frozen modules of a model, kept from the first pass of a step to the second.

    A module whose input carries a gradient is computed in both passes, so the result is right for any model. Outputs
    that nobody but other frozen modules reads (features that a frozen connector takes in) are found in the first step
    and are not kept from then on.

    Args:
        module: the model; what is trained in it must be settled.
        budget: bytes of host memory. Micro-batches that do not fit are computed twice.
        whole_first_pass: whether the first pass calls all that the second one does. Otherwise modules that read an
            output may show in the second pass alone, so all outputs are kept.

    Attributes:
        bytes: that the present step, or the last one, took.
    """

    def __init__(self, module: nn.Module, budget: int, *, whole_first_pass: bool = True) -> None:
        self._budget = budget
        self._modules = dict(_frozen(module))
        self._excluded: set[str] = set()
        self._served: set[str] = set()
        self._readers: dict[str, set[str]] = {}
        # not known before the end of the first step
        self._inner: frozenset[str] | None = None if whole_first_pass else frozenset()
        self._tapes: dict[int, _Tape] = {}
        self.bytes = 0
        self._full = False
        self._tried = False
        self._tape: _Tape | None = None
        self._serve: Callable[..., Any] = self._record
        self._watch: _Watch | None = None

    @property
    def recorded(self) -> range:
        """The micro-batches of this step whose outputs are there."""
        return range(min(self._tapes), max(self._tapes) + 1) if self._tapes else range(0)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Holds both passes of a step."""
        self._tapes, self.bytes, self._full = {}, 0, False
        before = {name: module.__dict__.get("forward") for name, module in self._modules.items()}
        for name, module in self._modules.items():
            module.forward = self._wrapped(name, module.forward)
        try:
            yield
        finally:
            for name, module in self._modules.items():
                _restore(module, before[name])
            self._settle()

    @contextlib.contextmanager
    def recording(self, micro_batch: int) -> Iterator[None]:
        """Holds the first forward pass of a micro-batch, which has no gradient."""
        if self._full or self._excluded.issuperset(self._modules):
            yield
            return
        self._tape, self._serve = _Tape(), self._record
        self._watch = _Watch(self._readers) if self._inner is None else None
        try:
            with self._watch or contextlib.nullcontext():
                yield
            if self._tape is not None:
                self._tapes[micro_batch] = self._tape
        finally:
            self._tape = self._watch = None

    @contextlib.contextmanager
    def replaying(self, micro_batch: int) -> Iterator[None]:
        """Holds the second forward pass of a micro-batch; its backward pass comes after."""
        self._tape, self._serve = self._tapes.pop(micro_batch, None), self._replay
        self._tried |= self._tape is not None
        try:
            yield
        finally:
            self._tape = None

    def forget(self, kept: range) -> None:
        """Drop the outputs of all micro-batches but those of ``kept``."""
        self._tapes = {i: tape for i, tape in self._tapes.items() if i in kept}

    def _wrapped(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._tape is None or name in self._excluded:
                return forward(*args, **kwargs)
            return self._serve(name, functools.partial(forward, *args, **kwargs), (args, kwargs))

        return call

    def _record(self, name: str, forward: Callable[[], Any], inputs: Any) -> Any:
        tape, self._tape = self._tape, None  # modules inside this one belong to it
        before = RandomState.capture()
        with self._watch.read_by(name) if self._watch else contextlib.nullcontext():
            output = forward()
        after = RandomState.capture()
        if tape is not None and self._takes(name, output, inputs):
            keep = _absent if self._inner is not None and name in self._inner else _Kept.of
            stored = tree_map(lambda leaf: keep(leaf) if isinstance(leaf, Tensor) else leaf, output)
            self.bytes += sum(leaf.value.nbytes for leaf in tree_leaves(stored) if isinstance(leaf, _Kept))
            tape.calls.setdefault(name, []).append(_Call(stored, None if after.equals(before) else after))
            if self._watch is not None:
                self._watch.add(name, output)
            if self.bytes > self._budget:
                self._full, tape = True, None
        self._tape = tape
        return output

    def _takes(self, name: str, output: Any, inputs: Any) -> bool:
        """Whether all that goes in and out can be seen; a cache of keys could carry a gradient unseen."""
        if all(isinstance(leaf, _PLAIN) for leaf in tree_leaves((output, inputs))):
            return True
        self._exclude(name)
        return False

    def _replay(self, name: str, forward: Callable[[], Any], inputs: Any) -> Any:
        assert self._tape is not None
        calls = self._tape.calls.get(name)
        if not calls:
            return forward()
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(inputs)):
            self._exclude(name)
            return forward()
        call = calls.pop(0)
        self._served.add(name)
        if call.state is not None:
            call.state.restore()
        return tree_map(lambda leaf: leaf.load() if isinstance(leaf, _Kept) else leaf, call.output)

    def _exclude(self, name: str) -> None:
        """Compute a module, and what is inside it, in both passes from now on."""
        lost = [reader for inner in self._inner or () for reader in self._readers[inner] if reader == name]
        if lost:
            raise RuntimeError(
                f"the frozen module {name} got an input with a gradient, and had none in the first step, so its input "
                "was not kept: set gradient_cache.frozen_cache_gb to 0"
            )
        self._excluded |= {other for other in self._modules if other == name or other.startswith(f"{name}.")}

    def _settle(self) -> None:
        """After the first step that used outputs: whose output only modules read that were not computed either."""
        self._tapes = {}
        if self._inner is None and self._tried:
            served = self._served - self._excluded
            self._inner = frozenset(n for n, readers in self._readers.items() if n in served and readers <= served)


@dataclass(slots=True)
class _Kept:
    """A tensor in host memory."""

    value: Tensor
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> _Kept:
        if tensor.device.type == "cpu":
            return cls(tensor.clone(), tensor.device)  # the model may go on to change it in place
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        return cls(host.copy_(tensor, non_blocking=True), tensor.device)

    def load(self) -> Tensor:
        return self.value.to(self.device, non_blocking=True)


def _restore(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """Undo the wrapping: ``forward`` is what others had put in its place, if anyone had."""
    del module.forward
    if forward is not None:
        module.forward = forward


def _absent(tensor: Tensor) -> Tensor | _Kept:
    """What stands for a tensor that nobody reads: not a number, in no memory, so that reading it would show."""
    if not tensor.is_floating_point():
        return _Kept.of(tensor)
    return torch.full((), torch.nan, dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)


@dataclass(slots=True)
class _Call:
    """Output of a call, and the generator states after it if it drew from them."""

    output: Any
    state: RandomState | None


@dataclass(slots=True)
class _Tape:
    """Calls of a micro-batch, by name of the module."""

    calls: dict[str, list[_Call]] = field(default_factory=dict)


class _Watch(TorchFunctionMode):
    """Notes who reads the outputs of frozen modules: another one, by its name, or the rest of the model (``""``)."""

    def __init__(self, readers: dict[str, set[str]]) -> None:
        super().__init__()
        self._readers = readers
        self._reader = ""
        self._makers: dict[int, str] = {}
        self._alive: list[Tensor] = []  # an id is that of one tensor only while the tensor lives

    @contextlib.contextmanager
    def read_by(self, name: str) -> Iterator[None]:
        self._reader = name
        try:
            yield
        finally:
            self._reader = ""

    def add(self, name: str, output: Any) -> None:
        self._readers.setdefault(name, set())
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self._makers[id(leaf)] = name
                self._alive.append(leaf)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _SHAPE_ALONE:
            for leaf in tree_leaves((args, kwargs)):
                maker = self._makers.get(id(leaf))
                if maker is not None:
                    self._readers[maker].add(self._reader)
        return func(*args, **(kwargs or {}))


def _frozen(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules below ``module`` without a trained parameter whose outputs are worth their memory."""
    for name, child in module.named_modules():
        trained = any(parameter.requires_grad for parameter in child.parameters())
        if name and not trained and not isinstance(child, _NEVER_CALLED) and _multiplies(child):
            yield name, child


def _multiplies(module: nn.Module) -> bool:
    """Whether it has weights to multiply with; looking up an embedding is cheap, and so is a norm."""
    return any(
        len(getattr(parameter, "ds_shape", parameter.shape)) > 1  # ZeRO-3 leaves an empty tensor in place of a weight
        for part in module.modules()
        if not isinstance(part, nn.Embedding)
        for parameter in part.parameters(recurse=False)
    )
