"""``polylens predict``: answers to the records of conversations files, and to the questions of benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polylens.engine.placement import Placement
    from polylens.generation.chunks import Chunk
    from polylens.generation.model_choice import ModelChoice
    from polylens.generation.options import GenerationOptions
    from polylens.generation.questions import Asked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Answer the last user turn of every record; a last assistant turn is kept as the reference, and not shown to "
        "the model. Or answer the questions of a benchmark, in its own format. Stopped at any moment, it is simply "
        "started again. Under torchrun the work is shared out over the ranks; the answers are the same."
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--input", nargs="+", required=True, type=Path, help="conversations (JSON Lines, JSON arrays), or questions"
    )
    parser.add_argument("--output", required=True, type=Path, help="file of answers")
    _add_formats(parser)
    parser.add_argument(
        "--image-root",
        type=Path,
        help="where picture paths start (default: the folder of the input, or where the format has its pictures)",
    )
    parser.add_argument("--documents", nargs="+", type=Path, default=[], help="document stores that pictures lie in")
    parser.add_argument("--batch-size", type=int, default=8, help="records that are answered at a time (default: 8)")
    parser.add_argument("--max-length", type=int, help="tokens of a prompt; text is shortened to fit, never a picture")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that prepare pictures (default: 2)")
    parser.add_argument(
        "--keep-special-tokens", action="store_true", help="leave special tokens such as <box> in the answers"
    )
    parser.add_argument(
        "--on-bad-record",
        choices=("error", "quarantine"),
        default="error",
        help="quarantine sets records that cannot be answered aside in OUTPUT.quarantine.jsonl and goes on; pictures "
        "are then read to their end first (default: error)",
    )
    add_generation_arguments(parser)


def _add_formats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        help="conversations, llava, textVQA, docVQA, ocrVQA, STVQA, ESTVQA, SROIE, FUNSD, POIE, HME, IAM, ReCTS, ocr "
        "or ocrbench (default: recognised by its fields)",
    )
    parser.add_argument(
        "--answers-format", help="polylens, llava, mmocr or ocrbench (default: the one that belongs to the input)"
    )
    parser.add_argument("--model-id", help="name of the model in the answers (default: the last part of --model)")
    parser.add_argument(
        "--prompt",
        default="{question}",
        help="what is asked in place of a benchmark's question, which {question} stands for",
    )
    parser.add_argument("--limit", type=int, help="answer the first so many records alone")
    parser.add_argument(
        "--num-chunks", type=int, default=1, help="processes of their own that share the work (default: 1)"
    )
    parser.add_argument(
        "--chunk-index",
        "--chunk-idx",
        type=int,
        help="number of this one, from 0; the last one that ends joins the answers",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="model folder, adapter folder, hub id or preset")
    parser.add_argument("--model-plugin", help="plugin of the model; by default the one that polylens.json names")
    parser.add_argument("--base", help="base of the adapter that --model is, instead of the one that it names")
    parser.add_argument(
        "--dtype", default="auto", help="auto (what config.json says, the default), float32, bfloat16 or float16"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1; by default the accelerator if there is one")
    parser.add_argument(
        "--device-map",
        help="spread one model: auto, balanced, balanced_low_0, sequential, or a mapping from modules to devices "
        "such as '{vpm: 0, llm: cpu}'",
    )
    parser.add_argument(
        "--max-memory", help="memory of each device for --device-map, such as '{0: 10GiB, cpu: 30GiB}'"
    )
    parser.add_argument("--offload-folder", type=Path, help="folder for weights that --device-map puts on the disk")
    parser.add_argument("--attn-implementation", default="sdpa", help="sdpa (default), eager or flash_attention_2")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the model family"
    )


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="length of an answer at most (default: 1024)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0 takes the likeliest token (default); above it tokens are drawn",
    )
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the likeliest tokens of this probability")
    parser.add_argument("--top-k", type=int, default=0, help="draw from so many likeliest tokens (default: all)")
    parser.add_argument("--num-beams", type=int, default=1, help="sequences that a beam search follows (default: 1)")
    parser.add_argument(
        "--repetition-penalty", type=float, default=1.0, help="make tokens that were said less likely (default: 1, no)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of drawn tokens, and of a preset's weights (default: 0)")


def run(args: argparse.Namespace) -> int:
    from polylens.generation.predict import PredictOptions, predict

    options = PredictOptions(
        generation=generation_options(args),
        asked=_asked(args),
        batch_size=args.batch_size,
        max_length=args.max_length,
        num_workers=args.num_workers,
        keep_special_tokens=args.keep_special_tokens,
        answers_format=args.answers_format,
        model_id=args.model_id,
    )
    line = predict(model_choice(args), args.input, args.output, options)
    if line:
        print(line)
    return 0


def _asked(args: argparse.Namespace) -> Asked:
    from polylens.generation.questions import Asked

    return Asked(
        image_root=args.image_root,
        documents=args.documents,
        format=args.format,
        prompt=args.prompt,
        limit=args.limit,
        chunk=_chunk(args.chunk_index, args.num_chunks),
        on_bad_record=args.on_bad_record,
    )


def _chunk(index: int | None, count: int) -> Chunk:
    from polylens.errors import InputError
    from polylens.generation.chunks import Chunk

    if index is None and count != 1:
        raise InputError(f"--num-chunks {count} needs --chunk-index: every process answers one chunk")
    return Chunk(index or 0, count)


def model_choice(args: argparse.Namespace) -> ModelChoice:
    from polylens.config.options import assignments
    from polylens.generation.model_choice import ModelChoice

    return ModelChoice(
        model=args.model,
        plugin=args.model_plugin,
        base=args.base,
        options=assignments(args.option),
        dtype=args.dtype,
        device=args.device,
        placement=_placement(args),
        attn_implementation=args.attn_implementation,
        seed=args.seed,
    )


def generation_options(args: argparse.Namespace) -> GenerationOptions:
    from polylens.generation.options import GenerationOptions

    return GenerationOptions(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        num_beams=args.num_beams,
        repetition_penalty=args.repetition_penalty,
        seed=args.seed,
    )


def _placement(args: argparse.Namespace) -> Placement | None:
    from polylens.engine.placement import Placement
    from polylens.errors import InputError

    if args.device_map is None:
        for name in ("max_memory", "offload_folder"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} belongs to --device-map, which is not given")
        return None
    device_map = _mapping("--device-map", args.device_map) if "{" in args.device_map else args.device_map
    memory = None if args.max_memory is None else _mapping("--max-memory", args.max_memory)
    return Placement(device_map, memory, args.offload_folder)


def _mapping(name: str, text: str) -> dict[Any, Any]:
    import yaml

    from polylens.errors import InputError

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{name} {text!r} is not a mapping: {str(error).splitlines()[0]}") from error
    if not isinstance(value, dict):
        raise InputError(f"{name} {text!r} is not a mapping such as '{{0: 10GiB, cpu: 30GiB}}'")
    return value
