"""Rows of small tile tables for the tests of the select stage; hashes and blocks are given, not computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from curation.catalogue import Window, table_from_rows, tile_id, write_table
from curation.sources.recipe import Recipe, ResolvedSource, resolve


def recipe(*sources: str | dict[str, Any], **rules: Any) -> tuple[Recipe, list[ResolvedSource]]:
    entries = [{"id": source, "path": "/nowhere"} if isinstance(source, str) else source for source in sources]
    made = Recipe(name="test", sources=entries, **rules)
    return made, resolve(made, None)


def block(rng: np.random.Generator) -> np.ndarray:
    """A 16x16 block of coefficients without mean."""
    values = rng.integers(-127, 128, (16, 16)).astype(np.int8)
    values[0, 0] = 0
    return values


def texture(seed: int, side: int = 160) -> np.ndarray:
    """A picture with structure at all scales, like imagery: 1/f noise, each colour its own mixture."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.normal(size=(side, side)))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    field = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / side), s=(side, side))
    field = 128 + 40 * (field - field.mean()) / field.std()
    return np.clip(np.stack([field, field * 0.9 + 10, 0.8 * field], axis=2), 0, 255).astype(np.uint8)


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
