"""Small pictures of catalogue rows, read from the raw files again under the guard that the scan has.

They are taken on workers, in parts that can be taken apart: a decoder that aborts or hangs costs its own picture. What
crashed or could not be read when it was scanned is not opened again.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.dataset as ds

from curation.base import watchdog
from curation.base.errors import UnreadableImage
from curation.base.files import atomic
from curation.catalogue import Window
from curation.sources.recipe import ExcludeRules, ResolvedSource

THUMB = 112
"""Side of the pictures in pixels."""
_PART = 8
_MAX_SHOWN_PIXELS = 64_000_000

MapParts = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Runs a function over parts on workers; see :meth:`curation.executor.executor.Executor.map_parts`."""


@dataclass(frozen=True)
class Shots:
    """Some pictures to take, and the file that they go to; a part for the executor."""

    rows: tuple[Mapping[str, Any], ...]
    """Rows of the catalogue, each with ``place``, its row of the listing."""
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


def take(
    rows: Iterable[Mapping[str, Any]], sources: Mapping[str, ResolvedSource], listings: Mapping[str, Path],
    rules: ExcludeRules, folder: Path, map_parts: MapParts,
) -> dict[str, str]:  # fmt: skip
    """Take pictures of rows of the catalogue.

    Args:
        rows: with ``tile_id, source, image, verdict, col_off, row_off, width, height, stretch``.
        sources: by id.
        listings: ``images`` tables of the sources.
        rules: limits on what is opened.
        folder: for the parts' files, which are removed in the end.
        map_parts: who runs the parts.

    Returns:
        ``data:`` URLs by tile id; what cannot be shown is absent.
    """
    wanted = {row["tile_id"]: row for row in rows if row["verdict"] not in ("crashed", "unreadable")}
    placed = _placed(list(wanted.values()), listings)
    parts = [
        Shots(tuple(placed[low : low + _PART]), sources, rules, folder / f"pictures-{low:06d}.json")
        for low in range(0, len(placed), _PART)
    ]
    for _ in map_parts(take_part, parts):
        pass
    found = {name: data for part in parts for name, data in _read(part).items() if data is not None}
    for part in parts:
        part.out.unlink()
    return found


def take_part(part: Shots) -> int:
    """Take the pictures of one part, unless that was done before."""
    if not part.out.exists():
        _write({row["tile_id"]: None if part.lost else _shot(row, part) for row in part.rows}, part)
    return len(part.rows)


def _write(pictures: Mapping[str, str | None], part: Shots) -> None:
    with atomic(part.out) as aside:
        aside.write_text(json.dumps(pictures))


def _read(part: Shots) -> dict[str, str | None]:
    pictures: dict[str, str | None] = json.loads(part.out.read_bytes())
    return pictures


def _placed(rows: Sequence[Mapping[str, Any]], listings: Mapping[str, Path]) -> list[Mapping[str, Any]]:
    """The rows, each with its image's row of the listing, in an order that leaves rows of one image together."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for source in {row["source"] for row in rows}:
        images = {row["image"] for row in rows if row["source"] == source}
        listing = ds.dataset(listings[source]).to_table(filter=pc.field("image").isin(list(images)))
        found |= {(source, place["image"]): place for place in listing.to_pylist()}
    ordered = sorted(rows, key=lambda row: (row["source"], row["image"], row["tile_id"]))
    return [{**row, "place": found[row["source"], row["image"]]} for row in ordered]


def _shot(row: Mapping[str, Any], part: Shots) -> str | None:
    try:
        return _encode(_pixels(row, part))
    except (UnreadableImage, OSError):
        return None


def _pixels(row: Mapping[str, Any], part: Shots) -> npt.NDArray[np.uint8]:
    from curation.imagery.image import Location, open_image

    source, place = part.sources[row["source"]], row["place"]
    bands = place["band_files"]
    location = Location(source.root, place["file"], place["member"], tuple(bands) if bands else None)

    with ExitStack() as stack:
        with watchdog.deadline(watchdog.seconds(part.rules.max_pixels, place["bytes"], slow=False)):
            image = stack.enter_context(open_image(location, source.source, part.rules, row["stretch"]))
        with watchdog.deadline(watchdog.seconds(image.width * image.height, place["bytes"], slow=True)):
            rgb, _ = image.read(_window(row, image.width, image.height))
    return rgb


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
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
