"""Pictures for tests of the chain: textured as ground is, all different, made from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image


def texture(seed: int, side: int = 192) -> Image.Image:
    """A picture with structure at all scales and, as in daylight, detail that the channels share."""
    rng = np.random.default_rng(seed)

    def layer(cells: int, channels: int) -> np.ndarray:
        noise = rng.integers(0, 256, (cells, cells, channels), dtype=np.uint8)
        picture = Image.fromarray(noise if channels == 3 else noise[..., 0]).resize((side, side), 3)
        return np.asarray(picture, dtype=np.float32).reshape(side, side, channels)

    mixed = 0.4 * layer(4, 1) + 0.25 * layer(12, 1) + 0.2 * layer(48, 1) + 0.15 * layer(3, 3)
    return Image.fromarray(mixed.astype(np.uint8))


def raster(path: Path, seed: int, **options: Any) -> None:
    """Three bands of 16 bits with a place."""
    rgb = np.asarray(texture(seed, 256), np.uint16).transpose(2, 0, 1) * (7 + seed) + 100
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 3, "width": 256, "height": 256, "crs": "EPSG:32631"}
    place = rasterio.Affine(2, 0, 500_000, 0, -2, 4_500_000)
    with rasterio.open(path, "w", transform=place, **profile, **options) as file:
        file.write(rgb)
