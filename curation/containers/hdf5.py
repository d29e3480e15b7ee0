"""Images in an HDF5 dataset: one per index of the first axis, handed on as the bytes of a TIFF.

Needs h5py, which the extra ``sources`` brings. The last axis is the bands; a dataset of three axes has one band.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curation.base.errors import InputError
from curation.containers.array_tiff import as_tiff
from curation.containers.container import Container, Member, locate, within

MAX_CHUNK = 1 << 30
"""Bytes of a compressed block above which it is not read: one image brings its whole block along."""


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError("HDF5 needs h5py; pip install h5py") from None
    return h5py


def _list(path: Path, dataset: str | None) -> Iterator[Member]:
    with _h5py().File(path, "r") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if _holds_images(item) else None)
        chosen = names[0] if dataset is None and len(names) == 1 else dataset
        if chosen not in names:
            raise InputError(f"{path}: set image_column to one of: {', '.join(names) or 'none holds images'}")
        count, size = int(file[chosen].shape[0]), _bytes(file[chosen])
    for index in range(count):
        yield Member(f"{index:09d}", size, f"@{index}+0 {chosen}")


def _holds_images(item: Any) -> bool:
    """Whether it is a dataset of images whose pixels lie in this file; HDF5 can name any other file to read from."""
    if getattr(item, "ndim", 0) not in (3, 4) or item.dtype.kind not in "uif":
        return False
    return not item.external and not item.is_virtual


def _bytes(images: Any) -> int:
    return int(images.dtype.itemsize) * math.prod(int(length) for length in images.shape[1:])


def _read(path: Path, member: str, limit: int) -> bytes:
    index, _, dataset = locate(member) or (-1, 0, "")
    with _h5py().File(path, "r") as file:
        images = file.get(dataset)
        if images is None or images.file != file or not _holds_images(images) or not 0 <= index < images.shape[0]:
            raise ValueError("no such image; if the file changed since it was listed, run with --relist")
        within(_bytes(images), limit)
        within(math.prod(images.chunks or ()) * images.dtype.itemsize, MAX_CHUNK)
        return as_tiff(images[index])


HDF5 = Container("hdf5", (".h5", ".hdf5"), _list, _read, is_table=True)
