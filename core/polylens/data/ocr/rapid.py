"""RapidOCR: the models of PP-OCR on ONNX Runtime (https://github.com/RapidAI/RapidOCR)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from polylens.data.ocr.engines import line_of
from polylens.errors import InputError

__all__ = ["RapidOcr"]

_LONGEST, _MOST = 4000, 4_000_000
"""Pixels of the longer side, and in all, that the detector is given at most."""

_SHORTEST, _SLIMMEST = 736, 4
"""The detector enlarges pictures until their shorter side has 736 pixels: those that are slimmer than 1 to 4 would
become very long, and get a margin instead."""

_LEAST = 32


class RapidOcr:
    """Detects lines, turns those that stand on their head, and recognises them: Chinese, English, Japanese and others.

    It runs in one thread, with the models of the installed package: nothing is downloaded.

    Args:
        min_score: lines of which it is less sure are left out.

    Raises:
        InputError: RapidOCR or ONNX Runtime is not installed.
    """

    def __init__(self, min_score: float = 0.5) -> None:
        try:
            import cv2
            import onnxruntime  # noqa: F401  (RapidOCR imports it when it loads its first model)
            import rapidocr
        except ImportError as error:
            raise InputError(
                f"the OCR engine rapidocr needs packages that are not installed ({error.name}): "
                "pip install 'polylens[ocr]'; or take --engine tesseract, or for pages of PDF files --text-layer only"
            ) from None
        from importlib.metadata import version

        cv2.setNumThreads(1)
        self.name = f"rapidocr {version('rapidocr')}"
        self._broken = (cv2.error, RuntimeError, ValueError, ArithmeticError, LookupError)
        models = Path(rapidocr.__file__).parent / "models"
        self._engine: Any = rapidocr.RapidOCR(params=_parameters(models, min_score))  # type: ignore[operator]

    def lines(self, image: Image.Image) -> list[dict[str, Any]]:
        """See ``Engine``."""
        prepared, scale = _prepared(image)
        pixels = np.ascontiguousarray(np.asarray(prepared)[:, :, ::-1])  # it wants blue first
        try:
            found = self._engine(pixels)
        except self._broken as error:
            raise InputError(f"rapidocr fails on this picture: {error}") from error
        if getattr(found, "txts", None) is None or found.boxes is None:
            return []
        items = zip(found.boxes, found.txts, found.scores, strict=True)
        lines = (line_of((box / scale).tolist(), text, float(score), image.size) for box, text, score in items)
        return [line for line in lines if line is not None]


def _parameters(models: Path, min_score: float) -> dict[str, Any]:
    return {
        "Global.log_level": "critical",
        "Global.text_score": min_score,
        # Both are done by `_prepared`: RapidOCR gives wrong boxes for pictures that are too long and too slim at once.
        "Global.use_preprocess_img": False,
        "Global.use_vertical_padding": False,
        "Det.model_path": _model(models, "_det_"),
        "Cls.model_path": _model(models, "_cls_"),
        "Rec.model_path": _model(models, "_rec_"),
        "Det.max_candidates": 10_000,
        "Rec.rec_batch_num": 1,  # lines of a batch are padded to its longest, which is slower and shows in their text
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }


def _model(folder: Path, part: str) -> str:
    found = sorted(folder.glob(f"*{part}*.onnx"))
    if len(found) != 1:
        raise InputError(
            f"{folder} has {len(found)} models *{part}*.onnx, where the package rapidocr brings one: "
            "pip install --force-reinstall 'polylens[ocr]'"
        )
    return str(found[0])


def _prepared(image: Image.Image) -> tuple[Image.Image, np.ndarray]:
    """The picture within limits, with white margins at the right and below if it is slim; and its scale [x, y]."""
    factor = min(1.0, _LONGEST / max(image.size), (_MOST / (image.width * image.height)) ** 0.5)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    scale = np.array(size) / np.array(image.size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    least = max(_LEAST, min(_SHORTEST, max(size) // _SLIMMEST))
    if min(size) >= least:
        return image, scale
    canvas = Image.new("RGB", (max(size[0], least), max(size[1], least)), "white")
    canvas.paste(image, (0, 0))
    return canvas, scale
