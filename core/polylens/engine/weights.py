"""Weights into models: random ones of presets, those of model folders, and adapters over them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightRenaming
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.modeling_utils import set_zero3_state
from transformers.utils.import_utils import is_flash_attn_2_available

from polylens.config.run import LoraSettings
from polylens.contracts import ModelFamily
from polylens.engine.adapters import PREFIX, read_adapter
from polylens.engine.borrowing import lent_weights
from polylens.engine.quantization import quantized
from polylens.engine.reading import refusing
from polylens.engine.sources import ModelSource
from polylens.engine.tensor_files import weight_files
from polylens.errors import InputError, closest

ATTENTION = ("sdpa", "eager", "flash_attention_2")

_SMALL = 2**28
"""Weights of a model that may be larger than its files until they are read, and say better what they lack."""


def load_model(
    hooks: Any,
    found: ModelSource,
    dtype: str,
    attn_implementation: str,
    seed: int,
    lora: LoraSettings | None = None,
) -> PreTrainedModel:
    """An untrained model of a preset, or one with the weights of its folder; an adapter over it is not read.

    Args:
        lora: adapters that the model is to get: it may say that their base is quantised.

    Raises:
        InputError: weights are missing, have another shape, or cannot be read; there is no such attention.
    """
    _check_attention(attn_implementation)
    outline = outline_of(hooks, found)
    kind, config = type(outline), outline.config
    wanted = named_dtype(dtype, found.config)
    settings: dict[str, Any] = {"config": config, "dtype": wanted, "attn_implementation": attn_implementation}
    if lora is not None and lora.quantize:
        settings |= quantized(lora, found, outline, wanted)
    if found.is_preset:
        model = _random_model(hooks, found, kind, settings, seed)
    else:
        _check_size(outline, found)
        model = _read_weights(kind, found, settings)
    write_first_layout(model, found.family)
    return model


def outline_of(hooks: Any, found: ModelSource) -> PreTrainedModel:
    """The model without weights, on the meta device.

    Raises:
        InputError: the plugin cannot follow its ``config.json``.
    """
    with torch.device("meta"), described(found):
        return _whole_model(hooks, found)


def _check_attention(name: str) -> None:
    """transformers takes other names for hub repositories, whose code it would run."""
    if name not in ATTENTION:
        raise InputError(
            f"attn_implementation is {name!r}{closest(name, ATTENTION)}; it may be {', '.join(ATTENTION)}"
        )
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        raise InputError("attn_implementation is flash_attention_2: it needs the package flash-attn and a GPU")


@contextmanager
def described(found: ModelSource) -> Iterator[None]:
    """Refuses a ``config.json`` that the plugin cannot follow; what the plugin says of it gets the folder in front."""
    what = f"{found.folder}: config.json does not describe a model of family {found.family.name!r}"
    try:
        with refusing(what, trusted=found.is_preset):
            yield
    except InputError as error:
        if str(error).startswith("config.json"):
            raise InputError(f"{found.folder}/{error}") from error
        raise


def _whole_model(hooks: Any, found: ModelSource) -> PreTrainedModel:
    """The plugin's model, not partitioned: under ZeRO-3, parts that transformers builds would partition themselves."""
    with set_zero3_state():
        return hooks.build_model(family=found.family, config=found.config)


def write_first_layout(model: PreTrainedModel, family: ModelFamily) -> None:
    """Make ``save_pretrained`` write names of the first layout, whichever layout was read, and for presets too."""
    if any(layout.renames for layout in family.layouts):
        applied = getattr(model, "_weight_conversions", None) or []
        converters = [conversion for conversion in applied if isinstance(conversion, WeightConverter)]
        first = [WeightRenaming(old, new) for old, new in family.layouts[0].renames.items()]
        model._weight_conversions = [*first, *converters]  # type: ignore[assignment]


