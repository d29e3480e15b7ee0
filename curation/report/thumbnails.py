"""Small pictures of catalogue rows: kept tiles from the shards, all others from the raw files again.

They are taken on workers under the guard that the scan has, in parts that can be taken apart: a decoder that aborts or
hangs costs its own picture. What crashed or could not be read when it was scanned is not opened again. They end on
*sheets*, JPEG files that hold a hundred of them each.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from curation.base import watchdog
from curation.base.batches import batches_of
from curation.base.errors import UnreadableImage, WorkError
from curation.base.files import atomic
from curation.catalogue import KEPT, Window
from curation.shards.format import open_index
from curation.sources.recipe import ExcludeRules, ResolvedSource

THUMB = 112
"""Side of the pictures in pixels."""
ACROSS = 10
"""Pictures along a side of a sheet."""
PICTURES_VERSION = 2
"""2: kept tiles are read from the shards."""
_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_PART = 32
_PLACES = "places.json"
_MAX_SHOWN_PIXELS = 64_000_000

MapParts = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Runs a function over parts on workers; see :meth:`curation.executor.executor.Executor.map_parts`."""


@dataclass(frozen=True)
class Shots:
    """Some pictures to take, and the file that they go to; a part for the executor."""

    rows: tuple[Mapping[str, Any], ...]
    """Rows of the catalogue, each with ``sample``, where it lies in a shard, or ``place``, its row of the listing."""
    sources: Mapping[str, ResolvedSource]
    rules: ExcludeRules
    out: Path
    lost: bool = False
    """The picture brought a process down; it is not taken again."""

    def split(self) -> list[Shots]:
        """Two halves; the part itself when it is one picture."""
        if len(self.rows) < 2:
            return [self]
        middle = len(self.rows) // 2
        return [
            replace(self, rows=rows, out=self.out.with_name(f"{self.out.stem}.{at}.json"))
            for at, rows in enumerate((self.rows[:middle], self.rows[middle:]))
        ]

    def without(self, what: str) -> Shots:
        """The part with its picture given up."""
        return replace(self, lost=True)

    def join(self, pieces: Sequence[Shots]) -> None:
        """Make this part's file from those of its pieces, which are removed."""
        _write({name: data for piece in pieces for name, data in _read(piece).items()}, self)
        for piece in pieces:
            piece.out.unlink()


class TarPlace(NamedTuple):
    """Where a kept tile's encoded image lies."""

    tar: Path
    offset: int
    size: int
    image_format: str


class SheetPlace(NamedTuple):
    """Where a picture lies: number of the sheet, then left, top, width and height on it in pixels."""

    sheet: int
    left: int
    top: int
    width: int
    height: int


def take(
    rows: Iterable[Mapping[str, Any]], sources: Mapping[str, ResolvedSource], listings: Mapping[str, Path],
    rules: ExcludeRules, folder: Path, map_parts: MapParts, shards: Path | None = None,
) -> dict[str, SheetPlace]:  # fmt: skip
    """Take pictures of rows of the catalogue, unless that was done before.

    Args:
        rows: with ``tile_id, source, image, verdict, col_off, row_off, width, height, stretch, shard, position``.
        sources: by id.
        listings: ``images`` tables of the sources.
        rules: limits on what is opened.
        folder: for the sheets, and for the parts' files, which are removed in the end.
        map_parts: who runs the parts.
        shards: folder of the finished shards that the rows are of; null: there are none.

    Returns:
        Places by tile id; what cannot be shown is absent.
    """
    done = folder / _PLACES
    if not done.exists():
        wanted = {row["tile_id"]: row for row in rows if row["verdict"] not in ("crashed", "unreadable")}
        samples = {} if shards is None else _samples(wanted.values(), shards)
        placed = _placed([row for name, row in wanted.items() if name not in samples], listings)
        placed += [{**wanted[name], "sample": sample} for name, sample in samples.items()]
        parts = [
            Shots(tuple(placed[low : low + _PART]), sources, rules, folder / f"pictures-{low:06d}.json")
            for low in range(0, len(placed), _PART)
        ]
        for _ in map_parts(take_part, parts):
            pass
        places = _sheets((item for part in parts for item in _read(part).items()), folder)
        with atomic(done) as aside:
            aside.write_text(json.dumps(places))
        for part in parts:
            part.out.unlink()
    return {name: SheetPlace(*place) for name, place in json.loads(done.read_bytes()).items()}


def sheet_name(number: int) -> str:
    """File of a sheet."""
    return f"sheet-{number:04d}.jpg"


