"""Run files in YAML, read as ``polylens train`` does before it loads a model."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from fuzz.mutators import dump, mutate_bytes, mutate_lines, mutate_value
from fuzz.outcome import require

from polylens.config.files import run_file_text
from polylens.config.parser import load_run, parse_run, run_text
from polylens.engine.arguments import checkpoint_to_resume, training_arguments
from polylens.engine.training import build_objective

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
"""Nine to the ninth words in a few lines."""

SNIPPETS = (
    *(
        LAUGHS,
        "data: &d [*d]\n",
        "<<: {dtype: float32}\n",
        "model: a\nmodel: b\n",
        "data:\n  train: [a]\n  train: [b]\n",
    ),
    *("dtype: !!python/object/apply:os.system ['true']\n", "model: !!binary AAA\n", "model: !!timestamp x\n"),
    *("model: 2024-13-45\n", "lora: {r: !!int abc}\n", "lora: {r: !!float x, enable: !!bool maybe}\n", "? [a]\n: b\n"),
    *("model: !!null x\n", "tune: !!set {a}\n", "model: 1:99:99\n", "lora: {alpha: .nan}\n", "lora: {alpha: -.inf}\n"),
    *("lora: {r: 0x10}\n", "lora: {r: 1_000}\n", "lora: {r: 0o17}\n", "lora: {alpha: 1e999}\n", "--- {}\n---\n{}\n"),
    *(
        "'x': '\n",
        "%YAML 9.9\n---\n",
        "model: &m m\nlora: *m\n",
        "[" * 5000 + "]" * 5000 + "\n",
        "1: 2\n",
        "null: 1\n",
    ),
    *(
        'model: "\\ud800"\n',
        'model: "a\\0b"\n',
        "options: {max_slice_nums: 1e400}\n",
        "\ufeffmodel: x\n",
        "model: é\n",
    ),
    *("training: {fsdp: full}\n", "training: {seed: 1e3}\n", "training: {learning_rate: 2e-5}\n", "lora: {r: 9e99}\n"),
    *(
        "lora: {r: " + "9" * 5000 + "}\n",
        "tune: [" + "a, " * 500 + "]\n",
        "!!omap [a: 1]\n",
        "- a\n",
        "data: 2024-01-01\n",
    ),
)
"""Things that only YAML can say."""


class RunFile:
    """A run file with values, keys, lines or bytes changed."""

    VALUE: Mapping[str, Any] = {
        "model_plugin": "minicpmv",
        "model": "tiny",
        "output_dir": "out",
        "dtype": "float32",
        "tune": ["llm", "connector"],
        "data": {"train": ["pairs.jsonl"], "documents": ["store"], "query_max_length": 64, "hard_negatives": 1},
        "objective": {"name": "contrastive", "options": {"temperature": 0.02, "pooling": "wmean"}},
        "gradient_cache": {"micro_batch_size": 4, "sort_by_cost": True, "pixel_cache_gb": 0.5},
        "lora": {"enable": False, "r": 2, "alpha": 4, "components": ["llm"]},
        "options": {"max_slice_nums": 4},
        "training": {"per_device_train_batch_size": 4, "learning_rate": 2e-5, "max_steps": 1, "report_to": "none"},
    }

    def __init__(self, base: Path) -> None: ...

    def write(self, rng: random.Random, folder: Path) -> None:
        value, text = dict(self.VALUE), run_file_text(self.VALUE)
        how = rng.random()
        if how < 0.2:
            data = rng.choice([text + rng.choice(SNIPPETS), rng.choice(SNIPPETS) + text]).encode("utf-8")
        elif how < 0.3:
            data = rng.choice([mutate_lines, mutate_bytes])(rng, text.encode())
        else:
            section = rng.choice([key for key, item in value.items() if isinstance(item, dict)])
            changed = mutate_value(rng, value) if how < 0.4 else {**value, section: mutate_value(rng, value[section])}
            data = dump(changed).encode("utf-8", errors="surrogatepass")
        (folder / "run.yaml").write_bytes(data)

    def read(self, folder: Path) -> int:
        path = folder / "run.yaml"
        run = load_run([path])
        _refuse_doubles(yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader))
        _compare(dict(_leaves(yaml.safe_load(path.read_text(encoding="utf-8-sig")))), asdict(run))
        again = folder / "again.yaml"
        again.write_text(run_text(run), encoding="utf-8")
        require(asdict(load_run([again])) == asdict(run), "the run file that the run writes says something else")
        command = parse_run(["--config", str(path), "--output-dir", str(folder / "out")])
        checkpoint_to_resume(command)
        build_objective(command)
        training_arguments(command)
        return 0

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        return [["train", "--config", str(folder / "run.yaml"), "--print-config"]]


def _refuse_doubles(node: Any) -> None:
    """No mapping has a key twice."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        require(len(keys) == len(set(keys)), f"accepted with a key that stands in it twice: {keys}")
        for _, value in node.value:
            _refuse_doubles(value)


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif path and path != ("$schema",):
        yield path, value


def _compare(leaves: Mapping[tuple[str, ...], Any], run: Any) -> None:
    for path, value in leaves.items():
        found = run
        for key in path:
            require(isinstance(found, Mapping) and key in found, f"{'.'.join(path)} was lost")
            found = found[key]
        require(_same(value, found), f"{'.'.join(path)} is {value!r} in the file and {found!r} in the run")


def _same(value: Any, found: Any) -> bool:
    if isinstance(value, bool) or isinstance(found, bool):
        return value is found
    if value == {}:
        return isinstance(found, Mapping)  # nothing is said about it
    if isinstance(value, list | tuple):
        return isinstance(found, list | tuple) and all(map(_same, value, found)) and len(value) == len(found)
    if isinstance(value, str) and isinstance(found, float):  # YAML 1.1 takes 2e-5 for a word
        return math.isclose(float(value), found, rel_tol=0)
    if isinstance(value, int) and isinstance(found, float):  # the nearest that there is
        return float(value) == found
    return value == found
