"""Images that end where readable memory does."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from curation.base.arrays import Bytes


@contextmanager
def guarded(pixels: Bytes) -> Iterator[Bytes]:
    """A copy whose last byte is the last of a page, of which the next cannot be read: a byte more ends this process."""
    count = -(-pixels.size // mmap.PAGESIZE)
    whole = np.frombuffer(mmap.mmap(-1, (count + 1) * mmap.PAGESIZE), np.uint8)
    end = count * mmap.PAGESIZE
    copy = whole[end - pixels.size : end].reshape(pixels.shape)
    copy[:] = pixels
    _allow(whole.ctypes.data + end, 0)
    try:
        yield copy
    finally:
        _allow(whole.ctypes.data + end, mmap.PROT_READ | mmap.PROT_WRITE)


def _allow(page: int, access: int) -> None:
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), access) == 0
