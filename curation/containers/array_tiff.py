"""Arrays as the bytes of a TIFF, which everything behind a container reads."""

from __future__ import annotations

import warnings
from typing import Any

from rasterio.io import MemoryFile


def as_tiff(pixels: Any) -> bytes:
    """A TIFF of pixels ``(rows, columns)`` or ``(rows, columns, bands)``; numbers of 8 bytes become ``float32``."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.dtype.itemsize == 8:
        pixels = pixels.astype("float32")
    height, width, bands = pixels.shape
    with MemoryFile() as memory:
        shape = {"height": height, "width": width, "count": bands, "dtype": pixels.dtype.name}
        with warnings.catch_warnings(action="ignore"), memory.open(driver="GTiff", **shape) as raster:
            raster.write(pixels.transpose(2, 0, 1))
        return bytes(memory.read())
