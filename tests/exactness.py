"""The cached gradient of the real tiny VLM against one graph over the whole global batch.

Run as a script by every rank: ``exactness.py ddp``, or ``exactness.py zero`` with every case at stages 2 and 3 and a
third of them at 0 and 1, or ``exactness.py all`` with every case at every stage. It prints one line a case and ends
with an error if a case is not exact.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from polylens.config.run import LoraSettings
from polylens.contracts import Batch, Example, ImageRef, Message, PairTargets, Record
from polylens.data.images import ImageOpener
from polylens.engine.accumulation import Accumulation, Part, accumulation_for
from polylens.engine.frozen import FrozenOutputs
from polylens.engine.gradient_cache import GradientCache
from polylens.engine.loading import Checkpoint, load_checkpoint
from polylens.engine.planner import Budget, plan
from polylens.engine.stream import filler
from polylens.engine.trainable import choose_trained
from polylens.engine.training_module import TrainingModule
from polylens.modeling.pooling import pool
from polylens.objectives.contrastive import Contrastive, ContrastiveOptions
from polylens.testing.precision import Float64Throughout

QUERIES, NEGATIVES = 5, 1
MIB = 2**20
Cut = list[list[list[int]]]
"""Rank -> micro-batch -> row numbers."""


@dataclass(frozen=True)
class Case:
    """A way to train.

    Attributes:
        text_rank: give every picture to rank 0, so that the others see text alone.
        graph_bytes, frozen_bytes: what the gradient cache may keep from the first pass to the second.
    """

    budget: Budget = dataclasses.field(default_factory=lambda: Budget(rows=3))
    lora: bool = False
    tune: tuple[str, ...] | None = None
    dropout: float = 0.0
    text_rank: bool = False
    low_memory: bool = False
    graph_bytes: int = 0
    frozen_bytes: int = 0
    objective: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        default = {f.name: getattr(Case(), f.name) for f in dataclasses.fields(self)}
        return ", ".join(f"{name}={value}" for name, value in given.items() if value != default[name]) or "plain"


def picture(number: int) -> bytes:
    import io

    image = Image.new("RGB", (90 + 60 * (number % 3), 120 + 30 * (number % 4)), (40 * number % 255, 90, 200))
    ImageDraw.Draw(image).rectangle([10, 10, 60, 20 + 9 * number], fill=(255, 25 * number % 255, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def rows(checkpoint: Checkpoint) -> list[Example]:
    """Queries of ragged lengths, then for each its positive and a hard negative; every fourth document is text."""
    preparer = checkpoint.preparer(ImageOpener(), "plain")
    made = []
    for i in range(QUERIES):
        parts: tuple[Any, ...] = ("what turns the red wheel " * (i % 3 + 1),)
        made.append((parts, {"role": 0, "position": i}))
    for i in range(QUERIES * (1 + NEGATIVES)):
        parts = (f"page {i} says wheel",) if i % 4 == 3 else (ImageRef("bytes", picture(i)), "\n")
        made.append((parts, {"role": 1, "position": i}))
    return [
        preparer.example(Record(str(n), (Message("user", parts),)), rows=role)  # type: ignore[arg-type]
        for n, (parts, role) in enumerate(made)
    ]


def targets() -> PairTargets:
    """Document ``2 i`` answers query ``i``; document 2 is also relevant to query 3, and document 6 to query 1."""
    positive = torch.arange(QUERIES) * (1 + NEGATIVES)
    return PairTargets(positive, torch.tensor([[3, 2], [1, 6]]))


def cut(examples: Sequence[Example], case: Case, ranks: int) -> Cut:
    if not case.text_rank:
        roles = [example.rows["role"] for example in examples]
        return plan([example.cost for example in examples], roles, ranks, case.budget)
    pictures = [i for i, example in enumerate(examples) if example.pixels]
    texts = [i for i, example in enumerate(examples) if not example.pixels]
    parts = [[pictures[:4], pictures[4:]], [texts[:5], texts[5:]]]
    return parts + [[[], []]] * (ranks - 2) if ranks > 1 else [parts[0] + parts[1]]


def dense_loss(queries: Tensor, documents: Tensor, objective: Contrastive) -> Tensor:
    """The contrastive loss as one matrix, written apart from the code under test."""
    options, wanted = objective.options, targets()
    sizes = options.matryoshka_dims or [queries.shape[1]]
    total = queries.new_zeros(())
    for size in sizes:
        q, d = F.normalize(queries[:, :size], dim=1), F.normalize(documents[:, :size], dim=1)
        scale = objective.parameters()["log_scale"].exp() if options.learned_temperature else 1 / options.temperature
        logits = scale * (q @ d.T)
        logits = logits.index_put(tuple(wanted.ignore.T), logits.new_tensor(-torch.inf))
        loss = F.cross_entropy(logits, wanted.positive)
        if options.symmetric:
            loss = (loss + F.cross_entropy(logits.T[wanted.positive], torch.arange(len(q)))) / 2
        total = total + loss / len(sizes)
    return total


def reference(module: TrainingModule, checkpoint: Checkpoint, examples: Sequence[Example], parts: Cut, case: Case):
    """Loss and gradients from one graph: over the whole batch, or with dropout over the same micro-batches under the
    same generator states."""
    collate, objective = checkpoint.collator(), module.objective
    assert isinstance(objective, Contrastive)
    whole = [[list(range(len(examples)))]]
    found: dict[int, dict[int, Tensor]] = {0: {}, 1: {}}
    for rank, micro_batches in enumerate(parts if case.dropout else whole):
        torch.manual_seed(100 + rank)
        for part in micro_batches:
            batch = collate([examples[i] for i in part] or [filler({"role": -1, "position": -1})])
            hidden = module.model(batch, outputs=frozenset({"hidden"})).hidden
            vectors = pool(hidden, batch.attention_mask, objective.options.pooling)
            for vector, i in zip(vectors, part, strict=False):
                found[examples[i].rows["role"]][examples[i].rows["position"]] = vector
    queries, documents = (torch.stack([found[role][i] for i in range(len(found[role]))]) for role in (0, 1))
    loss = dense_loss(queries, documents, objective)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
    return loss.detach(), dict(zip(trained, gradients, strict=True))


def build(case: Case, dtype: str) -> tuple[TrainingModule, Checkpoint]:
    checkpoint = load_checkpoint("minicpmv", "tiny", dtype=dtype, seed=3)
    objective = Contrastive(ContrastiveOptions(**{"temperature": 0.1, **case.objective}))
    lora = LoraSettings(enable=case.lora, r=4, dropout=case.dropout)
    torch.manual_seed(7)  # LoRA draws its first weights
    choose_trained(checkpoint.model, checkpoint.family, objective, case.tune, lora)
    for name, parameter in checkpoint.model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide the gradient of lora_A
            torch.nn.init.normal_(parameter, std=0.05)
    for layer in checkpoint.model.modules():
        if hasattr(layer, "attention_dropout"):
            layer.attention_dropout = case.dropout
    module = TrainingModule(checkpoint.model, objective)
    if dtype == "float64":
        module.to(torch.float64)
    return module, checkpoint


def micro_batches(checkpoint: Checkpoint, examples: Sequence[Example], own: list[list[int]]) -> list[Batch]:
    collate = checkpoint.collator()
    return [collate([examples[i] for i in part] or [filler({"role": -1, "position": -1})]) for part in own]


def error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Relative error over all weights, in the global L2 norm."""
    difference = sum(float((found[name].double() - wanted[name].double()).pow(2).sum()) for name in wanted)
    return (difference / sum(float(gradient.double().pow(2).sum()) for gradient in wanted.values())) ** 0.5