def _sheets(pictures: Iterable[tuple[str, str | None]], folder: Path) -> dict[str, SheetPlace]:
    from PIL import Image

    places: dict[str, SheetPlace] = {}
    shown = ((name, data) for name, data in pictures if data is not None)
    for number, batch in enumerate(batches_of(shown, ACROSS * ACROSS)):
        sheet = Image.new("RGB", (ACROSS * THUMB, -(-len(batch) // ACROSS) * THUMB), (233, 238, 243))
        for at, (name, data) in enumerate(batch):
            with Image.open(io.BytesIO(base64.b64decode(data)), formats=("JPEG",)) as picture:
                place = SheetPlace(number, at % ACROSS * THUMB, at // ACROSS * THUMB, *picture.size)
                sheet.paste(picture, (place.left, place.top))
            places[name] = place
        with atomic(folder / sheet_name(number)) as aside:
            sheet.save(aside, "JPEG", quality=85)
    return places


def take_part(part: Shots) -> int:
    """Take the pictures of one part, unless that was done before."""
    if not part.out.exists():
        found: dict[str, str | None] = {}
        for _, group in groupby(part.rows, key=_file_of):
            rows = list(group)
            of_file = _of_shard if "sample" in rows[0] else _of_image
            found |= dict.fromkeys(row["tile_id"] for row in rows) if part.lost else of_file(rows, part)
        _write(found, part)
    return len(part.rows)


def _file_of(row: Mapping[str, Any]) -> Any:
    return row["sample"].tar if "sample" in row else (row["source"], row["image"])


def _write(pictures: Mapping[str, str | None], part: Shots) -> None:
    with atomic(part.out) as aside:
        aside.write_text(json.dumps(pictures))


def _read(part: Shots) -> dict[str, str | None]:
    pictures: dict[str, str | None] = json.loads(part.out.read_bytes())
    return pictures


def _samples(rows: Iterable[Mapping[str, Any]], shards: Path) -> dict[str, TarPlace]:
    """Where kept tiles lie in the shards, by tile id. They are found by their keys: withdrawn tiles leave gaps."""
    kept = sorted((row["shard"], row["tile_id"], row["position"]) for row in rows if row["verdict"] == KEPT)
    index, tars = open_index(shards)
    groups = {int(tar.stem.rpartition("-")[2]): group for group, tar in enumerate(tars)}
    found: dict[str, TarPlace] = {}
    with index:
        for shard, each in groupby(kept, key=itemgetter(0)):
            told = index.read_row_group(groups[shard], columns=["key", "image_offset", "image_size", "image_format"])
            keys = {f"{shard:06d}{position:05d}-{name}": name for _, name, position in each}
            for row in told.filter(pc.is_in(told["key"], pa.array(list(keys)))).to_pylist():
                key, *place = row.values()
                found[keys[key]] = TarPlace(tars[groups[shard]], *place)
    return found


def _placed(rows: Sequence[Mapping[str, Any]], listings: Mapping[str, Path]) -> list[Mapping[str, Any]]:
    """The rows, each with its image's row of the listing, in an order that leaves rows of one image together."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for source in {row["source"] for row in rows}:
        images = {row["image"] for row in rows if row["source"] == source}
        listing = ds.dataset(listings[source]).to_table(filter=pc.field("image").isin(list(images)))
        found |= {(source, place["image"]): place for place in listing.to_pylist()}
    ordered = sorted(rows, key=lambda row: (row["source"], row["image"], row["tile_id"]))
    return [{**row, "place": found[row["source"], row["image"]]} for row in ordered]


def _of_shard(rows: Sequence[Mapping[str, Any]], part: Shots) -> dict[str, str | None]:
    """Pictures of samples of one shard."""
    from curation.imagery.decode import decode

    found: dict[str, str | None] = {row["tile_id"]: None for row in rows}
    for row in rows:
        tar, offset, size, image_format = row["sample"]
        with suppress(UnreadableImage, OSError), tar.open("rb") as file:
            data = os.pread(file.fileno(), size, offset)
            with watchdog.deadline(watchdog.seconds(row["width"] * row["height"], size, slow=True)):
                rgb = decode(data, _FORMATS[image_format], part.rules.max_pixels).rgb
            found[row["tile_id"]] = _encode(rgb)
    return found


def _of_image(rows: Sequence[Mapping[str, Any]], part: Shots) -> dict[str, str | None]:
    """Pictures of rows of one image, which is opened once."""
    from curation.imagery.image import open_image
    from curation.imagery.location import Location

    source, place = part.sources[rows[0]["source"]], rows[0]["place"]
    location = Location.of(source.root, place, source.source.remote)
    stretch = next((row["stretch"] for row in rows if row["stretch"]), None)
    found: dict[str, str | None] = {row["tile_id"]: None for row in rows}
    try:
        with watchdog.deadline(watchdog.seconds(part.rules.max_pixels, place["bytes"], slow=False)):
            image = open_image(location, source.source, part.rules, stretch)
        with image:
            for row in rows:
                with watchdog.deadline(watchdog.seconds(image.width * image.height, place["bytes"], slow=True)):
                    found[row["tile_id"]] = _encode(image.read(_window(row, image.width, image.height))[0])
    except (UnreadableImage, WorkError, OSError):  # also a server that does not answer
        pass  # those that were read are shown
    return found


def _window(row: Mapping[str, Any], width: int, height: int) -> Window:
    """What is shown: the tile, or the image; of a very large image its middle."""
    window = Window(row["col_off"] or 0, row["row_off"] or 0, row["width"] or width, row["height"] or height)
    if window.width * window.height > _MAX_SHOWN_PIXELS:
        return Window(max(width // 2 - 512, 0), max(height // 2 - 512, 0), 1024, 1024)
    return window


def _encode(rgb: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    image = Image.fromarray(rgb)
    image.thumbnail((THUMB, THUMB))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
