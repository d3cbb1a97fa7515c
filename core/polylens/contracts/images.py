"""How a picture is cut, and what becomes of its crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle that the vision tower sees.

    The picture is resized to ``scaled`` (width, height) and the ``window`` (left, top, right, bottom) is cut out of
    it, both in pixels; a window may reach outside the scaled picture where a family pads. ``tokens`` visual tokens
    come out of it.
    """

    scaled: tuple[int, int]
    window: tuple[int, int, int, int]
    tokens: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as the vision tower sees the crop."""
        left, top, right, bottom = self.window
        return right - left, bottom - top


@dataclass(frozen=True, slots=True)
class SlicedImage:
    """How a picture is cut. It follows from the picture's size alone, so planning needs no pixels.

    Attributes:
        size: width and height of the original picture.
        crops: in the order in which their visual tokens appear in the sequence.
        grid: columns and rows of the slices, or ``None`` if the picture was not sliced.
        token_boxes: float32 [V, 4], left, top, right, bottom of every visual token in pixels of the original picture.
            A resampled token, which has no place of its own, carries the box of its slice. Over padding, boxes reach
            out of the picture.
    """

    size: tuple[int, int]
    crops: tuple[Crop, ...]
    grid: tuple[int, int] | None
    token_boxes: np.ndarray

    @property
    def visual_tokens(self) -> int:
        return sum(crop.tokens for crop in self.crops)


class ImageSlicer(Protocol):
    """What the hook ``image_slicer`` returns."""

    def slice(self, size: tuple[int, int]) -> SlicedImage:
        """Decide the crops of a picture of ``size`` (width, height)."""
        ...


class ImagePreprocessor(Protocol):
    """What the hook ``image_preprocessor`` returns. Pixels stay uint8 until the device.

    ``mean`` and ``std``, one value a channel in the range 0 to 1, are what the model applies on the device.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def pixels(self, image: Image, sliced: SlicedImage) -> list[Tensor]:
        """The crops of an RGB picture: uint8 [3, H, W] each."""
        ...
