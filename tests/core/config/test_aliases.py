"""The spellings of the original programs."""

from __future__ import annotations

import pytest

from polylens.config.aliases import ALIASES
from polylens.config.parser import parse_run
from polylens.config.run import RunConfig
from polylens.config.vocabulary import Vocabulary, core_options, objective_options, training_options
from polylens.errors import InputError

BASE = ["--model-plugin", "toy_config", "--model", "tiny", "--output-dir", "out"]
DEFAULT = RunConfig("toy_config", "tiny", "out")

MAPPED = [
    ("--softmax_temperature 0.02", "objective.options", {"temperature": 0.02}),
    ("--pooling lasttoken", "objective.options", {"pooling": "last"}),
    ("--pooling simple_lasttoken", "objective.options", {"pooling": "last"}),
    ("--pooling wmean", "objective.options", {"pooling": "wmean"}),
    ("--normalize true", "objective.options", {"normalize": True}),
    ("--biaxial_loss true", "objective.options", {"symmetric": True}),
    ("--train_path a.jsonl", "data.train", ["a.jsonl"]),
    ("--data_path a.jsonl", "data.train", ["a.jsonl"]),
    ("--eval_data_path v.jsonl", "data.validation", "v.jsonl"),
    ("--q_max_len 64", "data.query_max_length", 64),
    ("--p_max_len 2048", "data.document_max_length", 2048),
    ("--model_max_length 300", "data.query_max_length", 300),
    ("--model_max_length 300", "data.document_max_length", 300),
    ("--train_n_passages 1", "data.hard_negatives", 0),
    ("--train_n_passages 8", "data.hard_negatives", 7),
    ("--query_instruction true", "data.query_instruction", ""),
    ("--query_template=Find:_<text>", "data.query_instruction", "Find:_"),
    ("--use_mapping_dataset false", "data.batches", "file"),
    ("--grad_cache_enable true", "gradient_cache.enable", True),
    ("--grad_cache_enable false", "gradient_cache.enable", False),
    ("--grad_cache_micro_batch_size 4", "gradient_cache.micro_batch_size", 4),
    ("--grad-cache-micro-batch-size 4", "gradient_cache.micro_batch_size", 4),
    ("--tune_vision false", "tune", ["connector", "llm", "embed_tokens"]),
    ("--tune_vision true", "tune", ["vision", "connector", "llm", "embed_tokens"]),
    ("--tune_llm false", "tune", ["vision", "connector"]),
    ("--tune_llm false --tune_vision false", "tune", ["connector"]),
    ("--tune vision llm --tune_vision false", "tune", ["llm"]),
    ("--use_lora true --tune_llm false", "tune", ["vision", "connector", "embed_tokens"]),
    ("--use_lora --tune_llm false --tune_vision False", "tune", ["connector", "embed_tokens"]),
    ("--use_lora true", "lora.enable", True),
    ("--lora --lora_r 32", "lora.r", 32),
    ("--lora_alpha 64", "lora.alpha", 64.0),
    (r"--lora_target_modules llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj)", "lora.target_modules", None),
    ("--q_lora true", "lora.quantize", "nf4"),
    ("--lora_layers_to_transform 0 1", "lora.layers", [0, 1]),
    ("--lora_modules_to_save lm_head", "lora.modules_to_save", ["lm_head"]),
    ("--evaluation_strategy steps", "training", {"eval_strategy": "steps"}),
    ("--warmup_ratio 0.1", "training", {"warmup_steps": 0.1}),
    ("--max_slices 9", "options", {"max_slices": 9}),
]

ACCEPTED = [
    "--attention causal",
    "--negatives_x_device true",
    "--negatives_x_device",
    "--passage_stop_grad false",
    "--corpus_instruction False",
    "--save_safetensors true",
    "--lora_bias none",
    "--lora_weight_path=",
    "--q_lora false",
    "--local_rank=3",
    "--local-rank 3",
]

