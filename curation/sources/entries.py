"""Files of a source as they lie on disk or in an archive, sorted by image path, before a manifest's globs are counted.

Folders are walked in the order of full paths with one folder's names in memory at a time. What is left out is told:
links that lead outside or in a circle, names that are there twice, folders and archives that cannot be read.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from curation.containers import BrokenArchive, container_of, list_members
from curation.containers.registry import broken_member
from curation.sources.source import Source

MAX_LINKS = 3
"""Links to folders on one path that are followed: folders that link to each other make a maze, not a circle."""
_NAMED = 3
_SIDECAR = re.compile(r"(.+)(?:\.aux\.xml|\.prj|\.wld|\.\w{2,4}w)", re.IGNORECASE)
"""Names that a warning gives as examples."""


class Entry(NamedTuple):
    """A file on disk or a member of a container."""

    path: str
    """Image path: relative to the source's root, POSIX, NFC."""
    file: str
    """File on disk, relative to the root, spelled as the disk spells it."""
    member: str | None
    bytes: int
    mtime_ns: int
    is_broken: bool = False
    """Stands for what cannot be listed of an archive; ``member`` says why."""


@dataclass
class WalkFindings:
    """What a walk came across beside the entries."""

    warnings: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    """Those warnings that tell of folders, files and archives that could not be read."""
    unlisted: Counter[str] = field(default_factory=Counter)
    """Files that no glob takes or leaves, per suffix."""
    examples: dict[str, str] = field(default_factory=dict)
    """Of those, the first file of each suffix."""
    left: int = 0
    """Files that a glob leaves."""
    unused: set[str] = field(default_factory=set)
    """Globs that should leave something and have not yet."""
    links: list[str] = field(default_factory=list)
    outside: set[str] = field(default_factory=set)
    """Folders that those links lead to which lead outside."""
    twins: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was left out as it was asked for."""

    def miss(self, warning: str) -> None:
        """Note what could not be read."""
        self.warnings.append(warning)
        self.unread.append(warning)

    def tell(self) -> None:
        """Turn what was left out into warnings."""
        if self.links:
            self.warnings.append(
                f"{len(self.links)} symbolic links lead outside the folder, nowhere or in a circle and are left out: "
                f"{_some(self.links)}{self._follow()}"
            )
        if self.twins:
            self.warnings.append(
                f"{len(self.twins)} files have the name of another one (after Unicode normalisation) and are left out; "
                f"rename them: {_some(self.twins)}"
            )

    def _follow(self) -> str:
        if not self.outside:
            return ""
        common = os.path.commonpath(self.outside)
        return f"; for those that lead outside set, under the source, follow_links: {common}"


@dataclass(frozen=True)
class FolderWalk:
    """A source's folder, what to take of it, and what was found."""

    source: Source
    root: Path
    """Without symbolic links."""
    takes: Callable[[str], bool]
    left: Callable[[str], bool]
    leave: Mapping[str, Callable[[str], bool]]
    """Globs of what is left, each with its predicate; ``left`` is that of all."""
    found: WalkFindings
    linked: Path | None = None
    """Folder outside of ``root`` into which links are followed."""
    elsewhere: Callable[[str], bool] = lambda path: False
    """Whether another source of the recipe takes a file."""
    seed: int = 0
    """What is drawn of remote files follows from it."""

    def leaves(self, path: str) -> bool:
        """Whether a glob leaves this file; a glob that does for the first time is no more unused."""
        if not self.left(path):
            return False
        if self.found.unused:
            self.found.unused -= {glob for glob in self.found.unused if self.leave[glob](path)}
        return True

    def wants(self, path: str) -> bool:
        """Whether a file becomes an image; what no glob of any source names is counted."""
        if self.leaves(path):
            self.found.left += 1
            return False
        if self.takes(path):
            return True
        if self.elsewhere(path):
            return False
        suffix = PurePosixPath(path).suffix.lower()
        self.found.unlisted[suffix] += 1
        self.found.examples.setdefault(suffix, path)
        return False


class _Folder(NamedTuple):
    """A folder that is being walked: its entries still to come, where it truly lies, and the links that led there."""

    groups: Iterator[list[_Item]]
    real: str
    links: int


