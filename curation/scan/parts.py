"""What the scan is cut into: parts of one source's listing, each of which becomes one file.

A part is what travels to a worker, what a restart finds done, and what is halved when an image brings its process down.
Its file tells, in its Parquet metadata, a digest of its rows (``rscorpus.content``) and for which state of which images
it was made (``rscorpus.listed``): a stamp of each image's line of the listing, with size and time of change. So a new
listing opens only images that are new or changed; the rows of the others are taken over from the parts that hold them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curation.base.arrays import Words
from curation.base.errors import InputError
from curation.catalogue import open_table, read_table
from curation.scan import cutting
from curation.scan.part_files import extra_file, files, footer, remove, write_extra, write_part_file
from curation.scan.row_digest import row_digests, together
from curation.sources import key_fields
from curation.sources.recipe import ExcludeRules, FingerprintRules, Recipe, ResolvedSource

ROWS_VERSION = 3
"""Raised when the same files and rules give other rows than before, so that a scan of an older release is made anew.
2: images above 40 megapixels are averaged over boxes before their fingerprint. 3: bands are chosen among
those of JPEG and PNG too, and a thermal band 6 tells an older Landsat."""

COLUMNS = ("source", "image", "file", "member", "band_files", "bytes", "split")
"""Columns of the listing that rows are made from."""


@dataclass(frozen=True)
class ScanJob:
    """What every part of one source needs to know; travels to the workers."""

    source: ResolvedSource
    exclude: ExcludeRules
    fingerprint: FingerprintRules
    seed: int

    @classmethod
    def of(cls, source: ResolvedSource, recipe: Recipe) -> ScanJob:
        """The job of one source of a recipe."""
        return cls(source, recipe.exclude, recipe.fingerprint, recipe.seed)

    def rules(self) -> dict[str, Any]:
        """All that the rows of an image depend on beside its files, as JSON values: the stage's key.

        Rules about licence and split are in it by what they come to for this source.
        """
        from curation.scan.admission import by_licence

        source, guards = self.source.source, ExcludeRules.SCAN_FIELDS - {"licences", "redistributable_only", "splits"}
        splits = self.exclude.splits if set(self.exclude.splits) & set(source.splits) else ()
        return {
            "release": ROWS_VERSION,
            "source": key_fields.pixels(source),
            "licence": by_licence(source, self.exclude),
            "splits": splits,
            "slice": self.source.slice.model_dump(mode="json"),
            "exclude": self.exclude.model_dump(mode="json", include=set(guards)),
            "fingerprint": self.fingerprint.model_dump(mode="json"),
            "seed": self.seed if self.source.slice.mode == "random" else None,
        }

    @property
    def scene(self) -> str | None:
        """Pattern of images that are stretched together; null: each alone."""
        how = self.source.source.stretch
        return how.scene if how is not None and how.how == "per_scene" else None


@dataclass(frozen=True)
class PartSummary:
    """What one part came to."""

    images: int
    tiles: int
    verdicts: Mapping[str, int]
    """Rows per verdict; rows that nothing speaks against are counted as ``kept``."""
    opened: int = 0
    """Images that were opened; the rows of the others were there."""
    bytes: int = 0
    """Bytes of the opened images' files."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Part:
    """Some rows of a listing, and the file that their tiles go to."""

    listing: Path
    rows: Sequence[int]
    out: Path
    job: ScanJob
    listed: str = ""
    """Digest of the images' stamps; in a part that :func:`plan_parts` made."""
    previous: tuple[Path, ...] = ()
    """Files of earlier listings that hold rows of this part's images."""
    lost: Mapping[int, str] = field(default_factory=dict)
    """Rows that brought a process down, with what happened; they are not opened again."""

    @property
    def images(self) -> int:
        """Raw images in the part."""
        return len(self.rows)

    def split(self) -> list[Part]:
        """Two halves, each with a file of its own; the part itself when it is one image."""
        if len(self.rows) < 2:
            return [self]
        middle = len(self.rows) // 2
        return [
            replace(self, rows=rows, out=self.out.with_name(f"{self.out.stem}.{at}{self.out.suffix}"))
            for at, rows in enumerate((self.rows[:middle], self.rows[middle:]))
        ]

    def without(self, what: str) -> Part:
        """The part with all its images given up; for a part of one image that ends its process."""
        return replace(self, lost={row: what for row in self.rows})

    def join(self, pieces: Sequence[Part]) -> None:
        """Make this part's file from those of its pieces, which are removed."""
        if self.job.fingerprint.extra:
            write_extra(pa.concat_tables([pq.read_table(extra_file(piece.out)) for piece in pieces]), self.out)
        tables = [read_table(piece.out, "tiles") for piece in pieces]
        write_part_file(pa.concat_tables(tables), self.out, stamps(listed(self), self.job))
        for piece in pieces:
            remove(piece.out)


