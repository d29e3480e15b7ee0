"""Inventory: one row per raw image of each source, sorted by path, from folders and archives alike.

An image's path, which is part of every id, does not depend on whether an archive was unpacked: a member of an archive
that the manifest lists is ``<into>/<member>``, of any other archive ``<archive's path>/<member>``. Folders are walked
in the order of full paths with one folder's names in memory at a time.
"""

from __future__ import annotations

import heapq
import os
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from curation.containers import kind_of, list_members
from curation.errors import InputError
from curation.globs import compile_globs
from curation.manifest import EVERY_IMAGE, IMAGE_SUFFIXES, BandFiles, RemoteFile, ResolvedSource, Source
from curation.names import archive_of

TOLERANCE = 0.02
"""Share by which the number of images may differ from the expected one before it is worth a warning."""


class Entry(NamedTuple):
    """A file on disk or a member of a container, before any glob has seen it."""

    path: str
    """Image path: relative to the source's root, POSIX, NFC."""
    file: str
    """File on disk, relative to the root, spelled as the disk spells it."""
    member: str | None
    bytes: int
    mtime_ns: int


@dataclass
class SourceListing:
    """What an inventory found of one source."""

    id: str
    found: int = 0
    expected: int | None = None
    bytes: int = 0
    globs: dict[str, int] = field(default_factory=dict)
    """Images per glob of the manifest's ``images`` (of ``bands_in_files``: files)."""
    splits: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------ the table


def write_inventory(sources: Sequence[ResolvedSource], out: Path, *, strict: bool = False) -> list[SourceListing]:
    """Write ``images.parquet`` of all sources, in their order, and say what was found of each.

    Args:
        sources: A recipe's sources.
        out: Parquet file to write, atomically.
        strict: Make every warning an error.

    Raises:
        InputError: a folder is missing or holds no image, or anything was warned of under ``strict``.
    """
    import pyarrow.parquet as pq

    from curation.catalogue import atomic, schema_of, table_from_rows

    listings = []
    with atomic(out) as aside, pq.ParquetWriter(aside, schema_of("images"), compression="zstd") as writer:
        for resolved in sources:
            listing = SourceListing(resolved.id)
            for batch in _batches(list_images(resolved.source, resolved.root, listing), 65_536):
                writer.write_table(table_from_rows("images", batch))
            listings.append(listing)
            if strict and listing.warnings:
                raise InputError(f"source {listing.id}: {listing.warnings[0]} (an error because of --strict)")
    return listings