class _Item(NamedTuple):
    """A name in a folder."""

    relative: str
    """As the disk spells it."""
    entry: os.DirEntry[str]
    is_folder: bool
    order: str
    """NFC, with a slash behind folders and what is opened like one: so whole paths come in order."""
    beside: tuple[os.DirEntry[str], ...] = ()
    """World file, ``.prj`` and ``.aux.xml`` of the same name: they place the image."""

    @property
    def path(self) -> str:
        """Relative to the source's root, NFC."""
        return unicodedata.normalize("NFC", self.relative)


def list_entries(walk: FolderWalk) -> Iterator[Entry]:
    """List what a source's globs take, unpacked or in an archive, sorted by image path, each path once.

    A file on disk goes before a member of the same path: an archive may lie beside what was unpacked from it. Of two
    members of one name the later is taken, as when the archive is unpacked.
    """
    listed = {file.name: file for file in walk.source.files if opened_in_place(walk.source, file.name)}
    here = [file for file in listed.values() if (walk.root / file.name).is_file()]
    streams = [_walk(walk, frozenset(listed))]
    streams += [_members(walk, file.name, file.into, None) for file in here]
    previous: Entry | None = None
    for entry in heapq.merge(*streams, key=lambda entry: entry.path):
        if previous is None or entry.path != previous.path:
            yield entry
            previous = entry
        elif (previous.member is None) == (entry.member is None):
            walk.found.twins.append(entry.file if entry.member is None else f"{entry.path} in {entry.file}")
    walk.found.tell()


def opened_in_place(source: Source, name: str) -> bool:
    """True for archives whose members are listed without unpacking: those the manifest lists, or all of its container.

    Images in one file per band are read by GDAL from files, so their archives are not.
    """
    kind = container_of(name)
    listed = kind is not None and not kind.is_table and any(file.name == name for file in source.files)
    return source.bands_in_files is None and (listed or _opens(source, name))


def _opens(source: Source, name: str) -> bool:
    kind = container_of(name)
    if kind is None or kind.name != source.container:
        return False
    return kind.is_table or source.bands_in_files is None


# ------------------------------------------------------------------------------------------------ folders


def _walk(walk: FolderWalk, listed: frozenset[str]) -> Iterator[Entry]:
    """Depth-first in the order of full paths. Names that begin with a dot are left."""
    stack = [_Folder(_groups(walk, [""]), str(walk.root), 0)]
    while stack:
        items = next(stack[-1].groups, None)
        if items is None:
            stack.pop()
            continue
        kept = [item for item in items if not item.entry.is_symlink() or _is_followed(walk, stack, item)]
        folders = [item for item in kept if item.is_folder]
        if folders:
            links = stack[-1].links + folders[0].entry.is_symlink()
            real = _real(stack[-1].real, folders[0].entry)
            stack.append(_Folder(_groups(walk, [item.relative for item in folders]), real, links))
        for item in kept:
            if not item.is_folder and item.path not in listed:
                yield from _open_file(walk, item)


def _real(folder: str, entry: os.DirEntry[str]) -> str:
    return os.path.realpath(entry.path) if entry.is_symlink() else f"{folder}{os.sep}{entry.name}"


def _groups(walk: FolderWalk, folders: Sequence[str]) -> Iterator[list[_Item]]:
    """Entries of a folder, in order; those of one name after normalisation together, as if it were one folder."""
    items = [item for folder in folders for item in _items(walk, folder)]
    items.sort(key=lambda item: (item.order, item.relative))
    return (list(group) for _, group in groupby(items, key=lambda item: item.order))


def _items(walk: FolderWalk, folder: str) -> Iterator[_Item]:
    try:
        with os.scandir(walk.root / folder) as entries:
            kept = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except PermissionError:
        walk.found.miss(f"{folder}: no permission to list it; try: chmod u+rx '{walk.root / folder}'")
        return
    except OSError as error:
        walk.found.miss(f"{folder}: cannot be listed ({error.strerror or error}); what it holds is left out")
        return
    beside = _beside(kept)
    for entry in kept:
        is_folder = _is_folder(entry)
        slash = "/" if is_folder or _opens(walk.source, entry.name) else ""
        relative = f"{folder}/{entry.name}" if folder else entry.name
        placed = (*beside.get(entry.name, ()), *beside.get(entry.name.rpartition(".")[0], ())) if beside else ()
        yield _Item(relative, entry, is_folder, unicodedata.normalize("NFC", entry.name) + slash, placed)


