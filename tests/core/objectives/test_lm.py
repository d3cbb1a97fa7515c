"""The loss of answers: that of plain cross-entropy, with the logits of a few positions at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from toy import page

from polylens.contracts import IGNORE_INDEX, Batch, ImageRef, Message, Outputs, Record
from polylens.data.images import ImageOpener
from polylens.engine.gradient_cache import GradientCache
from polylens.errors import InputError
from polylens.objectives import build
from polylens.objectives.cross_entropy import chunked_cross_entropy
from polylens.objectives.lm import LanguageModelling, LmOptions

WORDS, WIDTH = 11, 5


def plain(head: Any, hidden, targets, weights):
    return (F.cross_entropy(head(hidden), targets, reduction="none") * weights).sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.integers(1, 10), st.booleans(), st.integers(0, 5))
def test_chunks_do_not_change_loss_or_gradient(count, positions, frozen, seed):
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(WIDTH, WORDS, dtype=torch.float64).requires_grad_(not frozen)
    hidden = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(WORDS, (count,), generator=generator)
    weights = torch.rand(count, generator=generator, dtype=torch.float64)
    inputs = [hidden] if frozen else [hidden, *head.parameters()]
    found = chunked_cross_entropy(head, hidden, targets, weights, positions=positions)
    wanted = plain(head, hidden, targets, weights)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    pairs = zip(torch.autograd.grad(found * 3, inputs), torch.autograd.grad(wanted * 3, inputs), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_half_precision_is_summed_in_float32():
    torch.manual_seed(0)
    hidden = (20 * torch.randn(64, WIDTH)).bfloat16().requires_grad_()
    head, targets, weights = nn.Linear(WIDTH, WORDS).bfloat16(), torch.arange(64) % WORDS, torch.full((64,), 1 / 64)
    found = chunked_cross_entropy(head, hidden, targets, weights, positions=10)
    wanted = F.cross_entropy(head(hidden).float(), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)
    (ours,), (theirs,) = (torch.autograd.grad(loss, [hidden]) for loss in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=1e-5)


def test_logits_of_one_chunk_exist_at_a_time():
    """Rows of every call of the head, forward and backward; the last chunk is not made again."""
    calls = []
    head = nn.Linear(WIDTH, WORDS)
    head.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    hidden = torch.randn(10, WIDTH, requires_grad=True)
    chunked_cross_entropy(head, hidden, torch.arange(10), torch.ones(10), positions=4).backward()
    assert (calls[:3], sorted(calls[3:])) == ([4, 4, 2], [4, 4])


def conversations(tiny) -> list[Any]:
    preparer = tiny.preparer(ImageOpener())
    made = []
    for number, answers in enumerate((["it is red"], ["a page", "and a longer answer than before"], ["no"])):
        parts: tuple[Any, ...] = (ImageRef("bytes", page(number)), "\nwhat?") if number != 2 else ("what?",)
        turns = [Message("user", parts)]
        for answer in answers:
            turns += [Message("assistant", (answer,)), Message("user", ("more?",))]
        made.append(preparer.example(Record(str(number), tuple(turns[:-1]))))
    return made


def given_by(tiny, batch: Batch) -> Outputs:
    outputs = tiny.model(batch, outputs={"hidden"})
    outputs.head = tiny.model.head
    return outputs


def losses(tiny, batch: Batch) -> torch.Tensor:
    """Cross-entropy [B, T - 1] of all positions, from all logits."""
    logits = tiny.model(batch, outputs={"logits"}).logits.view(*batch.input_ids.shape, -1)
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), batch.labels[:, 1:], reduction="none")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("normaliser", ["tokens", "samples"])
@torch.no_grad()
def test_it_is_the_plain_cross_entropy_of_the_model(tiny, normaliser, side):
    batch = tiny.collator(side)(conversations(tiny))
    each, counted = losses(tiny, batch), (batch.labels[:, 1:] != IGNORE_INDEX).float()
    means = (each * counted).sum(1) / counted.sum(1)
    wanted = means.mean() if normaliser == "samples" else (each * counted).sum() / counted.sum()
    objective = LanguageModelling(LmOptions(normaliser=normaliser, logit_positions=3))
    found = objective.additive(given_by(tiny, batch), batch, objective.normalisers(batch))
    torch.testing.assert_close(found.float(), wanted, rtol=1e-5, atol=0)
    assert objective.normalisers(batch) == {normaliser: 3.0 if normaliser == "samples" else float(counted.sum())}


def test_answers_and_their_end_are_learned_and_nothing_else(tiny):
    batch = tiny.collator()(conversations(tiny)[1:2])
    learned = batch.labels[0][batch.labels[0] != IGNORE_INDEX]
    assert tiny.tokenizer.decode(learned) == "a page</s> and a longer answer than before</s>"


def test_it_trains_alone(tiny):
    """A batch without answers, as a rank may have, gives zero gradients and not none."""
    batch = tiny.collator()(conversations(tiny))
    silent = batch.take([0])
    silent.labels.fill_(IGNORE_INDEX)
    objective = LanguageModelling()
    result = GradientCache(lambda part: given_by(tiny, part), objective).step([batch, silent])
    head = tiny.model.get_output_embeddings().weight
    assert result.counts == objective.normalisers(batch)
    assert head.grad.abs().max() > 0
    tiny.model.zero_grad()
    result = GradientCache(lambda part: given_by(tiny, part), objective).step([silent])
    assert (float(result.loss), float(head.grad.abs().max())) == (0.0, 0.0)
    tiny.model.zero_grad()


def test_options():
    assert build("lm", {"normaliser": "samples"}).options == LmOptions(normaliser="samples")
    with pytest.raises(InputError, match=r"objective 'lm'.*logit_positions is 0; it must be at least 1"):
        build("lm", {"logit_positions": 0})
    with pytest.raises(InputError, match="normaliser"):
        build("lm", {"normaliser": "words"})
