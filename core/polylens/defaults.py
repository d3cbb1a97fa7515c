"""The core's own answers to the hooks, which every plugin inherits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polylens.hookspecs import hookimpl


@hookimpl(trylast=True)
def image_preprocessor(options: Any) -> Any:
    from polylens.modeling.preprocessing import BicubicPreprocessor

    return BicubicPreprocessor()


@hookimpl(trylast=True)
def collator(tokenizer: Any, padding_side: str) -> Any:
    from polylens.modeling.collate import PaddingCollator

    pad = tokenizer.pad_token_id
    return PaddingCollator(pad_token_id=0 if pad is None else pad, padding_side=padding_side)


@hookimpl(trylast=True)
def objective(name: str, options: Mapping[str, Any]) -> Any:
    from polylens import objectives

    return objectives.build(name, options)
