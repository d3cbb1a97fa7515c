"""The engine: gradient cache, micro-batch planner, trainer, checkpoints, adapters."""

import os

import torch

# DeepSpeed looks for an accelerator when it is imported, and warns if there is none; it must not guess.
if not torch.accelerator.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
