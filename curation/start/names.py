"""What the names in a folder say: files of one kind gathered, in random order, within a time limit.

A *kind* is a suffix in folders of one pattern: digits vary, words stay. Of each kind some files are drawn evenly
(reservoir sampling: Vitter, "Random sampling with a reservoir", ACM TOMS 1985, algorithm R), so that a folder of a
million files costs no more memory than one of a thousand.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from curation.sources.globs import compile_globs

DRAWN = 96
"""Files that are drawn of each kind."""
MOST_KINDS = 2_000
"""Kinds beyond which folders below the first are no longer told apart."""
DEEPEST = 3
"""Folders of a path whose names are told apart; below, only words that mean something are."""

MASK_WORDS = frozenset(
    {"mask", "masks", "label", "labels", "annotation", "annotations", "gt", "groundtruth", "ground_truth"}
)
SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_SEPARATED = re.compile(r"[_\-. ]+")
_TAIL = re.compile(r"[_\-.](?:(?:" + "|".join(sorted(MASK_WORDS)) + r")|b(?:and)?_?(?:0?\d{1,2}|8a))(?:_\d+m)?$", re.I)


class FoundFile(NamedTuple):
    """A file below the folder, or a member of one, as :class:`curation.imagery.location.Location` names it."""

    file: str
    member: str | None = None


@dataclass
class Kind:
    """Files of one suffix in folders of one pattern."""

    folder: str
    """Glob of the folders, empty for the topmost."""
    tail: str
    """How the names end before the suffix, where that means something: ``_mask``, ``_B04``."""
    suffix: str
    """Lower case, with its dot; empty where there is none."""
    container: str = "folder"
    """What they lie in: ``folder``, or the kind of archive."""
    count: float = 0
    """How many there are; an estimate where not every archive was opened."""
    drawn: list[FoundFile] = field(default_factory=list)
    seen: int = 0

    @property
    def glob(self) -> str:
        """Glob of exactly these files."""
        name = f"*{plain(self.tail)}{self.suffix}"
        return f"{self.folder}/{name}" if self.folder else name

    def mask_word(self) -> str | None:
        """Glob of the folder or ending that says these are masks or labels, if one does."""
        for part in reversed(self.folder.split("/")):
            if words(part) & MASK_WORDS:
                return f"**/{part}/**"
        return f"**/*{plain(self.tail)}{self.suffix}" if words(self.tail) & MASK_WORDS else None

    def split(self) -> tuple[str, str] | None:
        """Name of the split that a folder's word says, and the glob of that folder."""
        for part in self.folder.split("/"):
            for word in sorted(words(part) & SPLIT_WORDS.keys()):
                return SPLIT_WORDS[word], f"**/{part}/**"
        return None


def words(name: str) -> set[str]:
    """Words of a folder's name or of an ending, in lower case."""
    lower = name.lower().strip("_-. ")
    return {lower, *_SEPARATED.split(lower)}


def plain(name: str) -> str:
    """A name as a glob that matches it: what globs read in another way becomes ``?``."""
    return re.sub(r"[*?\[\]{}]", "?", name)


