"""The write stage: kept rows of the catalogue become shards.

One part is one shard, named by its key: a digest of its rows and of the settings that matter to it, so that a tar
counts only for what it was made from. ``make_shard`` reads the pixels again, in runs of one image, proves that they are
those that were scanned, and encodes them or copies the file's own bytes. A tar is complete before its rows are: what
names a shard exists only when the shard does.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from curation.base import watchdog
from curation.base.errors import UnreadableImage, WorkError
from curation.base.files import digest, is_whole
from curation.base.terminal import sized
from curation.catalogue import Window
from curation.imagery.location import Location
from curation.scan.fingerprint import content_hash
from curation.shards import format as shard_format
from curation.shards.format import ImageFormat, Sample, ShardInfo
from curation.shards.shard_folder import ShardFolder
from curation.shards.shard_plan import ShardPart
from curation.sources.recipe import Recipe, ResolvedSource, ShardRules

if TYPE_CHECKING:
    from curation.imagery.image import Image

_TOLD = 20
"""Changed files that a message names; more are named in a file."""
WRITE_VERSION = 1
"""Raised when the same rows and settings give another tar than before."""


@dataclass(frozen=True)
class WriteJob:
    """What every shard of a run needs to know; travels to the workers."""

    recipe: Recipe
    sources: Mapping[str, ResolvedSource]
    plan: Path
    """Folder of :func:`curation.shards.shard_plan.plan_shards`."""
    folder: Path
    """Where tars are made, ``<key>.tar``, and their index rows kept, ``<key>.parquet``."""

    def name(self, part: ShardPart) -> str:
        """File name of a shard."""
        return f"{self.recipe.name}-{part.number:06d}.tar"

    def key(self, part: ShardPart) -> str:
        """Digest of everything that a tar's bytes follow from: its rows, the texts beside them, the encoder."""
        rules = self.recipe.shards
        encoder = [rules.encoder, None if rules.encoder == "png" else rules.quality] if part.encoded else None
        licences = [(source, self.sources[source].source.licence.pixels) for source in part.sources]
        return digest([shard_format.FORMAT_VERSION, WRITE_VERSION, part.digest, licences, encoder])

    def tar(self, part: ShardPart) -> Path:
        """Where a shard is made."""
        return self.folder / f"{self.key(part)}.tar"

    def key_of_all(self, parts: Sequence[ShardPart]) -> str:
        """Key of the finished folder: equal tars under equal names, equal key."""
        return digest(["shards", [(self.name(part), self.key(part)) for part in parts]], 6)


class Changed(NamedTuple):
    """An image that is not what it was when it was scanned, or is gone."""

    source: str
    image: str
    text: str
    """Its file, and what is wrong."""


def make_shard(part: ShardPart, job: WriteJob) -> list[Changed]:
    """Write one shard; its index rows are kept beside it last, so that their presence means: this shard is done.

    Returns:
        What is gone or has changed since it was scanned; then there is no shard.
    """
    from curation.imagery.versions import versions

    rows = pq.ParquetFile(job.plan / part.rows).read_row_group(part.row_group).to_pylist()
    tar, decoding = job.tar(part), Decoding()
    before = _fetched(job)
    try:
        info = shard_format.write_shard(_samples(rows, job, decoding), tar)
    except _SomeChanged as error:
        return error.images
    decoding.fetched_again = _fetched(job) - before
    shard_format.write_info(info, tar.with_suffix(".parquet"), versions(), asdict(decoding))
    return []


def _fetched(job: WriteJob) -> int:
    """Bytes of remote files that came over the network to this process."""
    remote = [(each.root, each.source.remote) for each in job.sources.values() if each.source.remote is not None]
    if not remote:
        return 0
    from curation.remote.reader import reader

    return sum(reader(root, access).ranges.fetched for root, access in remote)


