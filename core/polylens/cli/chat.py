"""``polylens chat``: a conversation with a model."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import Any, NoReturn

from polylens.cli.predict import add_generation_arguments, add_model_arguments, generation_options, model_choice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Talk to a model about pictures. /image PATH shows one with the next question, /help lists the commands; "
        "Ctrl-C stops an answer, Ctrl-D ends. Lines from a pipe are questions, too."
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="URL_OR_PATH",
        help="picture that the first question is about, of a file or an address (http, https); may be given several "
        "times",
    )
    parser.add_argument(
        "--max-length",
        type=int,
        help="tokens that the model is shown: older turns are forgotten, and a question that is longer is shortened; "
        "by default what the model knows of positions, less --max-new-tokens",
    )
    add_generation_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from polylens.data.images import ImageOpener
    from polylens.generation.chat import Conversation, room, stream_reply
    from polylens.generation.pictures import picture_bytes
    from polylens.generation.predictor import Predictor
    from polylens.generation.terminal import Terminal

    signal.signal(signal.SIGTERM, _leave)  # Ctrl-C stops an answer; this ends everything
    pictures = [picture_bytes(source)[0] for source in args.image]
    options = generation_options(args)
    checkpoint, device = model_choice(args).load()
    predictor = Predictor(checkpoint, options, ImageOpener(), device, max_length=args.max_length)
    space = room(predictor)
    predictor.max_length = space.tokens if space else None
    conversation = Conversation(lambda messages: stream_reply(predictor, messages), space, pictures)
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401  lets a person edit lines, and call them back
    Terminal(conversation, sys.stdin, sys.stdout, interactive=interactive).run()
    return 0


def _leave(number: int, frame: Any) -> NoReturn:
    sys.exit(130)
