"""Inventory: one row per raw image of each source, sorted by path, from folders and archives alike.

An image's path, which is part of every id, does not depend on whether an archive was unpacked: a member of an archive
that the manifest lists is ``<into>/<member>``, of any other archive ``<archive's path>/<member>``. An archive that is
broken has a row of its own, ``<archive's path>/*``, which the scan finds unreadable for the reason that is told here.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from curation.base.batches import batches_of
from curation.base.errors import InputError
from curation.containers import CONTAINERS, container_of, list_members
from curation.containers.archives import archive_of
from curation.containers.registry import reason_in
from curation.sources.entries import Entry, FolderWalk, WalkFindings, changed, list_entries, opened_in_place
from curation.sources.globs import compile_globs
from curation.sources.recipe import ResolvedSource
from curation.sources.remote_entries import check_root_of, remote_entries
from curation.sources.source import (
    BY_SCRIPT,
    EVERY_IMAGE,
    IMAGE_SUFFIXES,
    BandFiles,
    RemoteFile,
    Source,
    load_source,
    shipped,
)  # fmt: skip
from curation.sources.subset import Subset

BESIDE_IMAGES = {
    "txt", "md", "rst", "json", "jsonl", "geojson", "topojson", "xml", "csv", "tsv", "yaml", "yml", "toml", "ini",
    "html", "htm", "pdf", "doc", "docx", "xls", "xlsx", "py", "ipynb", "m", "sh", "log", "bib", "license", "cfg", "db",
    "shp", "shx", "dbf", "prj", "cpg", "qix", "sbn", "sbx", "qpj", "gpkg", "kml", "kmz", "tfw", "jgw", "jpw", "pgw",
    "wld", "aux", "ovr", "msk", "rrd", "ige", "hdr", "md5", "sha1", "sha256", "sha512", "lock", "",
}  # fmt: skip
"""Suffixes of what usually lies beside images: annotations, georeferences, documents. They are not worth a warning."""

MOST_COUNTED = 100_000
"""Members of an archive that is not read that are counted."""

_SUFFIXES = 8
"""Suffixes that one line names."""

TOLERANCE = 0.02
"""Share by which the number of images may differ from the expected one before it is worth a warning."""


@dataclass
class SourceListing:
    """What an inventory found of one source."""

    id: str
    found: int = 0
    """Images; not the rows that stand for broken archives."""
    expected: int | None = None
    bytes: int = 0
    globs: dict[str, int] = field(default_factory=dict)
    """Images per glob of the manifest's ``images`` (of ``bands_in_files``: files)."""
    splits: dict[str, int] = field(default_factory=dict)
    unlisted: Counter[str] = field(default_factory=Counter)
    """Files that no glob takes or leaves, per suffix in lower case."""
    examples: dict[str, str] = field(default_factory=dict)
    """Of those, the first file of each suffix."""
    left: int = 0
    """Files that a glob of ``leave`` matches."""
    warnings: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    """Those warnings that tell of folders, files and archives that could not be read."""
    taken: int | None = None
    """Of the images those that were drawn; null: all."""
    notes: list[str] = field(default_factory=list)
    """What of a remote source was left out as it was asked for."""

    def __str__(self) -> str:
        """One line: what was found, and what was not taken."""
        untaken = [f"{count:,} {suffix or 'without suffix'}" for suffix, count in self.unlisted.most_common()]
        more = f" and {len(untaken) - _SUFFIXES} more suffixes" if len(untaken) > _SUFFIXES else ""
        told = [f"{self.id}: {self.found:,} images listed"]
        told += [] if self.taken is None else [f"{self.taken:,} of them drawn by the seed"]
        told += [f"{self.left:,} files match leave"] if self.left else []
        told += [f"taken by no rule: {', '.join(untaken[:_SUFFIXES])}{more}"] if untaken else []
        return "; ".join([*told, *self.notes])


# ------------------------------------------------------------------------------------------------ the table


