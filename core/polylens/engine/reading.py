"""What libraries raise on a model folder that they cannot read, as errors for its user."""

from __future__ import annotations

from _pickle import UnpicklingError  # what torch.load raises; nothing here unpickles
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from polylens.errors import InputError

_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, RuntimeError),
    *(MemoryError, EOFError, ImportError, SafetensorError, UnpicklingError, StrictDataclassError),
)
"""transformers, peft and torch take files at their word: which of these a wrong value ends in is left to chance."""


@contextmanager
def refusing(what: str, *, trusted: bool = False) -> Iterator[None]:
    """Turn the errors of libraries inside the block into ``InputError``.

    Args:
        what: file or folder that is read, and what for; begins the message.
        trusted: it comes with its plugin, as presets do: an error is a defect and stays what it is.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if trusted or (not isinstance(error, _ERRORS) and type(error) is not Exception):  # which tokenizers raises
            raise
        reason = next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), "no reason is given")
        raise InputError(f"{what}: {type(error).__name__}: {reason}") from error
