"""What ``step_cost.py`` trains: a small text encoder, and a small vision-language model."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence


class Problem(ABC):
    """A model and pairs to train it on.

    Attributes:
        model: what is trained.
        size: pairs.
        costs: tokens of all queries, then of all documents.
        micro_batch_tokens: padded tokens of a micro-batch.
        shares: of the memory that the step may take: for kept graphs, and for outputs of frozen modules.
    """

    model: nn.Module
    size: int
    costs: list[int]
    micro_batch_tokens: int
    shares: tuple[float, float]

    @abstractmethod
    def vectors(self, role: int, rows: Sequence[int], pad_as_batch: bool = False) -> Tensor:
        """Unit vectors of queries (role 0) or documents.

        Args:
            pad_as_batch: to the longest row of the whole batch, not to that of ``rows``.
        """


class Texts(Problem):
    """Random tokens and a random BERT.

    Args:
        ragged: lengths differ.
        lora: train adapters in the upper half, and nothing else.
    """

    size, micro_batch_tokens = 512, 768

    def __init__(self, ragged: bool, lora: bool) -> None:
        self.shares = (0.35, 0.15) if lora else (0.78, 0.0)
        self.model = _bert()
        if lora:
            _adapt_upper_half(self.model)
        generator = np.random.default_rng(0)
        queries = generator.integers(4, 17, self.size) if ragged else np.full(self.size, 16)
        documents = np.exp(generator.uniform(np.log(12), np.log(97), self.size)) if ragged else np.full(self.size, 48)
        self.costs = [*queries.tolist(), *documents.astype(int).tolist()]
        ids = torch.Generator().manual_seed(0)
        self._rows = [torch.randint(5, 8000, (length,), generator=ids) for length in self.costs]

    def vectors(self, role: int, rows: Sequence[int], pad_as_batch: bool = False) -> Tensor:
        chosen = [self._rows[role * self.size + row] for row in rows]
        ids, mask = (pad_sequence(part, batch_first=True) for part in (chosen, [torch.ones_like(r) for r in chosen]))
        if pad_as_batch:
            longest = max(self.costs[role * self.size : (role + 1) * self.size])
            ids, mask = (F.pad(part, (0, longest - part.shape[1])) for part in (ids, mask))
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1), dim=1)


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 8000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertModel(BertConfig(intermediate_size=1024, **sizes, **dropout), add_pooling_layer=False)


def _adapt_upper_half(model: nn.Module) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    adapters = LoraConfig(r=16, lora_alpha=32, target_modules=["query", "key", "value"], layers_to_transform=[2, 3])
    inject_adapter_in_model(adapters, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "lora_" in name
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)  # from zero, half of the gradients would be zero


class Pages(Problem):
    """Random pages and a random MiniCPM-V 2.0 whose vision tower, which is frozen, does most of the work."""

    size, micro_batch_tokens = 48, 400
    shares = (0.1, 0.45)

    def __init__(self) -> None:
        import polylens
        from polylens.contracts import ImageRef, Message, Record
        from polylens_minicpmv.models.minicpmv2 import MiniCPMV2, MiniCPMV2Config

        self._vlm = polylens.load("minicpmv", "tiny", device="cpu")
        tower = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_hidden_layers": 9}
        config = self._vlm.checkpoint.model.config.to_dict()
        config["polylens_vision"] = {**config["polylens_vision"], **tower}
        torch.manual_seed(0)
        self.model = MiniCPMV2(MiniCPMV2Config.from_dict(config))
        self.model.vpm.requires_grad_(False)
        parts = [(f"where is page {number}",) for number in range(self.size)]
        parts += [(ImageRef("bytes", _page(number)), "\n") for number in range(self.size)]
        records = [Record(str(number), (Message("user", part),)) for number, part in enumerate(parts)]
        self._examples = [self._vlm.prepare(record, style="plain") for record in records]
        self.costs = [example.cost for example in self._examples]

    def vectors(self, role: int, rows: Sequence[int], pad_as_batch: bool = False) -> Tensor:
        batch = self._vlm.collate([self._examples[role * self.size + row] for row in rows])
        hidden = self.model(batch).hidden
        weights = batch.attention_mask.unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1), dim=1)


def _page(number: int) -> bytes:
    import io

    from PIL import Image

    noise = np.random.default_rng(number).integers(0, 256, (280, 210, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "uniform": functools.partial(Texts, ragged=False, lora=False),
    "ragged": functools.partial(Texts, ragged=True, lora=False),
    "lora": functools.partial(Texts, ragged=False, lora=True),
    "tower": Pages,
}
