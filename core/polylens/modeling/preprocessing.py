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
        self.mean = tuple(mean)
        self.std = tuple(std)

    def pixels(self, image: Image.Image, sliced: SlicedImage) -> list[Tensor]:
        """uint8 [3, H, W] per crop of an RGB picture. What lies outside the picture is black."""
        scaled: dict[tuple[int, int], Image.Image] = {}
        crops = []
        for crop in sliced.crops:
            if crop.scaled not in scaled:
                scaled[crop.scaled] = image.resize(crop.scaled, Image.Resampling.BICUBIC)
            window = scaled[crop.scaled].crop(crop.window)
            crops.append(torch.from_numpy(np.asarray(window, dtype=np.uint8).transpose(2, 0, 1).copy()))
        return crops


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