# ------------------------------------------------------------------------------------------------ what parts hold


def content_of(part: Part) -> str:
    """Digest of a finished part's rows: 32 hex digits that follow from what the scan found, not from times.

    Raises:
        InputError: the part is not finished.
    """
    found = footer(part.out)
    if found is None:
        raise InputError(f"{part.out}: no finished part of the scan; run the same command again")
    return found.content


def content_of_source(parts: Iterable[Part]) -> str:
    """Digest of the rows of a source's finished parts, however they are cut.

    Raises:
        InputError: a part is not finished.
    """
    return together(content_of(part) for part in parts)


# ------------------------------------------------------------------------------------------------ listings


def listed(part: Part) -> pa.Table:
    """The part's rows of the listing, in the part's order; only their row groups are read."""
    wanted = np.asarray(part.rows, np.int64)
    found, places = [], []
    for start, rows in _groups(part.listing, [*COLUMNS, "mtime_ns"], wanted):
        inside = np.flatnonzero((wanted >= start) & (wanted < start + len(rows)))
        found.append(rows.take(pa.array(wanted[inside] - start)))
        places.append(inside)
    order = np.argsort(np.concatenate(places), kind="stable")
    return pa.concat_tables(found).unify_dictionaries().take(pa.array(order))


def _groups(
    listing: Path, columns: Sequence[str], wanted: npt.NDArray[np.int64] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Row groups of a listing, each with its first row; only those of some rows, where they are given."""
    with open_table(listing, "images") as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            if wanted is None or ((wanted >= start) & (wanted < stop)).any():
                yield start, file.read_row_group(group, columns=list(columns))
            start = stop


def stamps(rows: pa.Table, job: ScanJob) -> Words:
    """Stamps ``(N,)`` of lines of a listing: equal while an image's rows need not be made anew.

    An image whose scene spans files is stamped with all of them, since its limits come from all: ``rows`` must hold
    whole scenes.
    """
    own = row_digests(rows.select([*COLUMNS, "mtime_ns"]))
    return own if job.scene is None else _with_scene(own, _Scenes(job.scene).of(rows["image"]))


def _with_scene(own: Words, scenes: npt.NDArray[np.int64]) -> Words:
    totals = np.zeros(int(scenes.max(initial=-1)) + 1, np.uint64)
    np.add.at(totals, scenes, own)
    return own ^ (totals[scenes] * np.uint64(0xD6E8FEB86659FD93))


class _Scenes:
    """Numbers of scenes in the order of their first image."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.numbers: dict[str, int] = {}

    def of(self, images: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """Number of each image's scene ``(N,)``."""
        names = (scene_of(image, self.pattern) for image in images.to_pylist())
        return np.array([self.numbers.setdefault(name, len(self.numbers)) for name in names], np.int64)


def scene_of(image: str, pattern: str) -> str:
    """Name of an image's scene; images without a match are scenes of their own."""
    found = re.search(pattern, image)
    return "scene " + found.group(1) if found else "file " + image


# ------------------------------------------------------------------------------------------------ planning


class _Lines(NamedTuple):
    """A listing as arrays: all that planning needs to hold of it, 28 bytes an image."""

    names: Words
    stamps: Words
    work: npt.NDArray[np.float32]
    scenes: npt.NDArray[np.int64] | None


def plan_parts(listing: Path, folder: Path, job: ScanJob) -> list[Part]:
    """Cut a listing into parts; a pure function of the listing, so that a restart finds the same parts.

    Images of one scene (``stretch.scene``) share their limits and stay together. A part's file is named by its images'
    names: where others come or go, it keeps its name.

    Args:
        listing: the ``images`` table of one source.
        folder: where the parts' files go.
        job: the source's job.
    """
    lines = _read(listing, job)
    if lines.scenes is None:
        bounds = [*cutting.starts(lines.names, lines.work).tolist(), len(lines.names)]
        rows: Iterable[Sequence[int]] = (range(*pair) for pair in pairwise(bounds))
    else:
        rows = _whole_scenes(lines, lines.scenes)
    return [_part(listing, folder, job, lines, chosen) for chosen in rows]


def _part(listing: Path, folder: Path, job: ScanJob, lines: _Lines, rows: Sequence[int]) -> Part:
    at = slice(rows.start, rows.stop) if isinstance(rows, range) else np.asarray(rows)
    name = int(lines.names[at].sum(dtype=np.uint64))
    return Part(listing, rows, folder / f"part-{name:016x}.parquet", job, _together(lines.stamps[at]))


def _together(images: Words) -> str:
    return format(int(images.sum(dtype=np.uint64)), "016x")


def _read(listing: Path, job: ScanJob) -> _Lines:
    names, own, work, scenes = [], [], [], []
    groups = _Scenes(job.scene or "")
    for _, rows in _groups(listing, [*COLUMNS, "mtime_ns"]):
        names.append(row_digests(rows.select(["image"])))
        own.append(row_digests(rows.select([*COLUMNS, "mtime_ns"])))
        work.append(cutting.seconds(rows["bytes"].to_numpy()))
        if job.scene is not None:
            scenes.append(groups.of(rows["image"]))
    whole = np.concatenate(scenes) if scenes else None
    stamped = _joined(own, np.uint64)
    if whole is not None:
        stamped = _with_scene(stamped, whole)
    return _Lines(_joined(names, np.uint64), stamped, _joined(work, np.float32), whole)


def _joined(pieces: list[Any], kind: Any) -> Any:
    return np.concatenate(pieces) if pieces else np.zeros(0, kind)


def _whole_scenes(lines: _Lines, scenes: npt.NDArray[np.int64]) -> Iterator[tuple[int, ...]]:
    """Rows of parts that hold whole scenes, scenes in the order of their first image, and so named."""
    order = np.argsort(scenes, kind="stable")
    firsts = np.flatnonzero(np.diff(scenes[order], prepend=-1))
    work = np.add.reduceat(lines.work[order], firsts) if len(firsts) else lines.work
    begins = firsts[cutting.starts(lines.names[order][firsts], work)]
    for begin, end in zip(begins, [*begins[1:], len(order)], strict=True):
        yield tuple(order[begin:end].tolist())


# ------------------------------------------------------------------------------------------------ what is left to do


def unfinished(parts: Sequence[Part]) -> list[Part]:
    """The parts of a source that are still to be made, each told which older files hold rows of its images."""
    work = [part for part in parts if not _is_current(part)]
    if not work:
        return []
    old = _Holders.of(files(work[0].out.parent), {part.out for part in parts} - {part.out for part in work})
    if old is None:
        return work
    now = _read(work[0].listing, work[0].job).stamps
    return [replace(part, previous=old.of_images(now[np.asarray(part.rows)])) for part in work]


class _Holders(NamedTuple):
    """Which files hold which images, sorted by stamp: 12 bytes an image."""

    paths: list[Path]
    known: Words
    owners: npt.NDArray[np.int32]

    @classmethod
    def of(cls, paths: Iterable[Path], current: set[Path]) -> _Holders | None:
        found = [(path, told.stamps) for path in paths if path not in current and (told := footer(path))]
        if not sum(len(images) for _, images in found):
            return None
        known = np.concatenate([images for _, images in found])
        owners = np.repeat(np.arange(len(found), dtype=np.int32), [len(images) for _, images in found])
        order = np.argsort(known, kind="stable")
        return cls([path for path, _ in found], known[order], owners[order])

    def of_images(self, images: Words) -> tuple[Path, ...]:
        """Parts that hold these images unchanged."""
        at = np.minimum(np.searchsorted(self.known, images), len(self.known) - 1)
        return tuple(self.paths[owner] for owner in np.unique(self.owners[at[self.known[at] == images]]))


def _is_current(part: Part) -> bool:
    found = footer(part.out)
    return found is not None and _together(found.stamps) == part.listed


def sweep(parts: Sequence[Part]) -> None:
    """Remove files of earlier listings, when all parts of a source are made."""
    planned = {part.out for part in parts}
    for folder in {part.out.parent for part in parts}:
        for path in files(folder):
            if path not in planned:
                remove(path)
