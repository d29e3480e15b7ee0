"""Some of a source instead of all: whole archives first, which need not be fetched, then images within them.

Which ones follows from the recipe's seed and from names alone: every machine draws the same, a larger number keeps what
a smaller one took, and what is added to a repository later moves little.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from curation.containers.archives import archive_of
from curation.sources.source import RemoteFile, Source

SPARE = 1.1
"""Images that chosen archives are expected to hold, as a multiple of ``max_images``: archives differ in size."""


@dataclass(frozen=True)
class Subset:
    """How much of a source is taken; null: all of it."""

    files: int | None = None
    """Archives, tables or images as the source's host holds them; an archive in parts is one."""
    images: int | None = None
    seed: int = 0

    @property
    def is_all(self) -> bool:
        """True when nothing is left out."""
        return self.files is None and self.images is None


ALL = Subset()


def choose_files(files: Sequence[RemoteFile], subset: Subset, source: str) -> list[RemoteFile]:
    """Of a source's files those that are taken, in their order; parts of one archive stay together."""
    if subset.files is None:
        return list(files)
    wholes = {file.name: archive_of(file.name) or file.name for file in files}
    chosen = lowest(set(wholes.values()), subset.files, subset.seed, source)
    return [file for file in files if wholes[file.name] in chosen]


def without_splits(source: Source, splits: Sequence[str]) -> Source:
    """A source without the files that hold nothing but splits which are left out; they are left where they lie, too."""
    taken = tuple(file for file in source.files if file.split not in splits)
    if len(taken) in (0, len(source.files)):
        return source
    return source.model_copy(update=_but(source, taken))


def _but(source: Source, taken: tuple[RemoteFile, ...]) -> dict[str, Any]:
    """What changes where only some files of a source are taken."""
    others = tuple(_as_glob(file.name) for file in source.files if file not in taken)
    return {"files": taken, "leave": (*source.leave, *others), "expected_images": None}


def narrow(source: Source, subset: Subset) -> tuple[Source, Subset]:
    """A source whose manifest names its files, with those alone that are taken; and what is left to choose.

    Where only a number of images is asked for, enough archives are taken for it by the manifest's ``expected_images``.
    Archives that are not taken are left where they lie.
    """
    if source.remote is not None and subset.files is not None:
        access = source.remote.model_copy(update={"files": subset.files})
        return source.model_copy(update={"remote": access, "expected_images": None}), replace(subset, files=None)
    if subset.files is not None and not source.files:
        return _narrow_repository(source, subset.files), subset
    if subset.is_all or not source.files:
        return source, subset
    wholes = {archive_of(file.name) or file.name for file in source.files}
    count = subset.files
    if count is None and source.expected_images:
        count = math.ceil(len(wholes) * min(1.0, SPARE * (subset.images or 0) / source.expected_images))
    if count is None or count >= len(wholes):
        return source, replace(subset, files=None)
    taken = choose_files(source.files, replace(subset, files=count), source.id)
    changes = _but(source, tuple(taken))
    if source.listed_megabytes is not None:
        changes["listed_megabytes"] = source.listed_megabytes * count / len(wholes)
    return source.model_copy(update=changes), replace(subset, files=None)


def _narrow_repository(source: Source, count: int) -> Source:
    """What is known of a repository, of so many of its files; which ones they are is known when it is listed."""
    changes: dict[str, Any] = {"expected_images": None}
    if source.listed_files is not None:
        share = min(1.0, count / source.listed_files)
        changes["listed_files"] = min(count, source.listed_files)
        if source.listed_megabytes is not None:
            changes["listed_megabytes"] = source.listed_megabytes * share
    return source.model_copy(update=changes)


def lowest(names: set[str], count: int, seed: int, source: str) -> set[str]:
    """The ``count`` names with the lowest lots."""
    return set(sorted(names, key=lambda name: (lot(seed, source, name), name))[:count])


def lot(seed: int, source: str, name: str) -> int:
    """What a name draws, of 64 bits."""
    digest = hashlib.blake2b(f"{seed}\0{source}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _as_glob(name: str) -> str:
    """A pattern that this name fits."""
    return "".join("?" if letter in "*?[]{}" else letter for letter in name)
