"""Rebuild a corpus from its lock and another copy of the raw sources, and prove it.

The shards are planned from the lock's catalogue and written by the write stage, so that equal sources and codecs give
equal tars. A tar whose SHA-256 is the lock's proves its samples; of the others every sample is told for itself.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.base.errors import InputError, WorkError
from curation.base.files import atomic, digest, file_digest
from curation.base.locks import hold
from curation.base.progress import Progress
from curation.imagery.versions import versions
from curation.release.locate import Located, locate, say_found
from curation.release.lock import CATALOGUE_FILE, Lock
from curation.shards import write
from curation.shards.format import INDEX_FILE, ShardInfo, numbered
from curation.shards.shard_folder import ShardFolder
from curation.shards.shard_plan import ShardPart, plan_shards
from curation.shards.verify import MapParts

SAME, PIXELS, CHANGED, MISSING = "same bytes", "same pixels, other encoder", "changed", "missing"
STATES = (SAME, PIXELS, CHANGED, MISSING)
TOLD_FILE = "rebuild.parquet"
"""What is told of every sample that has not the same bytes."""

_WAY_OUT = "run again with --replace to replace them, or give another --out; rs-curate diff tells what differs"
_TOLD = pa.schema([(name, pa.string()) for name in ("key", "source", "image", "state", "detail")])


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild came to: samples per state, and the encoders of the lock and of this machine."""

    counts: Counter[str]
    in_place: bool
    """Whether the shards are in their place: all of them, whole."""

    def __str__(self) -> str:
        return ", ".join(f"{self.counts[state]:,} {state}" for state in STATES if self.counts[state])


def rebuild(
    lock: Lock,
    data: Path,
    out: Path,
    map_parts: MapParts,
    say: Callable[[str], None],
    progress: Callable[[str, int, str], Progress],
    accept_pixels: bool = False,
    replace: bool = False,
) -> Rebuilt:
    """Make the shards of a lock from ``data``; what an interrupted rebuild has made is not made again.

    Args:
        lock: of the corpus.
        data: folder of the raw sources.
        out: folder to write: ``shards/``, ``catalogue.parquet``, ``rebuild.parquet``.
        map_parts: who writes the shards.
        say: takes a line about what was found.
        progress: opens a display.
        accept_pixels: put shards in their place also where an encoder of another version gave other bytes of the same
            pixels.
        replace: finished shards, of an earlier release say, may change.

    Raises:
        InputError: the lock, or a folder, cannot be used; shards of another lock would change and ``replace`` is off.
        WorkError: the disk has not enough room.
    """
    with hold(out):
        finished = ShardFolder.open(out / "shards", replace=False)
        stages = out / ".stages"
        sources, found = locate(lock, data, stages / "located")
        say(say_found(list(found.values())))
        listings = {name: each.listing for name, each in found.items()}
        plan = stages / f"plan-{digest([lock.checksums.key, [file_digest(path) for path in listings.values()]], 6)}"
        parts = plan_shards(lock.catalogue, listings, plan, lock.recipe.shards)
        if [part.samples for part in parts] != [each.samples for each in lock.checksums.shards]:
            raise InputError(f"{lock.folder}: catalogue and checksums are of two runs; rs-curate lock writes it anew")
        job = write.WriteJob(lock.recipe, sources, plan, stages / "write")
        work = [part for part in parts if write.place_of(part, job, finished) is None]
        write.check_room(work, lock.recipe.shards, out)
        with progress("rebuild", sum(part.samples for part in work), "tiles") as display:
            for part, _ in map_parts(partial(write.make_shard, job=job), work):
                display.advance(part.samples)
        rebuilt = _Rebuild(lock, job, found, finished)
        counts = rebuilt.tell(parts, out / TOLD_FILE)
        whole = counts[CHANGED] == counts[MISSING] == 0 and (accept_pixels or not counts[PIXELS])
        if whole:
            rebuilt.put_in_place(parts, out, replace)
    return Rebuilt(counts, whole)