def cached(
    module: Any, inner: TrainingModule, checkpoint: Checkpoint, examples: Sequence[Example], parts: Cut,
    accumulation: Accumulation, case: Case,
) -> Tensor:  # fmt: skip
    """The loss; gradients come as two parts of half the weight each, as gradient accumulation makes them."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    frozen = FrozenOutputs(inner, case.frozen_bytes) if case.frozen_bytes else None
    loss = torch.zeros(())
    for last in (False, True):
        torch.manual_seed(100 + rank)
        part = Part(accumulation, share=0.5, last=last)
        options: dict[str, Any] = {"graph_bytes": case.graph_bytes, "frozen": frozen}
        cache = GradientCache.of_module(module, inner.objective, part, **options)
        loss = cache.step(micro_batches(checkpoint, examples, parts[rank]), targets()).loss
    return loss


CASES = [
    Case(),
    Case(budget=Budget(rows=1), objective={"symmetric": True, "learned_temperature": True}),
    Case(budget=Budget(tokens=150), objective={"matryoshka_dims": [32, 128], "pooling": "last", "tile_rows": 2}),
    Case(lora=True, dropout=0.1, objective={"symmetric": True}),
    Case(lora=True, tune=("connector",), budget=Budget(rows=2), text_rank=True),
    Case(dropout=0.1, text_rank=True, objective={"learned_temperature": True, "pooling": "mean"}),
    Case(dropout=0.1, graph_bytes=8 * MIB, objective={"learned_temperature": True}),
    Case(dropout=0.1, tune=("llm",), budget=Budget(rows=2), graph_bytes=4 * MIB, frozen_bytes=MIB),
    Case(lora=True, dropout=0.1, text_rank=True, frozen_bytes=16 * MIB, budget=Budget(rows=1)),
]


def single_process(case: Case) -> float:
    """Relative error on one process in float64."""
    module, checkpoint = build(case, "float64")
    examples = rows(checkpoint)
    parts = cut(examples, case, 1)
    module.train()
    with Float64Throughout():
        loss, wanted = reference(module, checkpoint, examples, parts, case)
        found_loss = cached(module, module, checkpoint, examples, parts, Accumulation(), case)
    assert abs(float(found_loss - loss)) < 1e-10
    return error({n: p.grad for n, p in module.named_parameters() if p.grad is not None}, wanted)


def ddp(case: Case) -> float:
    module, checkpoint = build(case, "float64")
    examples = rows(checkpoint)
    parts = cut(examples, case, dist.get_world_size())
    module.train()
    with Float64Throughout():
        loss, wanted = reference(module, checkpoint, examples, parts, case)
    wrapped = torch.nn.parallel.DistributedDataParallel(module)
    with Float64Throughout():
        found = cached(wrapped, module, checkpoint, examples, parts, accumulation_for(wrapped), case)
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
    examples = rows(checkpoint)
    parts = cut(examples, case, dist.get_world_size())
    module.train()
    _, wanted = reference(module, checkpoint, examples, parts, case)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    active = HfDeepSpeedConfig(config)  # load_checkpoint then partitions what it loads
    try:
        module, checkpoint = build(case, "float32")
        module.train()
        trained = [p for p in module.parameters() if p.requires_grad]
        engine, *_ = deepspeed.initialize(model=module, optimizer=torch.optim.SGD(trained, lr=1.0), config=config)
        accumulation = accumulation_for(engine, low_memory=case.low_memory)
        with accumulation.step():
            cached(engine, module, checkpoint, examples, parts, accumulation, case)
        engine.set_gradient_accumulation_boundary(True)
        engine.step()
        after = full_weights(engine, stage)
        engine.destroy()
    finally:
        del active
    return error({name: before[name] - after[name] for name in wanted}, wanted) if after else 0.0


def full_weights(engine: Any, stage: int) -> dict[str, Tensor] | None:
    """Under ZeRO-3 on rank 0 alone."""
    if stage == 3:
        return engine._zero3_consolidated_16bit_state_dict()
    return engine.module.state_dict()


def main(kind: str) -> Iterator[tuple[str, float, float]]:
    if kind == "ddp":
        dist.init_process_group("gloo")
        yield from ((f"ddp {case}", ddp(case), 1e-10) for case in CASES)
    else:
        import deepspeed

        deepspeed.init_distributed("gloo")
        for stage, (i, case) in itertools.product((0, 1, 2, 3), enumerate(CASES)):
            if kind == "zero" and stage < 2 and i % 3 != stage:
                continue
            yield f"zero {stage} {case}", zero(case, stage), 1e-5
        for stage in (1, 2, 3):
            case = dataclasses.replace(CASES[3], low_memory=True)
            yield f"zero {stage} {case}", zero(case, stage), 1e-5
        for stage in (1, 2):  # ZeRO-3 refuses
            case = dataclasses.replace(CASES[6], low_memory=True)
            yield f"zero {stage} {case}", zero(case, stage), 1e-5
        import granularity_exactness
        import lm_exactness

        yield from lm_exactness.main(more=False)
        yield from granularity_exactness.main(more=False)


if __name__ == "__main__":
    failed = 0
    for name, found, limit in main(sys.argv[1]):
        print(f"{found:.1e} (at most {limit:.0e})  {name}", flush=True)
        failed += not found <= limit
    dist.destroy_process_group()
    sys.exit(failed)
