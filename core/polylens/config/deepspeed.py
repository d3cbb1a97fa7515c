"""The DeepSpeed configuration of a run: presets of ZeRO, and checks before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from polylens.config.json_text import parse_json
from polylens.errors import InputError

Precision = Literal["float32", "bf16", "fp16"]

_REFUSED = {
    "/optimizer": "it would replace the run's optimizer and its parameter groups; set --optim, --learning_rate, "
    "--weight_decay, --adam_beta1, --adam_beta2 instead",
    "/scheduler": "it would replace the run's schedule without a word (WarmupLR in the originals' files silently took "
    "the place of cosine); set --lr_scheduler_type and --warmup_steps instead",
    "/amp": "Apex scales the loss by itself; set --bf16 or --fp16 instead",
    "/torch_autocast/enabled": "its gradients were not checked against a direct step; set --bf16 instead",
    "/tensor_parallel": "the gradient cache is exact under data parallelism alone",
    "/zero_optimization/zenflow": "it delays a part of every update; leave it out",
    "/zero_optimization/zero_quantized_gradients": "gradients would be rounded to 4 bits; leave it out",
    "/zero_optimization/offload_optimizer/super_offload": "its gradients were not checked against a direct step; "
    "leave it out",
}
"""Blocks and switches, by JSON pointer, with which training would be wrong or was never shown to be right."""

_BLOCKS = ("zero_optimization", "bf16", "fp16", "data_types")
_STAGE_0 = {
    "bf16": "sums micro-batches in bfloat16",
    "fp16": "divides gradients by a loss scale that the loss was never multiplied by",
}
_OFFLOAD = {"/zero_optimization/offload_optimizer": (1, 2, 3), "/zero_optimization/offload_param": (3,)}
_CPU_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adagrad")

OFFLOADED = {"optimizer": "offload_optimizer", "params": "offload_param"}
"""What ``offload`` may name, and DeepSpeed's block for it."""


def zero_preset(stage: Literal[1, 2, 3], offload: Sequence[str] = ()) -> dict[str, Any]:
    """The DeepSpeed configuration of ``zero`` and ``offload``.

    The precision, the sizes of batches and the clipping are the run's own. Sizes of buckets are left to DeepSpeed:
    with them the ways of training were checked, and ``polylens estimate`` counts them.

    Args:
        offload: names of ``OFFLOADED``; ``params`` has an effect on stage 3 alone.

    >>> zero_preset(2, ["optimizer"])["zero_optimization"]
    {'stage': 2, 'offload_optimizer': {'device': 'cpu', 'pin_memory': True}}
    """
    blocks = {OFFLOADED[name]: {"device": "cpu", "pin_memory": True} for name in offload}
    return {
        "zero_optimization": {"stage": stage, **blocks},
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
    }


def check_deepspeed(
    value: str | Mapping[str, Any], precision: Precision = "float32", optimizer: str = "adamw_torch_fused"
) -> dict[str, Any]:
    """The DeepSpeed configuration of a run, ready for ``TrainingArguments(deepspeed=...)``.

    ``gradient_clipping`` becomes ``"auto"`` where it is absent, so that the run's ``max_grad_norm`` counts: DeepSpeed
    clips at 1.0 by itself since 0.19.3.

    Args:
        value: path of a JSON file, JSON text, or the configuration itself.
        precision: what the run asks for, which counts where the configuration says ``auto`` or nothing.
        optimizer: the run's ``optim``.

    Raises:
        InputError: there is no such file, it is not a JSON object, or it asks for a way of training in which the
            engine is not right; all reasons at once.
    """
    where, config = ("deepspeed", value) if isinstance(value, Mapping) else _read(value)
    for name, block in (("", config), *((f"/{name}", config[name]) for name in _BLOCKS if name in config)):
        if not isinstance(block, Mapping):
            raise InputError(f"{where}: {name or 'a DeepSpeed configuration'} is a JSON object, not {block!r}")
    if zero_stage(config) not in (0, 1, 2, 3):
        raise InputError(f"{where}: /zero_optimization/stage is {zero_stage(config)!r}; it must be 0, 1, 2 or 3")
    found = [*_refused(config), *_wrong_offload(config, optimizer), *_wrong_precision(config, precision)]
    if found:
        raise InputError(f"{where}: " + "; ".join(found))
    return {"gradient_clipping": "auto", **config}


