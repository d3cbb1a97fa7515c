"""A quantised base: what it takes, and what is quantised."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from polylens.config.run import LoraSettings
from polylens.engine import quantization
from polylens.engine.quantization import check_adapters, quantized
from polylens.errors import InputError

QLORA = LoraSettings(enable=True, quantize="nf4")


@pytest.mark.parametrize(
    ("lora", "tune", "zero3", "said"),
    [
        (LoraSettings(quantize="nf4"), None, False, "is for the base of adapters: switch LoRA on"),
        (QLORA, ["connector", "llm"], False, "weights of llm are in four bits and cannot be trained"),
        (QLORA, None, True, "ZeRO-3 cannot part weights of four bits"),
        (LoraSettings(enable=True, dora=True), None, True, "under ZeRO-3, DoRA would read the weights"),
    ],
)
def test_what_cannot_go_together(lora, tune, zero3, said):
    with pytest.raises(InputError, match=said):
        check_adapters(lora, tune, zero3=zero3)


def test_it_needs_a_package_and_a_gpu(monkeypatch):
    monkeypatch.setattr(quantization, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(InputError, match="needs the package bitsandbytes: pip install"):
        check_adapters(QLORA, None, zero3=False)
    monkeypatch.setattr(quantization, "is_bitsandbytes_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="needs a GPU"):
        check_adapters(QLORA, None, zero3=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_adapters(QLORA, ["connector"], zero3=False)


def test_adapters_without_it_pass():
    check_adapters(LoraSettings(enable=True, dora=True), ["llm"], zero3=False)
    check_adapters(LoraSettings(), None, zero3=True)


def test_only_components_with_adapters_are_quantised_and_never_the_head(tiny):
    found = replace(tiny.source, is_preset=False)
    lora = replace(QLORA, modules_to_save=["ln_q"])
    config = quantized(lora, found, tiny.model, torch.float32)["quantization_config"]
    assert set(config.llm_int8_skip_modules) == {"llm.lm_head", "vpm", "resampler", "llm.model.embed_tokens", "ln_q"}
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)


def test_a_preset_has_nothing_to_quantise(tiny):
    with pytest.raises(InputError, match="a preset has random weights only"):
        quantized(QLORA, tiny.source, tiny.model, torch.float32)
