"""The types that cross the plugin contract.

A record becomes an example (slice, resize, tokenise; in data-loader workers), examples become a batch, a model turns
a batch into outputs, and an objective turns outputs into a loss. Nothing here imports torch or transformers: plugins
are discovered and listed without them.

Shapes use these letters: B rows of a batch, T tokens of the longest row, N crops, V visual tokens, D hidden size.
"""

from __future__ import annotations

from polylens.contracts.batches import ROLES, Batch, Collator, Example
from polylens.contracts.families import ALL_LINEAR, CheckpointLayout, ModelFamily
from polylens.contracts.images import Crop, ImagePreprocessor, ImageSlicer, SlicedImage
from polylens.contracts.objectives import Coupled, Objective, Outputs, PairTargets, Representation
from polylens.contracts.records import ImageRef, Message, Record
from polylens.contracts.regions import Cover, Regions
from polylens.contracts.text import IGNORE_INDEX, ChatTemplate, Encoding

__all__ = [
    "ALL_LINEAR",
    "IGNORE_INDEX",
    "ROLES",
    "Batch",
    "ChatTemplate",
    "CheckpointLayout",
    "Collator",
    "Coupled",
    "Cover",
    "Crop",
    "Encoding",
    "Example",
    "ImagePreprocessor",
    "ImageRef",
    "ImageSlicer",
    "Message",
    "ModelFamily",
    "Objective",
    "Outputs",
    "PairTargets",
    "Record",
    "Regions",
    "Representation",
    "SlicedImage",
]
