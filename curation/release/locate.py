"""Find the raw files of a lock in somebody else's copy, which may lie under other folders, packed or unpacked.

An image is sought by its path below the source's folder; what is not there, or has another size, by size and SHA-256
among all images below ``--data``; rasters that are read by windows have no SHA-256 and are known by a tile's
``content_hash``. What is found is a listing as the inventory writes it: the image's own path, and where it lies now.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.errors import InputError, UnreadableImage
from curation.base.files import atomic
from curation.catalogue import KEPT, open_table, schema_of, table_from_rows
from curation.release.lock import Lock
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
class Found:
    """Where the images of one source lie."""

    listing: Path
    images: int = 0
    moved: int = 0
    """Images that lie elsewhere than in the lock."""
    missing: set[str] = field(default_factory=set)


def locate(lock: Lock, data: Path, folder: Path) -> tuple[dict[str, ResolvedSource], dict[str, Found]]:
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
    needed: dict[str, dict[str, Row]] = {name: {} for name in lock.sources}
    for row in _kept(lock.catalogue):
        needed[row["source"]].setdefault(row["image"], row)
    everything = _Everything(data, lock.recipe)
    sources, found = {}, {}
    for entry in lock.recipe.sources:
        name, manifest = entry.id, lock.sources[entry.id]
        sources[name] = ResolvedSource(manifest, data, entry.slice or lock.recipe.slice, entry.priority, entry.cap)
        found[name] = Found(folder / f"{name}.parquet", len(needed[name]))
        seeker = _Seeker(sources[name], Path(entry.path or name), everything, found[name])
        _write(seeker.rows(needed[name]), found[name].listing)
    return sources, found


def _kept(catalogue: Path) -> Iterator[Row]:
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
        from curation.imagery.image import Location, raw_bytes

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

    def __init__(self, source: ResolvedSource, folder: Path, everything: _Everything, found: Found) -> None:
        self._source, self._everything, self._found = source, everything, found
        self._folder = folder if not folder.is_absolute() else Path(source.id)
        self._by_size: dict[int, list[Row]] | None = None
        self._by_name: dict[str, list[Row]] = {}

    def rows(self, needed: dict[str, Row]) -> Iterator[Row]:
        """Lines of the listing, in the catalogue's order."""
        root = self._source.root / self._folder
        here = {row["image"]: self._below(row) for row in _images(self._source.source, root) if row["image"] in needed}
        for image, wanted in needed.items():
            row = here.get(image)
            if row is None or row["bytes"] != wanted["file_bytes"]:
                elsewhere = self._elsewhere(image, wanted)
                self._found.moved += elsewhere is not None
                if elsewhere is None and row is None:
                    self._found.missing.add(image)
                row = elsewhere or row or {"file": str(self._folder / image), "bytes": 0, "mtime_ns": 0}
            place = {name: row.get(name) for name in ("file", "member", "band_files", "bytes", "mtime_ns")}
            yield {"source": self._source.id, "image": image, **place}

    def _below(self, row: Row) -> Row:
        """The row with its files relative to the data folder."""
        bands = row.get("band_files")
        files = None if bands is None else [str(self._folder / file) for file in bands]
        return {**row, "file": str(self._folder / row["file"]), "band_files": files}

    def _elsewhere(self, image: str, wanted: Row) -> Row | None:
        """Where else the image lies: a file of its name goes before one of its size."""
        if self._by_size is None:
            self._by_size = defaultdict(list)
            names = defaultdict(list)
            for row in self._everything.listed(self._source.source):
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
                for _, rgb in pixels([tile], self._source, self._everything.recipe)
            )
        except (UnreadableImage, OSError):
            return False


def say_found(found: Sequence[Found]) -> str:
    """One line about where the images lie."""
    images, moved = sum(each.images for each in found), sum(each.moved for each in found)
    missing = sum(len(each.missing) for each in found)
    told = [f"{images - missing:,} of {images:,} images found"]
    told += [f"{moved:,} of them under another path"] if moved else []
    return ", ".join(told)
