"""Rows of small tile tables for the tests of the select stage; hashes and blocks are given, not computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from curation.catalogue import Window, table_from_rows, tile_id, write_table
from curation.manifest import Recipe, ResolvedSource, resolve


def recipe(*sources: str | dict[str, Any], **rules: Any) -> tuple[Recipe, list[ResolvedSource]]:
    entries = [{"id": source, "path": "/nowhere"} if isinstance(source, str) else source for source in sources]
    made = Recipe(name="test", sources=entries, **rules)
    return made, resolve(made, None)


def block(rng: np.random.Generator) -> np.ndarray:
    """A 16x16 block of coefficients without mean."""
    values = rng.integers(-127, 128, (16, 16)).astype(np.int8)
    values[0, 0] = 0
    return values


def image_row(source: str, image: str, **facts: Any) -> dict[str, Any]:
    row = {"kind": "image", "tile_id": tile_id(source, image, None), "source": source, "image": image}
    return row | {"image_width": 512, "image_height": 512, "file_bytes": 50_000, "pass_through": False} | facts


def tile_row(
    source: str,
    image: str,
    window: tuple[int, int, int, int] = (0, 0, 256, 256),
    *,
    codes: np.ndarray,
    dct16: np.ndarray,
    content: bytes,
    **facts: Any,
) -> dict[str, Any]:
    place = Window(*window)
    row = image_row(source, image) | {"kind": "tile", "tile_id": tile_id(source, image, place), **place._asdict()}
    hashes = [int(code) for code in codes]
    row |= {"phash": hashes[0], "orientations": hashes, "dct16": dct16.tobytes(), "dct_scale": 1.0, "ac_energy": 40.0}
    return row | {"content_hash": content} | facts


def random_tile(rng: np.random.Generator, source: str, image: str, *window: int, **facts: Any) -> dict[str, Any]:
    codes = rng.integers(0, 2**64, 8, dtype=np.uint64)
    place = window or (0, 0, 256, 256)
    given = {"codes": codes, "dct16": block(rng), "content": rng.bytes(16)} | facts
    return tile_row(source, image, place, **given)  # type: ignore[arg-type]


def write(path: Path, rows: list[dict[str, Any]], row_group_size: int = 65_536) -> Path:
    write_table(table_from_rows("tiles", rows), path, "tiles", row_group_size=row_group_size)
    return path
