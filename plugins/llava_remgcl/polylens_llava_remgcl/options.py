"""What a user may set for LLaVA."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Template = Literal[
    "v1",
    "vicuna_v1",
    "llava_v1",
    "v1_mmtag",
    "plain",
    "llama_2",
    "llava_llama_2",
    "mpt",
    "chatml",
    "mistral_instruct",
]
TEMPLATES: tuple[str, ...] = get_args(Template)


@dataclass(frozen=True)
class LlavaCompat:
    """Where the original has a defect that somebody may need: off by default.

    Args:
        reference_ids: token ids as transformers 4 made them, through sentencepiece: ``legacy`` as tokenizers with
            ``legacy: true`` (a blank before what follows a special token), ``nonlegacy`` as those with ``legacy:
            false`` from 4.37 on. Where the text after a picture begins with a blank, both have a token more for it.
            Needs ``tokenizer.model``.
    """

    reference_ids: Literal["legacy", "nonlegacy"] | None = None


@dataclass(frozen=True)
class LlavaOptions:
    """Options of LLaVA.

    Args:
        template: how conversations are written. By default ``v1``, as LLaVA 1.5 is trained; ``plain`` is a picture and
            its caption alone, as the first stage is.
        image_aspect_ratio: how pictures become squares: ``square`` cuts the middle out, ``pad`` puts bars of the mean
            colour beside the picture, ``anyres`` cuts tiles out beside a picture of the whole. By default what
            ``config.json`` says.
        vision_tower: folder or hub id of the CLIP, where the checkpoint holds no weights of it, or nothing says its
            sizes. By default what ``config.json`` names.
        compat: deliberate deviations towards the original's defects.
    """

    template: Template | None = None
    image_aspect_ratio: Literal["square", "pad", "anyres"] | None = None
    vision_tower: str | None = None
    compat: LlavaCompat = field(default_factory=LlavaCompat)