def _batches(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def list_images(source: Source, root: Path, listing: SourceListing | None = None) -> Iterator[dict[str, Any]]:
    """List a source's images as rows of the images table, sorted by path.

    Args:
        source: Its manifest.
        root: Its folder.
        listing: Filled with counts and warnings as the rows are taken, when given.

    Raises:
        InputError: the folder is missing or empty, or no image was found in it; after the last row.
    """
    listing = listing if listing is not None else SourceListing(source.id)
    listing.expected = source.expected_images
    check_root(source, root)
    entries = _select(source, list_entries(source, root, listing.warnings, _taker(source)), listing)
    rows = _group(source.bands_in_files, entries, listing) if source.bands_in_files else _single(entries)
    split_of = _splitter(source.splits)
    for row in rows:
        split = split_of(row["image"])
        listing.found += 1
        listing.bytes += row["bytes"]
        listing.splits[split or ""] = listing.splits.get(split or "", 0) + 1
        label = PurePosixPath(row["image"]).parent.name if source.label_from == "parent" else ""
        yield {"source": source.id, **row, "split": split, "label": label or None}
    _judge(source, root, listing)


def check_root(source: Source, root: Path) -> None:
    """Check that a source's folder is there and can be listed.

    Raises:
        InputError: with what to type next.
    """
    get = f"rs-curate fetch {source.id} --data {root.parent}" if source.files else "put its images there"
    if not source.readable:
        raise InputError(
            f"source {source.id}: its images come in a container that is not read here ({source.container})"
        )
    if not root.exists():
        raise InputError(f"source {source.id}: {root} does not exist; {get}")
    if not root.is_dir():
        raise InputError(f"source {source.id}: {root} is a file; give the folder that holds it")
    with _listable(root, source) as found:
        if next(found, None) is None:
            raise InputError(f"source {source.id}: {root} is empty; {get}")


def _listable(folder: Path, source: Source) -> Any:
    """``os.scandir``, or one line about the folder that may not be listed."""
    try:
        return os.scandir(folder)
    except PermissionError:
        raise InputError(f"source {source.id}: no permission to list {folder}; try: chmod u+rx '{folder}'") from None


def _judge(source: Source, root: Path, listing: SourceListing) -> None:
    if listing.found == 0:
        wanted = " ".join(source.images)
        if source.images == (EVERY_IMAGE,):
            wanted = f"files that end in {', '.join(IMAGE_SUFFIXES)}"
        elif source.bands_in_files:
            wanted = f"{source.bands_in_files.r} {source.bands_in_files.g} {source.bands_in_files.b}"
        packed = [file.name for file in source.files if _is_packed(source, root, file)]
        hints = [f"{packed[0]} is not unpacked; rs-curate fetch {source.id} --data {root.parent}"] if packed else []
        more = f" ({'; '.join([*hints, *listing.warnings[:1]])})" if hints or listing.warnings else ""
        raise InputError(f"source {source.id}: no image in {root}; looked for {wanted}{more}")
    listing.warnings += [f"no file matches {glob}" for glob, count in listing.globs.items() if count == 0]
    expected = listing.expected
    if expected is not None and abs(listing.found - expected) > TOLERANCE * expected:
        listing.warnings.append(f"{listing.found:,} images found, {expected:,} expected")


def _is_packed(source: Source, root: Path, file: RemoteFile) -> bool:
    return archive_of(file.name) is not None and not opened_in_place(source, file.name) and (root / file.name).is_file()


# ------------------------------------------------------------------------------------------------ choosing


def _select(source: Source, entries: Iterator[Entry], listing: SourceListing) -> Iterator[Entry]:
    """The entries that the manifest takes, counted per glob."""
    patterns = patterns_of(source)
    matchers = [(pattern, compile_globs([pattern])) for pattern in patterns]
    listing.globs = dict.fromkeys(patterns, 0)
    for entry in entries:
        for pattern, matches in matchers:
            if len(matchers) == 1 or matches(entry.path):
                listing.globs[pattern] += 1
        yield entry


def _taker(source: Source) -> Callable[[str], bool]:
    taken, left = compile_globs(patterns_of(source)), compile_globs(source.leave)
    return lambda path: taken(path) and not left(path)


def patterns_of(source: Source) -> tuple[str, ...]:
    """Globs of the files that become images: ``images``, or the three of ``bands_in_files``."""
    if source.bands_in_files:
        return (source.bands_in_files.r, source.bands_in_files.g, source.bands_in_files.b)
    tables = {"parquet": "**/*.parquet/*", "hdf5": "**/*.{h5,hdf5}/*"}
    if source.container in tables and source.images == (EVERY_IMAGE,):
        return (tables[source.container],)
    return source.images


def _single(entries: Iterator[Entry]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        yield {
            "image": entry.path,
            "file": entry.file,
            "member": entry.member,
            "bytes": entry.bytes,
            "mtime_ns": entry.mtime_ns,
        }


def _splitter(splits: dict[str, tuple[str, ...]]) -> Callable[[str], str | None]:
    matchers = [(name, compile_globs(globs)) for name, globs in splits.items()]
    return lambda path: next((name for name, matches in matchers if matches(path)), None)


def _group(bands: BandFiles, entries: Iterator[Entry], listing: SourceListing) -> Iterator[dict[str, Any]]:
    """Join one-band files into images, in the order of the red files.

    A red file waits until its green and blue came by; bands that lie in one folder never wait longer than it lasts.
    """
    matchers = [compile_globs([glob]) for glob in (bands.r, bands.g, bands.b)]
    key_of = re.compile(bands.key)
    partial: dict[tuple[str | None, ...], list[Entry | None]] = {}
    reds: deque[tuple[str | None, ...]] = deque()
    for entry in entries:
        found = key_of.search(entry.path)
        if found is None:
            continue
        key = found.groups()
        for band, matches in enumerate(matchers):
            if matches(entry.path):
                partial.setdefault(key, [None, None, None])[band] = entry
                if band == 0:
                    reds.append(key)
                break
        while reds and None not in partial.get(reds[0], [None]):
            yield _join(partial.pop(reds.popleft()))
    for key in reds:
        if None not in partial.get(key, [None]):
            yield _join(partial.pop(key))
    if partial:
        some = next(entry.path for entry in next(iter(partial.values())) if entry)
        listing.warnings.append(f"{len(partial)} images lack a band and are left out; {some} is of one")


def _join(files: list[Entry | None]) -> dict[str, Any]:
    red, green, blue = (entry for entry in files if entry)
    return {
        "image": red.path,
        "file": red.file,
        "member": red.member,
        "band_files": [entry.member or entry.file for entry in (red, green, blue)],
        "bytes": red.bytes + green.bytes + blue.bytes,
        "mtime_ns": max(red.mtime_ns, green.mtime_ns, blue.mtime_ns),
    }


# ------------------------------------------------------------------------------------------------ listing


def list_entries(
    source: Source, root: Path, warnings: list[str], wanted: Callable[[str], bool] = bool
) -> Iterator[Entry]:
    """List the files of a source, unpacked or in an archive, sorted by image path, each path once.

    A file on disk goes before a member of the same path: an archive may lie beside what was unpacked from it.

    Args:
        source: Its manifest.
        root: Its folder.
        warnings: What is left out is told here.
        wanted: Predicate on image paths; an archive's other members are never held in memory.
    """
    root = root.resolve()
    listed = {file.name: file for file in source.files if opened_in_place(source, file.name)}
    here = [file for file in listed.values() if (root / file.name).is_file()]
    streams = [_walk(root, source, frozenset(listed), warnings, wanted)]
    streams += [_members(root, file.name, file.into, None, warnings, wanted) for file in here]
    previous = None
    for entry in heapq.merge(*streams, key=lambda entry: entry.path):
        if entry.path != previous:
            yield entry
        previous = entry.path


def opened_in_place(source: Source, name: str) -> bool:
    """True for archives whose members are listed without unpacking: those the manifest lists, or all of its container.

    Images in one file per band are read by GDAL from files, so their archives are not.
    """
    listed = kind_of(name) in ("zip", "tar") and any(file.name == name for file in source.files)
    return source.bands_in_files is None and (listed or _opens(source, name))


def _walk(
    root: Path, source: Source, listed: frozenset[str], warnings: list[str], wanted: Callable[[str], bool]
) -> Iterator[Entry]:
    """Depth-first walk in the order of full paths. Names that begin with a dot and links that lead outside are left."""
    outside = 0
    stack: list[Iterator[tuple[str, os.DirEntry[str]]]] = [_names(root, "", source)]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
            continue
        relative, item = found
        if item.is_symlink() and not _inside(root, item.path):
            outside += 1
        elif item.is_dir():
            stack.append(_names(root, relative, source))
        elif item.is_file() and unicodedata.normalize("NFC", relative) not in listed:
            yield from _open_file(root, relative, item.stat(), source, warnings, wanted)
    if outside:
        warnings.append(f"{outside} symbolic links lead outside the folder or in a circle and are left out")


def _names(root: Path, folder: str, source: Source) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with _listable(root / folder, source) as items:
        kept = [item for item in items if not item.name.startswith(".") and item.name != "__MACOSX"]

    def order(item: os.DirEntry[str]) -> str:
        # A folder, or what is opened like one, sorts by its name and the slash: so whole paths come in order.
        return unicodedata.normalize("NFC", item.name) + ("/" if item.is_dir() or _opens(source, item.name) else "")

    kept.sort(key=order)
    return ((f"{folder}/{item.name}" if folder else item.name, item) for item in kept)


def _opens(source: Source, name: str) -> bool:
    folders = ("folder", "other", *(("zip", "tar") if source.bands_in_files else ()))
    return source.container not in folders and kind_of(name) == source.container


def _inside(root: Path, link: str) -> bool:
    target = os.path.realpath(link)
    if not target.startswith(f"{root}{os.sep}"):
        return False
    return not f"{Path(link).parent.resolve()}{os.sep}".startswith(f"{target}{os.sep}")  # a link to above is a circle


def _open_file(
    root: Path,
    relative: str,
    stat: os.stat_result,
    source: Source,
    warnings: list[str],
    wanted: Callable[[str], bool],
) -> Iterator[Entry]:
    """One plain file, or the members of a container that is read in place."""
    try:
        relative.encode()
    except UnicodeEncodeError:
        warnings.append(f"{relative!r}: the name is not UTF-8; rename the file")
        return
    path = unicodedata.normalize("NFC", relative)
    if _opens(source, relative):
        yield from _members(root, relative, path, source.image_column, warnings, wanted)
    elif wanted(path):
        yield Entry(path, relative, None, stat.st_size, stat.st_mtime_ns)


def _members(
    root: Path,
    file: str,
    into: str,
    image_column: str | None,
    warnings: list[str],
    wanted: Callable[[str], bool],
) -> Iterator[Entry]:
    mtime = (root / file).stat().st_mtime_ns
    into = into.strip("/")
    found: list[Entry] = []
    outside = 0
    for member in list_members(root / file, image_column):
        name = member.name.replace("\\", "/")
        if name.startswith("/") or (".." in name and ".." in name.split("/")):
            outside += 1
        elif "/." not in f"/{name}" and not name.startswith("__MACOSX/"):
            path = f"{into}/{name}" if into else name
            path = path if path.isascii() else unicodedata.normalize("NFC", path)
            if wanted(path):
                found.append(Entry(path, file, member.locator, member.bytes, mtime))
    if outside:
        warnings.append(f"{file}: {outside} names lead outside the archive and are left out")
    found.sort()
    yield from found
