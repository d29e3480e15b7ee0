"""Find the raw files of a lock in somebody else's copy, which may lie under other folders, packed or unpacked.

An image is sought by its path below the source's folder; what is not there, or has another size, by size and SHA-256
among all images below ``--data``; rasters that are read by windows have no SHA-256 and are known by a tile's
``content_hash``. Remote images lie where the lock's pins say. What is found is a listing as the inventory writes it:
the image's own path, and where it lies now.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.errors import InputError, UnreadableImage
from curation.base.files import atomic
from curation.catalogue import KEPT, open_table, schema_of, table_from_rows
from curation.release.lock import Lock
from curation.release.pins import read_pins
from curation.scan.fingerprint import content_hash
from curation.shards.write import pixels
from curation.sources.inventory import list_images
from curation.sources.recipe import Recipe, ResolvedSource
from curation.sources.source import EVERY_IMAGE, BandFiles, Source

_NEEDED = (
    "source", "image", "file_bytes", "raw_sha256", "col_off", "row_off", "width", "height", "stretch", "content_hash",
    "verdict",
)  # fmt: skip
_PACKED = ("zip", "tar")
"""Archives that are looked into where an image is not found in what the manifest opens."""

Row = dict[str, Any]


@dataclass
class Located:
    """Where the images of one source lie."""

    listing: Path
    images: int = 0
    moved: int = 0
    """Images that lie elsewhere than in the lock."""
    missing: set[str] = field(default_factory=set)


def locate(lock: Lock, data: Path, folder: Path) -> tuple[dict[str, ResolvedSource], dict[str, Located]]:
    """Find the raw files of a lock, and write a listing for every source.

    Args:
        lock: the lock.
        data: folder of the raw sources.
        folder: where the listings go, ``<source>.parquet``.

    Returns:
        The sources, all with ``data`` as their root, and what was found of each.

    Raises:
        InputError: ``data`` does not exist.
    """
    if not data.is_dir():
        raise InputError(f"{data}: no such folder; give the folder of the raw sources with --data")
    everything = _Everything(data, lock.recipe)
    seekers = {}
    for entry in lock.recipe.sources:
        if entry.id in lock.recipe.left_out:
            continue
        source, below = lock.sources[entry.id], Path(entry.path or entry.id)
        root = data if source.remote is None else data / (entry.id if below.is_absolute() else below)
        rules = entry.slice or lock.recipe.slice
        resolved = ResolvedSource(source, root, rules, entry.priority, entry.cap, lock.recipe.seed)
        found = Located(folder / f"{entry.id}.parquet")
        pins = read_pins(lock.folder, entry.id) if source.remote is not None else None
        seekers[entry.id] = _Seeker(resolved, below, everything, found, pins)
        _write(iter(()), found.listing)
    for name, tiles in groupby(_kept(lock.catalogue), key=lambda row: row["source"]):
        _write(seekers[name].rows(tiles), seekers[name].found.listing)
    return (
        {name: seeker.source for name, seeker in seekers.items()},
        {name: seeker.found for name, seeker in seekers.items()},
    )


def _kept(catalogue: Path) -> Iterator[Row]:
    """Kept tiles in the catalogue's order: by source and image."""
    with open_table(catalogue, "catalogue") as file:
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number, columns=list(_NEEDED))
            yield from rows.filter(pc.equal(rows["verdict"].cast(pa.string()), KEPT)).to_pylist()


def _write(rows: Iterator[Row], path: Path) -> None:
    with atomic(path) as aside, pq.ParquetWriter(aside, schema_of("images"), compression="zstd") as writer:
        held: list[Row] = []
        for row in rows:
            held.append(row)
            if len(held) == 65_536:
                writer.write_table(table_from_rows("images", held))
                held = []
        writer.write_table(table_from_rows("images", held))


class _Everything:
    """All images below the data folder by size and by name, listed when the first is sought there."""

    def __init__(self, data: Path, recipe: Recipe) -> None:
        self.data, self.recipe = data, recipe
        self._listed: dict[tuple[str, BandFiles | None], list[Row]] = {}
        self._hashes: dict[tuple[str, str | None], bytes] = {}

    def listed(self, source: Source) -> Iterator[Row]:
        """Images of a source's kind: in its container first, then as plain files and in archives."""
        for container in dict.fromkeys((source.container, *_PACKED)):
            kind = (container, source.bands_in_files)
            if kind not in self._listed:
                self._listed[kind] = list(_images(_anywhere(source, container), self.data))
            rows = self._listed[kind]
            yield from rows if container == source.container else (row for row in rows if row["member"] is not None)
            if source.bands_in_files is not None:
                return

    def sha256(self, row: Row) -> bytes:
        """Of a file, or of a member of one."""
        from curation.imagery.image import raw_bytes
        from curation.imagery.location import Location

        place = (row["file"], row["member"])
        if place not in self._hashes:
            try:
                data = raw_bytes(Location(self.data, *place))
            except UnreadableImage:
                data = b""
            self._hashes[place] = hashlib.sha256(data).digest()
        return self._hashes[place]