@dataclass
class Decoding:
    """Pixels of tiles that were encoded, and those that were decoded for them: whole images, or blocks of rasters."""

    decoded: int = 0
    encoded: int = 0
    fetched_again: int = 0
    """Bytes of remote files that the spool had no room for."""

    def count(self, image: Image, run: Sequence[Mapping[str, Any]]) -> None:
        """Add the tiles of one image, which is opened once for them; a block that they share is decoded once."""
        from curation.imagery.decode import Decoded

        self.encoded += sum(row["width"] * row["height"] for row in run)
        if isinstance(image.pixels, Decoded):
            self.decoded += image.width * image.height
            return
        high, wide = image.block_shape
        blocks = {
            (down, across)
            for row in run
            for down in range(row["row_off"] // high, (row["row_off"] + row["height"] - 1) // high + 1)
            for across in range(row["col_off"] // wide, (row["col_off"] + row["width"] - 1) // wide + 1)
        }
        self.decoded += sum(
            min(high, image.height - down * high) * min(wide, image.width - across * wide) for down, across in blocks
        )


def say_decoding(parts: Sequence[ShardPart], job: WriteJob) -> str:
    """One line: pixels decoded for each that was encoded, in the tars of some parts."""
    total = Decoding()
    for part in parts:
        told = shard_format.read_decoding(job.tar(part).with_suffix(".parquet"))
        total = Decoding(*(getattr(total, name) + told.get(name, 0) for name in asdict(total)))
    again = f"; {sized(total.fetched_again)} were fetched again, since the spool had no room for them"
    if not total.encoded:
        return "all tiles are copies of files" + again * bool(total.fetched_again)
    decoded = f"{total.decoded / total.encoded:.2f} pixels decoded for each pixel that was encoded"
    return decoded + again * bool(total.fetched_again)


def written(part: ShardPart, job: WriteJob) -> ShardInfo | None:
    """What is known of a tar that was made under this part's key, under its name; its index rows stay on disk."""
    path = job.tar(part).with_suffix(".parquet")
    return replace(shard_format.read_info(path), file=job.name(part)) if is_whole(path) else None


def place_of(part: ShardPart, job: WriteJob, finished: ShardFolder) -> tuple[ShardInfo, Path] | None:
    """A tar that was made under this part's key, and where it lies; None when it must be made."""
    info = written(part, job)
    if info is None:
        return None
    aside = job.tar(part)
    if aside.exists() and aside.stat().st_size == info.bytes:
        return info, aside
    tar = finished.tar_of(info)
    return None if tar is None else (info, tar)


def found(part: ShardPart, job: WriteJob, finished: ShardFolder) -> tuple[ShardInfo, Path]:
    """:func:`place_of` a tar that was just made.

    Raises:
        WorkError: it is not there.
    """
    place = place_of(part, job, finished)
    if place is None:
        raise WorkError(f"{job.tar(part)}: was written and is gone; run again")
    return place


_LARGER = {"jpg": 1.0, "webp": 3.5, "png": 4.5}
"""Bytes of lossless encodings, as multiples of what the plan predicts for JPEG."""


def check_room(parts: Sequence[ShardPart], rules: ShardRules, folder: Path) -> None:
    """Check that the disk has room for the shards that are about to be written.

    Raises:
        WorkError: it has not.
    """
    free = shutil.disk_usage(folder).free
    needed = sum(part.bytes * (_LARGER[rules.encoder] if part.encoded else 1.0) for part in parts)
    if needed > free:
        sizes = (sized(size) for size in (needed, free, needed - free))
        raise WorkError(
            "{}: the shards need about {}, {} are free: {} are missing; ".format(folder, *sizes)
            + f"free some space (see rs-curate clean {folder}) and run again, or give another --out"
        )


def say_changed(files: Sequence[str], out: Path) -> str:
    """What to tell about raw files that are not what was scanned; a long list goes to a file as well."""
    told = "; ".join(files[:_TOLD])
    if len(files) > _TOLD:
        path = out / "changed.txt"
        path.write_text("".join(f"{line}\n" for line in files), encoding="utf-8")
        told += f"; and {len(files) - _TOLD:,} more, all named in {path}"
    return f"{told}; restore what has changed, or run again with --relist to take the files as they are"


class _SomeChanged(Exception):
    """Some raw files are not what they were."""

    def __init__(self, images: list[Changed]) -> None:
        super().__init__()
        self.images = images


class Fault(NamedTuple):
    """Why a sample cannot be made: its raw file shows something else than when it was scanned, or nothing."""

    text: str


def _samples(rows: list[dict[str, Any]], job: WriteJob, decoding: Decoding) -> Iterator[Sample]:
    """Samples in position order.

    Raises:
        _SomeChanged: after the last row, so that every changed file is found.
    """
    changed: dict[tuple[str, str], Changed] = {}
    for row, made in outcomes(rows, job, decoding):
        if isinstance(made, Fault):
            image = row["source"], row["image"]
            changed.setdefault(image, Changed(*image, f"{_place(row, job)}: {made.text}"))
        elif not changed:
            yield made
    if changed:
        raise _SomeChanged(list(changed.values()))


def _place(row: dict[str, Any], job: WriteJob) -> str:
    source = job.sources[row["source"]]
    return row["image"] if source.source.remote else str(source.root / row["file"] / (row["member"] or ""))


def outcomes(
    rows: list[dict[str, Any]], job: WriteJob, decoding: Decoding | None = None
) -> Iterator[tuple[dict[str, Any], Sample | Fault]]:
    """Every row with its sample, or why there is none; each run of rows of one image opens it once."""
    count = decoding or Decoding()
    for _, group in groupby(_at_hand(rows, job), key=lambda row: (row["source"], row["image"], row["pass_through"])):
        run = list(group)
        source = job.sources[run[0]["source"]]
        copies = _copies(run[0], job.recipe.shards)
        images = _copied(run, source) if copies else _encoded(run, source, job.recipe, count)
        done = 0
        try:
            for row, image in zip(run, images, strict=True):
                done += 1
                yield row, image if isinstance(image, Fault) else _sample(row, source, *image)
        except (UnreadableImage, OSError) as error:
            fault = Fault(f"could be read when it was scanned, and cannot now ({error})")
            yield from ((row, fault) for row in run[done:])


def _at_hand(rows: list[dict[str, Any]], job: WriteJob) -> Iterable[dict[str, Any]]:
    """The rows; those of remote images when their bytes are here, while the next are read."""
    if all(each.source.remote is None for each in job.sources.values()):
        return rows
    from curation.imagery.image import MAX_FILE
    from curation.remote.reader import Wanted, ahead, reader

    def wanted(row: dict[str, Any]) -> Wanted | None:
        """What a row needs of a remote file."""
        source = job.sources[row["source"]]
        access = source.source.remote
        return None if access is None else (reader(source.root, access), row["file"], row["member"])

    return ahead(rows, wanted, MAX_FILE)


def _sample(row: dict[str, Any], source: ResolvedSource, image: bytes, image_format: ImageFormat) -> Sample:
    key = f"{row['shard']:06d}{row['position']:05d}-{row['tile_id']}"
    return Sample(key, image, image_format, _sidecar(row, source))


def _copies(row: dict[str, Any], rules: ShardRules) -> bool:
    return bool(rules.pass_through and row["pass_through"])


_Image = tuple[bytes, ImageFormat] | Fault


def _copied(run: list[dict[str, Any]], source: ResolvedSource) -> Iterator[_Image]:
    from curation.imagery.image import raw_bytes

    for row in run:
        data = raw_bytes(Location.of(source.root, row, source.source.remote))
        same = hashlib.sha256(data).digest() == row["raw_sha256"]
        yield (data, "jpg") if same else Fault("changed since it was scanned (other bytes)")


def _encoded(run: list[dict[str, Any]], source: ResolvedSource, recipe: Recipe, decoding: Decoding) -> Iterator[_Image]:
    """Encode a run of tiles of one image; other pixels than were fingerprinted never get into a shard."""
    for row, rgb in pixels(run, source, recipe, decoding):
        same = content_hash(rgb) == row["content_hash"]
        encoder = recipe.shards.encoder
        yield (encode(rgb, recipe.shards), encoder) if same else Fault("changed since it was scanned (other pixels)")


def pixels(
    run: list[dict[str, Any]], source: ResolvedSource, recipe: Recipe, decoding: Decoding | None = None
) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.uint8]]]:
    """8-bit RGB ``(H, W, 3)`` of tiles of one image, which is opened once.

    Raises:
        UnreadableImage: it cannot be opened or decoded.
    """
    from curation.imagery.image import open_image

    with ExitStack() as stack:
        with watchdog.deadline(watchdog.seconds(recipe.exclude.max_pixels, run[0]["file_bytes"], slow=False)):
            place = Location.of(source.root, run[0], source.source.remote)
            image = open_image(place, source.source, recipe.exclude, run[0]["stretch"])
            raster = stack.enter_context(image)
        if decoding is not None:
            decoding.count(raster, run)
        for row in run:
            with watchdog.deadline(watchdog.seconds(raster.width * raster.height, raster.file_bytes, slow=True)):
                rgb, _ = raster.read(Window(row["col_off"], row["row_off"], row["width"], row["height"]))
            yield row, rgb


