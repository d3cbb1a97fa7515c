"""One of two ranks that train the preset under ZeRO-3: the first has pictures, the second has text only.

    zero3.py FOLDER

``FOLDER`` holds the model and ``batches.pt``, a batch for each rank. Weights are partitioned while they load. All
crops go through the tower at once, or in chunks, of which the first rank has several and the second one has none.
"""

import json
import sys
from pathlib import Path

import deepspeed
import torch
from deepspeed.utils import safe_get_full_grad
from transformers import PreTrainedModel
from transformers.integrations import HfDeepSpeedConfig

from polylens.contracts import Batch
from polylens_minicpmv.models import native
from polylens_minicpmv.models.minicpmv2 import MiniCPMV2
from polylens_minicpmv.models.minicpmv25 import MiniCPMV25
from polylens_minicpmv.models.minicpmv26 import MiniCPMV26
from polylens_minicpmv.versions import detect_version

SETTINGS = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_clipping": 0.0,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
}


def loss_of(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    out = model(batch, outputs={"hidden", "logits"}, logit_positions=batch.attention_mask)
    return out.hidden[batch.attention_mask].sin().mean() + out.logits.logsumexp(-1).mean()


CASES: list[tuple[int | None, tuple[str, ...]]] = [(None, ()), (3, ()), (2, ("vpm", "model.vision_tower"))]
"""Chunk size, and what is frozen."""


KINDS: dict[str | None, type[PreTrainedModel]] = {
    "2.0": MiniCPMV2,
    "2.5": MiniCPMV25,
    "2.6": MiniCPMV26,
    "4.6": native.MiniCPMV4_6ForConditionalGeneration,
    "4.7": native.MiniCPMV4_7ForConditionalGeneration,
}


def build(folder: Path, chunk: int | None, frozen: tuple[str, ...]) -> PreTrainedModel:
    config = json.loads((folder / "config.json").read_text())
    kind = KINDS[detect_version(config)]
    model = kind.from_pretrained(folder, config=kind.config_class.from_dict(config))
    for name, weight in model.named_parameters():
        weight.requires_grad_(weight.requires_grad and not name.startswith(frozen))
    model.vision_chunk_size = chunk
    return model


def expected(folder: Path, batches: list[Batch], frozen: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The mean gradient of both ranks' losses, without DeepSpeed and without chunks."""
    model = build(folder, None, frozen)
    torch.stack([loss_of(model, batch) for batch in batches]).mean().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def error(model: torch.nn.Module, batch: Batch, wanted: dict[str, torch.Tensor]) -> float:
    """Relative error of the gradient under DeepSpeed, after a first pass without gradients."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=SETTINGS)
    with torch.no_grad():
        loss_of(engine, batch)
    engine.backward(loss_of(engine, batch))
    difference = total = 0.0
    for name, gradient in wanted.items():
        difference += (safe_get_full_grad(engine.module.get_parameter(name)) - gradient).square().sum().item()
        total += gradient.square().sum().item()
    engine.destroy()
    return (difference / total) ** 0.5


def main() -> None:
    folder = Path(sys.argv[1])
    batches = torch.load(folder / "batches.pt", weights_only=False)
    wanted = [expected(folder, batches, frozen) for _, frozen in CASES]
    deepspeed.init_distributed("gloo")
    active = HfDeepSpeedConfig(SETTINGS)  # from_pretrained partitions as long as this lives
    for (chunk, frozen), gradients in zip(CASES, wanted, strict=True):
        model = build(folder, chunk, frozen)
        assert all(hasattr(weight, "ds_id") for weight in model.parameters())
        found = error(model, batches[torch.distributed.get_rank()], gradients)
        print(f"chunks of {chunk}, frozen {frozen}: relative difference", found, flush=True)
        assert found < 1e-5
    del active
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
