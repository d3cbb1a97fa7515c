"""The engine: gradient cache, micro-batch planner, trainer, checkpoints, adapters."""
