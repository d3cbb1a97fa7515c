"""Crops out of pictures, as uint8 on the host and as normalised floats on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polylens.contracts import SlicedImage


class BicubicPreprocessor:
    """Resizes with Pillow's bicubic filter and cuts the windows out.

    Args:
        mean: per channel, in the range 0 to 1.
        std: per channel.
    """

    def __init__(self, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)) -> None:
        self.mean: Sequence[float] = tuple(mean)
        self.std: Sequence[float] = tuple(std)

    def pixels(self, image: Image.Image, sliced: SlicedImage) -> list[Tensor]:
        """uint8 [3, H, W] per crop of an RGB picture. What lies outside the picture is black."""
        picture = image.getchannel(0) if _is_gray(image) else image  # resizes to the same values in half the time
        sizes = {crop.scaled for crop in sliced.crops}
        scaled = {size: picture.resize(size, Image.Resampling.BICUBIC) for size in sizes}
        return [_tensor(scaled[crop.scaled].crop(crop.window)) for crop in sliced.crops]


def _is_gray(image: Image.Image) -> bool:
    """Whether all channels agree, as in scans and in plain text; of most other pictures a few pixels say no."""
    few = image.resize([max(1, side // 8) for side in image.size], Image.Resampling.NEAREST)
    return all(red == green == blue for red, green, blue in map(Image.Image.split, (few, image)))


def _tensor(window: Image.Image) -> Tensor:
    """uint8 [3, H, W] of a picture in colour or in gray."""
    channels = np.stack([np.asarray(channel) for channel in window.split()])
    return torch.from_numpy(channels).expand(3, -1, -1).contiguous()


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> Tensor:
    """``(pixels / 255 - mean) / std``, computed in float32 as torchvision's ToTensor and Normalize do.

    Args:
        pixels: uint8 [..., 3, H, W].
        dtype: of the result.
    """
    wide = torch.promote_types(dtype, torch.float32)
    scaled = pixels.to(wide) / 255
    shape = (-1, 1, 1)
    centred = scaled - torch.tensor(mean, dtype=wide, device=pixels.device).view(shape)
    return (centred / torch.tensor(std, dtype=wide, device=pixels.device).view(shape)).to(dtype)
