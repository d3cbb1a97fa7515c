"""What a user may set for MiniCPM-V."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MiniCPMVCompat:
    """Where the original has a defect that somebody may need: off by default.

    Args:
        original_targets: tokens and targets of conversations as the original fine-tuning made them (no ``<s>``, one
            ``</s>`` after the last turn only, the last token of every earlier answer replaced as a target by
            ``</s>``), to repeat an old run. Inference of the original never saw such sequences.
    """

    original_targets: bool = False


@dataclass(frozen=True)
class MiniCPMVOptions:
    """Options of the MiniCPM-V families.

    Args:
        max_slice_nums: most slices that a picture is cut into, beside the overview; by default what ``config.json``
            says (9 in MiniCPM-V 2.0). Fewer slices mean fewer visual tokens and coarser reading.
        slice_mode: whether pictures are sliced and resized at all; by default what ``config.json`` says. Without it
            a picture goes through the vision tower whole, in its own size, which must then be small.
        compat: deliberate deviations towards the original's defects.
    """

    max_slice_nums: int | None = None
    slice_mode: bool | None = None
    compat: MiniCPMVCompat = field(default_factory=MiniCPMVCompat)

    def __post_init__(self) -> None:
        if self.max_slice_nums is not None and self.max_slice_nums < 1:
            raise ValueError(f"max_slice_nums is {self.max_slice_nums}; it must be at least 1")
