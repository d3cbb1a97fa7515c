"""Which MiniCPM-V a ``config.json`` describes. It follows from the file's content alone, never from its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polylens.errors import InputError

MODEL_TYPE = "minicpmv"
NATIVE = {"minicpmv4_6": "4.6", "minicpmv4_7": "4.7"}
"""Types of the versions that transformers has classes for."""

LLM_TYPES = {"2.0": "minicpm", "2.5": "llama3", "2.6": "qwen"}
"""What the original fine-tuning calls the language models."""

SUPPORTED = ("2.0", "2.5", "2.6", *NATIVE.values())


def detect_version(config: Mapping[str, Any]) -> str | None:
    """``2.0``, ``2.5``, ``2.6`` or a later number; ``None`` if the file is not a MiniCPM-V's.

    Versions before 4.6 share ``model_type``. Only 2.5 (since July 2024) and later say their ``version``; 2.0 alone
    names its vision tower in a flat ``vision_encoder``, where the later ones have ``vision_config`` and
    ``slice_config``.

    >>> detect_version({"model_type": "minicpmv", "version": 2.6})
    '2.6'
    >>> detect_version({"model_type": "minicpmv", "vision_encoder": "vit_so400m_patch14_siglip_384.webli"})
    '2.0'
    >>> detect_version({"model_type": "llama"})
    """
    if config.get("model_type") != MODEL_TYPE:
        return NATIVE.get(str(config.get("model_type")))
    if config.get("version") is not None:
        return str(config["version"])
    if "vision_config" in config or "slice_config" in config:
        return "2.5"
    published = config.get("hidden_size") == 2304 and config.get("query_num") == 64
    return "2.0" if published or "vision_encoder" in config else "2.5"


def is_version(version: str, config: Mapping[str, Any]) -> bool:
    """Whether the checkpoint is a MiniCPM-V of that version.

    Raises:
        InputError: it is one that this release does not read.
    """
    found = detect_version(config)
    if found is not None and found not in SUPPORTED:
        raise InputError(
            f"config.json describes MiniCPM-V {found}; the plugin 'minicpmv' reads the versions {', '.join(SUPPORTED)}"
            ". Use a checkpoint of one of them, or a plugin that reads the other"
        )
    return found == version


def check_llm_type(version: str, llm_type: str | None) -> None:
    """Whether the type that a user names is that of the checkpoint.

    Raises:
        InputError: it is that of another version.
    """
    right = LLM_TYPES[version]
    if llm_type not in (None, right):
        raise InputError(
            f"llm_type is {llm_type!r}, and config.json describes MiniCPM-V {version}, whose type is {right!r}; leave "
            "the option out, or choose another model"
        )
