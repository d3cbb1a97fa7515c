"""Values of a run that have the right type and cannot be meant."""

from __future__ import annotations

import pytest

from polylens.config.run import DataConfig, LoraSettings, RunConfig
from polylens.errors import InputError


def run(**values) -> RunConfig:
    return RunConfig(**{"model_plugin": "toy", "model": "tiny", "output_dir": "out", **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora": LoraSettings(r=0)}, "/lora/r is 0; it must be at least 1"),
        (
            {"lora": LoraSettings(alpha=float("nan"))},
            "/lora/alpha is nan; it must be at least -1e+30, and at most 1e+30",
        ),
        ({"lora": LoraSettings(dropout=2.0)}, "/lora/dropout is 2.0; it must be at least 0, and at most 1"),
        ({"data": DataConfig(hard_negatives=-1)}, "/data/hard_negatives is -1; it must be at least 0"),
        ({"data": DataConfig(train=["a\0b"])}, r"/data/train/0: 'a\x00b' has a NUL or is not valid Unicode"),
        ({"data": DataConfig(query_instruction="\ud800")}, r"/data/query_instruction: '\ud800' has a NUL or is not"),
        ({"training": {"learning_rate": float("nan")}}, "/training/learning_rate is nan; it must be at least 0"),
        ({"training": {"seed": 2**32}}, "/training/seed is 4294967296; it must be at least 0, and at most"),
        ({"training": {"adam_beta1": 1.0}}, "/training/adam_beta1 is 1.0; it must be at least 0, and at most 1"),
        ({"training": {"per_device_train_batch_size": 0}}, "/training/per_device_train_batch_size is 0"),
        ({"training": {"max_grad_norm": float("inf")}}, "/training/max_grad_norm is inf"),
        ({"zero": 4}, "/zero is 4; it must be 1, 2 or 3"),
        ({"offload": ["optimizer"]}, "/offload: it has no effect without zero"),
        ({"zero": 3, "offload": ["grads"]}, "/offload: 'grads' cannot be offloaded; it may name optimizer, params"),
        ({"zero": 2, "offload": ["params"]}, "/offload: params has no effect on ZeRO-2, where every rank has all"),
        ({"zero": 2, "training": {"deepspeed": "a.json"}}, "/zero and /training/deepspeed exclude each other"),
    ],
)
def test_a_value_out_of_range_is_named(values, message):
    with pytest.raises(InputError) as caught:
        run(**values)
    assert message in str(caught.value)


def test_everything_that_is_wrong_is_said_at_once():
    with pytest.raises(InputError, match=r"/lora/r is -1; .*; /training/data_seed is -1"):
        run(lora=LoraSettings(r=-1), training={"data_seed": -1})


def test_usual_values_and_paths_of_other_bytes_are_fine():
    training = {"max_grad_norm": 0, "learning_rate": 1e-5, "deepspeed": {"a": [1, None]}}
    made = run(output_dir="p\udcff", training=training)
    assert (made.output_dir, made.training) == ("p\udcff", training)
