"""Exported weights to a model repository of the Hugging Face Hub, from where timm's ``hf-hub:`` loads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from curation.base.files import file_digest
from curation.base.hub import HubStore
from curation.base.remote import Upload
from pretrain.errors import InputError, WorkError
from pretrain.export import CARD, README, TIMM_CONFIG, WEIGHTS, load_export


class Pushed(NamedTuple):
    """What was done."""

    uploaded: int
    present: int


def push(folder: Path, repository: str) -> Pushed:
    """Upload what ``export`` wrote in one commit, and check by checksum what the Hub holds.

    A repository that is not there is made, private. What it holds already is not sent again; other files in it stay.

    Args:
        folder: what ``export`` wrote.
        repository: ``USER/NAME``.

    Raises:
        InputError: the folder cannot be loaded or is not whole, the repository has no such name, or the Hub refuses us.
        WorkError: the Hub fails, or holds something else than was sent; the same command goes on.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise InputError(f"{repository}: no name of a repository; give USER/NAME")
    load_export(folder)
    store, files = HubStore(repository, "model"), _files(folder)
    todo = [file for file in files if not store.holds(file)]
    if todo:
        store.put(todo)
    for file in files:
        if not store.holds(file):
            raise WorkError(f"{store.url}/{file.name}: was uploaded and is not what was sent; run again")
    return Pushed(len(todo), len(files) - len(todo))


def _files(folder: Path) -> list[Upload]:
    paths = [folder / name for name in (WEIGHTS, TIMM_CONFIG, CARD, README)]
    if gone := [path for path in paths if not path.is_file()]:
        raise InputError(f"{gone[0]}: no such file; rs-pretrain export writes it")
    return [Upload(path.name, path, file_digest(path)) for path in paths]