@dataclass(frozen=True)
class _Rebuild:
    lock: Lock
    job: write.WriteJob
    found: dict[str, Located]
    finished: ShardFolder

    def tell(self, parts: Sequence[ShardPart], path: Path) -> Counter[str]:
        """Count the samples by state, and write down those that differ."""
        counts: Counter[str] = Counter()
        with (
            pq.ParquetFile(self.lock.folder / INDEX_FILE) as index,
            atomic(path) as aside,
            pq.ParquetWriter(aside, _TOLD, compression="zstd") as writer,
        ):
            for number, (part, expected) in enumerate(zip(parts, self.lock.checksums.shards, strict=True)):
                place = write.place_of(part, self.job, self.finished)
                if place is not None and place[0].sha256 == expected.sha256:
                    counts[SAME] += expected.samples
                    continue
                hashes = index.read_row_group(number, columns=["image_sha256"])["image_sha256"].to_pylist()
                told = list(self._made(place[0], hashes) if place is not None else self._not_made(part, hashes))
                counts.update(row["state"] for row in told)
                writer.write_table(pa.Table.from_pylist([row for row in told if row["state"] != SAME], schema=_TOLD))
        return counts

    def _made(self, info: ShardInfo, hashes: Sequence[bytes]) -> Iterator[dict[str, Any]]:
        """Samples of a tar that was made, of the pixels that were scanned, with other bytes."""
        rows = numbered(info, 0).select(["key", "source", "image_sha256"]).to_pylist()
        for row, expected in zip(rows, hashes, strict=True):
            yield {"key": row["key"], "source": row["source"], **self._state(row["image_sha256"] == expected)}

    def _not_made(self, part: ShardPart, hashes: Sequence[bytes]) -> Iterator[dict[str, Any]]:
        """Samples of a shard that lacks some: they are made once more, one by one, to say which."""
        rows = pq.ParquetFile(self.job.plan / part.rows).read_row_group(part.row_group).to_pylist()
        for (row, made), expected in zip(write.outcomes(rows, self.job), hashes, strict=True):
            key = f"{row['shard']:06d}{row['position']:05d}-{row['tile_id']}"
            told = {"key": key, "source": row["source"], "image": row["image"]}
            if isinstance(made, write.Fault):
                gone = row["image"] in self.found[row["source"]].missing
                yield {**told, "state": MISSING if gone else CHANGED, "detail": made.text}
            else:
                yield {**told, **self._state(hashlib.sha256(made.image).digest() == expected)}

    def _state(self, same: bool) -> dict[str, Any]:
        return {"state": SAME} if same else {"state": PIXELS, "detail": _encoders(self.lock)}

    def put_in_place(self, parts: Sequence[ShardPart], out: Path, replace: bool) -> None:
        key = self.lock.checksums.key
        made = [write.found(part, self.job, self.finished) for part in parts]
        if self.finished.holds(key) is None:
            self.finished.allow([info for info, _ in made], key, replace, _WAY_OUT)
            self.finished.replace(made, key)
        with atomic(out / CATALOGUE_FILE) as aside:
            shutil.copyfile(self.lock.catalogue, aside)


def _encoders(lock: Lock) -> str:
    """What encoded then and now."""
    then = {told.get(_library(lock), "unknown") for told in lock.versions.get("write", [])}
    return f"{_library(lock)} {', '.join(sorted(then))} then, {versions()[_library(lock)]} now"


def _library(lock: Lock) -> str:
    return {"jpg": "simplejpeg", "webp": "pillow webp", "png": "pillow zlib"}[lock.recipe.shards.encoder]


def check(rebuilt: Rebuilt, out: Path) -> None:
    """Say what to do where the shards are not in their place.

    Raises:
        WorkError: they are not.
    """
    if rebuilt.in_place:
        return
    told = f"{out}: {rebuilt}; {out / TOLD_FILE} names each"
    if rebuilt.counts[CHANGED] or rebuilt.counts[MISSING]:
        raise WorkError(f"{told}; put the right files below --data and run again: what was made is kept")
    raise WorkError(f"{told}; to take other bytes of the same pixels, run again with --accept-pixels")
