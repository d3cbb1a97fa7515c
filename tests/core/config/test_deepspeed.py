"""What a DeepSpeed file may say."""

from __future__ import annotations

import json

import pytest

from polylens.config.deepspeed import OFFLOADED, check_deepspeed, zero_preset
from polylens.errors import InputError

ZERO2 = {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto"}


def test_clipping_is_the_runs_own_unless_the_file_says_otherwise(tmp_path):
    path = tmp_path / "zero2.json"
    path.write_text(json.dumps(ZERO2))
    expected = {**ZERO2, "gradient_clipping": "auto"}
    assert check_deepspeed(str(path)) == check_deepspeed(ZERO2) == check_deepspeed(json.dumps(ZERO2)) == expected
    assert check_deepspeed({**ZERO2, "gradient_clipping": 0.5})["gradient_clipping"] == 0.5
    assert "gradient_clipping" not in ZERO2


def test_transformers_fills_the_clipping_in(tmp_path):
    """``auto`` is a value that transformers replaces; absent, it would replace nothing."""
    from transformers import TrainingArguments
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    config = HfTrainerDeepSpeedConfig(check_deepspeed({"zero_optimization": {"stage": 0}}))
    arguments = TrainingArguments(output_dir=str(tmp_path), max_grad_norm=0.25, use_cpu=True)
    config.trainer_config_process(arguments)
    assert config.config["gradient_clipping"] == 0.25


@pytest.mark.parametrize("block", ["optimizer", "scheduler"])
def test_blocks_that_override_the_run_are_refused(block, tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({**ZERO2, block: {"type": "WarmupLR"}}))
    with pytest.raises(InputError) as error:
        check_deepspeed(str(path))
    assert str(error.value).startswith(f"{path}: /{block}: it would replace the run's")
    assert "--" in str(error.value)  # what to set instead


def test_both_blocks_are_reported_at_once():
    with pytest.raises(InputError, match=r"/optimizer: .*; /scheduler: "):
        check_deepspeed({"optimizer": {}, "scheduler": {}})


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[1]", "a DeepSpeed config.* is a JSON object")])
def test_a_broken_file_is_named(text, message, tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"ds\.json: {message}"):
        check_deepspeed(str(path))


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"cannot read the DeepSpeed file 'none\.json': No such file"):
        check_deepspeed("none.json")


@pytest.mark.parametrize(
    ("stage", "offload"),
    [(1, []), (1, ["optimizer"]), (2, []), (2, ["optimizer"]), (3, ["params"]), (3, [*OFFLOADED])],
)
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_presets_pass_and_decide_nothing_that_is_the_run_s(stage, offload, precision):
    found = zero_preset(stage, offload)
    assert check_deepspeed(found, precision) == found
    blocks = {OFFLOADED[name]: {"device": "cpu", "pin_memory": True} for name in offload}
    assert found.pop("zero_optimization") == {"stage": stage, **blocks}
    assert (found.pop("bf16"), found.pop("fp16")) == ({"enabled": "auto"}, {"enabled": "auto"})
    assert set(found.values()) == {"auto"}
    assert {"gradient_clipping", "train_batch_size"} < found.keys()


def zero(stage: int, **more) -> dict:
    return {"zero_optimization": {"stage": stage, **more}}


CPU, NVME = {"device": "cpu"}, {"device": "nvme", "nvme_path": "/tmp"}
REFUSED = {
    "/zero_optimization is a JSON object, not 3": ({"zero_optimization": 3}, {}),
    "/zero_optimization/stage is '3'; it must be 0, 1, 2 or 3": (zero("3"), {}),  # type: ignore[arg-type]
    "/zero_optimization/offload_optimizer/device: nvme was not checked": (zero(3, offload_optimizer=NVME), {}),
    "/zero_optimization/offload_param/device: nvme was not checked": (zero(3, offload_param=NVME), {}),
    "/zero_optimization/offload_param: it has no effect on ZeRO-2; it works on 3": (zero(2, offload_param=CPU), {}),
    "/zero_optimization/offload_optimizer: it has no effect on ZeRO-0": (zero(0, offload_optimizer=CPU), {}),
    "--optim sgd would become Adam without a word": (zero(2, offload_optimizer=CPU), {"optimizer": "sgd"}),
    "on stage 0 with bf16, DeepSpeed sums micro-batches in bfloat16": (zero(0), {"precision": "bf16"}),
    "on stage 0 with fp16, DeepSpeed divides gradients by a loss scale": (zero(0) | {"fp16": {"enabled": True}}, {}),
    "/data_types/grad_accum_dtype: on ZeRO-1 with bf16": (
        zero(1) | {"data_types": {"grad_accum_dtype": "fp32"}},
        {"precision": "bf16"},
    ),
    "/amp: Apex": ({"amp": {"enabled": True}}, {}),
    "/torch_autocast/enabled: its gradients were not checked": ({"torch_autocast": {"enabled": True}}, {}),
    "/zero_optimization/zenflow: it delays": (zero(2, zenflow={}), {}),
    "/managed_gradient_accumulation: the engine says itself": ({"managed_gradient_accumulation": False}, {}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_ways_in_which_the_gradient_would_be_wrong_are_refused(message):
    config, run = REFUSED[message]
    with pytest.raises(InputError) as error:
        check_deepspeed(config, **run)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("config", "run"),
    [
        (zero(3, offload_optimizer=CPU, offload_param=CPU), {"precision": "bf16"}),
        (zero(1, offload_optimizer=CPU) | {"data_types": {"grad_accum_dtype": "fp32"}}, {"precision": "bf16"}),
        (zero(2, offload_optimizer=CPU) | {"zero_force_ds_cpu_optimizer": False}, {"optimizer": "sgd"}),
        (zero(2, offload_optimizer={"device": "none"}), {"optimizer": "sgd"}),
        (zero(0) | {"bf16": {"enabled": False}}, {"precision": "bf16"}),
        ({"torch_autocast": {"enabled": False}}, {}),
    ],
)
def test_what_is_right_is_let_through(config, run):
    assert check_deepspeed(config, **run) == {"gradient_clipping": "auto", **config}
