"""The spellings of the original programs: one table, each either a new name or a refusal with its reason.

"Embedding" is the MiniCPM-V embedding trainer (OpenMatch style), "finetune" the MiniCPM-V fine-tuning script; names
that transformers 5 has dropped are listed too. Names that both worlds share (``--learning_rate``,
``--max_slice_nums``, ``--attn_implementation``, ``--lora_r``, ``--normalize``, ...) need no entry.
``docs/command_line.md`` prints this table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polylens.config.arguments import Argument, boolean
from polylens.errors import InputError

TUNING = "@tune"
"""Stands for the switches of the finetune script until ``tune`` and ``lora`` are known."""

COMPONENTS = ("vision", "connector", "llm", "embed_tokens")

_SWITCHES = {"tune_vision": ("vision",), "tune_llm": ("llm", "embed_tokens")}

Values = tuple[str, ...]
Translation = Callable[[Argument], list[Argument]]


@dataclass(frozen=True, slots=True)
class Alias:
    """One line of the table.

    Attributes:
        names: the original spellings.
        origin: ``embedding``, ``finetune`` or ``transformers``.
        becomes: the new option, or ``refused``, for the documentation.
        note: how values change, or why it is refused.
        translate: the same in code; raises ``InputError`` for what is refused.
    """

    names: tuple[str, ...]
    origin: str
    becomes: str
    note: str
    translate: Translation


def translate(arguments: Sequence[Argument]) -> list[Argument]:
    """Original spellings as new ones; everything else unchanged.

    Raises:
        InputError: an option, or its value, cannot be kept; the message has the reason.
    """
    table = {name: alias for alias in ALIASES for name in alias.names}
    found: list[Argument] = []
    for argument in arguments:
        alias = table.get(argument.name)
        found += alias.translate(argument) if alias else [argument]
    return found


def names() -> list[str]:
    """Every original spelling."""
    return [name for alias in ALIASES for name in alias.names]


def tuning(argument: Argument) -> dict[str, Any]:
    """What ``--tune_vision`` or ``--tune_llm`` says, kept until ``settle_tuning``."""
    switch, word = argument.values
    return {TUNING: {switch: word == "true"}}


def settle_tuning(run: dict[str, Any]) -> None:
    """Turn the switches of the finetune script into ``tune``.

    As there: all components are trained except those that are switched off, and with LoRA the adapters stand in for
    the language model while its embeddings, the connector and (unless switched off) the vision tower are trained.

    Raises:
        InputError: LoRA together with ``--tune_llm true``.
    """
    switches = run.pop(TUNING, {})
    if not switches:
        return
    lora = bool((run.get("lora") or {}).get("enable"))
    if lora and switches.get("tune_llm"):
        raise InputError("--tune_llm true and --use_lora true exclude each other: adapters replace the tuning of llm")
    off = {part for switch, parts in _SWITCHES.items() if not switches.get(switch, True) for part in parts}
    if lora:
        off = (off | {"llm"}) - {"embed_tokens"}
    run["tune"] = [part for part in run.get("tune") or COMPONENTS if part not in off]


def _truth(argument: Argument) -> bool:
    if not argument.values:
        return True
    truth = boolean(argument.values[0]) if len(argument.values) == 1 else None
    if truth is None:
        raise InputError(f"{argument.spelling} is {' '.join(argument.values)!r}, not true or false")
    return truth


def _one(argument: Argument) -> str:
    if len(argument.values) != 1:
        raise InputError(f"{argument.spelling} takes one value, not {len(argument.values)}")
    return argument.values[0]


def _to(origin: str, names: str, *paths: str, note: str = "") -> Alias:
    """The same values under a new name, or under several."""

    def translate(argument: Argument) -> list[Argument]:
        return [argument.to(path) for path in paths]

    return Alias(tuple(names.split()), origin, ", ".join(paths), note, translate)


def _by(origin: str, names: str, path: str, convert: Callable[[Argument], Values], note: str) -> Alias:
    """Other values under a new name."""

    def translate(argument: Argument) -> list[Argument]:
        return [argument.to(path, convert(argument))]

    return Alias(tuple(names.split()), origin, path, note, translate)


def _only(origin: str, names: str, allowed: str, reason: str) -> Alias:
    """One value is what polylens always does, so nothing is set; any other is refused."""

    def translate(argument: Argument) -> list[Argument]:
        given = " ".join(argument.values) if argument.values else "true"
        same = given == allowed or (boolean(given) is not None and boolean(given) == boolean(allowed))
        if not same:
            raise InputError(f"{argument.spelling} {given} cannot be kept: {reason}")
        return []

    shown = allowed or '""'
    return Alias(tuple(names.split()), origin, f"only `{shown}`", reason, translate)


def _refused(origin: str, names: str, reason: str) -> Alias:
    def translate(argument: Argument) -> list[Argument]:
        raise InputError(f"{argument.spelling} cannot be kept: {reason}")

    return Alias(tuple(names.split()), origin, "refused", reason, translate)


def _switch(name: str, note: str) -> Alias:
    def translate(argument: Argument) -> list[Argument]:
        return [argument.to(TUNING, (name, "true" if _truth(argument) else "false"))]

    return Alias((name,), "finetune", "tune", note, translate)


_POOLINGS = {"lasttoken": "last", "simple_lasttoken": "last"}
_RANDOM = "it drops tokens at random at inference too, so that no vector comes out twice; use"
_NO_POOLING = {
    "drop_wmean": f"{_RANDOM} wmean",
    "drop_mean": f"{_RANDOM} mean",
    "lasttoken_simcse": f"{_RANDOM} last",
    "siglip_pooling": "it takes the pooled output of another backbone, unnormalised",
    "bge_pooling": "it takes the first token of another backbone, unnormalised; use cls",
}


def _pooling(argument: Argument) -> Values:
    value = _one(argument)
    if value in _NO_POOLING:
        raise InputError(f"{argument.spelling} {value} cannot be kept: {_NO_POOLING[value]}")
    return (_POOLINGS.get(value, value),)


def _query_instruction(argument: Argument) -> list[Argument]:
    truth = boolean(" ".join(argument.values)) if argument.values else True
    if truth is None:
        return [argument.to("data.query_instruction")]
    if not truth:
        raise InputError(
            f"{argument.spelling} false cannot be kept: the instruction of a record is always put before its text; "
            "take it out of the records"
        )
    return []


def _hard_negatives(argument: Argument) -> Values:
    value = _one(argument)
    if not value.isdecimal() or int(value) < 1:
        raise InputError(f"{argument.spelling} is {value!r}, not a number of passages from 1 up")
    return (str(int(value) - 1),)


def _warmup(argument: Argument) -> Values:
    value = _one(argument)
    try:
        ratio = float(value)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio < 1:
        raise InputError(f"{argument.spelling} is {value!r}, not a ratio from 0 to below 1")
    return (value,)


def _jsonl_files(argument: Argument) -> Values:
    folder = Path(_one(argument))
    files = sorted(map(str, folder.glob("*.jsonl")))
    if not files:
        raise InputError(f"{argument.spelling} {folder}: no *.jsonl file there")
    return tuple(files)


def _template(argument: Argument) -> Values:
    prefix, marker, rest = _one(argument).partition("<text>")
    if not marker or rest or "<" in prefix:
        raise InputError(
            f"{argument.spelling} {argument.values[0]!r} cannot be kept: only a prefix before <text> can; "
            "write other templates into the records"
        )
    return (prefix,)


_LORA_TARGETS = re.compile(r"llm\b.*self_attn\\?\.\(?(\w+(?:\|\w+)*)\)?")


def _lora_targets(argument: Argument) -> Values:
    """Names of layers; out of the finetune script's expression over paths inside the language model."""
    if len(argument.values) != 1 or argument.values[0].startswith("[") or re.fullmatch(r"\w+", argument.values[0]):
        return argument.values
    found = _LORA_TARGETS.fullmatch(argument.values[0])
    if found is None:
        raise InputError(
            f"{argument.spelling} {argument.values[0]!r} cannot be kept: give the names of the layers, such as "
            "q_proj k_proj, and the components with --lora_components"
        )
    return tuple(found[1].split("|"))


