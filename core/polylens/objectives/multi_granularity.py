"""Language modelling with alignment of pictures and text: of whole pictures with answers, of tokens with OCR lines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from polylens.contracts import IGNORE_INDEX, Batch, Coupled, Objective, Outputs, Regions, Representation
from polylens.errors import InputError
from polylens.modeling.coverage import TokenCover
from polylens.objectives.lm import LanguageModelling, LmOptions
from polylens.objectives.means import labels_of_runs, means_of_runs, numbers_of_runs
from polylens.objectives.paired import equal_pairs, paired_info_nce
from polylens.objectives.stop_words import StopWords, words_of

REMGCL_GRID = 14
"""Cells of a side of the grid that REMGCL lays over every picture: that of a tower of 196 patches, not of its 256."""

COMPAT = {"remgcl_grid": "OCR lines are given the patches of a grid of 14 x 14, whatever grid the tower has"}
"""Defects of the original that can be asked for."""


@dataclass
class MultiGranularityOptions:
    """Options of the objective ``multi_granularity``.

    Args:
        form: ``alignment`` pulls each text towards its picture and nothing else, as REMGCL does; ``infonce`` pushes it
            from all others of the batch, over all ranks, as well.
        global_weight: of the term for whole pictures and answers; 0 leaves it out.
        local_weight: of the term for OCR lines and the visual tokens that show them; 0 leaves it out, and needs no
            ``--ocr``.
        global_temperature: the cosines of whole pictures are divided by it.
        local_temperature: those of OCR lines.
        confidence_weighting: weigh each OCR line by its score, plus one, less the mean score of the batch.
        mask_padding: leave visual tokens that show nothing but padding out of a picture's mean.
        stop_words: languages whose stop words (and signs of punctuation) are left out of the mean of an answer, or
            text files with a word in each line; ``[none]`` leaves out nothing.
        text_layer: what stands for a token of an answer: its input ``embeddings``, or the ``last_hidden`` state, which
            has seen the picture. An OCR line is no part of the conversation, and always has its embeddings.
        minimum_cover: a visual token shows an OCR line if so much of it (or of the line, if that is smaller) is
            covered.
        normaliser: of the language-modelling term, as for ``lm``.
        logit_positions: as for ``lm``.
        tile_rows: rows of the matrix of cosines that exist at a time (``infonce``).
        compat: defects of the original to repeat: ``remgcl_grid``.
    """

    form: Literal["alignment", "infonce"] = "alignment"
    global_weight: float = 0.01
    local_weight: float = 0.01
    global_temperature: float = 0.5
    local_temperature: float = 0.5
    confidence_weighting: bool = False
    mask_padding: bool = False
    stop_words: list[str] = field(default_factory=lambda: ["english"])
    text_layer: Literal["embeddings", "last_hidden"] = "embeddings"
    minimum_cover: float = 0.05
    normaliser: Literal["tokens", "samples"] = "tokens"
    logit_positions: int = 512
    tile_rows: int = 1024
    compat: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("global_weight", "local_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        for name in ("global_temperature", "local_temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 < self.minimum_cover <= 1:
            raise ValueError(f"minimum_cover is {self.minimum_cover}; it must be above 0 and at most 1")
        for name in ("logit_positions", "tile_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        unknown = [name for name in self.compat if name not in COMPAT]
        if unknown:
            raise ValueError(f"compat has {unknown[0]!r}; it may have: {', '.join(COMPAT)}")


@dataclass(frozen=True, slots=True)
class Pairs:
    """Texts and what shows them, in a micro-batch.

    Attributes:
        text, image: [n, D].
        text_labels, image_labels: int64 [n], equal where vectors stand for the same.
        scores: float32 [n], of the OCR engine; 1 for whole pictures.
    """

    text: Tensor
    image: Tensor
    text_labels: Tensor
    image_labels: Tensor
    scores: Tensor


class MultiGranularity(Objective):
    """``lm + global_weight * global + local_weight * local``, the loss of REMGCL.

    The global term compares the mean of an answer's tokens with the mean of its picture's visual tokens, as the
    connector gives them; the local one the mean of an OCR line's tokens with the mean of the visual tokens that show
    it. Rows without a picture, and answers of which stop words leave nothing, take no part in them.

    ``alignment``: minus the mean of ``cos / temperature``. ``infonce``: symmetric InfoNCE of the same cosines, where
    vectors that stand for the same text, or the same picture, are no negatives of each other. The first pass of the
    gradient cache needs the vision tower and the connector alone for it, and the second one serves both parts.
    """

    records = "conversations"

    def __init__(self, options: MultiGranularityOptions | None = None, stop_words: StopWords | None = None) -> None:
        self.options = o = options or MultiGranularityOptions()
        self._stop_words, self._words = stop_words, _words(o.stop_words) if stop_words is None else []
        self._lm = LanguageModelling(LmOptions(o.normaliser, o.logit_positions))
        self.weights = {"global": o.global_weight, "local": o.local_weight}
        self.is_coupled = o.form == "infonce" and any(self.weights.values())
        hidden = {"hidden"} if o.global_weight and o.text_layer == "last_hidden" else set()
        vectors = frozenset({"connector", "embeddings"} | hidden) if any(self.weights.values()) else frozenset()
        self.inputs_needed = vectors | {"logits"}
        self.first_inputs = vectors if self.is_coupled else None
        self.reads_lines = bool(o.local_weight)
        grid = REMGCL_GRID if "remgcl_grid" in o.compat else None
        self.cover = TokenCover(o.minimum_cover, grid) if o.local_weight or o.mask_padding else None

    def use_tokenizer(self, tokenizer: Any) -> None:
        """Stop words become token ids."""
        if self._stop_words is None:
            self._stop_words = StopWords.of_words(self._words, tokenizer)

    def normalisers(self, batch: Batch) -> dict[str, float]:
        """Of the language-modelling term; and for ``alignment`` answers with pictures, OCR lines and their scores."""
        counts = self._lm.normalisers(batch)
        if self.options.form == "alignment":
            if self.weights["global"]:
                counts["pictures"] = float(self._answers(batch)[1].sum())
            if self.weights["local"]:
                regions = self._regions(batch)
                counts |= {"lines": float(regions.lines), "scores": float(regions.scores.double().sum())}
        return counts

    def embed_ids(self, batch: Batch) -> Tensor:
        """int64 [M], the tokens of answers that count, then those of OCR lines."""
        answers, lines = self._embedded(batch)
        return torch.cat([answers, lines])

    def representations(self, outputs: Outputs, batch: Batch) -> dict[str, Representation]:
        """Unit vectors: ``text`` and ``image`` of each answer with a picture, ``line_text`` and ``line_image`` of each
        OCR line; labelled with what they stand for, and lines with the bits of their score."""
        found: dict[str, Representation] = {}
        for term, pairs in self._pairs(outputs, batch).items():
            bits = pairs.scores.float().view(torch.int32).long()
            prefix = "line_" if term == "local" else ""
            for name, values, labels in (
                ("text", pairs.text, pairs.text_labels),
                ("image", pairs.image, pairs.image_labels),
            ):
                unit = F.normalize(values, dim=1)
                found[prefix + name] = Representation(unit, labels=torch.stack([labels, bits], dim=1))
        return found

    def coupled(
        self,
        representations: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        targets: Any = None,
        parameters: Mapping[str, Tensor] | None = None,
        labels: Mapping[str, Tensor] | None = None,
    ) -> Coupled:
        """Both InfoNCE terms over the whole batch, weighted."""
        total = Coupled(next(iter(representations.values())).new_zeros(()), {})
        for term, prefix in (("global", ""), ("local", "line_")):
            names = (f"{prefix}text", f"{prefix}image")
            if names[0] not in representations:
                continue
            known = [(labels or {})[name] for name in names]
            made = paired_info_nce(
                {name: representations[name] for name in names},
                own,
                temperature=getattr(self.options, f"{term}_temperature"),
                ignore=equal_pairs(*(label[:, 0] for label in known)),
                importance=self._importance(known[0][:, 1], representations[names[0]]) if prefix else None,
                tile_rows=self.options.tile_rows,
            )
            loss = self.weights[term] * made.loss
            total.loss += loss
            total.gradients |= {name: self.weights[term] * gradient for name, gradient in made.gradients.items()}
            total.metrics |= {f"loss_{term}": loss, f"accuracy_{term}": made.metrics["accuracy"]}
        return total

    def additive(self, outputs: Outputs, batch: Batch, normalisers: Mapping[str, float]) -> dict[str, Tensor]:
        """``loss_lm`` and, in the form ``alignment``, the weighted terms ``loss_global`` and ``loss_local``."""
        terms = {"loss_lm": self._lm.additive(outputs, batch, normalisers)}
        if self.options.form == "alignment":
            for term, pairs in self._pairs(outputs, batch).items():
                cosines = F.cosine_similarity(pairs.text, pairs.image, dim=1)
                if term == "local" and self.options.confidence_weighting:
                    cosines = cosines * _confidence(pairs.scores.to(cosines), normalisers)
                count = max(normalisers["pictures" if term == "global" else "lines"], 1)
                scale = self.weights[term] / (getattr(self.options, f"{term}_temperature") * count)
                terms[f"loss_{term}"] = -scale * cosines.sum()
        return terms

    def _pairs(self, outputs: Outputs, batch: Batch) -> dict[str, Pairs]:
        """Of each term that has a weight."""
        if not any(self.weights.values()):
            return {}
        if outputs.connector is None or outputs.embeddings is None:
            raise ValueError("multi_granularity needs Outputs.connector, and Outputs.embeddings of embed_ids(batch)")
        answers, lines = self._embedded(batch)
        of_answers, of_lines = outputs.embeddings.split([len(answers), len(lines)])
        found = {}
        if self.weights["global"]:
            found["global"] = self._whole_pictures(outputs, batch, of_answers)
        if self.weights["local"]:
            found["local"] = self._lines(outputs.connector, batch, of_lines)
        return found

    def _whole_pictures(self, outputs: Outputs, batch: Batch, embeddings: Tensor) -> Pairs:
        assert outputs.connector is not None
        kept, rows = self._answers(batch)
        chosen, counts = kept & rows[:, None], kept.sum(dim=1)[rows]
        if self.options.text_layer == "last_hidden":
            assert outputs.hidden is not None
            embeddings = outputs.hidden[chosen]
        seen = rows.repeat_interleave(batch.visual_mask.sum(dim=1))
        if self.options.mask_padding:
            seen = seen & self._regions(batch).on_picture
        owners = numbers_of_runs(batch.visual_mask.sum(dim=1))[seen]
        visual_counts = torch.bincount(owners, minlength=len(batch))[rows]
        return Pairs(
            text=means_of_runs(embeddings, counts),
            image=means_of_runs(outputs.connector[seen], visual_counts),
            text_labels=labels_of_runs(batch.labels[chosen], counts),
            image_labels=_pictures(batch)[rows],
            scores=torch.ones(len(counts), device=counts.device),
        )

    def _lines(self, connector: Tensor, batch: Batch, embeddings: Tensor) -> Pairs:
        regions = self._regions(batch)
        starts = regions.visual_counts.cumsum(0) - regions.visual_counts
        places = regions.tokens + starts[regions.line_rows].repeat_interleave(regions.token_counts)
        pictures = _pictures(batch)[regions.line_rows]
        return Pairs(
            text=means_of_runs(embeddings, regions.id_counts),
            image=means_of_runs(connector[places], regions.token_counts),
            text_labels=labels_of_runs(regions.ids, regions.id_counts),
            image_labels=labels_of_runs(regions.tokens, regions.token_counts) ^ pictures,
            scores=regions.scores,
        )

    def _embedded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Token ids whose embeddings are needed: of answers, and of OCR lines."""
        answers, lines = batch.labels.new_empty(0), batch.labels.new_empty(0)
        if self.weights["global"] and self.options.text_layer == "embeddings":
            kept, rows = self._answers(batch)
            answers = batch.labels[kept & rows[:, None]]
        if self.weights["local"]:
            lines = self._regions(batch).ids
        return answers, lines

    def _answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """bool [B, T], supervised tokens that are no stop words; bool [B], rows that have some, and a picture."""
        if self._stop_words is None:
            raise ValueError("stop words are not known as token ids yet: call use_tokenizer first")
        kept = (batch.labels != IGNORE_INDEX) & batch.attention_mask & ~self._stop_words.found(batch.labels)
        return kept, kept.any(dim=1) & batch.visual_mask.any(dim=1)

    def _regions(self, batch: Batch) -> Regions:
        if batch.regions is not None:
            return batch.regions
        if bool(batch.visual_mask.any()):
            raise ValueError("multi_granularity needs Batch.regions: a collator must join those of the examples")
        return Regions.joined([Regions.of_example([])] * len(batch)).converted(
            lambda part: part.to(batch.labels.device)
        )

    def _importance(self, bits: Tensor, like: Tensor) -> Tensor | None:
        """Of OCR lines, from the bits of their scores."""
        if not self.options.confidence_weighting:
            return None
        scores = bits.int().view(torch.float32)
        counts = {"scores": float(scores.double().sum()), "lines": len(scores)}
        return _confidence(scores.to(like), counts)


def _confidence(scores: Tensor, counts: Mapping[str, float]) -> Tensor:
    """Weights whose mean is 1 over all lines of the batch; ``counts`` has their number and the sum of their scores."""
    return scores + (1 - counts["scores"] / max(counts["lines"], 1))


def _pictures(batch: Batch) -> Tensor:
    """int64 [B], equal for rows with the same pictures; where that is not told, for rows of the same id."""
    if "picture" in batch.rows:
        return batch.rows["picture"]
    digests = [hashlib.blake2b(id.encode(), digest_size=8).digest() for id in batch.ids]
    return torch.tensor([int.from_bytes(d, signed=True) for d in digests], device=batch.labels.device)


def _words(sources: list[str]) -> list[str]:
    """Stop words of all sources.

    Raises:
        InputError: one of them is unknown.
    """
    if "none" in sources and len(sources) > 1:
        raise InputError(f"stop_words is {sources}: 'none' stands alone")
    return [word for source in sources if source != "none" for word in words_of(source)]
