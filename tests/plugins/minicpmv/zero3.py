"""One of two ranks that train the preset under ZeRO-3: the first has pictures, the second has text only.

    zero3.py FOLDER

``FOLDER`` holds the model and ``batches.pt``, a batch for each rank. Weights are partitioned while they load.
"""

import sys
from pathlib import Path

import deepspeed
import torch
from deepspeed.utils import safe_get_full_grad
from transformers.integrations import HfDeepSpeedConfig

from polylens.contracts import Batch
from polylens_minicpmv.configuration import MiniCPMV2Config
from polylens_minicpmv.model import MiniCPMV2

SETTINGS = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_clipping": 0.0,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
}


def loss_of(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    out = model(batch, outputs={"hidden", "logits"}, logit_positions=batch.attention_mask)
    return out.hidden[batch.attention_mask].sin().mean() + out.logits.logsumexp(-1).mean()


def expected(folder: Path, config: MiniCPMV2Config, batches: list[Batch]) -> dict[str, torch.Tensor]:
    """The mean gradient of both ranks' losses, without DeepSpeed."""
    model = MiniCPMV2.from_pretrained(folder, config=config)
    torch.stack([loss_of(model, batch) for batch in batches]).mean().backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


def main() -> None:
    folder = Path(sys.argv[1])
    config = MiniCPMV2Config.from_pretrained(folder)
    batches = torch.load(folder / "batches.pt", weights_only=False)
    wanted = expected(folder, config, batches)
    deepspeed.init_distributed("gloo")
    keep = HfDeepSpeedConfig(SETTINGS)  # from_pretrained partitions as long as this lives
    model = MiniCPMV2.from_pretrained(folder, config=config)
    assert all(hasattr(weight, "ds_id") for weight in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=SETTINGS)
    engine.backward(loss_of(engine, batches[torch.distributed.get_rank()]))
    difference = total = 0.0
    for name, weight in engine.module.named_parameters():
        difference += (safe_get_full_grad(weight) - wanted[name]).square().sum().item()
        total += wanted[name].square().sum().item()
    print("relative difference", (difference / total) ** 0.5, keep.config["zero_optimization"]["stage"])
    assert (difference / total) ** 0.5 < 1e-5


if __name__ == "__main__":
    main()