_NO_EFFECT = "it had no effect in the original: leave it out"
_EVALUATION = "it belongs to evaluation: see polylens encode, polylens search and polylens evaluate"

ALIASES: tuple[Alias, ...] = (
    # the model
    _to("embedding, finetune", "model_name_or_path", "model"),
    _to("embedding", "softmax_temperature", "objective.temperature", note="the original's default is 0.2, ours 0.02"),
    _by(
        "embedding",
        "pooling",
        "objective.pooling",
        _pooling,
        "`lasttoken`, `simple_lasttoken` -> `last`; `wmean`, `mean`, `cls` unchanged; refused: "
        + "; ".join(f"`{name}` ({reason})" for name, reason in _NO_POOLING.items()),
    ),
    _to("embedding", "biaxial_loss", "objective.symmetric", note="the original raises NotImplementedError"),
    _only(
        "embedding",
        "attention",
        "causal",
        "bidirectional had no effect in the original: the switch was set and never read",
    ),
    _only("embedding", "feature", "last_hidden_state", "vectors are pooled from the last hidden states"),
    _only("embedding", "untie_encoder", "false", "queries and documents share one encoder, as they did there"),
    _only("embedding", "add_linear_head", "false", "there is no head over the pooled state; the original raises too"),
    _refused("embedding", "projection_in_dim projection_out_dim", "there is no head over the pooled state"),
    _refused("embedding", "tokenizer_name", "the tokenizer comes with the model folder"),
    _refused("embedding, finetune", "cache_dir", "set the environment variable HF_HOME"),
    _refused("embedding", "target_model_path config_name processor_name encoder_only pos_token neg_token", _NO_EFFECT),
    # data
    _to("embedding, finetune", "train_path data_path", "data.train"),
    _by("embedding", "train_dir", "data.train", _jsonl_files, "every `*.jsonl` of the folder, by name"),
    _to("embedding, finetune", "eval_path eval_data_path", "data.validation"),
    _to("embedding", "q_max_len", "data.query_max_length"),
    _to("embedding", "p_max_len", "data.document_max_length"),
    _to("finetune", "model_max_length", "data.max_length", "data.query_max_length", "data.document_max_length"),
    _by(
        "embedding",
        "train_n_passages",
        "data.hard_negatives",
        _hard_negatives,
        "N passages are one positive and N - 1 negatives; the original's default is 8, ours no hard negatives",
    ),
    Alias(
        ("query_instruction",),
        "embedding",
        "data.query_instruction",
        "`true` is what polylens always does (the instruction of a record comes before its text), `false` is refused; "
        "any other value is an instruction for records that have none",
        _query_instruction,
    ),
    _only("embedding", "corpus_instruction", "false", "documents have no instruction; write it into their text"),
    _by("embedding", "query_template", "data.query_instruction", _template, "`PREFIX<text>` -> `PREFIX`"),
    _only("embedding", "doc_template", "<text>", "documents have no template; write it into their text"),
    _by(
        "embedding",
        "use_mapping_dataset",
        "data.batches",
        lambda argument: ("shuffle" if _truth(argument) else "file",),
        "`true` -> `shuffle`; `false`, reading the file as a stream -> `file`",
    ),
    _refused(
        "embedding",
        "query_column_names doc_column_names all_markers encode_as_text_pair positive_passage_no_shuffle "
        "negative_passage_no_shuffle data_cache_dir from_hf_repo",
        "it had no effect on this trainer; records have one form, see polylens data validate",
    ),
    _refused("embedding", "qrels_path query_path corpus_path data_dir", _EVALUATION),
    # the gradient cache
    _to(
        "embedding",
        "grad_cache_enable",
        "gradient_cache.enable",
        note="on by default; `false` makes a whole batch one micro-batch",
    ),
    _to("embedding", "grad_cache_micro_batch_size", "gradient_cache.micro_batch_size"),
    _only("embedding", "negatives_x_device", "true", "the documents of all ranks are always negatives"),
    _only("embedding", "inbatch_loss", "true", "the documents of the batch are always negatives"),
    _only("embedding", "passage_stop_grad", "false", "documents are encoded by the weights that are trained"),
    _only("embedding", "distillation", "false", "the original builds the loss and never uses it"),
    _refused("embedding", "distil_mode do_encode gc_q_chunk_size gc_p_chunk_size grad_cache", _NO_EFFECT),
    # which weights are trained
    _switch("tune_vision", "`false` takes `vision` out of `tune`"),
    _switch("tune_llm", "`false` takes `llm` and `embed_tokens` out of `tune`; `true` with LoRA is refused, as there"),
    _to("finetune", "use_lora", "lora.enable"),
    _by(
        "finetune",
        "lora_target_modules",
        "lora.target_modules",
        _lora_targets,
        r"names of layers; `llm\..*self_attn\.(q_proj|k_proj)` -> `q_proj k_proj`, other expressions are refused",
    ),
    _only("finetune", "lora_bias", "none", "biases are trained with their component or not at all"),
    _only("finetune", "lora_weight_path", "", "it had no effect in the original; give an adapter folder as --model"),
    Alias(
        ("q_lora",),
        "finetune",
        "lora.quantize",
        "`true` -> `nf4`; the original needed a model that was quantised beforehand",
        lambda argument: [argument.to("lora.quantize", ("nf4",))] if _truth(argument) else [],
    ),
    _refused("finetune", "lora_layer_replication lora_layers_pattern", _NO_EFFECT),
    _to("finetune", "lora_layers_to_transform", "lora.layers"),
    # transformers
    _to("transformers", "evaluation_strategy", "training.eval_strategy", note="the name that transformers 5 uses"),
    _by(
        "transformers",
        "warmup_ratio",
        "training.warmup_steps",
        _warmup,
        "below 1 it is a ratio",
    ),
    _only("transformers", "save_safetensors", "true", "transformers 5 writes nothing else"),
    _only(
        "transformers",
        "overwrite_output_dir",
        "false",
        "nothing is ever overwritten; name another --output-dir, or go on with --resume_from_checkpoint",
    ),
    _refused(
        "transformers",
        "logging_dir",
        "transformers 5 dropped it: set TENSORBOARD_LOGGING_DIR; metrics.jsonl is always in --output-dir",
    ),
    Alias(
        ("local_rank",),
        "launchers",
        "(nothing)",
        "`deepspeed` passes it; the rank is read from the environment, which every launcher sets",
        lambda argument: [],
    ),
    # evaluation
    _refused(
        "embedding",
        "use_gpu encoded_save_path trec_save_path encode_query_as_passage trec_run_path id_key_name remove_identical "
        "reranking_depth retrieve_depth max_inmem_docs use_split_search faiss_starting_gpu phase",
        _EVALUATION,
    ),
)
"""Every original spelling that is not a name of polylens or of ``TrainingArguments`` with the same meaning."""