@dataclass
class Kinds:
    """All kinds of files that were met."""

    draw: random.Random
    found: dict[tuple[str, str, str], Kind] = field(default_factory=dict)

    def add(self, place: FoundFile, path: str, inside: str = "", container: str = "folder") -> None:
        """Count one file.

        Args:
            place: where it lies.
            path: relative to the folder, or to the archive that holds it.
            inside: glob of that archive.
            container: kind of the archive.
        """
        above, _, name = path.rpartition("/")
        stem, dot, suffix = name.rpartition(".")
        stem, suffix = (stem, f".{suffix.lower()}") if dot and stem and len(suffix) < 12 else (name, "")
        if stem.lower().endswith(".tar"):
            stem, suffix = stem[:-4], f".tar{suffix}"
        ending = _TAIL.search(stem)
        tail = ending.group(0) if ending else ""
        folder = "/".join(part for part in (inside, self._pattern(above)) if part)
        kind = self.found.setdefault((folder, tail.lower(), suffix), Kind(folder, tail, suffix, container))
        kind.count += 1
        kind.seen += 1
        if len(kind.drawn) < DRAWN:
            kind.drawn.append(place)
        elif (at := self.draw.randrange(kind.seen)) < DRAWN:
            kind.drawn[at] = place

    def _pattern(self, folder: str) -> str:
        names = folder.split("/") if folder else []
        if len(self.found) > MOST_KINDS:
            return f"{plain(names[0])}/**" if names else ""
        return "/".join(
            re.sub(r"\d+", "*", plain(name)) if at < DEEPEST or words(name) & _MEANT else "*"
            for at, name in enumerate(names)
        )

    def merge(self, other: Kinds, factor: float = 1.0) -> None:
        """Take over what another one counted, each file standing for ``factor`` of them."""
        for key, theirs in other.found.items():
            mine = self.found.setdefault(key, Kind(theirs.folder, theirs.tail, theirs.suffix, theirs.container))
            mine.count += theirs.count * factor
            mine.drawn += theirs.drawn
            self.draw.shuffle(mine.drawn)
            del mine.drawn[DRAWN:]

    def __iter__(self) -> Iterator[Kind]:
        return iter(sorted(self.found.values(), key=lambda kind: (-kind.count, kind.glob)))


_MEANT = MASK_WORDS | SPLIT_WORDS.keys()


@dataclass
class Names:
    """What a walk over the names found."""

    root: Path
    """Without symbolic links."""
    kinds: Kinds
    folders: int = 0
    complete: bool = True
    """Every folder was walked before time was up."""
    seconds: float = 0.0
    outside: Counter[str] = field(default_factory=Counter)
    """Links that lead out of the folder, per folder that they lead to."""
    unread: list[str] = field(default_factory=list)
    """Folders that could not be listed."""

    @property
    def files(self) -> int:
        """Files that were counted, archives as one each."""
        return int(sum(kind.count for kind in self.kinds.found.values() if kind.container == "folder"))


def walk(root: Path, seconds: float, draw: random.Random, leave: tuple[str, ...] = ()) -> Names:
    """Walk a folder in random order, so that what is seen before time is up is a fair sample.

    Args:
        root: the folder.
        seconds: time after which no further folder is listed.
        draw: source of randomness.
        leave: globs of what is passed over.
    """
    real = os.path.realpath(root)
    names, start = Names(Path(real), Kinds(draw)), time.monotonic()
    left, seen, waiting = compile_globs(leave), {real}, [""]
    while waiting:
        if time.monotonic() - start > seconds:
            names.complete = False
            break
        at = draw.randrange(len(waiting))
        waiting[at], waiting[-1] = waiting[-1], waiting[at]
        folder = waiting.pop()
        names.folders += 1
        for entry in _entries(names, folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if left(path):
                continue
            if entry.is_symlink() and not _followed(names, entry, seen):
                continue
            if entry.is_dir():
                waiting.append(path)
            elif entry.is_file():
                names.kinds.add(FoundFile(path), path)
    names.seconds = time.monotonic() - start
    return names


def _entries(names: Names, folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(names.root / folder) as found:
            return [entry for entry in found if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except OSError as error:
        names.unread.append(f"{folder or '.'} ({error.strerror or error})")
        return []


def _followed(names: Names, entry: os.DirEntry[str], seen: set[str]) -> bool:
    """Whether a link is walked: links out of the folder are noted, folders are walked once."""
    target = os.path.realpath(entry.path)
    if not Path(target).exists():
        return False
    is_folder = Path(target).is_dir()
    if not f"{target}{os.sep}".startswith(f"{names.root}{os.sep}"):
        names.outside[target if is_folder else os.path.dirname(target)] += 1
    elif is_folder:
        return False  # it is walked where it lies
    if is_folder and target in seen:
        return False
    seen.add(target) if is_folder else None
    return True
