"""Checks of the model's forward, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from polylens.contracts import Batch, Outputs
from polylens.testing.partitioned import Partitioned
from polylens.testing.precision import Float64Throughout
from polylens.testing.results import Failure, require
from polylens.testing.subject import TEXTS, Subject

TOLERANCE = 1e-9
"""Largest difference of a hidden state, relative to the largest hidden state."""


def outputs_are_what_was_asked(subject: Subject) -> str | None:
    """``forward`` fills the fields that were named, in their shapes, and leaves the others ``None``."""
    batch = subject.batch(subject.examples())
    names = [f.name for f in fields(Outputs)]
    ids = batch.input_ids[:2, :3]
    made = forward(subject, batch, names, embed_ids=ids)
    rows, columns = batch.input_ids.shape
    assert made.hidden is not None
    width = made.hidden.shape[-1]
    wanted = {
        "hidden": (rows, columns, width),
        "logits": (rows * columns, None),
        "connector": (int(batch.visual_mask.sum()), width),
        "embeddings": (*ids.shape, width),
    }
    for name, shape in wanted.items():
        found = tuple(getattr(made, name).shape)
        fits = len(found) == len(shape) and all(b in (None, a) for a, b in zip(found, shape, strict=True))
        require(fits, f"{name} is {found}, not {shape}")
    seen = len(made.vision or ())
    require(seen == len(batch.crop_rows), f"vision has {seen} entries for {len(batch.crop_rows)} crops")
    for name in ("hidden", "vision", "connector"):
        alone = forward(subject, batch, [name])
        extra = [n for n in names if n != name and getattr(alone, n) is not None]
        require(not extra, f"outputs={{{name!r}}} also gives {', '.join(extra)}")
        require(getattr(alone, name) is not None, f"outputs={{{name!r}}} gives None")
    return None


def logits_come_where_wanted(subject: Subject) -> str | None:
    """``logit_positions`` chooses rows of the logits of all positions."""
    batch = subject.batch(subject.examples())
    positions = batch.attention_mask & (torch.arange(batch.input_ids.shape[1]) % 3 == 0)
    some = forward(subject, batch, ["logits"], logit_positions=positions).logits
    every = forward(subject, batch, ["logits"]).logits
    assert some is not None
    assert every is not None
    require(len(some) == int(positions.sum()), f"{len(some)} logits for {int(positions.sum())} positions")
    return _close(some, every.view(*positions.shape, -1)[positions], "logits at chosen positions")


def head_makes_the_logits(subject: Subject) -> str | None:
    """``head`` makes of hidden states what ``forward`` gives as logits, also where weights are there only in calls."""
    batch = subject.batch(subject.examples())
    wanted = forward(subject, batch, ["hidden", "logits"])
    assert wanted.hidden is not None
    assert wanted.logits is not None
    head: Any = subject.model.head
    with torch.no_grad(), Float64Throughout(), Partitioned(subject.model):
        try:
            found = head(wanted.hidden.flatten(0, 1))
        except (RuntimeError, IndexError, ValueError) as error:
            raise Failure(f"head uses a weight outside a call of the module that owns it: {error}") from error
        require(len(head(wanted.hidden[0, :0])) == 0, "head makes logits of no hidden states")
    return _close(found, wanted.logits, "logits of head and of forward")


def batch_of_one_equals_batch_of_many(subject: Subject) -> str | None:
    """An example alone and among others has the same hidden states: no row sees padding or another row.

    A model that ignores ``attention_mask``, counts positions from the padding, or pads crops without masking fails.
    """
    examples = subject.examples()
    together = hidden_rows(subject, subject.batch(examples))
    worst = 0.0
    for example, row in zip(examples, together, strict=True):
        alone = hidden_rows(subject, subject.batch([example]))[0]
        worst = max(worst, difference(alone, row, f"example {example.id!r} alone and in a batch of {len(examples)}"))
    return f"largest difference {worst:.1e}"


def left_padding_equals_right_padding(subject: Subject) -> str | None:
    """The side of the padding does not show in the hidden states of real tokens."""
    examples = subject.examples()
    right, left = (hidden_rows(subject, subject.batch(examples, side)) for side in ("right", "left"))
    pairs = zip(examples, left, right, strict=True)
    worst = max(difference(a, b, f"example {e.id!r} padded left and right") for e, a, b in pairs)
    return f"largest difference {worst:.1e}"


def take_commutes_with_collation(subject: Subject) -> str | None:
    """Taking rows of a batch gives the batch of those examples."""
    examples = subject.examples()
    for example, role in zip(examples, (0, 1, 1, 0, 1), strict=True):
        example.rows["role"] = role
    for side in ("right", "left"):
        batch = subject.batch(examples, side)
        for rows in ([2], [3, 0], [1, 4], [4, 2, 1, 0]):
            found, wanted = batch.take(rows), subject.batch([examples[row] for row in rows], side)
            _same_batch(found, wanted, f"rows {rows} of a batch padded on the {side}")
    return None


def features_stand_in_for_pixels(subject: Subject) -> str | None:
    """A batch whose ``features`` are what ``vision`` gave for its pixels has the same hidden states.

    The engine keeps the features of a frozen vision tower from the first pass of the gradient cache to the second.
    """
    batch = subject.batch(subject.examples())
    wanted = forward(subject, batch, ["hidden", "vision"])
    given = replace(batch, features=wanted.vision, pixels=[])
    found = forward(subject, given, ["hidden"])
    detail = _close(_real(found, batch), _real(wanted, batch), "hidden states with features in place of pixels")
    rows = [3, 1]
    part, same = forward(subject, given.take(rows), ["hidden"]), forward(subject, batch.take(rows), ["hidden"])
    _close(_real(part, batch.take(rows)), _real(same, batch.take(rows)), "two rows with features in place of pixels")
    return detail


def pictures_are_seen_in_place(subject: Subject) -> str | None:
    """Changing the pixels of a picture changes what follows it, in its own row alone."""
    batch = subject.batch(subject.examples())
    before = forward(subject, batch, ["hidden"]).hidden
    changed = replace(batch, pixels=[255 - batch.pixels[0], *batch.pixels[1:]])
    after = forward(subject, changed, ["hidden"]).hidden
    assert before is not None
    assert after is not None
    moved = ((before - after).abs().amax(dim=2) * batch.attention_mask).amax(dim=1)
    owner = int(batch.crop_rows[0])
    require(moved[owner] > 0, "changing a picture changes nothing")
    others = torch.cat([moved[:owner], moved[owner + 1 :]])
    require(others.max() <= TOLERANCE, f"changing a picture of one row moves another one by {float(others.max()):.1e}")
    return None


def weights_are_reached_by_calls(subject: Subject) -> str | None:
    """The forward works where a weight is there only while the module that owns it is called, as under ZeRO-3.

    ``F.linear(x, head.weight)`` and ``nn.MultiheadAttention``, which never calls its ``out_proj``, work on one GPU and
    fail there. A batch without pictures calls every module that one with pictures calls, or ranks wait for each other.
    """
    called = []
    for examples, what in ((subject.examples(), "with pictures"), ([subject.example(TEXTS[0])], "without pictures")):
        batch = subject.batch(examples)
        wanted = forward(subject, batch, ["hidden", "logits"])
        with Partitioned(subject.model) as partitioned:
            try:
                found = forward(subject, batch, ["hidden", "logits"])
            except (RuntimeError, IndexError, ValueError) as error:
                raise Failure(
                    f"{what}, a weight is used outside a call of the module that owns it: {error}"
                ) from error
        _close(_real(found, batch), _real(wanted, batch), f"{what}, hidden states under partitioned weights")
        called.append(partitioned.called)
    missed = sorted(called[0] - called[1])
    require(not missed, f"a batch without pictures does not call {', '.join(missed[:3])} (see must_touch)")
    return f"{len(called[0])} modules"


def forward(subject: Subject, batch: Batch, outputs: Sequence[str], **options: Any) -> Outputs:
    with torch.no_grad(), Float64Throughout():
        return subject.model(batch, outputs=frozenset(outputs), **options)


def hidden_rows(subject: Subject, batch: Batch) -> list[Tensor]:
    """Hidden states [T_i, D] of each row without padding."""
    hidden = forward(subject, batch, ["hidden"]).hidden
    assert hidden is not None
    return [row[mask] for row, mask in zip(hidden, batch.attention_mask, strict=True)]


def _real(outputs: Outputs, batch: Batch) -> Tensor:
    assert outputs.hidden is not None
    return outputs.hidden[batch.attention_mask]


def difference(found: Tensor, wanted: Tensor, what: str, tolerance: float = TOLERANCE) -> float:
    """The largest difference, relative to the largest value; ``Failure`` if it exceeds ``tolerance``."""
    require(found.shape == wanted.shape, f"{what}: {tuple(found.shape)} and {tuple(wanted.shape)}")
    require(bool(found.isfinite().all()), f"{what}: values that are not finite")
    away = float((found - wanted).abs().max() / wanted.abs().max())
    require(away <= tolerance, f"{what}: differ by {away:.1e} of the largest value (allowed {tolerance:.0e})")
    return away


def _close(found: Tensor, wanted: Tensor, what: str) -> str:
    return f"largest difference {difference(found, wanted, what):.1e}"


def _same_batch(found: Batch, wanted: Batch, where: str) -> None:
    require(found.ids == wanted.ids, f"{where}: ids are {found.ids}, not {wanted.ids}")
    for f in fields(Batch):
        a, b = getattr(found, f.name), getattr(wanted, f.name)
        if f.name == "rows":
            require(a.keys() == b.keys(), f"{where}: rows has {sorted(a)}, not {sorted(b)}")
            a, b = list(a.values()), list(b.values())
        pairs = zip(a, b, strict=False) if isinstance(a, list) else [(a, b)]
        require(not isinstance(a, list) or len(a) == len(b), f"{where}: {f.name} has another length")
        for x, y in pairs:
            same = torch.equal(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else x == y
            require(same, f"{where}: {f.name} differs")


CHECKS = (
    outputs_are_what_was_asked,
    logits_come_where_wanted,
    head_makes_the_logits,
    batch_of_one_equals_batch_of_many,
    left_padding_equals_right_padding,
    take_commutes_with_collation,
    features_stand_in_for_pixels,
    pictures_are_seen_in_place,
    weights_are_reached_by_calls,
)
