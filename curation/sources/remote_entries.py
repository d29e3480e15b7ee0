"""The listing of a remote source: its files asked for their version, its scenes for their windows, drawn by the seed.

What was found of each file is written down as it comes, so that a listing that was killed goes on; the notes go when it
is complete.
"""

from __future__ import annotations

import hashlib
import json
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from curation.base.errors import InputError, UnreadableImage
from curation.base.files import digest
from curation.base.terminal import sized
from curation.catalogue import Window, read_table
from curation.containers.parquet_arrays import ArrayColumns
from curation.containers.registry import CONTAINERS, broken_member
from curation.remote import scenes, tars
from curation.remote.places import Place, PlaceNotes, places
from curation.remote.reader import FOLDER, Member, Reader, reader
from curation.remote.remote_file import RemoteFile, range_key
from curation.remote.transport import Pin
from curation.sources import key_fields
from curation.sources.entries import Entry, FolderWalk
from curation.sources.source import EVERY_IMAGE, Source

_NAMED = 3
RANGES_AT_ONCE = 4
"""Of a tar: each is held whole in memory."""


@dataclass
class FoundFile:
    """What a file was found to hold: names below its path, members, bytes; or why nothing."""

    pin: Sequence[Any] | None = None
    members: list[tuple[str, str, int]] = field(default_factory=list)
    reason: str = ""
    empty: int = 0
    blind: bool = False
    is_tar: bool = False
    """Whether its members are still to be found, range by range."""


def remote_entries(walk: FolderWalk) -> Iterator[Entry]:
    """Members of a source's remote files, sorted by image path.

    Raises:
        InputError: its list or catalogue is absent, or a bucket refuses.
        WorkError: a server does not answer.
    """
    access = walk.source.remote
    assert access is not None  # its caller has asked
    reads, notes = reader(walk.root, access), PlaceNotes()
    named = places(access, walk.root, reads.ranges.transport, notes)
    wanted = _drawn([place for place in named if _wants(walk, place)], access.files, walk.seed)
    journal = _Journal(walk.root / FOLDER / f"listing-{_key(walk)}.jsonl")
    told = _Told()
    with ThreadPoolExecutor(access.connections) as pool:
        for start in range(0, len(wanted), 256):
            batch = wanted[start : start + 256]
            found = pool.map(lambda place: journal.known(place.url) or _look(place, walk, reads), batch)
            for place, each in zip(batch, found, strict=True):
                journal.note(place.url, each)
                if each.is_tar:
                    each.members = _members(place, each, walk, reads, journal)
                yield from _entries(walk, place, each, told)
    journal.done()
    _tell(walk, notes, told, len(wanted))


def _key(walk: FolderWalk) -> str:
    return digest([key_fields.listing(walk.source), walk.source.nodata, walk.seed], 6)


def _wants(walk: FolderWalk, place: Place) -> bool:
    """Whether the globs take a file; named one by one, it is wanted whatever it ends in."""
    access, by_default = walk.source.remote, walk.source.images == (EVERY_IMAGE,)
    packed = place.path.lower().endswith((*CONTAINERS["parquet"].suffixes, *CONTAINERS["tar"].suffixes))
    if packed or (by_default and access is not None and access.prefix is None):
        return not _leaves(walk, place.path)
    return walk.wants(place.path)


def _leaves(walk: FolderWalk, path: str) -> bool:
    leaves = walk.leaves(path)
    walk.found.left += leaves
    return leaves


def _drawn(found: Sequence[Place], count: int | None, seed: int) -> list[Place]:
    """``count`` files in the order of a digest of seed and path, sorted by path again."""
    if count is None or len(found) <= count:
        return list(found)
    return sorted(sorted(found, key=lambda place: _order(seed, place.path))[:count])