def write_inventory(
    sources: Sequence[ResolvedSource], out: Path, *, strict: bool = False, others: Sequence[ResolvedSource] = ()
) -> list[SourceListing]:
    """Write ``images.parquet`` of all sources, in their order, and say what was found of each.

    Args:
        sources: A recipe's sources.
        out: Parquet file to write, atomically.
        strict: Make every warning an error.
        others: Further sources of the recipe; what one takes is not told as taken by no rule of another.

    Raises:
        InputError: a folder is missing or holds no image, or anything was warned of under ``strict``.
    """
    import pyarrow.parquet as pq

    from curation.base.files import atomic
    from curation.catalogue import schema_of, table_from_rows
    from curation.sources.thin import thin

    listings = []
    with atomic(out) as aside:
        with pq.ParquetWriter(aside, schema_of("images"), compression="zstd") as writer:
            for resolved in sources:
                listing = SourceListing(resolved.id)
                elsewhere = taken_by([*sources, *others], resolved)
                rows = list_images(resolved.source, resolved.root, listing, elsewhere, resolved.seed)
                for batch in batches_of(rows, 65_536):
                    writer.write_table(table_from_rows("images", batch))
                listings.append(listing)
                if strict and listing.warnings:
                    raise InputError(f"source {listing.id}: {listing.warnings[0]} (an error because of --strict)")
        subsets = {each.id: subset for each in sources if not (subset := _still_to_draw(each)).is_all}
        taken = thin(aside, subsets) if subsets else {}
    for listing in listings:
        listing.taken = taken.get(listing.id)
    return listings


def _still_to_draw(source: ResolvedSource) -> Subset:
    """What of the folder is drawn: of archives that a fetch unpacked, images alone."""
    unpacked = source.subset.files is not None and any((source.root / ".fetched").glob("*.unpacked.json"))
    return replace(source.subset, files=None) if unpacked else source.subset


def taken_by(sources: Sequence[ResolvedSource], mine: ResolvedSource) -> Callable[[str], bool]:
    """Whether another of the sources takes a file, by its path in the folder of this one."""
    here = f"{mine.root.resolve()}{os.sep}"
    rivals = [(f"{one.root.resolve()}{os.sep}", one.source) for one in sources if one.id != mine.id]
    rivals = [(root, source) for root, source in rivals if root.startswith(here) or here.startswith(root)]
    asked = [(root, source, compile_globs(patterns_of(source)), compile_globs(source.leave)) for root, source in rivals]

    def is_taken(path: str) -> bool:
        place = here + path
        for root, source, takes, leaves in asked:
            theirs = place.removeprefix(root)
            if place.startswith(root) and not leaves(theirs) and (takes(theirs) or opened_in_place(source, theirs)):
                return True
        return False

    return is_taken


