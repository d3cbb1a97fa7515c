"""transformers' training arguments of a run, and the checkpoint that it goes on from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from polylens.config.run import DataConfig, GradientCacheConfig, RunConfig
from polylens.engine.arguments import _deepspeed, checkpoint_to_resume, training_arguments
from polylens.errors import InputError


def config(folder: Path, validation: str | None = None, **training) -> RunConfig:
    return RunConfig("minicpmv", "tiny", str(folder), data=DataConfig(validation=validation), training=training)


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    return folder


REFUSED = {
    "fsdp is not supported: .* use ZeRO-3": {"fsdp": "full_shard"},
    "torch_compile is not supported: .*second pass": {"torch_compile": True},
    "torch_compile_mode is not supported": {"torch_compile_mode": "default"},
    "torch_compile_backend is not supported": {"torch_compile_backend": "inductor"},
    "neftune_noise_alpha is not supported": {"neftune_noise_alpha": 5.0},
    "auto_find_batch_size is not supported": {"auto_find_batch_size": True},
    "gradient_accumulation_steps is 0; it must be at least 1": {"gradient_accumulation_steps": 0},
    "training arguments: .*epochs": {"eval_strategy": "epochs"},
    "fp16 needs an accelerator": {"fp16": True},
    "activation_checkpointing_kwargs: use_reentrant gives no gradient": {
        "activation_checkpointing_kwargs": {"use_reentrant": True}
    },
    "gradient_checkpointing_kwargs: without preserve_rng_state": {
        "gradient_checkpointing_kwargs": '{"preserve_rng_state": false}'
    },
    "/gradient_accumulation_steps is 4, and the run's own is 2": {
        "deepspeed": {"gradient_accumulation_steps": 4},
        "gradient_accumulation_steps": 2,
    },
    r"disagrees with the run, .*train_batch_size": {"deepspeed": {"train_batch_size": 7}},
    r"/optimizer: .*; /scheduler: ": {"deepspeed": {"optimizer": {}, "scheduler": {}}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_ways_of_training_that_would_not_be_right(tmp_path, message):
    with pytest.raises(InputError, match=message):
        training_arguments(config(tmp_path, **REFUSED[message]))


def test_false_is_no_wish(tmp_path):
    args, _ = training_arguments(config(tmp_path, torch_compile=False))
    assert not args.torch_compile


def test_deepspeed_of_accelerate_alone_is_refused(tmp_path, monkeypatch):
    """The check of a DeepSpeed file would never see that configuration."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(InputError, match="give --zero or --deepspeed FILE as well"):
        training_arguments(config(tmp_path))


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_USE_FSDP", "true", "--use_fsdp is not supported"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend is not supported"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "fp8 is not supported"),
    ],
)
def test_what_accelerate_would_do_behind_the_run_is_refused(tmp_path, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=message):
        training_arguments(config(tmp_path))


