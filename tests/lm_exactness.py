"""The gradient of ``lm`` on the real tiny VLM, however a batch of conversations is cut, against one plain graph.

``exactness.py zero`` takes a few cases along. Run as a script by every rank, this takes every case at every stage; it
prints one line a case and ends with an error if a case is not exact. The reference takes all logits at a time and
torch's own cross-entropy.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from exactness import error, full_weights, picture
from torch import Tensor
from torch.nn import functional as F

from polylens.config.run import LoraSettings
from polylens.contracts import IGNORE_INDEX, Batch, Example, ImageRef, Message, Objective, Record
from polylens.data.images import ImageOpener
from polylens.data.prepare import Preparer
from polylens.engine.accumulation import Accumulation, accumulation_for
from polylens.engine.gradient_cache import GradientCache
from polylens.engine.loading import Checkpoint, load_checkpoint
from polylens.engine.planner import Budget, plan
from polylens.engine.stream import filler
from polylens.engine.trainable import choose_trained
from polylens.engine.training_module import TrainingModule
from polylens.objectives.lm import LanguageModelling, LmOptions
from polylens.testing.precision import Float64Throughout

Cut = list[list[list[int]]]
"""Rank -> micro-batch -> row numbers."""


@dataclass(frozen=True)
class Case:
    """A way to train.

    Attributes:
        text_rank: give every picture to rank 0; of the others the last has no conversation at all.
    """

    rows: int = 2
    normaliser: Literal["tokens", "samples"] = "tokens"
    logit_positions: int = 5
    lora: bool = False
    tune: tuple[str, ...] | None = None
    dropout: float = 0.0
    text_rank: bool = False
    low_memory: bool = False
    plugin: str = "minicpmv"

    def objective(self) -> Objective:
        return LanguageModelling(LmOptions(self.normaliser, self.logit_positions))

    def examples(self, checkpoint: Checkpoint) -> list[Example]:
        return conversations(checkpoint.preparer(ImageOpener()))

    def loss(self, module: TrainingModule, batches: Iterable[Batch]) -> Tensor:
        """Of micro-batches that are run one after the other, in one graph."""
        sums, counts = [], []
        for batch in batches:
            logits = module.model(batch, outputs=frozenset({"logits"})).logits.view(*batch.input_ids.shape, -1)
            losses, supervised = cross_entropies(logits, batch)
            sums += losses
            counts += supervised
        return lm_loss(self.normaliser, sums, counts)

    def __str__(self) -> str:
        given = dataclasses.asdict(self)
        default = dataclasses.asdict(type(self)())
        return ", ".join(f"{name}={value}" for name, value in given.items() if value != default[name]) or "plain"


CASES = [
    Case(),
    Case(rows=1, normaliser="samples", logit_positions=3, lora=True, dropout=0.1),
    Case(lora=True, tune=("connector", "embed_tokens"), text_rank=True, normaliser="samples"),
    Case(dropout=0.1, text_rank=True, logit_positions=1000),
]


def cross_entropies(logits: Tensor, batch: Batch) -> tuple[list[Tensor], list[int]]:
    """Sum and number of the supervised tokens of each row."""
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), batch.labels[:, 1:], reduction="none")
    return list(each.sum(1)), (batch.labels[:, 1:] != IGNORE_INDEX).sum(1).tolist()


def lm_loss(normaliser: str, sums: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    if normaliser == "tokens":
        return torch.stack(list(sums)).sum() / sum(counts)
    return torch.stack([total / count for total, count in zip(sums, counts, strict=True) if count]).mean()


def conversations(preparer: Preparer) -> list[Example]:
    """Conversations of one to three turns: with a picture, with two, and as text alone."""
    made = []
    for i in range(7):
        shown = {0: 1, 1: 2, 4: 1}.get(i, 0)
        parts = (*(ImageRef("bytes", picture(i + n)) for n in range(shown)), "\nwhat turns the red wheel?")
        turns = [Message("user", parts)]
        for turn in range(1 + i % 3):
            turns += [Message("assistant", ("it is the wheel " * (1 + 3 * (i % 2)) + str(turn),))]
            turns += [Message("user", ("and then?",))]
        made.append(preparer.example(Record(str(i), tuple(turns[:-1]))))
    return made


def cut(rows: Sequence[Example], case: Case, ranks: int) -> Cut:
    if not case.text_rank or ranks == 1:
        return plan([row.cost for row in rows], [0] * len(rows), ranks, Budget(rows=case.rows))
    pictures = [i for i, row in enumerate(rows) if row.pixels]
    texts = [i for i, row in enumerate(rows) if not row.pixels]
    return [[pictures, []], [texts[:3], texts[3:]]] + [[[], []]] * (ranks - 2)


def build(case: Case, dtype: str) -> tuple[TrainingModule, Checkpoint]:
    checkpoint = load_checkpoint(case.plugin, "tiny", dtype=dtype, seed=3)
    objective = case.objective()
    objective.use_tokenizer(checkpoint.tokenizer)
    torch.manual_seed(7)  # LoRA draws its first weights
    lora = LoraSettings(enable=case.lora, r=4, dropout=case.dropout)
    choose_trained(checkpoint.model, checkpoint.family, objective, case.tune, lora)
    for name, parameter in checkpoint.model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide the gradient of lora_A
            torch.nn.init.normal_(parameter, std=0.05)
    for layer in checkpoint.model.modules():
        if hasattr(layer, "attention_dropout"):
            layer.attention_dropout = case.dropout
    module = TrainingModule(checkpoint.model, objective)
    module.train()
    return module.to(torch.float64) if dtype == "float64" else module, checkpoint


def micro_batches(checkpoint: Checkpoint, rows: Sequence[Example], own: list[list[int]]) -> list[Batch]:
    collate = checkpoint.collator()
    names = dict.fromkeys(rows[0].rows, 0)
    return [collate([rows[i] for i in part] or [filler(names)]) for part in own]


def reference(module: TrainingModule, checkpoint: Checkpoint, rows: Sequence[Example], parts: Cut, case: Case):
    """Loss and gradients of one graph: over the whole batch, or with dropout over the same micro-batches."""

    def batches() -> Iterator[Batch]:
        for rank, own in enumerate(parts if case.dropout else [[list(range(len(rows)))]]):
            torch.manual_seed(100 + rank)
            yield from micro_batches(checkpoint, rows, own)

    loss = case.loss(module, batches())
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
    return loss.detach(), dict(zip(trained, gradients, strict=True))


def step(
    module: Any, inner: TrainingModule, checkpoint: Checkpoint, rows: Sequence[Example], parts: Cut,
    accumulation: Accumulation,
) -> Tensor:  # fmt: skip
    rank = dist.get_rank() if dist.is_initialized() else 0
    torch.manual_seed(100 + rank)
    cache = GradientCache.of_module(module, inner.objective, accumulation)
    whole = inner.objective.normalisers(checkpoint.collator()(rows))  # as a plan knows it, for micro-batches to stream
    made = micro_batches(checkpoint, rows, parts[rank])
    return cache.step(made if inner.objective.is_coupled else iter(made), normalisers=whole).loss


def exact(case: Case) -> float:
    """Relative error on one process, or under DDP, in float64."""
    module, checkpoint = build(case, "float64")
    rows = case.examples(checkpoint)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    parts = cut(rows, case, ranks)
    wrapped = torch.nn.parallel.DistributedDataParallel(module) if ranks > 1 else module
    with Float64Throughout():
        loss, wanted = reference(module, checkpoint, rows, parts, case)
        found = step(wrapped, module, checkpoint, rows, parts, accumulation_for(wrapped))
    assert abs(float(found - loss)) < 1e-10
    return error({n: p.grad for n, p in module.named_parameters() if p.grad is not None}, wanted)


def zero(case: Case, stage: int) -> float:
    """The update of SGD at learning rate 1, which is the gradient, in float32."""
    import deepspeed
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.0,
    }
    module, checkpoint = build(case, "float32")
    rows = case.examples(checkpoint)
    parts = cut(rows, case, dist.get_world_size())
    _, wanted = reference(module, checkpoint, rows, parts, case)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    active = HfDeepSpeedConfig(config)  # load_checkpoint then partitions what it loads
    try:
        module, checkpoint = build(case, "float32")
        trained = [p for p in module.parameters() if p.requires_grad]
        engine, *_ = deepspeed.initialize(model=module, optimizer=torch.optim.SGD(trained, lr=1.0), config=config)
        step(engine, module, checkpoint, rows, parts, accumulation_for(engine, low_memory=case.low_memory))
        engine.set_gradient_accumulation_boundary(True)
        engine.step()
        after = full_weights(engine, stage)
        engine.destroy()
    finally:
        del active
    return error({name: before[name] - after[name] for name in wanted}, wanted) if after else 0.0


def main(more: bool) -> Iterator[tuple[str, float, float]]:
    """Without ``more``, a case for each kind of accumulation."""
    for case in CASES if more else CASES[3:]:
        yield f"ddp {case}", exact(case), 1e-10
    for stage, case in itertools.product((0, 1, 2, 3), CASES) if more else [(0, CASES[0]), (3, CASES[2])]:
        yield f"zero {stage} {case}", zero(case, stage), 1e-5
    low_memory = dataclasses.replace(CASES[1], low_memory=True)
    for stage, case in [(2, low_memory), (3, low_memory)] if more else [(2, CASES[1])]:
        yield f"zero {stage} {case}", zero(case, stage), 1e-5


if __name__ == "__main__":
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    deepspeed.init_distributed("gloo")
    failed = 0
    for name, found, limit in main(more=True):
        print(f"{found:.1e} (at most {limit:.0e})  {name}", flush=True)
        failed += not found <= limit
    dist.destroy_process_group()
    sys.exit(failed)
