"""What a folder holds, from its names and from looks at some of its images, within a time limit."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from curation.base.errors import InputError
from curation.containers import container_of
from curation.containers.archives import archive_of
from curation.executor.nursery import Nursery
from curation.sources.inventory import BESIDE_IMAGES
from curation.sources.source import IMAGE_SUFFIXES
from curation.start.look import PRELOAD, Look, archive_glob, list_archives, look
from curation.start.names import FoundFile, Kind, Kinds, Names, walk

SECONDS = 20.0
"""What a survey takes, beside the start of its processes."""
ARCHIVES = 8
"""Archives of one kind that are opened."""
FIRST = 16
"""Most images of a kind that are looked at first."""
MOST = 320
"""Images that are looked at first in all."""
DEEP = 96
"""Images of more than 8 bits that are looked at in all: their percentiles become a stretch."""
FEW_COLOURS = 24
"""Distinct colours up to which all images of a kind are masks or labels."""
UNREAD = {
    ".tfrecord": "write its images into tars or a folder",
    ".tfrecords": "write its images into tars or a folder",
    ".7z": "unpack it",
    ".rar": "unpack it",
    ".gz": "unpack it",
    ".nc": "convert it with gdal_translate",
    ".npy": "write it as GeoTIFF",
    ".npz": "write it as GeoTIFF",
    ".mat": "write it as GeoTIFF",
    ".hdf": "convert it with gdal_translate",
    ".vrt": "gdal_translate makes a file of its own of it",
    ".ecw": "convert it with gdal_translate",
    ".sid": "convert it with gdal_translate",
    ".heic": "convert it to JPEG",
    ".lmdb": "write its images into tars or a folder",
    ".mdb": "write its images into tars or a folder",
}
"""What to do about files that may hold imagery and are not read."""


@dataclass
class Met:
    """A kind of files, and what the images that were looked at hold."""

    kind: Kind
    looks: list[Look] = field(default_factory=list)

    @property
    def opened(self) -> list[Look]:
        """Images that could be read."""
        return [look for look in self.looks if not look.error]

    @property
    def is_image(self) -> bool:
        """Whether these files become images: what they hold says so, or their suffix where none was looked at."""
        if self.looks:
            return any(look.is_image for look in self.looks)
        return self.named

    @property
    def named(self) -> bool:
        """Whether the suffix is that of an image."""
        return self.kind.suffix.lstrip(".") in IMAGE_SUFFIXES or self.kind.container in ("parquet", "hdf5")

    @property
    def mask(self) -> str | None:
        """Why these are masks or labels rather than imagery."""
        if self.kind.mask_word() is not None:
            return "the name says so"
        most = max((look.colours for look in self.opened), default=0)
        if len(self.opened) >= 3 and 2 <= most <= FEW_COLOURS:
            return f"at most {most} distinct values in each of {len(self.opened)} files"
        return None


@dataclass
class Survey:
    """What a folder holds."""

    folder: Path
    names: Names
    met: list[Met]
    archives: Counter[str]
    """Archives that were counted, per container."""
    broken: list[str]
    """Archives that cannot be listed, with the reason."""
    seconds: float = 0.0

    @property
    def looks(self) -> int:
        """Images that were looked at."""
        return sum(len(each.looks) for each in self.met)

    def images(self) -> list[Met]:
        """Kinds that are images, masks among them."""
        return [each for each in self.met if each.is_image]

    def others(self) -> list[Met]:
        """Kinds that are no images and not what usually lies beside images."""
        return [each for each in self.met if not each.is_image and each.kind.suffix.lstrip(".") not in BESIDE_IMAGES]


def survey(folder: Path, seconds: float = SECONDS, seed: int = 0, leave: Sequence[str] = ()) -> Survey:
    """Look at a folder.

    Args:
        folder: any folder.
        seconds: time to take, beside the start of processes.
        seed: of the draw.
        leave: globs of what is passed over.

    Raises:
        InputError: no folder, or nothing in it.
    """
    start, draw = time.monotonic(), random.Random(seed)
    _check(folder)
    names = walk(folder, seconds * 0.4, draw, tuple(leave))
    if not names.kinds.found:
        raise InputError(f"{folder}: holds no file that can be read; give the folder of your imagery")
    with closing(Nursery(PRELOAD)) as nursery:
        kinds, archives, broken = _with_archives(nursery, names, seconds * 0.2, seed)
        met = [Met(kind) for kind in kinds]
        for each in met:
            if archive_of(f"x{each.kind.suffix}") is not None:
                each.looks = [Look(place, "an archive", is_image=False) for place in each.kind.drawn[:1]]
        unseen = [each for each in met if not each.looks and _may_be_image(each.kind)]
        _look(nursery, names.root, unseen, max(seconds * 0.2, start + seconds * 0.6 - time.monotonic()))
        _look_deeper(nursery, names.root, met, max(seconds * 0.2, start + seconds * 0.9 - time.monotonic()))
    return Survey(folder, names, met, archives, broken, time.monotonic() - start)


def _check(folder: Path) -> None:
    if not folder.exists():
        raise InputError(f"{folder}: does not exist; give the folder of your imagery")
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; give the folder that holds it")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{folder}: no permission to list it; try: chmod u+rx '{folder}'")


def _with_archives(nursery: Nursery, names: Names, seconds: float, seed: int) -> tuple[Kinds, Counter[str], list[str]]:
    """Kinds of plain files and of members of archives; those archives that are read in place are no files any more."""
    plain, archives = Kinds(names.kinds.draw), Counter[str]()
    files: list[tuple[str, str, str]] = []
    share: dict[str, float] = {}
    for key, kind in names.kinds.found.items():
        container = container_of(kind.drawn[0].file)
        if container is None:
            plain.found[key] = kind
            continue
        chosen = [place.file for place in kind.drawn[:ARCHIVES]]
        archives[container.name] += int(kind.count)
        files += [(file, archive_glob(file), container.name) for file in chosen]
        share |= {file: kind.count / len(chosen) for file in chosen}
    broken = []
    for file, listed in list_archives(nursery, names.root, files, seconds, seed):
        if isinstance(listed, Kinds):
            plain.merge(listed, share[file])
        else:
            broken.append(f"{file}: {listed}")
    return plain, archives, broken


def _may_be_image(kind: Kind) -> bool:
    return kind.suffix == "" or kind.suffix.lstrip(".") not in BESIDE_IMAGES


def _look(nursery: Nursery, root: Path, met: Sequence[Met], seconds: float) -> None:
    """Look at the first images of every kind: one of each, then the next, until there are enough."""
    turns = [(each, place) for at in range(FIRST) for each in met for place in each.kind.drawn[at : at + 1]]
    _take(nursery, root, turns[:MOST], seconds)


def _look_deeper(nursery: Nursery, root: Path, met: Sequence[Met], seconds: float) -> None:
    """Look at more images of the kinds whose images need a stretch."""
    deep = [each for each in met if any(look.deep for look in each.opened) and each.mask is None]
    total = sum(each.kind.count for each in deep)
    turns = []
    for each in deep:
        share = max(round(DEEP * each.kind.count / total), 4)
        turns += [(each, place) for place in each.kind.drawn[len(each.looks) : share]]
    _take(nursery, root, turns, seconds)


def _take(nursery: Nursery, root: Path, turns: Iterable[tuple[Met, FoundFile]], seconds: float) -> None:
    of = {place: each for each, place in turns}
    for found in look(nursery, root, of, seconds):
        of[found.place].looks.append(found)
