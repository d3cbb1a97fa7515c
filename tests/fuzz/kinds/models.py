"""Model and adapter folders: what describes a model, what holds its weights, and pickles that would do harm."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fuzz.mutators import Raw, dump, mutate_bytes, mutate_lines, mutate_value, several
from fuzz.outcome import require
from safetensors import safe_open

import polylens
from polylens.config.run import LoraSettings
from polylens.engine.loading import load_checkpoint
from polylens.engine.saving import save_model_folder
from polylens.engine.trainable import choose_trained
from polylens.objectives.contrastive import Contrastive


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch '{self.marker}'",)


def _mutate_header(rng: random.Random, data: bytes) -> bytes:
    """The JSON header of a safetensors file: offsets, shapes, types and names; or its length."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    how = rng.random()
    if how < 0.2:
        length = rng.choice([0, 1, size - 1, size + 1, size + 2**20, 2**32, 2**63, 2**64 - 1])
        return struct.pack("<Q", length) + data[8:]
    name = rng.choice(list(header))
    if how < 0.5 and "data_offsets" in header[name]:
        start, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = rng.choice(
            [[start, end + 4], [start - 4, end], [end, start], [0, end - start], [start, 2**62], [start], [-1, end]]
        )
    elif how < 0.7:
        header[name] = mutate_value(rng, header[name])
    else:
        header = mutate_value(rng, header)
    text = dump(header).encode("utf-8", errors="surrogatepass")
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def mutate_weights(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little") + 8
    how = rng.random()
    if how < 0.6:
        path.write_bytes(_mutate_header(rng, data))
    elif how < 0.8:
        path.write_bytes(several(rng, mutate_bytes, data[:size]) + data[size:])
    else:
        path.write_bytes(data[: rng.choice([0, 7, 8, size, size + 5, len(data) - 1])])


def mutate_json_file(rng: random.Random, path: Path) -> None:
    if rng.random() < 0.3:
        path.write_bytes(rng.choice([mutate_lines, mutate_bytes])(rng, path.read_bytes()))
        return
    value = several(rng, _mutate_settings, json.loads(path.read_text(encoding="utf-8")))
    path.write_bytes(dump(value).encode("utf-8", errors="surrogatepass"))


def _mutate_settings(rng: random.Random, value: Any) -> Any:
    """As ``mutate_value``, and more often a number that is out of range."""
    numbers = [key for key, item in value.items() if isinstance(item, int | float)] if isinstance(value, dict) else []
    if numbers and rng.random() < 0.5:
        return {**value, rng.choice(numbers): rng.choice([0, -1, 1, 3, 2**31, 10**9, 1e308, 0.5, Raw("1e999"), True])}
    return mutate_value(rng, value)


class ModelFolder:
    """A model folder, loaded as every command does, and used once."""

    JSON = ("config.json", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
    WEIGHTS = ("model.safetensors",)
    PICKLE = "pytorch_model.bin"

    def __init__(self, base: Path) -> None:
        self.base = base
        self.good = self.make(base / "model")

    def make(self, folder: Path) -> Path:
        return polylens.load("minicpmv", "tiny").save(folder)

    def write(self, rng: random.Random, folder: Path) -> None:
        model = Path(shutil.copytree(self.good, folder / "model"))
        how = rng.random()
        if how < 0.6:
            mutate_json_file(rng, model / rng.choice([*self.JSON, "polylens.json"]))
        elif how < 0.85:
            mutate_weights(rng, model / rng.choice(self.WEIGHTS))
        else:
            self._pickled(rng, model, folder / "harmed")

    def _pickled(self, rng: random.Random, model: Path, marker: Path) -> None:
        """Harmful weights beside the good ones or in their place, under any name that is looked for."""
        torch.save({"x": Harm(marker)}, model / self.PICKLE, _use_new_zipfile_serialization=rng.random() < 0.5)
        weights = model / rng.choice(self.WEIGHTS)
        index = {
            "metadata": {},
            "weight_map": {"x": rng.choice([self.PICKLE, f"../model/{self.PICKLE}", "/etc/passwd"])},
        }
        for change in rng.sample(range(4), rng.choice([1, 2])):
            if change == 0:
                weights.unlink(missing_ok=True)
            elif change == 1:
                (model / f"{weights.name}.index.json").write_text(json.dumps(index))
            elif change == 2:
                (model / f"{self.PICKLE}.index.json").write_text(json.dumps(index))
            else:
                shutil.copyfile(model / self.PICKLE, weights)

    def read(self, folder: Path) -> int:
        try:
            vlm = polylens.load(None, folder / "model", device="cpu")
            vectors = vlm.embed(texts=["a page about pumps"])
            require(vectors.shape[0] == 1, "there is no vector")
            self._compare(vlm.checkpoint.model, folder / "model")
        finally:
            require(not (folder / "harmed").exists(), "a pickle was executed")
        return 0

    def _compare(self, model: torch.nn.Module, folder: Path) -> None:
        """Every tensor of the file is in the model."""
        held = list(model.state_dict().values())
        with safe_open(folder / "model.safetensors", "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                tensor = file.get_tensor(name)
                same = any(tensor.shape == other.shape and torch.equal(tensor.to(other), other) for other in held)
                require(same or not tensor.isfinite().all(), f"{name} is not in the model as it stands in the file")

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        queries = folder / "queries.jsonl"
        queries.write_text('{"_id": "q", "text": "pump"}\n')
        out = str(folder / "vectors")
        return [
            [
                "encode",
                "--model",
                str(folder / "model"),
                "--queries",
                str(queries),
                "--output",
                out,
                "--num-workers",
                "0",
            ]
        ]


class AdapterFolder(ModelFolder):
    """A LoRA adapter over a preset, with weights that were trained beside it."""

    JSON = ("adapter_config.json", "adapter_config.json")
    WEIGHTS = ("adapter_model.safetensors", "beside_adapter.safetensors")
    PICKLE = "adapter_model.bin"

    def make(self, folder: Path) -> Path:
        made = load_checkpoint("minicpmv", "tiny", seed=1)
        lora = LoraSettings(enable=True, r=2)
        choose_trained(made.model, made.family, Contrastive(), ["connector"], lora)
        save_model_folder(made, folder, replace(made.card, base_model="tiny", base_seed=1))
        return folder

    def _compare(self, model: torch.nn.Module, folder: Path) -> None:
        require(getattr(model, "_hf_peft_config_loaded", False), "the adapter was left out")