REFUSED = [
    ("--attention bidirectional", "--attention bidirectional cannot be kept: bidirectional had no effect"),
    ("--pooling drop_wmean", "--pooling drop_wmean cannot be kept: it drops tokens at random"),
    ("--pooling average", "--pooling is 'average', not wmean or mean or last or cls"),
    ("--negatives_x_device false", "the documents of all ranks are always negatives"),
    ("--passage_stop_grad true", "documents are encoded by the weights that are trained"),
    ("--query_instruction false", "the instruction of a record is always put before its text"),
    ("--query_template <title>_<text>", "only a prefix before <text> can"),
    ("--train_n_passages 0", "not a number of passages from 1 up"),
    ("--warmup_ratio 1.0", "not a ratio from 0 to below 1"),
    ("--warmup_ratio much", "not a ratio from 0 to below 1"),
    ("--use_lora true --tune_llm true", "exclude each other"),
    ("--tune_vision perhaps", "--tune_vision is 'perhaps', not true or false"),
    ("--lora_target_modules .*proj", "give the names of the layers"),
    ("--overwrite_output_dir", "nothing is ever overwritten"),
    ("--logging_dir runs", "TENSORBOARD_LOGGING_DIR"),
    ("--gc_q_chunk_size 4", "had no effect in the original"),
    ("--phase encode", "belongs to evaluation: see polylens encode"),
    ("--train_dir /nowhere/at/all", "no *.jsonl file there"),
    ("--grad_cache_micro_batch_size four", "--grad_cache_micro_batch_size is 'four', not int or null"),
]


def _at(run, path):
    for key in path.split("."):
        run = getattr(run, key)
    return run


@pytest.mark.parametrize(("line", "path", "value"), MAPPED)
def test_an_original_option_becomes_a_new_one(line, path, value):
    expected = ["q_proj", "k_proj", "v_proj"] if path == "lora.target_modules" else value
    assert _at(parse_run([*BASE, *line.split()]), path) == expected


@pytest.mark.parametrize("line", ACCEPTED)
def test_what_polylens_always_does_sets_nothing(line):
    assert parse_run([*BASE, *line.split()]) == DEFAULT


@pytest.mark.parametrize(("line", "reason"), REFUSED)
def test_what_cannot_be_kept_is_refused_with_the_reason(line, reason):
    with pytest.raises(InputError) as error:
        parse_run([*BASE, *line.split()])
    assert reason in str(error.value)


def test_the_published_recipe_of_the_embedding_trainer(tmp_path):
    (tmp_path / "b.jsonl").write_text("")
    (tmp_path / "a.jsonl").write_text("")
    run = parse_run(
        "--model-plugin toy_config --output_dir out --do_train --save_steps 500 --bf16 --dataloader_drop_last True "
        f"--model_name_or_path /models/minicpmv --train_dir {tmp_path} --per_device_train_batch_size 16 "
        "--train_n_passages 1 --learning_rate 1e-5 --q_max_len 2048 --p_max_len 2048 --num_train_epochs 1 "
        "--negatives_x_device true --softmax_temperature 0.02 --query_instruction true --corpus_instruction false "
        "--use_mapping_dataset false --pooling wmean --attention causal --grad_cache_enable true "
        "--grad_cache_micro_batch_size 1 --passage_stop_grad false --normalize true --dataloader_num_workers 1 "
        "--gradient_checkpointing true --logging_steps 1 --attn_implementation flash_attention_2".split()
    )
    assert run.model == "/models/minicpmv"
    assert run.data.train == [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    assert (run.data.query_max_length, run.data.document_max_length, run.data.batches) == (2048, 2048, "file")
    assert run.objective.options == {"temperature": 0.02, "pooling": "wmean", "normalize": True}
    assert run.gradient_cache.micro_batch_size == 1
    assert run.attn_implementation == "flash_attention_2"
    assert run.training["gradient_checkpointing"] is True


def test_every_spelling_has_one_entry():
    names = [name for alias in ALIASES for name in alias.names]
    assert len(names) == len(set(names))


def test_an_entry_that_hides_an_option_of_its_own_name_maps_to_it():
    contrastive = objective_options("contrastive") or []
    vocabulary = Vocabulary([*core_options(), *contrastive, *training_options()])
    hidden = {name: alias.becomes for alias in ALIASES for name in alias.names if vocabulary.find(name)}
    assert hidden == {
        "pooling": "objective.pooling",
        "query_instruction": "data.query_instruction",
        "lora_target_modules": "lora.target_modules",
    }


def test_every_target_is_an_option():
    vocabulary = Vocabulary([*core_options(), *(objective_options("contrastive") or []), *training_options()])
    mapped = [alias.becomes for alias in ALIASES if not alias.becomes.startswith(("refused", "only ", "("))]
    for target in ", ".join(mapped).split(", "):
        assert vocabulary.find(target) is not None, target