def _random_model(
    hooks: Any, found: ModelSource, kind: type[PreTrainedModel], settings: dict[str, Any], seed: int
) -> PreTrainedModel:
    """Weights drawn from ``seed``, the same on every rank and under every ZeRO stage."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not is_deepspeed_zero3_enabled():
            return kind._from_config(**settings)
        whole = _whole_model(hooks, found)
    return kind.from_pretrained(None, state_dict=dict(whole.state_dict()), **settings)


def _read_weights(kind: type[PreTrainedModel], found: ModelSource, settings: dict[str, Any]) -> PreTrainedModel:
    renames = {old: new for layout in found.family.layouts for old, new in layout.renames.items()}
    with refusing(f"{found.folder}: the weights cannot be read"):
        loaded: Any = kind.from_pretrained(
            None if found.parts else found.weights or found.folder,
            state_dict=_state_of_parts(found) if found.parts else None,
            key_mapping=renames or None,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below by name, and refused
            **settings,
        )
    model, report = loaded
    report["missing_keys"] = set(report["missing_keys"]) - _borrow(model, found, set(report["missing_keys"]))
    for what in ("missing_keys", "mismatched_keys"):
        keys = sorted(map(_described, report[what]))
        if keys:
            raise InputError(
                f"{found.folder}: {len(keys)} {what.replace('_', ' ')} for family {found.family.name!r}, "
                f"such as {', '.join(keys[:3])}"
            )
    return model


def _borrow(model: PreTrainedModel, found: ModelSource, missing: set[str]) -> set[str]:
    """Fill in weights that the checkpoint leaves to other models; gives their names."""
    if not missing or not found.borrowed:
        return set()
    own, filled = own_weights(model), set()
    for name, weight in lent_weights(found, missing):
        shape = tuple(getattr(own[name], "ds_shape", own[name].shape))
        if tuple(weight.shape) != shape or not own[name].is_floating_point():
            raise InputError(
                f"{found.folder}: {name} is {list(weight.shape)} where it is borrowed from, and {list(shape)} in the "
                f"model, as {own[name].dtype}: compose a whole model first"
            )
        _replace(model, {name: weight})
        filled.add(name)
    return filled


def _state_of_parts(found: ModelSource) -> dict[str, Tensor]:
    """The weights of a model whose parts lie in folders of their own."""
    state = {}
    for file in weight_files(found.folder, found.parts):
        with file.reading() as read:
            state |= {name: read(name) for name in file.entries}
    return state


def _check_size(outline: PreTrainedModel, found: ModelSource) -> None:
    """Refuse a model far larger than its files before room is made for it: at best, four bits are a weight."""
    folder = found.weights or found.folder
    inside = [path for place in (folder, *(folder / name for name in found.parts)) for path in place.iterdir()]
    files = [path for path in inside if path.suffix in (".safetensors", ".bin")]
    held = 2 * sum(path.stat().st_size for path in files)
    wanted = sum(parameter.numel() for parameter in outline.parameters())
    if wanted > max(held, _SMALL):
        raise InputError(
            f"{folder}: config.json describes {wanted} weights, and the files hold at most {held}: nothing is loaded"
        )


def _described(key: Any) -> str:
    """A name, or for weights of another shape ``name [there] [here]``."""
    return key if isinstance(key, str) else " ".join([key[0], *(str(list(shape)) for shape in key[1:])])


def reload_weights(model: PreTrainedModel, found: ModelSource, folder: Path) -> None:
    """Put the weights of a checkpoint that ``saving`` wrote into a model of the same shape."""
    if has_adapter(model):
        put_adapter(model, found.family, folder)
        return
    settings = {"config": model.config, "dtype": model.dtype}
    saved = _read_weights(type(model), dataclasses.replace(found, folder=folder), settings)
    model.load_state_dict(saved.state_dict())


def has_adapter(model: PreTrainedModel) -> bool:
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def put_adapter(model: PreTrainedModel, family: ModelFamily, folder: Path) -> frozenset[str]:
    """Add the adapter of a folder, or overwrite the one that the model has, and replace the weights that it brings.

    Returns:
        Names of the weights that it replaced.

    Raises:
        InputError: the folder cannot be read, or was made for another base.
    """
    adapter = read_adapter(folder, family, weight_shapes(model))
    state = {PREFIX + name: stored.read().clone() for name, stored in adapter.low_rank.items()}
    with refusing(f"{folder}: the adapter does not fit its base"):
        report = model.load_adapter(
            peft_config=adapter.config,
            adapter_state_dict=state,
            adapter_name="default",
            is_trainable=True,
            hotswap=has_adapter(model),
        )
    for what in ("mismatched_keys", "missing_keys", "unexpected_keys"):
        keys = sorted(map(_described, getattr(report, what, None) or ()))
        if keys:
            raise adapter.mismatch(f"{len(keys)} {what.replace('_', ' ')}, such as {keys[0]}")
    adapter.config.modules_to_save = adapter.modules_to_save or None  # for whoever saves it again
    _replace(model, {name: stored.read() for name, stored in adapter.whole.items()})
    return frozenset(adapter.whole)


def weight_shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights under the names that they have without an adapter, whole if ZeRO-3 has parted them."""
    shapes = {name: tuple(getattr(weight, "ds_shape", weight.shape)) for name, weight in own_weights(model).items()}
    return {name.replace(".base_layer.", "."): shape for name, shape in shapes.items()}


def own_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Parameters and stored buffers, except those of adapters."""
    weights = model.state_dict(keep_vars=True)
    return {name: weight for name, weight in weights.items() if ".lora_" not in name}


def _replace(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    own = {name.replace(".base_layer.", "."): weight for name, weight in own_weights(model).items()}
    for name, weight in weights.items():
        with gathered(own[name]), torch.no_grad():
            own[name].copy_(weight)


@contextmanager
def gathered(weight: Tensor) -> Iterator[None]:
    """The weight is whole inside the block, and what every rank wrote into it stays."""
    if not hasattr(weight, "ds_id"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([weight], modifier_rank=0):
        yield


def named_dtype(name: str, config: Mapping[str, Any]) -> torch.dtype:
    """The type of that name; ``auto`` is the one that ``config.json`` names, float32 if none."""
    if name == "auto":
        name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    dtype = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"dtype {name!r} is none of auto, float32, bfloat16, float16, float64")
    return dtype


def is_partitioned(model: PreTrainedModel) -> bool:
    """Whether ZeRO-3 holds the weights: it places them itself."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def is_placed(model: PreTrainedModel) -> bool:
    """Whether its weights are where they belong: ZeRO-3 places those that it holds, and so does quantisation."""
    return is_partitioned(model) or bool(getattr(model, "is_quantized", False))