def encode(rgb: npt.NDArray[np.uint8], rules: ShardRules) -> bytes:
    """Encode one tile, (H, W, 3) uint8, as the recipe says: JPEG 4:2:0, lossless WebP, or PNG."""
    if rules.encoder == "jpg":
        import simplejpeg

        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=rules.quality, colorsubsampling="420"))
    from PIL import Image

    buffer = io.BytesIO()
    options: dict[str, Any] = (
        {"optimize": False} if rules.encoder == "png" else {"lossless": True, "quality": rules.quality}
    )
    Image.fromarray(rgb).save(buffer, format=rules.encoder.upper(), **options)
    return buffer.getvalue()


def _sidecar(row: dict[str, Any], source: ResolvedSource) -> dict[str, Any]:
    bounds = [row[side] for side in ("west", "south", "east", "north")]
    return {
        "source": row["source"],
        "image": row["image"],
        "window": [row["col_off"], row["row_off"], row["width"], row["height"]],
        "width": row["width"],
        "height": row["height"],
        "gsd_m": None if row["gsd_m"] is None else float(str(np.float32(row["gsd_m"]))),  # 0.1, not 0.10000000149
        "crs": row["crs"],
        "bounds": None if bounds[0] is None else bounds,
        "licence": source.source.licence.pixels,
        "phash": f"{row['phash']:016x}",
    }
