"""transformers' training arguments for a run."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from polylens.config.deepspeed import Precision, check_deepspeed, precision_of, zero_preset, zero_stage
from polylens.config.run import GradientCacheConfig, RunConfig
from polylens.errors import InputError

_DEFAULTS: dict[str, Any] = {
    "logging_steps": 10,
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,
    "dataloader_num_workers": 2,
    "logging_nan_inf_filter": False,
    "save_total_limit": 2,
}

_DEEPSPEED_AUTO: dict[str, Any] = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "zero_allow_untested_optimizer": True,
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
}


_ACCELERATE = {
    "ACCELERATE_USE_FSDP": "--use_fsdp is not supported: its gradients were not checked; use --deepspeed with ZeRO-3",
    "ACCELERATE_USE_MEGATRON_LM": "--use_megatron_lm is not supported; use --deepspeed with ZeRO-3",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config is not supported; use --deepspeed with ZeRO-3",
    "ACCELERATE_DYNAMO_BACKEND": "--dynamo_backend is not supported: dropout could not be replayed in the second pass",
}
"""Variables that accelerate sets and Trainer obeys."""

_COMPILE = "dropout could not be replayed in the second pass"
_ONE_STEP = "a step of the gradient cache has micro-batches of its own; see gradient_cache.micro_batch_tokens"
_METRICS = "validation measures retrieval; it has no predictions to put together"
_REFUSED = {
    "fsdp": "its gradients were not checked against a direct step; use ZeRO-3",
    "torch_compile": _COMPILE,
    "torch_compile_backend": _COMPILE,
    "torch_compile_mode": _COMPILE,
    "auto_find_batch_size": _ONE_STEP,
    "train_sampling_strategy": _ONE_STEP,
    "use_liger_kernel": "its kernels replace forward methods that plugins compose themselves",
    "neftune_noise_alpha": "its noise would differ between the two passes",
    "label_smoothing_factor": "objectives have options of their own",
    "torch_empty_cache_steps": "the step does not go through Trainer's own",
    "include_num_input_tokens_seen": "tokens_per_second is logged instead",
    "batch_eval_metrics": _METRICS,
    "include_for_metrics": _METRICS,
    "eval_use_gather_object": _METRICS,
    "eval_accumulation_steps": _METRICS,
}
"""Fields of ``TrainingArguments`` that would be wrong here, or do nothing."""


_HUB_REFUSED = {
    "hub_always_push": "the hub gets the finished model alone",
    "hub_strategy": "only `end` is: a checkpoint may be deleted while it is being sent; push one with `hf upload`",
}


def training_arguments(
    config: RunConfig, records: Literal["pairs", "conversations"] = "pairs"
) -> tuple[TrainingArguments, int]:
    """Arguments for ``PolylensTrainer``, and the global batches of a step, which the trainer itself must not count.

    With validation data, the best checkpoint is kept by nDCG@10, or by the loss on conversations, unless the run says
    otherwise.

    Raises:
        InputError: a value that transformers refuses, or a way of training in which the engine is not right.
    """
    given = {**_DEFAULTS, **(_validation_defaults(config.training, records) if config.data.validation else {})}
    given |= config.training
    accumulation = int(given.pop("gradient_accumulation_steps", 1))
    given.pop("resume_from_checkpoint", None)
    if config.zero is not None:
        given["deepspeed"] = zero_preset(config.zero, config.offload)
    given.pop("load_best_model_at_end", None)  # ``training`` itself takes the best checkpoint
    for name, reason in _REFUSED.items():
        if given.get(name):
            raise InputError(f"{name} is not supported: {reason}")
    _check_hub(given)
    if accumulation < 1:
        raise InputError(f"gradient_accumulation_steps is {accumulation}; it must be at least 1")
    _take_from_accelerate(given)
    precision = _precision(given)
    if given.get("deepspeed"):
        given["deepspeed"] = _deepspeed(
            given["deepspeed"], precision, given.get("optim", "adamw_torch_fused"), accumulation, config.gradient_cache
        )
        precision = precision_of(given["deepspeed"], precision)
    if precision == "fp16":
        _check_fp16()
    _take_checkpointing(given)
    if not torch.accelerator.is_available():
        given["use_cpu"] = True  # without it, ranks on CPUs would not find each other
    try:
        args = TrainingArguments(output_dir=config.output_dir, **given)
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"training arguments: {error}") from error
    if args.deepspeed:
        _check_agreement(args)
        _start_deepspeed()
    return args, accumulation


def _check_hub(given: dict[str, Any]) -> None:
    """What is pushed is the finished model; transformers' default is every checkpoint too."""
    wishes = {name: given.get(name) for name in _HUB_REFUSED}
    for name, wish in wishes.items():
        if wish and wish != "end":
            raise InputError(f"{name}: {wish} is not supported: {_HUB_REFUSED[name]}")
    if given.get("push_to_hub"):
        given["hub_strategy"] = "end"


def _take_from_accelerate(given: dict[str, Any]) -> None:
    """What ``accelerate launch`` says through the environment, where nothing else would see it."""
    for variable, option in _ACCELERATE.items():
        if os.environ.get(variable, "false").lower() not in ("false", "no"):
            raise InputError(f"accelerate launch: {option}")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and not given.get("deepspeed"):
        raise InputError("accelerate launch --use_deepspeed: give --zero or --deepspeed FILE as well")
    wanted = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if wanted == "fp8":
        raise InputError("accelerate launch --mixed_precision fp8 is not supported; use bf16")
    if wanted != "no" and not given.get("deepspeed"):
        given.setdefault(wanted, not (given.get("bf16") or given.get("fp16")))


