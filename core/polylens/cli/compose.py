"""``polylens compose``: a new model out of a language model and a vision tower, with a new connector between them."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a model folder of a language model, a vision tower and a connector that starts at random. Train the "
        "connector first (polylens train --tune connector), then the rest."
    )
    parser.add_argument("--model-plugin", required=True, help="plugin whose family the model is of, such as tinyllava")
    parser.add_argument("--llm", required=True, help="folder or hub id of a causal language model")
    parser.add_argument("--vision", required=True, help="folder or hub id of a vision tower")
    parser.add_argument("--second-vision", help="folder or hub id of the second tower of a mixture of features")
    parser.add_argument("--connector", required=True, help="name of the connector, such as mlp2x_gelu")
    parser.add_argument(
        "--connector-weights", type=Path, help="file of a connector trained before, such as mm_projector.bin"
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="the new folder")
    parser.add_argument("--seed", type=int, default=0, help="of the connector's weights")
    parser.add_argument(
        "--dtype", default="auto", help="auto (that of the language model, the default), float32, bfloat16 or float16"
    )


def run(args: argparse.Namespace) -> int:
    from polylens.engine.composing import compose

    given = {"llm": args.llm, "vision": args.vision, "second_vision": args.second_vision}
    parts = {name: source for name, source in given.items() if source}
    made = compose(
        args.model_plugin,
        parts,
        args.connector,
        args.output_dir,
        seed=args.seed,
        dtype=args.dtype,
        connector_weights=args.connector_weights,
    )
    print(made)
    return 0
