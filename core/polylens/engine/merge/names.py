"""Names of weights on disk and in the model."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange, WeightRenaming, apply_renamings, rename_source_key

from polylens.contracts import ModelFamily
from polylens.engine.weights import write_first_layout
from polylens.errors import InputError


class DiskNames:
    """Names of the model for names on disk, as loading gives them."""

    def __init__(self, outline: PreTrainedModel, family: ModelFamily) -> None:
        mapping = {old: new for layout in family.layouts for old, new in layout.renames.items()}
        transforms: list[Any] = get_model_conversion_mapping(outline, key_mapping=mapping or None)
        self.renamings = [step for step in transforms if isinstance(step, WeightRenaming)]
        self.converters = [step for step in transforms if not isinstance(step, WeightRenaming)]
        self.prefix, self.known = outline.base_model_prefix, outline.state_dict()

    def __call__(self, name: str) -> tuple[str, bool]:
        """The name, and whether the weight stays what it is on its way into the model."""
        found, converter = rename_source_key(name, self.renamings, self.converters, self.prefix, self.known)
        if found not in self.known and name in self.known:
            return name, True
        return found, converter is None


class SavedNames:
    """Names on disk for names of the model, as saving gives them: those of the family's first layout.

    Raises:
        InputError: saving would change weights, not only names.
    """

    def __init__(self, outline: PreTrainedModel, family: ModelFamily) -> None:
        write_first_layout(outline, family)
        steps: Any = getattr(outline, "_weight_conversions", None)
        if steps is None:
            found = get_model_conversion_mapping(outline, add_legacy=False)
            steps = [step for step in found if not isinstance(step, PrefixChange)]
        reverse = [step.reverse_transform() for step in reversed(steps)]
        if not all(isinstance(step, WeightRenaming) for step in reverse):
            raise InputError(f"weights of family {family.name!r} change their form on disk: load and save the model")
        self.renamings = reverse

    def __call__(self, name: str) -> str:
        return apply_renamings(name, self.renamings)
