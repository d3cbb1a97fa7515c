"""What a DeepSpeed file may say."""

from __future__ import annotations

import json

import pytest

from polylens.config.deepspeed import check_deepspeed
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