def _precision(given: Mapping[str, Any]) -> Precision:
    return "bf16" if given.get("bf16") else "fp16" if given.get("fp16") else "float32"


def _check_fp16() -> None:
    if not torch.accelerator.is_available():
        raise InputError("fp16 needs an accelerator: use --bf16 on CPUs, or neither")


def _take_checkpointing(given: dict[str, Any]) -> None:
    """Activation checkpointing, in the form that is right here.

    The reentrant one gives no gradient to a module whose inputs need none, such as a vision tower behind pixels.
    """
    name = "gradient_checkpointing_kwargs"
    name = name if given.get(name) else "activation_checkpointing_kwargs"
    options = given.get(name)
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except ValueError as error:
            raise InputError(f"{name} is not JSON: {error}") from error
    if not options:
        return
    if options.get("use_reentrant"):
        raise InputError(f"{name}: use_reentrant gives no gradient to layers that read pixels; leave it out")
    if options.get("preserve_rng_state") is False:
        raise InputError(f"{name}: without preserve_rng_state dropout differs in the recomputed pass; leave it out")
    given[name] = {"use_reentrant": False, **options}


def _check_agreement(args: TrainingArguments) -> None:
    """transformers notes where the DeepSpeed file and its own arguments disagree, and says so when training starts."""
    found = getattr(args.hf_deepspeed_config, "mismatches", [])
    if found:
        said = "; ".join(line.strip("- ") for line in found)
        raise InputError(f'deepspeed: it disagrees with the run, write "auto" there instead: {said}')


_LESS_IS_BETTER = ("loss", "cer", "wer", "edit_distance")


def _validation_defaults(given: dict[str, Any], records: str) -> dict[str, Any]:
    strategy = given.get("eval_strategy", "epoch")
    metric = given.get("metric_for_best_model", "nDCG@10" if records == "pairs" else "loss")
    steps = {"eval_steps": given["save_steps"]} if strategy == "steps" and "save_steps" in given else {}
    return {
        "eval_strategy": strategy,
        "save_strategy": strategy if strategy != "no" else "steps",
        "metric_for_best_model": metric,
        "greater_is_better": not metric.endswith(_LESS_IS_BETTER),
        **steps,
    }


def _start_deepspeed() -> None:
    """ZeRO-3 partitions a model while it is built, for which its ranks must know each other by then."""
    import deepspeed

    if "RANK" not in os.environ:  # one process without a launcher
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=_free_port())
    backend = None if torch.accelerator.is_available() else "gloo"
    deepspeed.init_distributed(backend, auto_mpi_discovery=False)


def _free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def _deepspeed(
    value: Any,
    precision: Precision = "float32",
    optimizer: str = "adamw_torch_fused",
    accumulation: int = 1,
    cache: GradientCacheConfig | None = None,
) -> dict[str, Any]:
    config = {**_DEEPSPEED_AUTO, **check_deepspeed(value, precision, optimizer)}
    steps = config["gradient_accumulation_steps"]
    if steps not in ("auto", 1, accumulation):
        raise InputError(f"deepspeed: /gradient_accumulation_steps is {steps}, and the run's own is {accumulation}")
    config["gradient_accumulation_steps"] = "auto"  # accumulation lies inside the step
    zero = dict(config.get("zero_optimization", {}))
    if zero_stage(config) == 3:
        zero.setdefault("stage3_gather_16bit_weights_on_model_save", True)  # checkpoints are whole model folders
    if cache is not None and cache.low_memory and zero_stage(config) > 1:
        config.setdefault("data_types", {"grad_accum_dtype": "fp32"})  # micro-batches add up in bf16 otherwise
    return {**config, "zero_optimization": zero}


def checkpoint_to_resume(config: RunConfig) -> str | None:
    """The checkpoint to go on from, by ``resume_from_checkpoint``: a folder, or true for the last one.

    Raises:
        InputError: there is no such checkpoint; or the output folder holds a run, and the run says nothing of it.
    """
    wanted = config.training.get("resume_from_checkpoint")
    folder = Path(config.output_dir)
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if isinstance(wanted, str) and wanted.lower() not in ("true", "false"):
        if not Path(wanted).is_dir():
            raise InputError(f"resume_from_checkpoint: there is no folder {wanted}")
        if not (Path(wanted) / TRAINER_STATE_NAME).is_file():
            raise InputError(f"resume_from_checkpoint: {wanted} is no checkpoint of a run: no {TRAINER_STATE_NAME}")
        return wanted
    if str(wanted).lower() == "true":
        return last  # nothing was saved yet: start anew
    if last is not None:
        raise InputError(
            f"{folder} already holds {Path(last).name}: go on from it with --resume-from-checkpoint true, or choose "
            "another --output-dir"
        )
    return None


def loader_of(args: TrainingArguments) -> dict[str, Any]:
    """Keyword arguments of ``torch.utils.data.DataLoader``."""
    workers = args.dataloader_num_workers
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": False}
    if workers:
        options["prefetch_factor"] = args.dataloader_prefetch_factor or 2
        options["multiprocessing_context"] = args.dataloader_multiprocessing_context
    return options
