"""A run out of YAML files and a command line."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polylens.config.parser import load_run, named_parts, parse_run, run_text, wants_print
from polylens.config.run import DataConfig, GradientCacheConfig, LoraSettings, ObjectiveConfig, RunConfig
from polylens.errors import InputError

BASE = ["--model-plugin", "toy_config", "--model", "tiny", "--output-dir", "out"]


@pytest.fixture
def run_file(tmp_path):
    def write(text: str, name: str = "run.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def test_the_shortest_run_has_the_defaults_and_nothing_else():
    assert parse_run(BASE) == RunConfig("toy_config", "tiny", "out")


def test_every_source_of_options_is_known_by_its_short_name():
    line = (
        "--train a.jsonl b.jsonl --documents=store --micro-batch-size 4 --lora --lora_r 8 --temperature 0.05 "
        "--max_slices 3 --compat.old_tokens --learning_rate 2e-5 --bf16"
    )
    run = parse_run([*BASE, *line.split()])
    assert run.data == DataConfig(train=["a.jsonl", "b.jsonl"], documents=["store"])
    assert run.gradient_cache == GradientCacheConfig(micro_batch_size=4)
    assert run.lora == LoraSettings(enable=True, r=8)
    assert run.objective == ObjectiveConfig("contrastive", {"temperature": 0.05})
    assert run.options == {"max_slices": 3, "compat": {"old_tokens": True}}
    assert run.training == {"learning_rate": 2e-5, "bf16": True}


@pytest.mark.parametrize("name", ["temperature", "objective.temperature", "objective.options.temperature"])
def test_three_names_of_one_option(name):
    assert parse_run([*BASE, f"--{name}", "0.1"]).objective.options == {"temperature": 0.1}


def test_where_two_options_share_a_short_name_the_path_decides():
    run = parse_run([*BASE, "--options.seed", "1", "--training.seed", "2"])
    assert (run.options, run.training) == ({"seed": 1}, {"seed": 2})
    assert parse_run([*BASE, "--seed", "3"]).options == {"seed": 3}


def test_the_options_of_another_objective():
    run = parse_run([*BASE, "--objective", "distance", "--margin", "1", "--sizes", "2", "3"])
    assert run.objective == ObjectiveConfig("distance", {"margin": 1.0, "sizes": [2, 3]})
    with pytest.raises(InputError, match="unknown option --temperature"):
        parse_run([*BASE, "--objective", "distance", "--temperature", "1"])


def test_an_objective_that_does_not_show_its_options_takes_any():
    run = parse_run([*BASE, "--objective", "untyped", "--objective.scale", "2e-1", "--objective.names", "a", "b"])
    assert run.objective.options == {"scale": 0.2, "names": ["a", "b"]}


@pytest.mark.parametrize(("words", "value"), [([], True), (["true"], True), (["out/c-5"], "out/c-5")])
def test_a_run_goes_on_from_the_last_checkpoint_or_from_a_given_one(words, value):
    assert parse_run([*BASE, "--resume_from_checkpoint", *words]).training == {"resume_from_checkpoint": value}


def test_a_key_of_a_mapping():
    run = parse_run([*BASE, "--gradient_checkpointing_kwargs.use_reentrant", "false"])
    assert run.training == {"gradient_checkpointing_kwargs": {"use_reentrant": False}}


def test_the_later_of_two_equal_options_counts():
    assert parse_run([*BASE, "--seed", "1", "--train", "a", "--seed", "2", "--train", "b"]).data.train == ["b"]


def test_files_are_read_in_order_and_the_command_line_wins(run_file):
    first = run_file("training: {learning_rate: 2e-5, seed: 1}\ndata: {train: [a], hard_negatives: 2}\n", "first.yaml")
    second = run_file("training: {seed: 2}\ndata: {train: [b]}\n", "second.yaml")
    run = parse_run([*BASE, "--config", first, "--config", second, "--training.seed", "3"])
    assert run.training == {"learning_rate": 2e-5, "seed": 3}
    assert run.data == DataConfig(train=["b"], hard_negatives=2)
    assert parse_run(["--config", first, second, *BASE]).training["seed"] == 2


def test_numbers_in_a_file_have_the_types_of_their_options(run_file):
    path = run_file("$schema: run.schema.json\ntraining: {learning_rate: 2e-5, logging_steps: 5}\nlora: {alpha: 16}\n")
    run = parse_run([*BASE, "--config", path])
    assert run.training == {"learning_rate": 2e-5, "logging_steps": 5.0}
    assert [type(value) for value in (*run.training.values(), run.lora.alpha)] == [float, float, float]


def test_all_errors_of_a_file_are_reported_at_once(run_file):
    path = run_file(
        "model_plugn: x\nmodel: 3\ndata: {train: a.jsonl, hard_negatives: many}\n"
        "objective: {options: {temprature: 1}}\n"
        "options: {max_slice: 3, mode: c}\ntraining: {lerning_rate: 2e-5, bf16: 1, eval_strategy: never}\n"
    )
    with pytest.raises(InputError) as error:
        parse_run([*BASE, "--config", path])
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert message.removeprefix(f"{path}: ").split("; ") == [
        "/model_plugn: unknown key (did you mean 'model_plugin'?)",
        "/data/hard_negatives: 'many' is not of type 'integer'",
        "/data/train: 'a.jsonl' is not of type 'array'",
        "/model: 3 is not of type 'string'",
        "/objective/options/temprature: unknown key (did you mean 'temperature'?)",
        "/options/max_slice: unknown key (did you mean 'max_slices'?)",
        "/options/mode: 'c' is not one of ['a', 'b']",
        "/training/lerning_rate: unknown key (did you mean 'learning_rate'?)",
        "/training/bf16: 1 is not of type 'boolean'",
        "/training/eval_strategy: 'never' is not one of ['no', 'steps', 'epoch']",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not YAML: "), ("- a", "a run file is a mapping of options, not list"), ("training: {fsdp: x}", "FSDP")],
)
def test_a_file_that_is_no_run(text, message, run_file):
    with pytest.raises(InputError, match=message):
        parse_run([*BASE, "--config", run_file(text)])


def test_a_file_that_is_not_there():
    with pytest.raises(InputError, match="--config needs a value"):
        parse_run([*BASE, "--config"])
    with pytest.raises(InputError, match=r"cannot read the run file 'none\.yaml'"):
        parse_run([*BASE, "--config", "none.yaml"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lerning_rate", "1"], r"unknown option --lerning_rate \(did you mean 'learning_rate'\?\)"),
        (["--data.trian", "a"], r"unknown option --data\.trian \(did you mean 'data\.train'\?\)"),
        (["--learning_rate", "fast"], "--learning_rate is 'fast', not float"),
        (["--lr_scheduler_type", "cosin"], "--lr_scheduler_type is 'cosin', not linear or cosine or"),
        (["--objective", "contrastve"], r"no installed plugin has an objective 'contrastve' \(did you mean 'contr"),
        (["--fsdp", "full_shard"], "--fsdp: FSDP is not supported: the gradient cache"),
        (["--micro_batch_size", "1", "--micro-batch-tokens", "9"], "exclude each other"),
        (["--zero", "4"], "--zero is '4', not 1 or 2 or 3 or null"),
        (["--zero", "3", "--offload", "optimiser"], "--offload is 'optimiser', not list of optimizer or params"),
        (["--offload", "optimizer"], "/offload: it has no effect without zero"),
        (["--deepspeed", '{"scheduler": {"type": "WarmupLR"}}'], "/scheduler: it would replace the run's schedule"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(argv, message):
    with pytest.raises(InputError, match=message):
        parse_run([*BASE, *argv])


@pytest.mark.parametrize("words", [["optimizer,params"], ["optimizer", "params"], ['["optimizer", "params"]']])
def test_names_stand_apart_or_with_commas(words):
    run = parse_run([*BASE, "--zero", "3", "--offload", *words, "--tune", "vision,llm", "--train", "a,b.jsonl"])
    assert (run.zero, run.offload, run.tune) == (3, ["optimizer", "params"], ["vision", "llm"])
    assert run.data.train == ["a,b.jsonl"]


def test_required_options_are_asked_for():
    with pytest.raises(InputError, match=r"no --model-plugin is given; `polylens plugins list`"):
        parse_run(["--model", "tiny"])
    with pytest.raises(InputError, match=r"^missing: --model, --output-dir$"):
        parse_run(["--model-plugin", "toy_config"])
    with pytest.raises(InputError, match=r"no plugin named 'toy_confg' \(did you mean 'toy_config'\?\)"):
        parse_run(["--model-plugin", "toy_confg"])


def test_a_printed_run_gives_the_same_run_again(run_file):
    line = "--learning_rate 1e-5 --lora --tune connector --matryoshka_dims 64 32 --compat.old_tokens --pooling mean"
    run = parse_run([*BASE, "--query_instruction", "Find: 页 #1 ", *line.split()])
    assert load_run([run_file(run_text(run))]) == run


@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        DataConfig,
        train=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8)),
        validation=st.none() | st.sampled_from(["null", "1e-3", "a: b", "~", "yes", "'"]),
        hard_negatives=st.integers(0, 9),
    ),
    st.floats(1e-12, 1e12),
)
def test_any_run_survives_its_file(tmp_path_factory, data, rate):
    run = RunConfig("toy_config", "tiny", "out", data=data, training={"learning_rate": rate})
    path = tmp_path_factory.mktemp("run") / "run.yaml"
    path.write_text(run_text(run), encoding="utf-8")
    assert asdict(load_run([path])) == asdict(run)


def test_what_the_command_line_says_before_it_is_parsed(run_file):
    path = run_file("model_plugin: toy_config\n")
    assert named_parts(["--config", path]) == ("toy_config", None)
    assert named_parts(["--config", path, "--model-plugin", "other"]) == ("other", None)
    assert named_parts(["--model", "tiny", "--objective", "lm"]) == (None, "lm")
    assert [wants_print(argv) for argv in (["--print-config"], ["--print_config=false"], BASE)] == [True, False, False]


def test_relative_paths_stay_as_they_are(run_file):
    run = load_run([run_file("model_plugin: toy_config\nmodel: tiny\noutput_dir: out\ndata: {train: [sub/a.jsonl]}")])
    assert run.data.train == ["sub/a.jsonl"]
    assert not Path(run.output_dir).is_absolute()
