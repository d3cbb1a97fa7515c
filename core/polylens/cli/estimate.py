"""``polylens estimate``: the memory that training will take, before anything is loaded."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from polylens.engine.estimate.estimation import Estimate, Plan, Request
    from polylens.engine.estimate.states import Setup

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Count the parameters of a model, and estimate the memory of each GPU for full fine-tuning and LoRA, ZeRO 0 "
        "to 3 and offload, from config.json alone. docs/estimate.md says what is counted and what is not."
    )
    parser.add_argument("--model", required=True, help="model folder (config.json is enough), hub id or preset")
    parser.add_argument("--model-plugin", required=True, help="plugin of the model")
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 2, 4, 8], help="default: 1 2 4 8")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, in bytes")
    _add_training(parser)
    _add_workload(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", choices=("bf16", "fp16", "float32"), default="bf16", help="default: bf16")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the weights without DeepSpeed, which casts them itself (default: float32)",
    )
    parser.add_argument("--objective", default="contrastive", help="such as lm (default: contrastive)")
    parser.add_argument("--tune", nargs="+", metavar="COMPONENT", help="components whose weights are trained")
    parser.add_argument("--lora-r", type=int, default=32, help="rank of the adapters (default: 32)")
    parser.add_argument("--lora-dropout", type=float, default=0.1, help="default: 0.1")
    parser.add_argument("--lora-components", nargs="+", default=["llm"], help="which have adapters (default: llm)")
    parser.add_argument("--lora-target-modules", nargs="+", metavar="NAME", help="linear layers with adapters")
    parser.add_argument(
        "--reduce-bucket-size", type=int, default=500_000_000, help="of the DeepSpeed file (default: 500000000)"
    )


def _add_workload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--micro-batch-size", type=int, default=1, help="rows of a forward pass (default: 1)")
    parser.add_argument(
        "--sequence-length", type=int, default=2048, help="tokens of a row, with its pictures (default: 2048)"
    )
    parser.add_argument("--images", type=int, default=1, help="pictures of a row (default: 1)")
    parser.add_argument("--image-size", type=_size, default=(1344, 1344), metavar="WxH", help="default: 1344x1344")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the model family"
    )


def run(args: argparse.Namespace) -> int:
    from polylens.engine.estimate.estimation import estimate

    result = estimate(_request(args))
    if args.json:
        import json

        print(json.dumps(result.as_dict(), indent=2))
    else:
        _print(result, args)
    return 0


def _request(args: argparse.Namespace) -> Request:
    from polylens.config.options import assignments
    from polylens.config.run import LoraSettings
    from polylens.engine.estimate.estimation import Request, Workload
    from polylens.engine.estimate.states import Numeric

    return Request(
        plugin=args.model_plugin,
        model=args.model,
        options=assignments(args.option),
        objective=args.objective,
        lora=LoraSettings(
            r=args.lora_r,
            dropout=args.lora_dropout,
            components=args.lora_components,
            target_modules=args.lora_target_modules,
        ),
        tune=args.tune,
        numeric=Numeric(args.precision, 4 if args.dtype == "float32" else 2, args.reduce_bucket_size),
        workload=Workload(args.micro_batch_size, args.sequence_length, args.images, args.image_size),
        gpus=args.gpus,
    )


def _print(result: Estimate, args: argparse.Namespace) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_parameters(result))
    for plan in result.plans:
        console.print(_memory(plan, args.gpus))
    console.print(_notes(result, args), soft_wrap=True)


def _parameters(result: Estimate) -> Table:
    full, lora = (plan.parameters for plan in result.plans)
    table = _table(f"Parameters of {result.family}", "component")
    for heading in ("weights", "trained: full", "trained: LoRA"):
        table.add_column(heading, justify="right")
    for name, count in full.components.items():
        table.add_row(name, f"{count.weights:,}", f"{count.trained:,}", f"{lora.components[name].trained:,}")
    table.add_row("adapter", "", "", f"{lora.adapter:,}", end_section=True)
    table.add_row("total", f"{full.weights:,}", f"{full.trained:,}", f"{lora.trained:,}")
    return table


def _table(title: str, *headings: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _memory(plan: Plan, gpus: list[int]) -> Table:
    title = {"full": "Full fine-tuning", "lora": "LoRA"}[plan.name]
    table = _table(f"{title}: GiB of each GPU/of host memory for it", "ZeRO", "offload")
    for count in gpus:
        table.add_column(f"{count} GPU{'s' if count > 1 else ''}", justify="right", no_wrap=True)
    rows: dict[tuple[str, str], list[str]] = {}
    for way in plan.ways:
        total = way.states.total(plan.activations.checkpointed) / GIB
        host = f"/{way.states.host / GIB:.1f}" if way.states.host else ""
        rows.setdefault(_label(way.setup), []).append(f"{total:.1f}{host}")
    for label, cells in rows.items():
        table.add_row(*label, *cells)
    return table


def _label(setup: Setup) -> tuple[str, str]:
    stage = f"{setup.stage} low memory" if setup.low_memory else str(setup.stage)
    return "none" if setup.stage == 0 else stage, setup.offload.replace("optimizer,params", "both")


def _notes(result: Estimate, args: argparse.Namespace) -> str:
    parts = [
        f"With activation checkpointing, {args.precision}, a micro-batch of {result.tokens.text:,} tokens in the "
        f"language model and {result.tokens.vision:,} in the vision tower.",
        *(
            f"Activations ({plan.name}): {plan.activations.checkpointed / GIB:.1f} GiB, without checkpointing "
            f"{plan.activations.plain / GIB:.1f} GiB."
            for plan in result.plans
        ),
        "Not counted: the CUDA context, what the allocator leaves unused; leave 10 % and 1 GiB.",
    ]
    return "\n".join(parts)


def _size(text: str) -> tuple[int, int]:
    width, x, height = text.lower().partition("x")
    if not (x and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 1344x1344")
    return int(width), int(height)
