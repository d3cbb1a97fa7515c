"""Configurations that give back what ``config.json`` said."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from transformers import PreTrainedConfig

_NOTES = ("_source", "_loaded")
_WRITTEN_ELSEWHERE = ("_name_or_path", "architectures", "transformers_version")
"""What never goes from memory into the file: the folder that the model came from, who wrote it."""


class FileConfig(PreTrainedConfig):
    """What ``config.json`` says, attribute by attribute; a subclass annotates its keys with their published values.

    ``to_dict`` gives the file's content back, with what was changed since: transformers would drop generation
    settings, rename keys and leave out defaults, and other programs read these files too.

    Attributes:
        architecture: the original's class, written where the file names none.
        hidden_keys: keys of the file that transformers must not interpret; ``_KEY`` holds their value.
    """

    keys_to_ignore_at_inference = ()
    architecture: ClassVar[str] = ""
    hidden_keys: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__init__ = FileConfig.__init__  # transformers has just given the class another one

    def __init__(self, **values: Any) -> None:
        source = copy.deepcopy(values)
        for name in self.hidden_keys:
            setattr(self, f"_{name}", values.pop(name, None))
        for name in _NOTES:
            values.pop(name, None)
        super().__init__(**values)
        self._source = source
        self._loaded = super().to_dict()

    def to_dict(self) -> dict[str, Any]:
        """The file's content, with what was changed since it was read.

        ``architectures`` stays what the file says: it names the class of the original, which other programs look for.
        """
        current = super().to_dict()
        for name in (*_NOTES, *_WRITTEN_ELSEWHERE, *(f"_{key}" for key in self.hidden_keys)):
            current.pop(name, None)
        if not hasattr(self, "_loaded"):
            return current
        changed = {key: value for key, value in current.items() if self._loaded.get(key) != value}
        if "torch_dtype" in self._source and "dtype" in changed:
            changed["torch_dtype"] = changed.pop("dtype")
        named = {"architectures": [self.architecture], "model_type": self.model_type}
        result = {**named, **copy.deepcopy(self._source), **changed}
        return {key: value for key, value in result.items() if key != "attn_implementation"}

    def to_diff_dict(self) -> dict[str, Any]:
        """The same as ``to_dict``: nothing that the file said is left out."""
        return self.to_dict()