def list_images(
    source: Source,
    root: Path,
    listing: SourceListing | None = None,
    elsewhere: Callable[[str], bool] = lambda path: False,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """List a source's images as rows of the images table, sorted by path.

    Args:
        source: Its manifest.
        root: Its folder.
        listing: Filled with counts and warnings as the rows are taken, when given.
        elsewhere: Whether another source takes a file; such files are not counted as taken by none.
        seed: The recipe's, from which follows what is drawn of remote files.

    Raises:
        InputError: the folder is missing or empty, or no image was found in it; after the last row.
    """
    listing = listing if listing is not None else SourceListing(source.id)
    listing.expected = source.expected_images
    check_root(source, root)
    found = WalkFindings(listing.warnings, listing.unread, listing.unlisted, listing.examples, unused=set(source.leave))
    leave = {glob: compile_globs([glob]) for glob in source.leave}
    taken, left = compile_globs(patterns_of(source)), compile_globs(source.leave)
    walk = FolderWalk(source, root.resolve(), taken, left, leave, found, source.linked(root), elsewhere, seed)
    entries = _select(source, list_entries(walk) if source.remote is None else remote_entries(walk), listing)
    rows = _group(source.bands_in_files, entries, listing) if source.bands_in_files else _single(entries)
    split_of = _splitter(source.splits)
    for row in rows:
        split = split_of(row["image"])
        listing.found += reason_in(row["member"] or "") is None
        listing.bytes += row["bytes"]
        listing.splits[split or ""] = listing.splits.get(split or "", 0) + 1
        label = PurePosixPath(row["image"]).parent.name if source.label_from == "parent" else ""
        yield {"source": source.id, **row, "split": split, "label": label or None}
    listing.left, listing.notes = found.left, found.notes
    if source.obtain.via == "local":  # a shipped manifest leaves what only some releases of a set hold
        listing.warnings += [f"no file matches leave: {glob}" for glob in source.leave if glob in found.unused]
    _judge(source, root, listing)


def check_root(source: Source, root: Path) -> None:
    """Check that a source's folder is there and can be listed.

    Raises:
        InputError: with what to type next.
    """
    if not source.readable:
        raise InputError(
            f"source {source.id}: its images come in a container that is not read here ({source.container})"
        )
    if source.remote is not None:
        check_root_of(source, root)
        return
    if root.exists() and not root.is_dir():
        raise InputError(f"source {source.id}: {root} is a file; give the folder that holds it")
    try:
        if why := absence(root):
            raise InputError(f"source {source.id}: {root} {why}; {how_to_get(source, root)}")
    except PermissionError:
        raise InputError(f"source {source.id}: no permission to list {root}; try: chmod u+rx '{root}'") from None
    except OSError as error:
        raise InputError(f"source {source.id}: {root} cannot be listed ({error.strerror or error})") from None


def absence(root: Path) -> str | None:
    """Why a folder has no image of its source; null where it holds anything that is not hidden.

    Raises:
        OSError: it cannot be listed.
    """
    if not root.exists():
        return "does not exist"
    if not root.is_dir():
        return None
    with os.scandir(root) as found:
        return None if any(not entry.name.startswith(".") for entry in found) else "is empty"


def how_to_get(source: Source, root: Path) -> str:
    """What to type where a source's images are not in its folder."""
    if source.obtain.via == "local" and not source.files:
        return "put its images there"
    named = source.id == root.name and source.id in (*shipped("sources"), *shipped("benchmarks"))
    if named and source.id in shipped("sources"):  # by its id all of it would be fetched
        named = len(load_source(source.id).files) == len(source.files)
    what = f"{source.id} --data {shlex.quote(str(root.parent))}" if named else "RECIPE --data DATA"
    return f"rs-curate fetch {what}" + ("" if source.obtain.via in BY_SCRIPT else " says how to get its images")


def _judge(source: Source, root: Path, listing: SourceListing) -> None:
    if listing.found == 0:
        wanted = " ".join(source.images)
        if source.images == (EVERY_IMAGE,):
            wanted = f"files that end in {', '.join(IMAGE_SUFFIXES)}"
        elif source.bands_in_files:
            wanted = f"{source.bands_in_files.r} {source.bands_in_files.g} {source.bands_in_files.b}"
        packed = [file.name for file in source.files if _is_packed(source, root, file)]
        hints = [f"{packed[0]} is not unpacked; rs-curate fetch {source.id} --data {root.parent}"] if packed else []
        hints += [*_untaken(source, root, listing)[:1], *(listing.unread or listing.warnings)[:1]]
        more = f" ({'; '.join(hints)})" if hints else ""
        if source.remote is not None:
            without = f"left_out.{source.id}='no image there' runs without it"
            raise InputError(f"source {source.id}: no image in what remote names{more}; {without}")
        raise InputError(f"source {source.id}: no image in {root}; looked for {wanted}{more}")
    listing.warnings += [f"no file matches {glob}" for glob, count in listing.globs.items() if count == 0]
    listing.warnings += _untaken(source, root, listing)
    expected = listing.expected
    if expected is not None and abs(listing.found - expected) > TOLERANCE * expected:
        listing.warnings.append(f"{listing.found:,} images found, {expected:,} expected")


def _untaken(source: Source, root: Path, listing: SourceListing) -> list[str]:
    """Suffixes of files that no rule names, where the manifest does not choose its files itself."""
    if source.bands_in_files or source.images != (EVERY_IMAGE,):
        return []
    was_fetched = (root / ".fetched").is_dir()
    told = []
    for suffix, count in listing.unlisted.most_common():
        if suffix.lstrip(".") in BESIDE_IMAGES or (was_fetched and archive_of(f"x{suffix}")):
            continue
        files = "1 file ends" if count == 1 else f"{count:,} files end"
        packed = _packed(source, root, listing.examples[suffix])
        told.append(f"{files} in {suffix}, which no rule takes; {packed or 'name them under images or leave'}")
    return told


def _packed(source: Source, root: Path, file: str) -> str | None:
    """What to set so that the images in an archive are read, where it holds any."""
    kind = container_of(file)
    if kind is None or kind.name == source.container or not (root / file).is_file():
        return None
    takes = compile_globs((EVERY_IMAGE,))
    try:
        members = islice(list_members(root / file, source.table_column), MOST_COUNTED)
        count = sum(kind.is_table or takes(member.name) for member in members)
    except InputError:
        return None
    if not count:
        return None
    many = f"{MOST_COUNTED:,} images or more" if count == MOST_COUNTED else f"{count:,} images"
    return f"{many} in {file} are not read: add container: {kind.name} under the source"


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
            if not entry.is_broken and (len(matchers) == 1 or matches(entry.path)):
                listing.globs[pattern] += 1
        yield entry


def patterns_of(source: Source) -> tuple[str, ...]:
    """Globs of the files that become images: ``images``, or the three of ``bands_in_files``."""
    if source.bands_in_files:
        return (source.bands_in_files.r, source.bands_in_files.g, source.bands_in_files.b)
    kind = CONTAINERS.get(source.container)
    if kind is not None and kind.is_table and source.images == (EVERY_IMAGE,):
        return tuple(f"**/*{suffix}/*" for suffix in kind.suffixes)
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
        "mtime_ns": changed([red.mtime_ns, green.mtime_ns, blue.mtime_ns]),
    }
