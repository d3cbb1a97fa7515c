"""Memory and time of merging an adapter, beside peft's.

    python benchmarks/merge.py [--folder FOLDER] [--rounds 3] [--dora] [--float32]

A MiniCPM-V 2.0 of random bfloat16 weights, 1 GB in files of 220 MB, and an adapter of rank 64 on every linear layer of
its language model. `polylens` is `merge_adapter`; `peft` loads the model, puts the adapter on it, calls
`merge_and_unload` and saves it in files of the same size. Each round is a process of its own, turn by turn; what it
needs is imported before the measurement. The least of all rounds counts. Weights must be equal, bit for bit.

The program ends with an error if polylens adds more memory than the largest file and seven of the largest adapted
weights, or takes more than 1.2 times peft's processor time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import Cost, machine, measure

import polylens

SLOWER = 1.2
WEIGHTS = 7
SHARD = "220MB"
HIDDEN, INTERMEDIATE, LAYERS = 1536, 4096, 18


def main() -> int:
    args = _arguments()
    if args.one:
        print(json.dumps(dataclasses.asdict(_one(args.one, args.folder))))
        return 0
    print(machine())
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        _prepare(folder, "float32" if args.float32 else "bfloat16", args.dora)
        costs = _measured(folder, args.rounds)
        _check_equal(folder)
        return _report(folder, costs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where 4 GB fit; a folder in it is used and deleted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dora", action="store_true", help="a DoRA adapter")
    parser.add_argument("--float32", action="store_true", help="half as many layers, in float32")
    parser.add_argument("--one", choices=("polylens", "peft"), help="merge once in this process, and print the cost")
    return parser.parse_args()


def _prepare(folder: Path, dtype: str, dora: bool) -> None:
    """A base in ``base`` and an adapter in ``adapter``, in a process that ends."""
    layers = LAYERS if dtype == "bfloat16" else LAYERS // 2
    code = f"import merge; merge.prepare({str(folder)!r}, {dtype!r}, {layers}, {dora})"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)


def prepare(folder: str, dtype: str, layers: int, dora: bool) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from polylens import plugins

    root, preset = Path(folder), plugins.load("minicpmv").families()[0].presets["tiny"]
    config = json.loads((preset / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers}
    config |= {"num_attention_heads": HIDDEN // 64, "num_key_value_heads": HIDDEN // 64}
    shutil.copytree(preset, root / "shape")
    (root / "shape" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    hooks = plugins.load("minicpmv")
    torch.set_default_dtype(getattr(torch, dtype))
    model = hooks.build_model(family=hooks.families()[0], config=config)
    _save_base(model, root)
    layers_of_llm = r"llm\..*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    adapted = get_peft_model(model, LoraConfig(r=64, lora_alpha=64, target_modules=layers_of_llm, use_dora=dora))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    adapted.save_pretrained(root / "adapter")


def _save_base(model: Any, root: Path) -> None:
    shutil.copytree(root / "shape", root / "base")
    model.save_pretrained(root / "base", max_shard_size=SHARD)


def _measured(folder: Path, rounds: int) -> dict[str, Cost]:
    found: dict[str, list[Cost]] = {"polylens": [], "peft": []}
    for _ in range(rounds):
        for way, costs in found.items():
            shutil.rmtree(folder / way, ignore_errors=True)
            command = [sys.executable, __file__, "--one", way, "--folder", str(folder)]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            costs.append(Cost(**json.loads(line)))
    least = {
        way: [min(values) for values in zip(*map(dataclasses.astuple, costs), strict=True)]
        for way, costs in found.items()
    }
    return {way: Cost(seconds, wall, int(peak)) for way, (seconds, wall, peak) in least.items()}


def _one(way: str, folder: Path) -> Cost:
    import torch
    from peft import PeftModel

    from polylens.engine.loading import load_checkpoint
    from polylens.engine.merge import merge_adapter

    torch.set_num_threads(1)
    base, adapter, out = (str(folder / name) for name in ("base", "adapter", way))

    def peft() -> None:
        model = load_checkpoint("minicpmv", base).model
        merged: Any = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        merged.save_pretrained(out, max_shard_size=SHARD)

    ways = {"polylens": lambda: merge_adapter(adapter, out, plugin="minicpmv", base=base), "peft": peft}
    polylens.load("minicpmv", "tiny")  # imports what both need
    return measure(ways[way])


def _check_equal(folder: Path) -> None:
    import torch

    from polylens.engine.tensor_files import weight_files

    theirs = {name: file for file in weight_files(folder / "peft") for name in file.entries}
    count = 0
    for file in weight_files(folder / "polylens"):
        with file.reading() as read:
            for name in file.entries:
                if not torch.equal(read(name), theirs[name].read(name)):
                    raise SystemExit(f"{name} differs from peft's")
                count += 1
    print(f"{count} weights are equal, bit for bit")


def _report(folder: Path, costs: dict[str, Cost]) -> int:
    shards = [path.stat().st_size for path in (folder / "base").glob("*.safetensors")]
    limit = max(shards) + WEIGHTS * HIDDEN * INTERMEDIATE * _element_size(folder)
    print(f"{len(shards)} files, {sum(shards) / 1e6:.0f} MB, the largest {max(shards) / 1e6:.0f} MB")
    for way, cost in costs.items():
        print(f"{way}: {cost.seconds:.2f} s of the processor, {cost.wall:.2f} s, peak {cost.peak / 1e6:.0f} MB")
    ratio = costs["polylens"].seconds / costs["peft"].seconds
    print(
        f"time {ratio:.2f} (at most {SLOWER}); "
        f"memory {costs['polylens'].peak / 1e6:.0f} of {limit / 1e6:.0f} MB allowed"
    )
    return int(ratio > SLOWER or costs["polylens"].peak > limit)


def _element_size(folder: Path) -> int:
    from polylens.engine.tensor_files import weight_files

    entries = [entry for file in weight_files(folder / "base") for entry in file.entries.values()]
    return max(entry.dtype.itemsize for entry in entries)


if __name__ == "__main__":
    sys.exit(main())
