"""Retrieval on validation pairs while a model trains."""

from __future__ import annotations

from collections.abc import Sequence

from polylens.contracts import Record
from polylens.data.pairs import Pair
from polylens.engine.pair_training import PairValidation
from polylens.engine.trainer import Evaluator
from polylens.engine.training_module import TrainingModule
from polylens.retrieval.encode import DocumentRecords, Encoder
from polylens.retrieval.metrics import in_memory

MEASURES = ("nDCG@10", "RR@10", "R@1", "R@10")


def retrieval_evaluator(validation: PairValidation) -> Evaluator:
    """Measures how well each query of the validation pairs finds its documents among all that the pairs name."""
    queries, qrels = _queries(validation.pairs)
    ids = sorted({id for pair in validation.pairs for id in (*pair.positives, *pair.negatives)})
    documents = DocumentRecords(validation.documents, ids)

    def evaluate(module: TrainingModule) -> dict[str, float]:
        encoder = Encoder(
            module.model,
            validation.preparer,
            validation.checkpoint.collator(),
            validation.card,
            validation.device,
            validation.batch_size,
            validation.loader,
        )
        return in_memory(
            list(qrels),
            encoder.encode(queries, "query"),
            ids,
            encoder.encode(documents, "document"),
            qrels,
            MEASURES,
            k=10,
        )

    return evaluate


def _queries(pairs: Sequence[Pair]) -> tuple[list[Record], dict[str, dict[str, int]]]:
    """Each query once, with all documents that any of its pairs names as relevant."""
    records: dict[object, Record] = {}
    qrels: dict[str, dict[str, int]] = {}
    for pair in pairs:
        record = records.setdefault(pair.query.messages, pair.query)
        qrels.setdefault(record.id, {}).update(dict.fromkeys(pair.positives, 1))
    return list(records.values()), qrels
