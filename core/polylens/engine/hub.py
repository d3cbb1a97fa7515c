"""Pushes the model of a finished run to the Hugging Face hub."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from huggingface_hub.errors import HTTPError as OfClient  # pyright: ignore[reportPrivateImportUsage]
from transformers import TrainingArguments

from polylens.errors import InputError

log = logging.getLogger(__name__)


def open_repository(args: TrainingArguments) -> str:
    """Make the repository if it is not there, and see that it may be written to: before a long run, not after it.

    Returns:
        Its id, ``owner/name``; as with transformers, a name alone is in the user's own space, and by default it is
        that of ``output_dir``.

    Raises:
        InputError: no network, no token, or a token that may not write.
    """
    name = args.hub_model_id or Path(str(args.output_dir)).absolute().name
    api = huggingface_hub.HfApi(library_name="polylens", token=args.hub_token)
    with _refusing(f"push_to_hub: {name}: the hub cannot be written to"):
        repository = api.create_repo(name, private=args.hub_private_repo, exist_ok=True).repo_id
        api.auth_check(repository, write=True)  # an existing repository is found without a right to write
    return repository


def push(folder: Path, names: Sequence[str], repository: str, args: TrainingArguments) -> None:
    """Upload files of a folder, and nothing else in it.

    Args:
        names: of the files.

    Raises:
        InputError: the hub did not take them; what to do then, for the folder stays as it is.
    """
    api = huggingface_hub.HfApi(library_name="polylens", token=args.hub_token)
    with _refusing(f"{folder} has the model, not pushed; push it with `hf upload {repository} {folder}`"):
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[glob.escape(name) for name in names],
            commit_message="End of training",
            revision=args.hub_revision,
        )
    log.info("pushed to https://huggingface.co/%s", repository)


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except (OfClient, HFValidationError, OSError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"{what}: {reason}") from error
