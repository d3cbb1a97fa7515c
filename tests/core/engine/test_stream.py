"""Micro-batches out of data-loader workers: the same rows in both passes, however many pixels are kept."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from toy import page

from polylens.contracts import Batch
from polylens.data.documents import Document
from polylens.data.images import ImageOpener
from polylens.data.pairs import read_pairs
from polylens.data.store import DocumentWriter, open_documents
from polylens.engine.pair_steps import PairBatches, PairPlanner, PairRecords
from polylens.engine.planner import Budget
from polylens.engine.steps import Row, StepPlanner
from polylens.engine.stream import CostRequest, Costs, MicroBatches, MicroBatchStream, WorkerTasks, pack, unpack
from polylens.errors import InputError

SOME = 400_000
"""Bytes: the pixels of two toy pages fit, those of four do not."""


@pytest.fixture(scope="module")
def records(tiny, toy) -> PairRecords:
    documents = open_documents([toy[1]])
    pairs = read_pairs([toy[0]], documents=documents)
    return PairRecords(pairs.pairs, documents, tiny.preparer(ImageOpener(None, documents), "plain"), (512, 2048))


def planner(records: PairRecords, *, kept: int = 0, size: int = 6, **options: int) -> StepPlanner:
    batches = PairBatches(records.pairs, size, seed=5, shuffle=True, drop_last=False)
    settings = {"rank": 0, "ranks": 1, **options}
    return PairPlanner(records, batches, budget=Budget(rows=2), pixel_cache_bytes=kept, **settings)


def stream(tiny, steps: StepPlanner, workers: int = 0) -> MicroBatchStream:
    return MicroBatchStream(steps, tiny.collator(), {"num_workers": workers}, torch.device("cpu"))


def content(batch: Batch) -> tuple[Any, ...]:
    """All that a batch holds, comparable."""
    tensors = [batch.input_ids, batch.attention_mask, batch.crop_rows, batch.crop_tokens, *batch.rows.values()]
    pixels = [crop.sum().item() for crop in batch.pixels]
    return batch.ids, [tensor.tolist() for tensor in tensors], [tuple(crop.shape) for crop in batch.pixels], pixels


def both_passes(source: MicroBatchStream, steps: range, epochs: range = range(1)) -> list[Any]:
    """What every pass of every global batch of the steps sees."""
    seen = []
    for epoch, step in itertools.product(epochs, steps):
        for _, micro_batches in source.step(epoch, step):
            seen += [[content(batch) for batch in micro_batches], [content(batch) for batch in micro_batches]]
    return seen


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kept", [0, SOME, 2**40], ids=["none", "some", "all"])
def test_both_passes_see_the_same(tiny, records, kept, workers):
    steps = planner(records, kept=kept)
    seen = both_passes(stream(tiny, steps, workers), range(2))
    assert seen == both_passes(stream(tiny, planner(records)), range(2))
    assert seen[0::2] == seen[1::2]
    for step, first in enumerate(seen[0::2]):
        (plan,) = steps.step(0, step)
        assert plan.keep == {0: 3, SOME: 4, 2**40: 6}[kept]
        assert [ids for ids, *_ in first] == [[records.record(row).id for row in part] for part in plan.micro_batches]


def test_what_is_kept_is_not_prepared_again(tiny, records, monkeypatch):
    prepared = []
    whole = type(tiny.preprocessor).pixels
    monkeypatch.setattr(type(tiny.preprocessor), "pixels", lambda *args: prepared.append(1) or whole(*args))
    counts = {}
    for kept in (0, SOME, 2**40):
        prepared.clear()
        both_passes(stream(tiny, planner(records, kept=kept)), range(1))
        counts[kept] = len(prepared)
    assert counts[0] == 2 * counts[2**40]
    assert counts[2**40] < counts[SOME] < counts[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_that_starts_later_continues_the_same(tiny, records, workers):
    """A resumed run sees what the undisturbed one saw, over the end of an epoch too."""
    whole = stream(tiny, planner(records, kept=SOME), workers)
    steps = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    seen = {step: both_passes(whole, range(step[1], step[1] + 1), range(step[0], step[0] + 1)) for step in steps}
    resumed = stream(tiny, planner(records, kept=SOME), workers)
    for epoch, step in steps[2:]:
        assert both_passes(resumed, range(step, step + 1), range(epoch, epoch + 1)) == seen[epoch, step]


def test_batches_of_an_accumulated_step_come_one_after_the_other(tiny, records):
    whole = both_passes(stream(tiny, planner(records)), range(3))
    assert both_passes(stream(tiny, planner(records, accumulation=2)), range(2)) == whole


def test_a_micro_batch_without_rows_is_a_filler(tiny, records):
    """One pair on two ranks: rank 1 has neither the query nor the document, and runs the model all the same."""
    steps = planner(records, ranks=2, rank=1, size=1)
    ((plan, micro_batches),) = stream(tiny, steps).step(0, 0)
    assert plan.micro_batches == ((), ())
    for batch in micro_batches:
        assert (len(batch), batch.pixels) == (1, [])
        assert {name: value.tolist() for name, value in batch.rows.items()} == {"role": [-1], "position": [-1]}
        hidden = tiny.model(batch, outputs=frozenset({"hidden"})).hidden
        assert hidden.isfinite().all()


def test_streaming_draws_no_random_number(tiny, records):
    """The generator belongs to dropout."""
    before = torch.get_rng_state()
    both_passes(stream(tiny, planner(records), workers=1), range(2))
    assert torch.equal(before, torch.get_rng_state())


def test_workers_read_the_costs_of_the_next_step(tiny, records, monkeypatch):
    """The process that trains reads those of the first step alone."""
    own = PairRecords(records.pairs, records.documents, records.preparer, records.max_lengths)
    steps, read = planner(own), []
    whole = PairRecords.read_cost
    monkeypatch.setattr(PairRecords, "read_cost", lambda self, row: read.append(row.key) or whole(self, row))
    both_passes(stream(tiny, steps, workers=1), range(3))
    (first,) = steps.step(0, 0)
    assert sorted(map(str, read)) == sorted({str(row.key) for part in first.micro_batches for row in part})
    assert steps.unknown(0, 1) == steps.unknown(0, 2) == []


def test_a_row_that_cannot_be_read_has_no_cost_yet(tiny, records):
    tasks = WorkerTasks(MicroBatches(records, tiny.collator()))
    whole, lost = Row(0, 0, 0), Row(1, "book.pdf#99", 0)
    found = tasks[CostRequest((whole, lost))]
    assert found == Costs({0: records.cost(whole)})
    with pytest.raises(InputError, match=r"there is no document 'book\.pdf#99'"):
        records.cost(lost)


def test_a_packed_batch_is_the_batch(tiny, records):
    batch = tiny.collator()([records.preparer.example(records.record(row)) for row in _rows(records)])
    assert batch.pixels
    packed = pack(batch)
    assert packed.batch.pixels == []
    assert content(unpack(packed)) == content(batch)
    assert all(torch.equal(one, other) for one, other in zip(unpack(packed).pixels, batch.pixels, strict=True))


def _rows(records: PairRecords):
    (plan,) = planner(records).step(0, 0)
    return [row for part in plan.micro_batches for row in part]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_is_cut_short_is_one_error(tiny, records, tmp_path, workers):
    """Its header is whole, so that a worker meets it first; what the worker was doing is nobody's business."""
    with DocumentWriter(tmp_path) as writer:
        for number, id in enumerate(records.documents.ids()):
            writer.write(Document(id, page(number)[:-40]))
    documents = open_documents([tmp_path])
    preparer = tiny.preparer(ImageOpener(None, documents), "plain")
    damaged = PairRecords(records.pairs, documents, preparer, records.max_lengths)
    ((_, micro_batches),) = stream(tiny, planner(damaged), workers).step(0, 0)
    with pytest.raises(InputError, match=r"^document 'book\.pdf#\d': .* cut short: [^\n]*$"):
        list(micro_batches)