def test_the_precision_of_accelerate_is_the_run_s(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    args, _ = training_arguments(config(tmp_path))
    assert args.bf16


def test_checkpointing_is_never_reentrant(tmp_path):
    args, _ = training_arguments(config(tmp_path, activation_checkpointing_kwargs={"every_n_layers": 2}))
    assert args.activation_checkpointing_kwargs == {"use_reentrant": False, "every_n_layers": 2}


def test_accumulation_is_the_engine_s_own(tmp_path):
    args, accumulation = training_arguments(config(tmp_path, gradient_accumulation_steps=4))
    assert (accumulation, args.gradient_accumulation_steps) == (4, 1)


def test_defaults_of_a_run(tmp_path):
    args, accumulation = training_arguments(config(tmp_path))
    assert accumulation == 1
    assert not args.remove_unused_columns
    assert not args.ddp_find_unused_parameters
    assert not args.logging_nan_inf_filter
    assert args.output_dir == str(tmp_path)
    assert args.metric_for_best_model is None
    assert args.save_total_limit == 2


def test_what_the_run_says_counts(tmp_path):
    args, _ = training_arguments(config(tmp_path, logging_steps=3, save_total_limit=7, seed=9))
    assert (args.logging_steps, args.save_total_limit, args.seed) == (3, 7, 9)


@pytest.mark.parametrize(
    ("given", "evaluation", "saving"),
    [
        ({}, "epoch", "epoch"),
        ({"eval_strategy": "steps", "save_steps": 20}, "steps", "steps"),
        ({"eval_strategy": "no"}, "no", "steps"),
        ({"save_strategy": "steps"}, "epoch", "steps"),
    ],
)
def test_with_validation_the_best_checkpoint_is_kept(tmp_path, given, evaluation, saving):
    args, _ = training_arguments(config(tmp_path, "validation.jsonl", **given))
    assert (args.eval_strategy.value, args.save_strategy.value) == (evaluation, saving)
    assert (args.metric_for_best_model, args.greater_is_better) == ("nDCG@10", True)
    assert evaluation != "steps" or args.eval_steps == args.save_steps == 20


def test_deepspeed_gets_what_trainer_knows():
    found = _deepspeed({"zero_optimization": {"stage": 2}, "train_batch_size": 8})
    assert found["train_batch_size"] == 8
    for name in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"):
        assert found[name] == "auto"
    assert found["bf16"] == found["fp16"] == {"enabled": "auto"}
    assert found["zero_allow_untested_optimizer"] is True
    assert found["zero_optimization"] == {"stage": 2}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_preset_is_filled_in_as_a_file_is(tmp_path, stage, monkeypatch):
    monkeypatch.setattr("polylens.engine.arguments._start_deepspeed", lambda: None)
    run = config(tmp_path, bf16=True, max_grad_norm=0.25, gradient_accumulation_steps=4)
    offload = ["optimizer", "params"] if stage == 3 else ["optimizer"]
    args, accumulation = training_arguments(replace(run, zero=stage, offload=offload))
    args.hf_deepspeed_config.trainer_config_process(args)
    found = args.hf_deepspeed_config.config
    assert found["zero_optimization"]["stage"] == stage
    assert found["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert ("offload_param" in found["zero_optimization"]) == (stage == 3)
    assert (found["bf16"]["enabled"], found["fp16"]["enabled"]) == (True, False)
    assert (found["gradient_clipping"], found["gradient_accumulation_steps"], accumulation) == (0.25, 1, 4)
    assert found["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save", False) == (stage == 3)


def test_a_preset_passes_the_checks_of_a_file(tmp_path):
    run = replace(config(tmp_path, optim="sgd"), zero=2, offload=["optimizer"])
    with pytest.raises(InputError, match="--optim sgd would become Adam without a word"):
        training_arguments(run)


@pytest.mark.parametrize(("stage", "found"), [(1, None), (2, {"grad_accum_dtype": "fp32"})])
def test_gradients_that_are_kept_partitioned_add_up_in_float32(stage, found):
    cache = GradientCacheConfig(low_memory=True)
    assert _deepspeed({"zero_optimization": {"stage": stage}}, cache=cache).get("data_types") == found


@pytest.mark.parametrize("given", [None, False])
def test_checkpoints_of_zero_3_are_whole_unless_the_file_says_otherwise(given, tmp_path):
    name = "stage3_gather_16bit_weights_on_model_save"
    path = tmp_path / "zero3.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3, **({} if given is None else {name: given})}}))
    assert _deepspeed(str(path))["zero_optimization"] == {"stage": 3, name: given is None}


class TestResume:
    """Going on from a checkpoint is never a guess."""

    def test_a_new_folder_starts_anew(self, tmp_path):
        assert checkpoint_to_resume(config(tmp_path / "new")) is None
        assert checkpoint_to_resume(config(tmp_path)) is None

    @pytest.mark.parametrize("wanted", [True, "true", "True"])
    def test_the_last_checkpoint(self, tmp_path, wanted):
        for step in (2, 10, 4):
            checkpoint(tmp_path / f"checkpoint-{step}")
        (tmp_path / ".checkpoint-12.tmp").mkdir()  # of a run that was killed while it wrote
        found = checkpoint_to_resume(config(tmp_path, resume_from_checkpoint=wanted))
        assert found == str(tmp_path / "checkpoint-10")

    def test_true_before_anything_was_saved_starts_anew(self, tmp_path):
        """So that a job script can always say it."""
        assert checkpoint_to_resume(config(tmp_path / "new", resume_from_checkpoint=True)) is None

    def test_a_given_checkpoint(self, tmp_path):
        chosen = str(checkpoint(tmp_path / "elsewhere" / "checkpoint-2"))
        checkpoint(tmp_path / "run" / "checkpoint-8")
        assert checkpoint_to_resume(config(tmp_path / "run", resume_from_checkpoint=chosen)) == chosen

    @pytest.mark.parametrize("wanted", [None, False, "false"])
    def test_a_folder_with_a_run_is_not_overwritten(self, tmp_path, wanted):
        checkpoint(tmp_path / "checkpoint-3")
        given = {} if wanted is None else {"resume_from_checkpoint": wanted}
        with pytest.raises(InputError, match=r"already holds checkpoint-3: .*--resume-from-checkpoint true"):
            checkpoint_to_resume(config(tmp_path, **given))

    def test_a_checkpoint_that_is_not_there(self, tmp_path):
        with pytest.raises(InputError, match=r"resume_from_checkpoint: there is no folder .*checkpoint-9"):
            checkpoint_to_resume(config(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-9")))

    def test_a_model_folder_is_no_checkpoint(self, tmp_path):
        """It has no optimizer state and no step: a run would silently start over with its weights."""
        with pytest.raises(InputError, match=r"is no checkpoint of a run: no trainer_state\.json"):
            checkpoint_to_resume(config(tmp_path / "run", resume_from_checkpoint=str(tmp_path)))
