"""Generated imagery for shards."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from curation.shards.format import Sample

MakeShards = Callable[..., Path]


def picture(seed: int, width: int, height: int) -> np.ndarray:
    """A smooth coloured image with an edge: something that a model can learn to fill in."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(6.3 * (rng.uniform(0.5, 2) * x + rng.uniform(0.5, 2) * y) + rng.uniform(0, 6.3)) for _ in range(3)]
    rgb = 128 + 60 * np.stack(waves, -1)
    rgb[(x * rng.uniform(-1, 1) + y) > 0.5] *= 0.6
    return rgb.clip(0, 255).astype(np.uint8)


def encode(rgb: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, {"jpg": "JPEG"}.get(kind, kind.upper()))
    return buffer.getvalue()


def make_samples(shard: int, count: int, side: tuple[int, int], gsd_m: float | None, broken: set[int]) -> list[Sample]:
    samples = []
    for position in range(count):
        kind = ("jpg", "png", "jpg", "webp")[position % 4]
        image = encode(picture(1000 * shard + position, *side), kind)
        meta = {
            "source": f"source{shard % 2}", "image": f"{position}.tif", "window": [0, 0, *side], "width": side[0],
            "height": side[1], "gsd_m": gsd_m, "crs": None, "bounds": None, "licence": "CC0-1.0", "phash": "0" * 16,
        }  # fmt: skip
        key = f"{shard:06d}{position:05d}-{position:020x}"
        samples.append(Sample(key, image[:100] if position in broken else image, kind, meta))
    return samples
