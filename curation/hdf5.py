"""Images in an HDF5 dataset, read in place: one per index of the first axis, handed on as the bytes of a TIFF.

Needs h5py, which the extra ``sources`` brings. The last axis is the bands; a dataset of three axes has one band.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from curation.errors import InputError


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError("HDF5 needs h5py; pip install 'opticalrs[sources]'") from None
    return h5py


def count(path: Path, dataset: str | None) -> tuple[str, int, int]:
    """Name of the dataset that holds the images, their number, and the bytes of one.

    Raises:
        InputError: not HDF5, or no such dataset of three or four axes.
    """
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if _holds_images(item) else None)
            chosen = names[0] if dataset is None and len(names) == 1 else dataset
            if chosen not in names:
                raise InputError(f"{path}: set image_column to one of: {', '.join(names) or 'none holds images'}")
            return str(chosen), int(file[chosen].shape[0]), _bytes(file[chosen])
    except OSError as error:
        raise InputError(f"{path}: not an HDF5 file ({error}); fetch it again") from None


def _holds_images(item: Any) -> bool:
    return getattr(item, "ndim", 0) in (3, 4) and item.dtype.kind in "uif"


def _bytes(images: Any) -> int:
    size = int(images.dtype.itemsize)
    for length in images.shape[1:]:
        size *= int(length)
    return size


def read(path: Path, dataset: str, index: int, limit: int) -> bytes:
    """One image as a TIFF.

    Raises:
        ValueError: no such image, or more than ``limit`` bytes.
    """
    from rasterio.io import MemoryFile

    with _h5py().File(path, "r") as file:
        images = file.get(dataset)
        if images is None or not _holds_images(images) or not 0 <= index < images.shape[0]:
            raise ValueError("no such image; if the file changed since it was listed, run with --relist")
        if _bytes(images) > limit:
            raise ValueError(f"{_bytes(images)} bytes, the limit is {limit}")
        pixels = images[index]
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.dtype.itemsize == 8:
        pixels = pixels.astype("float32")
    height, width, bands = pixels.shape
    with MemoryFile() as memory:
        shape = {"height": height, "width": width, "count": bands, "dtype": pixels.dtype.name}
        with warnings.catch_warnings(action="ignore"), memory.open(driver="GTiff", **shape) as raster:
            raster.write(pixels.transpose(2, 0, 1))
        return bytes(memory.read())