def _beside(entries: Sequence[os.DirEntry[str]]) -> dict[str, list[os.DirEntry[str]]]:
    """Files that tell where images lie, by the name, or the name without suffix, of their image."""
    found: dict[str, list[os.DirEntry[str]]] = {}
    for entry in entries:
        if match := _SIDECAR.fullmatch(entry.name):
            found.setdefault(match[1], []).append(entry)
    return found


def changed(times: Iterable[int]) -> int:
    """One time for what is made of several files: another whenever one of theirs is another."""
    first, *others = times
    text = ",".join(str(time) for time in (first, *others)).encode()
    return first if not others else int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_followed(walk: FolderWalk, stack: Sequence[_Folder], item: _Item) -> bool:
    """Whether a symbolic link leads to something inside of the folder that is not being walked already."""
    target = os.path.realpath(item.entry.path)
    exists = Path(target).exists()
    if exists and not item.is_folder and not (walk.takes(item.path) or _opens(walk.source, item.relative)):
        return True  # no image in any case; it is counted like a file
    good = exists and _is_inside(walk, target)
    if exists and not good and not walk.leaves(item.path):
        walk.found.outside.add(target if item.is_folder else os.path.dirname(target))
    if good and item.is_folder:
        above = f"{stack[-1].real}{os.sep}".startswith(f"{target}{os.sep}")
        good = not above and target not in {folder.real for folder in stack} and stack[-1].links < MAX_LINKS
    if not good and not walk.leaves(item.path):
        walk.found.links.append(item.relative)
    return good


def _is_inside(walk: FolderWalk, target: str) -> bool:
    roots = (walk.root,) if walk.linked is None else (walk.root, walk.linked)
    return any(f"{target}{os.sep}".startswith(f"{root}{os.sep}") for root in roots)


def _open_file(walk: FolderWalk, item: _Item) -> Iterator[Entry]:
    """One plain file, or the members of a container that is read in place."""
    try:
        item.relative.encode()
    except UnicodeEncodeError:
        walk.found.warnings.append(f"{item.relative!r}: the name is not UTF-8; rename the file")
        return
    if _opens(walk.source, item.relative):
        yield from _members(walk, item.relative, item.path, walk.source.table_column)
    elif walk.wants(item.path):
        try:
            status = item.entry.stat()
        except OSError as error:
            walk.found.miss(f"{item.relative}: cannot be read ({error.strerror or error}); it is left out")
            return
        if item.entry.is_file():
            time = changed([status.st_mtime_ns, *(sorted(other.stat().st_mtime_ns for other in item.beside))])
            yield Entry(item.path, item.relative, None, status.st_size, time)


# ------------------------------------------------------------------------------------------------ archives


def _members(walk: FolderWalk, file: str, into: str, image_column: str | None) -> Iterator[Entry]:
    """Members of a container, sorted; of an archive that is broken what is whole, and a row for the rest of it."""
    path = unicodedata.normalize("NFC", file)
    if walk.leaves(path):
        return
    try:
        status = (walk.root / file).stat()
    except OSError as error:
        walk.found.miss(f"{file}: cannot be read ({error.strerror or error}); it is left out")
        return
    into = into.strip("/")
    found: list[Entry] = []
    outside = 0
    try:
        for member in list_members(walk.root / file, image_column):
            name = member.name.replace("\\", "/")
            if name.startswith("/") or (".." in name and ".." in name.split("/")):
                outside += 1
            elif "/." not in f"/{name}" and not name.startswith("__MACOSX/"):
                image = f"{into}/{name}" if into else name
                image = image if image.isascii() else unicodedata.normalize("NFC", image)
                if walk.wants(image):
                    found.append(Entry(image, file, member.locator, member.bytes, status.st_mtime_ns))
    except BrokenArchive as broken:
        if not walk.leaves(f"{path}/*"):
            told = broken_member(broken.reason)
            found.append(Entry(f"{path}/*", file, told, status.st_size, status.st_mtime_ns, is_broken=True))
            walk.found.miss(f"{file}: {broken.reason}, or leave it ({path}/*)")
    if outside:
        walk.found.warnings.append(f"{file}: {outside} names lead outside the archive and are left out")
    found.reverse()  # of equal names the last comes first: it is what unpacking would leave
    found.sort(key=lambda entry: entry.path)
    yield from found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(repr(name) if not name.isprintable() else name for name in names[:_NAMED]) + more
