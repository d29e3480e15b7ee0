"""A benchmark's images as shards with class and split in the sidecar: what ``rs-pretrain evaluate`` takes as data.

Whole images, none left out for its looks: JPEG, PNG and WebP as they lie there, other formats as PNG of the pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from curation.base.errors import DAMAGED_IMAGE, InputError, UnreadableImage
from curation.base.files import digest
from curation.base.progress import Progress
from curation.catalogue import Window, tile_id
from curation.shards.format import (
    CHECKSUMS,
    ImageFormat,
    Sample,
    read_checksums,
    write_checksums,
    write_index,
    write_shard,
)
from curation.shards.write import encode
from curation.sources.recipe import ExcludeRules, ShardRules
from curation.sources.source import Benchmark

_PER_SHARD = 1000
_AS_THEY_ARE: dict[str, ImageFormat] = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_MODES = {"L", "P", "RGB", "RGBA"}


@dataclass
class Packed:
    """What was written."""

    images: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    """Class to its images."""
    unreadable: list[str] = field(default_factory=list)
    """Image and reason."""
    worked: bool = True


def pack_benchmark(
    benchmark: Benchmark, root: Path, out: Path, progress: Callable[[int], AbstractContextManager[Progress]]
) -> Packed:
    """Write a benchmark's images with their classes as shards.

    Args:
        benchmark: its manifest, which says that the folder tells the class.
        root: folder of its files.
        out: folder of the shards; the same command on finished ones does nothing.
        progress: makes a display for so many images.

    Raises:
        InputError: the manifest names no classes, the folder holds none of its images or a part of it cannot be read,
            or ``out`` holds other shards.
    """
    from curation.sources.inventory import SourceListing, list_images

    if benchmark.label_from is None:
        raise InputError(
            f"benchmark {benchmark.id}: its manifest does not say which class an image has (label_from: parent); "
            "rs-pretrain evaluate reads masks where they lie"
        )
    listing = SourceListing(benchmark.id)
    rows = list(list_images(benchmark, root, listing))
    if listing.unread:
        raise InputError(f"benchmark {benchmark.id}: {listing.unread[0]}")
    key = digest([benchmark.id, [[row["image"], row["bytes"], row["label"], row["split"]] for row in rows]])
    packed = Packed(worked=not _is_done(out, key))
    if packed.worked:
        with progress(len(rows)) as display:
            _write(benchmark, root, rows, out, key, packed, display.advance)
    return packed


def _is_done(out: Path, key: str) -> bool:
    done = read_checksums(out, missing_ok=True)
    if done is not None and done.key != key:
        raise InputError(f"{out / CHECKSUMS}: shards of other images lie there; give another --out, or delete them")
    return done is not None


def _write(
    benchmark: Benchmark, root: Path, rows: list[dict[str, Any]], out: Path, key: str, packed: Packed,
    advance: Callable[[int], None],
) -> None:  # fmt: skip
    samples, infos = _samples(benchmark, root, rows, packed, advance), []
    for shard in count():
        if not (held := list(islice(samples, _PER_SHARD))):
            break
        infos.append(write_shard(held, out / f"{benchmark.id}-{shard:06d}.tar"))
    if not infos:
        raise InputError(f"benchmark {benchmark.id}: {packed.unreadable[0]}; nor can any other of its images be read")
    write_index(infos, out)
    write_checksums(infos, out, key)


def _samples(
    benchmark: Benchmark, root: Path, rows: list[dict[str, Any]], packed: Packed, advance: Callable[[int], None]
) -> Iterator[Sample]:
    for row in rows:
        advance(1)
        try:
            image, kind, (width, height) = _image(benchmark, root, row)
        except UnreadableImage as error:
            packed.unreadable.append(f"{row['image']}: {error}")
            continue
        shard, position = divmod(packed.images, _PER_SHARD)
        packed.images += 1
        packed.classes[row["label"]] = packed.classes.get(row["label"], 0) + 1
        own = tile_id(benchmark.id, row["image"], Window(0, 0, width, height))
        gsd = benchmark.gsd_m if isinstance(benchmark.gsd_m, float) else None
        yield Sample(
            f"{shard:06d}{position:05d}-{own}", image, kind,
            {"source": benchmark.id, "image": row["image"], "window": [0, 0, width, height], "width": width,
             "height": height, "gsd_m": gsd, "crs": None, "bounds": None, "licence": benchmark.licence.pixels,
             "label": row["label"], "split": row["split"]},
        )  # fmt: skip


def _image(benchmark: Benchmark, root: Path, row: dict[str, Any]) -> tuple[bytes, ImageFormat, tuple[int, int]]:
    from curation.imagery.image import open_image, raw_bytes
    from curation.imagery.location import Location

    place = Location.of(root, row, benchmark.remote)
    if not place.band_files and (plain := _as_it_is(raw_bytes(place))):
        return plain
    with open_image(place, benchmark, ExcludeRules()) as image:
        rgb, _ = image.read(Window(0, 0, image.width, image.height))
    return encode(rgb, ShardRules(encoder="png")), "png", (rgb.shape[1], rgb.shape[0])


def _as_it_is(data: bytes) -> tuple[bytes, ImageFormat, tuple[int, int]] | None:
    """An image that shards may hold; None for another format and for a damaged file, which its opening explains."""
    try:
        with Pillow.open(io.BytesIO(data), formats=[*_AS_THEY_ARE]) as header:
            return (data, _AS_THEY_ARE[str(header.format)], header.size) if header.mode in _MODES else None
    except (*DAMAGED_IMAGE, Pillow.DecompressionBombError):
        return None
