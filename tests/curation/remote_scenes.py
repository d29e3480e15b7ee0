"""Scenes as they lie on servers: COGs of ground."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from textures import texture

PLACE = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 4_500_000)


def picture(seed: int, side: int) -> np.ndarray:
    """``(3, side, side)`` of ground, all different."""
    return np.asarray(texture(seed, side)).transpose(2, 0, 1)


def scene(folder: Path, pixels: np.ndarray, **options: Any) -> bytes:
    """A COG of some pixels, blocks of 128."""
    path = folder / "scene.tif"
    bands, height, width = pixels.shape
    profile = {"driver": "COG", "compress": "deflate", "blocksize": 128, "overview_resampling": "average", **options}
    with rasterio.open(
        path, "w", width=width, height=height, count=bands, dtype=pixels.dtype, crs="EPSG:32631", transform=PLACE,
        **profile,
    ) as file:  # fmt: skip
        file.write(pixels)
    data = path.read_bytes()
    path.unlink()
    return data