def _order(seed: int, path: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{path}".encode(), digest_size=8).digest()


# ------------------------------------------------------------------------------------------------ looking


def _look(place: Place, walk: FolderWalk, reads: Reader) -> FoundFile:
    """Ask for a file's version, and find its members."""
    try:
        pin, head = reads.ranges.first_page(place.url)
        return _kind_of(place.path, head)(place, pin, head, walk, reads)
    except UnreadableImage as refused:
        return FoundFile(reason=str(refused))


Look = Callable[[Place, Pin, bytes, FolderWalk, Reader], FoundFile]


def _kind_of(path: str, head: bytes) -> Look:
    lower = path.lower()
    if lower.endswith(CONTAINERS["parquet"].suffixes):
        return _rows
    if lower.endswith(CONTAINERS["tar"].suffixes):
        return lambda place, pin, *_: FoundFile(tuple(pin), is_tar=True)
    return _whole if scenes.driver_of(head) is None else _windows


def _whole(place: Place, pin: Pin, head: bytes, walk: FolderWalk, reads: Reader) -> FoundFile:
    """An image that is read as a whole, such as a JPEG."""
    return FoundFile(tuple(pin), [("", Member(0, pin.size, pin, "whole", "-").written(), pin.size)])


def _windows(place: Place, pin: Pin, head: bytes, walk: FolderWalk, reads: Reader) -> FoundFile:
    access = walk.source.remote
    assert access is not None
    driver = scenes.driver_of(head)
    assert driver is not None
    with scenes.opened(RemoteFile(pin, reads.ranges), driver) as data:
        drawn = scenes.draw(data, access.side, access.per_file, f"{walk.seed}\0{place.path}", walk.source.nodata)
        size = scenes.window_bytes(pin, data, drawn.windows)
    members = [(_name(window), _member(pin, window), size) for window in drawn.windows]
    return FoundFile(tuple(pin), members, empty=drawn.empty, blind=drawn.blind)


def _rows(place: Place, pin: Pin, head: bytes, walk: FolderWalk, reads: Reader) -> FoundFile:
    """Rows of a table: of drawn row groups, so that no more of them are read than are needed."""
    source, access = walk.source, walk.source.remote
    assert access is not None
    columns = ArrayColumns.of(source.table_column)
    kind = "image" if columns is None else "row"
    if columns is None and source.table_column is None:
        raise UnreadableImage(f"{place.url}: image_column must say which column holds the images")
    columns = columns or ArrayColumns((source.table_column or "",), is_encoded=True)
    rows = list(reads.tables.rows(pin, columns))
    if access.per_file is not None:
        rows = sorted(rows, key=lambda row: (_order(walk.seed, f"{place.path}\0{row.group}"), row.row))
        rows = sorted(rows[: access.per_file])
    text = columns.text()
    members = [(f"{row.number:09d}", Member(row.group, row.row, pin, kind, text).written(), row.bytes) for row in rows]
    return FoundFile(tuple(pin), members)


def _members(
    place: Place, tar: FoundFile, walk: FolderWalk, reads: Reader, journal: _Journal
) -> list[tuple[str, str, int]]:
    """Members of a tar, which are put into the spool as they come by; some ranges are read at once.

    Raises:
        WorkError: the server does not answer.
    """
    access = walk.source.remote
    assert access is not None
    assert tar.pin is not None
    pin, length = Pin(*tar.pin), int(access.range_megabytes * 1e6)

    def look(drawn: tuple[int, int]) -> FoundFile:
        """Members of one range."""
        name = f"{place.url}#{drawn[0]}"
        found = journal.known(name)
        if found is None:
            try:
                found = FoundFile(tar.pin, list(_in_range(place, pin, drawn, length, walk, reads)))
            except UnreadableImage as refused:
                walk.found.miss(str(refused))
                return FoundFile()
            journal.note(name, found)
        return found

    try:
        ranges = tars.drawn_ranges(pin.size, access.ranges, length, f"{walk.seed}\0{place.path}")
    except UnreadableImage as refused:
        walk.found.miss(f"{place.url}: {refused}")
        return []
    with ThreadPoolExecutor(min(RANGES_AT_ONCE, access.connections)) as pool:
        every = [member for each in pool.map(look, ranges) for member in each.members]
    found = list({member[0]: member for member in every}.values())
    if len(found) < len(every):
        told = f"{place.path}: {len(every) - len(found):,} names are there twice; the last of each is taken"
        walk.found.warnings.append(told)
    if access.per_file is not None:
        found = sorted(found, key=lambda each: _order(walk.seed, f"{place.path}/{each[0]}"))[: access.per_file]
    return sorted(found)


def _in_range(
    place: Place, pin: Pin, drawn: tuple[int, int], chunk: int, walk: FolderWalk, reads: Reader
) -> Iterator[tuple[str, str, int]]:
    for member in tars.members(pin, reads.ranges, *drawn, chunk):
        if _is_image(walk, place.path, member.name):
            reads.ranges.spool.put(range_key(pin, member.offset, member.size), member.data)
            text = Member(member.offset, member.size, pin, "member", member.name).written()
            yield unicodedata.normalize("NFC", member.name.removeprefix("./")), text, member.size


def _is_image(walk: FolderWalk, tar: str, name: str) -> bool:
    """Whether a member is wanted; names that lead outside never are."""
    parts = name.removeprefix("./").split("/")
    hidden = any(part.startswith(".") or not part for part in parts) or "\\" in name
    path = f"{tar}/{'/'.join(parts)}"
    return not hidden and walk.takes(path) and not walk.left(path)


def _name(window: Window) -> str:
    return f"{window.row_off:06d}_{window.col_off:06d}"


def _member(pin: Pin, window: Window) -> str:
    return Member(window.col_off, window.row_off, pin, "window", f"{window.width}x{window.height}").written()


# ------------------------------------------------------------------------------------------------ telling


@dataclass
class _Told:
    """What all files together came to."""

    empty: int = 0
    blind: list[str] = field(default_factory=list)


def _entries(walk: FolderWalk, place: Place, found: FoundFile, told: _Told) -> Iterator[Entry]:
    if found.pin is None:
        if not walk.leaves(f"{place.path}/*"):
            told_why = broken_member(found.reason)
            yield Entry(f"{place.path}/*", place.url, told_why, 0, 0, is_broken=True)
            walk.found.miss(found.reason)
        return
    told.empty += found.empty
    told.blind += [place.path] if found.blind else []
    stamp = Pin(*found.pin).stamp
    for name, member, size in found.members:
        path = f"{place.path}/{name}" if name else place.path
        if not walk.leaves(path):
            yield Entry(path, place.url, member, size, stamp)


def _tell(walk: FolderWalk, notes: PlaceNotes, told: _Told, files: int) -> None:
    warnings = walk.found.warnings
    warnings += notes.warnings
    if notes.outside:
        walk.found.notes.append(f"{notes.outside:,} scenes lie outside of remote.datetime or remote.bbox and are left")
    if notes.without:
        warnings.append(f"{notes.without:,} scenes have no wanted asset; name its key under remote.assets")
    if notes.unlicensed:
        warnings.append(f"{notes.unlicensed:,} scenes have a licence that remote.licences does not name, and are left")
    if told.empty:
        walk.found.notes.append(f"{told.empty:,} windows are mostly empty, as overviews show, and are not drawn")
    if told.blind:
        some = ", ".join(told.blind[:_NAMED])
        warnings.append(
            f"{len(told.blind):,} of {files:,} scenes have no overviews; their empty windows show when read: {some}"
        )


# ------------------------------------------------------------------------------------------------ the journal


class _Journal:
    """What was found of files, a line each; a line that a kill cut short counts for nothing."""

    def __init__(self, path: Path) -> None:
        self.path, self._known, self._lock = path, dict[str, FoundFile](), threading.Lock()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            try:
                told = json.loads(line)
            except ValueError:
                continue
            found = FoundFile(**{**told["found"], "members": [tuple(each) for each in told["found"]["members"]]})
            self._known[told["url"]] = found
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        if lines:
            self._file.write("\n")

    def known(self, name: str) -> FoundFile | None:
        """What was found of a file, or of a range of one, before a kill."""
        return self._known.get(name)

    def note(self, name: str, found: FoundFile) -> None:
        """Write down what was found; what was refused is asked for again."""
        if name not in self._known and found.pin is not None:
            with self._lock:
                self._file.write(json.dumps({"url": name, "found": asdict(found)}) + "\n")
                self._file.flush()

    def done(self) -> None:
        """Nothing is left to do, and all is asked for anew the next time."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def say_spools(sources: Iterable[Source], listings: Mapping[str, Path]) -> list[str]:
    """What remote sources take of the network, and of the disk between scan and write."""
    lines = []
    for source in sources:
        if source.remote is not None:
            listed = sum(read_table(listings[source.id], "images", ["bytes"])["bytes"].to_pylist())
            kept = min(listed, int(source.remote.spool_gigabytes * 1e9))
            told = f"spool:  {source.id}: about {sized(listed)} to read, {sized(kept)} of them kept for the write stage"
            over = f"; {sized(listed - kept)} do not fit and are fetched again (remote.spool_gigabytes)"
            lines.append(told + over * (listed > kept))
    return lines


def check_root_of(source: Source, root: Path) -> None:
    """Make the folder that a remote source's spool lies in.

    Raises:
        InputError: it cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"source {source.id}: {root} cannot be made for its spool ({error.strerror})") from None