def _anywhere(source: Source, container: str) -> Source:
    """The manifest with globs that take its images in whatever folder they lie."""
    bands = source.bands_in_files
    if bands is not None:
        red, green, blue = (f"**/{PurePosixPath(glob).name}" for glob in (bands.r, bands.g, bands.b))
        bands = bands.model_copy(update={"r": red, "g": green, "b": blue})
    changed: dict[str, Any] = {
        "images": (EVERY_IMAGE,),
        "leave": (),
        "splits": {},
        "files": (),
        "bands_in_files": bands,
    }
    return source.model_copy(update={**changed, "container": container})


def _images(source: Source, root: Path) -> Iterator[Row]:
    """A listing; nothing where there is nothing to list."""
    try:
        yield from list_images(source, root)
    except InputError:
        return


class _Seeker:
    """Finds the images of one source."""

    def __init__(
        self,
        source: ResolvedSource,
        folder: Path,
        everything: _Everything,
        found: Located,
        pins: Iterator[Row] | None = None,
    ) -> None:
        self.source, self.found, self._pins = source, found, pins
        self._everything = everything
        self._folder = folder if not folder.is_absolute() else Path(source.id)
        self._by_size: dict[int, list[Row]] | None = None
        self._by_name: dict[str, list[Row]] = {}

    def rows(self, tiles: Iterable[Row]) -> Iterator[Row]:
        """Lines of the listing for the images of some tiles; both come in the order of paths, and are read along."""
        listing = _images(self.source.source, self.source.root / self._folder) if self._pins is None else self._pins
        here = next(listing, None)
        for image, group in groupby(tiles, key=lambda row: row["image"]):
            wanted = next(group)
            while here is not None and here["image"] < image:
                here = next(listing, None)
            same = self._below(here) if here is not None and here["image"] == image else None
            row = self._best(image, wanted, same)
            self.found.images += 1
            place = {name: row.get(name) for name in ("file", "member", "band_files", "bytes", "mtime_ns")}
            yield {"source": self.source.id, "image": image, **place}

    def _best(self, image: str, wanted: Row, same: Row | None) -> Row:
        """The file at the image's own path, where it has the size; else another that is the image."""
        if same is not None and (same["bytes"] == wanted["file_bytes"] or self._pins is not None):
            return same
        elsewhere = self._elsewhere(image, wanted) if self._pins is None else None
        self.found.moved += elsewhere is not None
        if elsewhere is None and same is None:
            self.found.missing.add(image)
        return elsewhere or same or {"file": str(self._folder / image), "bytes": 0, "mtime_ns": 0}

    def _below(self, row: Row) -> Row:
        """The row with its files relative to the data folder."""
        if self._pins is not None:
            return row
        bands = row.get("band_files")
        files = None if bands is None else [str(self._folder / file) for file in bands]
        return {**row, "file": str(self._folder / row["file"]), "band_files": files}

    def _elsewhere(self, image: str, wanted: Row) -> Row | None:
        """Where else the image lies: a file of its name goes before one of its size."""
        if self._by_size is None:
            self._by_size = defaultdict(list)
            names = defaultdict(list)
            for row in self._everything.listed(self.source.source):
                self._by_size[row["bytes"]].append(row)
                names[PurePosixPath(row["image"]).name].append(row)
            self._by_name = names
        named = self._by_name.get(PurePosixPath(image).name, [])
        sized = self._by_size.get(wanted["file_bytes"], [])
        likely = [row for row in sized if row in named] if len(named) < len(sized) else []
        if wanted["raw_sha256"] is not None:
            return next(
                (row for row in [*likely, *sized] if self._everything.sha256(row) == wanted["raw_sha256"]), None
            )
        return next((row for row in [*named, *sized] if self._shows(row, wanted)), None)

    def _shows(self, row: Row, wanted: Row) -> bool:
        """Whether a raster shows the pixels of a tile."""
        place = {name: row.get(name) for name in ("file", "member", "band_files")}
        tile = {name: wanted[name] for name in _NEEDED} | place
        try:
            return all(
                content_hash(rgb) == wanted["content_hash"]
                for _, rgb in pixels([tile], self.source, self._everything.recipe)
            )
        except (UnreadableImage, OSError):
            return False


def say_found(found: Sequence[Located]) -> str:
    """One line about where the images lie."""
    images, moved = sum(each.images for each in found), sum(each.moved for each in found)
    missing = sum(len(each.missing) for each in found)
    told = [f"{images - missing:,} of {images:,} images found"]
    told += [f"{moved:,} of them under another path"] if moved else []
    return ", ".join(told)
