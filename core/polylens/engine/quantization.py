"""A base in four bits under its adapters (QLoRA, Dettmers et al. 2023, arXiv 2305.14314), through bitsandbytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.utils.import_utils import is_bitsandbytes_available

from polylens.config.run import LoraSettings
from polylens.engine.sources import ModelSource
from polylens.errors import InputError


def check_adapters(lora: LoraSettings, tune: Sequence[str] | None, *, zero3: bool) -> None:
    """Refuse adapters that cannot be trained here, before anything is loaded.

    Raises:
        InputError: DoRA or a quantised base under ZeRO-3; a quantised base without an adapter, bitsandbytes or a GPU,
            or with a component that would be trained as well.
    """
    if lora.enable and lora.dora and zero3:
        raise InputError(
            "lora.dora: under ZeRO-3, DoRA would read the weights of a layer after they are parted: use ZeRO-1 or 2"
        )
    if lora.quantize is None:
        return
    if not lora.enable:
        raise InputError("lora.quantize is for the base of adapters: switch LoRA on")
    both = [name for name in tune or () if name in lora.components]
    if both:
        raise InputError(f"lora.quantize: weights of {both[0]} are in four bits and cannot be trained: not in --tune")
    if zero3:
        raise InputError("lora.quantize: ZeRO-3 cannot part weights of four bits: use ZeRO-1 or 2")
    if not is_bitsandbytes_available():
        raise InputError('lora.quantize needs the package bitsandbytes: pip install "polylens[qlora]"')
    if not torch.cuda.is_available():
        raise InputError("lora.quantize needs a GPU: leave it out, and take --dtype bfloat16 to save memory")


def quantized(lora: LoraSettings, found: ModelSource, outline: PreTrainedModel, dtype: torch.dtype) -> dict[str, Any]:
    """Options of ``from_pretrained``: linear layers of the components that get adapters in four bits, and the rest,
    the output head among it, in ``dtype``.

    Raises:
        InputError: the model is a preset.
    """
    if found.is_preset:
        raise InputError("lora.quantize: a preset has random weights only, and nothing to quantise")
    head = outline.get_output_embeddings()
    heads = [name for name, module in outline.named_modules() if module is head]
    components = found.family.components
    others = [path for name, paths in components.items() if name not in lora.components for path in paths]
    half = dtype if dtype in (torch.bfloat16, torch.float16) else torch.bfloat16
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=lora.quantize,  # pyright: ignore[reportArgumentType]  # None was refused
        bnb_4bit_compute_dtype=half,
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=[*heads, *others, *(lora.modules_to_save or ())],
    )
    return {"quantization_config": config, "device_map": {"": torch.accelerator.current_accelerator() or "cpu"}}
