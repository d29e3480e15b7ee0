"""What the scan is cut into: parts of one source's listing, each of which becomes one file.

A part is what travels to a worker, what a restart finds done, and what is halved when an image brings its process down.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.catalogue import atomic, open_table, read_table, write_table
from curation.manifest import ExcludeRules, FingerprintRules, Recipe, ResolvedSource

PART_IMAGES = 1_000
PART_BYTES = 128 << 20
"""A part closes at so many images or bytes of files; a larger file is a part of its own."""

ROW_GROUP = 8_192

ROWS_VERSION = 2
"""Raised when the same files and rules give other rows than before, so that a scan of an older release is made anew.
2: images above 40 megapixels are averaged over boxes before their fingerprint."""


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
        """All that the result depends on beside the files, as JSON values: part of the stage's key."""
        return {
            "release": ROWS_VERSION,
            "source": self.source.source.model_dump(mode="json"),
            "slice": self.source.slice.model_dump(mode="json"),
            "exclude": self.exclude.model_dump(mode="json", exclude={"max_unreadable"}),
            "fingerprint": self.fingerprint.model_dump(mode="json"),
            "seed": self.seed if self.source.slice.mode == "random" else None,
        }


@dataclass(frozen=True)
class PartSummary:
    """What one part came to."""

    images: int
    tiles: int
    verdicts: Mapping[str, int]
    """Rows per verdict; rows that nothing speaks against are counted as ``kept``."""
    pixels: int
    seconds: float


@dataclass(frozen=True)
class Part:
    """Some rows of a listing, and the file that their tiles go to."""

    listing: Path
    rows: tuple[int, ...]
    out: Path
    job: ScanJob
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
        tables = [read_table(piece.out, "tiles") for piece in pieces]
        write_table(pa.concat_tables(tables).unify_dictionaries(), self.out, "tiles", row_group_size=ROW_GROUP)
        if self.job.fingerprint.extra:
            hashes = pa.concat_tables([pq.read_table(extra_file(piece.out)) for piece in pieces])
            with atomic(extra_file(self.out)) as aside:
                pq.write_table(hashes, aside)
        for piece in pieces:
            piece.out.unlink()
            extra_file(piece.out).unlink(missing_ok=True)


def plan_parts(listing: Path, folder: Path, job: ScanJob) -> list[Part]:
    """Cut a listing into parts; a pure function of the listing, so that a restart finds the same parts.

    Images of one scene (``stretch.scene``) share their limits and stay together.

    Args:
        listing: the ``images`` table of one source.
        folder: where the parts' files go.
        job: the source's job.
    """
    with open_table(listing, "images") as file:
        table = file.read(columns=["image", "bytes"])
    groups = _scenes(table["image"].to_pylist(), job)
    sizes = table["bytes"].to_numpy()
    parts: list[list[int]] = [[]]
    held = 0
    for group in groups:
        size = int(sizes[group].sum())
        if parts[-1] and (len(parts[-1]) + len(group) > PART_IMAGES or held + size > PART_BYTES):
            parts.append([])
            held = 0
        parts[-1] += group
        held += size
    return [
        Part(listing, tuple(rows), folder / f"part-{number:06d}.parquet", job)
        for number, rows in enumerate(parts)
        if rows
    ]


def content_of(part: Part) -> str:
    """Digest of what a finished part holds: no time of modification, no citation."""
    with part.out.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _scenes(images: Sequence[str], job: ScanJob) -> Iterable[list[int]]:
    how = job.source.source.stretch
    if how is None or how.scene is None:
        return ([row] for row in range(len(images)))
    groups: dict[str, list[int]] = {}
    for row, image in enumerate(images):
        groups.setdefault(scene_of(image, how.scene), []).append(row)
    return groups.values()


def scene_of(image: str, pattern: str) -> str:
    """Name of an image's scene; images without a match are scenes of their own."""
    found = re.search(pattern, image)
    return "scene " + found.group(1) if found else "file " + image


def extra_file(out: Path) -> Path:
    """File beside a part that holds the hashes of ``fingerprint.extra``: ``tile_id`` and one string column a kind."""
    return out.with_name(f"{out.stem}.hashes{out.suffix}")
