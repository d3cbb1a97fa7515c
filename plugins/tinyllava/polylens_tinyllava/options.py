"""What a user may set for TinyLLaVA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Template = Literal["phi", "llama", "gemma", "qwen2_base", "qwen2_instruct", "pretrain"]
TEMPLATES: tuple[str, ...] = get_args(Template)


@dataclass(frozen=True)
class TinyLlavaOptions:
    """Options of TinyLLaVA.

    Args:
        template: how conversations are written. By default the one of the language model's type, with the token that
            ends its texts; ``pretrain`` is a picture and its caption alone, as the first stage is trained.
        image_aspect_ratio: how a picture becomes a square: ``square`` stretches it (or cuts its middle out, where the
            tower was trained so), ``pad`` puts bars of the mean colour beside it. By default what ``config.json``
            says.
    """

    template: Template | None = None
    image_aspect_ratio: Literal["square", "pad"] | None = None