def precision_of(config: Mapping[str, Any], own: Precision) -> Precision:
    """The type that DeepSpeed computes in, ``own`` being what the run asks for."""
    for name in ("bf16", "fp16"):
        enabled = _at(config, f"/{name}/enabled", "auto")
        if own == name if enabled == "auto" else enabled:
            return name
    return "float32"


def zero_stage(config: Mapping[str, Any]) -> Any:
    return _at(config, "/zero_optimization/stage", 0)


def _at(config: Mapping[str, Any], pointer: str, default: Any = None) -> Any:
    """The value at a JSON pointer, or ``default`` where there is none."""
    value: Any = config
    for key in pointer[1:].split("/"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return default if value is None else value


def _refused(config: Mapping[str, Any]) -> Iterator[str]:
    for pointer, reason in _REFUSED.items():
        if _at(config, pointer, False) is not False:
            yield f"{pointer}: {reason}"
    if _at(config, "/managed_gradient_accumulation", True) is False:
        yield "/managed_gradient_accumulation: the engine says itself where a step ends; leave it out"


def _wrong_offload(config: Mapping[str, Any], optimizer: str) -> Iterator[str]:
    stage = zero_stage(config)
    for pointer, stages in _OFFLOAD.items():
        device = _at(config, f"{pointer}/device", "none")
        if device != "none" and stage not in stages:
            yield f"{pointer}: it has no effect on ZeRO-{stage}; it works on {', '.join(map(str, stages))}"
        if device == "nvme":
            yield f"{pointer}/device: nvme was not checked against a direct step; use cpu"
    forced = _at(config, "/zero_force_ds_cpu_optimizer", True)
    offloaded = _at(config, "/zero_optimization/offload_optimizer/device") == "cpu"
    if offloaded and forced and optimizer not in _CPU_OPTIMIZERS:
        yield (
            f"/zero_optimization/offload_optimizer: --optim {optimizer} would become Adam without a word; choose "
            f'{", ".join(_CPU_OPTIMIZERS)}, or a DeepSpeed file with "zero_force_ds_cpu_optimizer": false to keep it'
        )


def _wrong_precision(config: Mapping[str, Any], own: Precision) -> Iterator[str]:
    """What DeepSpeed 0.19.8 gets wrong, measured against the gradient in float32."""
    precision, stage = precision_of(config, own), zero_stage(config)
    if precision != "float32" and stage == 0:
        yield (
            f"/zero_optimization/stage: on stage 0 with {precision}, DeepSpeed {_STAGE_0[precision]}; use stage 1, or "
            "no DeepSpeed"
        )
    wide = _at(config, "/data_types/grad_accum_dtype") in ("fp32", "float32", "float", "torch.float32")
    offloaded = _at(config, "/zero_optimization/offload_optimizer/device") == "cpu"
    if precision == "bf16" and stage == 1 and wide and not offloaded:
        yield (
            "/data_types/grad_accum_dtype: on ZeRO-1 with bf16, DeepSpeed then adds the micro-batches of a step up "
            "wrongly; leave it out, they are summed in float32 anyway"
        )


def _read(value: str) -> tuple[str, Any]:
    """Where the configuration comes from, and what it says."""
    inline = value.lstrip().startswith("{")
    where = "deepspeed" if inline else value
    try:
        return where, parse_json(value if inline else Path(value).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the DeepSpeed file {value!r}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from error
