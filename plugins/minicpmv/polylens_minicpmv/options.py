"""What a user may set for MiniCPM-V."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class MiniCPMVCompat:
    """Where the original has a defect that somebody may need: off by default.

    Args:
        original_targets: tokens and targets of conversations as the original fine-tuning made them, to repeat an old
            run: the end of an answer taught twice, in version 2.0 no ``<s>``, in version 2.6 numbers on sliced
            pictures only. Inference of the original never saw such sequences.
    """

    original_targets: bool = False


@dataclass(frozen=True)
class MiniCPMV25Compat(MiniCPMVCompat):
    """The same for version 2.5, whose vision tower has a defect that its published weights need.

    Args:
        original_targets: tokens and targets of conversations as the original fine-tuning made them, to repeat an old
            run: the end of every answer but the last is taught twice.
        attended_padding: whether a crop attends to the blank patches that pad it to the longest crop of its example,
            and counts them into its positions, as the published model does. Without it every crop is seen as if it
            were alone. By default what ``batch_vision_input`` of ``config.json`` says (true).
    """

    attended_padding: bool | None = None


@dataclass(frozen=True)
class MiniCPMVOptions:
    """Options of the MiniCPM-V families.

    Args:
        max_slice_nums: most slices that a picture is cut into, beside the overview; by default what ``config.json``
            says (9 in published models). Fewer slices mean fewer visual tokens and coarser reading.
        slice_mode: whether pictures are sliced and resized at all; by default what ``config.json`` says. Without it
            a picture goes through the vision tower whole, in its own size, which must then be small.
        llm_type: what the original fine-tuning calls the language model. It follows from ``config.json``; one that
            does not agree with it is refused.
        compat: deliberate deviations towards the original's defects.
    """

    max_slice_nums: int | None = None
    slice_mode: bool | None = None
    llm_type: Literal["minicpm", "llama3", "qwen"] | None = None
    compat: MiniCPMVCompat = field(default_factory=MiniCPMVCompat)

    def __post_init__(self) -> None:
        if self.max_slice_nums is not None and self.max_slice_nums < 1:
            raise ValueError(f"max_slice_nums is {self.max_slice_nums}; it must be at least 1")


@dataclass(frozen=True)
class MiniCPMV25Options(MiniCPMVOptions):
    """Options of version 2.5.

    Args:
        max_slice_nums: most slices that a picture is cut into, beside the overview; by default what ``config.json``
            says (9). Fewer slices mean fewer visual tokens and coarser reading.
        slice_mode: whether pictures are sliced and resized at all; by default what ``config.json`` says. Without it
            a picture goes through the vision tower whole, in its own size, which must then be small.
        llm_type: what the original fine-tuning calls the language model. It follows from ``config.json``; one that
            does not agree with it is refused.
        compat: deliberate deviations towards the original's defects, and away from one.
    """

    compat: MiniCPMV25Compat = field(default_factory=MiniCPMV25Compat)


@dataclass(frozen=True)
class NativeOptions:
    """Options of versions 4.6 and 4.7.

    Args:
        max_slice_nums: most slices that a picture is cut into, beside the overview. Fewer slices mean fewer visual
            tokens and coarser reading.
        slice_mode: whether large pictures are sliced; without it every picture becomes an overview alone.
    """

    max_slice_nums: int = 9
    slice_mode: bool = True

    def __post_init__(self) -> None:
        if self.max_slice_nums < 1:
            raise ValueError(f"max_slice_nums is {self.max_slice_nums}; it must be at least 1")
