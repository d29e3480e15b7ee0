"""Loops over native pixels, compiled: bands put side by side, values looked up, and compared with one value.

GDAL and NumPy interleave bands one value at a time; NumPy would also widen every 16-bit value to a 64-bit index for the
second, and reduce an axis of length three for the third.
"""

from __future__ import annotations

from functools import reduce

import numba
import numpy as np
import numpy.typing as npt

from curation.base.arrays import Bytes
from curation.base.compiled import compiled, given


@compiled(
    [numba.void(given(kind, 2), kind[::1]) for kind in (numba.u1, numba.u2)]
)  # fmt: skip
def _interleave(planes: npt.NDArray[np.unsignedinteger], out: npt.NDArray[np.unsignedinteger]) -> None:
    red, green, blue = planes[0], planes[1], planes[2]
    for pixel in range(planes.shape[1]):
        out[3 * pixel] = red[pixel]
        out[3 * pixel + 1] = green[pixel]
        out[3 * pixel + 2] = blue[pixel]


def interleave(planes: npt.NDArray[np.generic], out: npt.NDArray[np.generic]) -> None:
    """Write bands ``(C, H, W)`` as pixels ``(H, W, C)`` to ``out``, which is contiguous."""
    if len(planes) == 3 and planes.dtype in (np.uint8, np.uint16):
        _interleave(planes.reshape(3, -1), out.reshape(-1))
    else:
        out[...] = np.moveaxis(planes, 0, -1)


@compiled(
    [numba.void(given(kind, 2), given(numba.u1, 2), numba.u1[:, ::1]) for kind in (numba.u1, numba.u2)],
)
def _look_up(pixels: npt.NDArray[np.unsignedinteger], tables: Bytes, out: Bytes) -> None:
    for pixel in range(pixels.shape[0]):
        for band in range(pixels.shape[1]):
            out[pixel, band] = tables[band, pixels[pixel, band]]


def look_up(pixels: npt.NDArray[np.generic], tables: Bytes) -> Bytes:
    """Values of ``tables`` ``(C, 256 or 65536)`` at 8- or 16-bit pixels ``(H, W, C)``."""
    out = np.empty(pixels.shape, np.uint8)
    bands = pixels.shape[2]
    _look_up(np.ascontiguousarray(pixels).reshape(-1, bands), np.ascontiguousarray(tables), out.reshape(-1, bands))
    return out


@compiled(
    [numba.void(given(kind, 2), numba.i8, numba.b1[::1]) for kind in (numba.u1, numba.u2, numba.i2)],
)
def _differs(pixels: npt.NDArray[np.integer], value: int, out: npt.NDArray[np.bool_]) -> None:
    for pixel in range(pixels.shape[0]):
        found = False
        for band in range(pixels.shape[1]):
            found |= pixels[pixel, band] != value
        out[pixel] = found


def differs(pixels: npt.NDArray[np.generic], value: float) -> npt.NDArray[np.bool_]:
    """Where any band of ``(H, W, C)`` differs from ``value``, ``(H, W)``."""
    if pixels.dtype in (np.uint8, np.uint16, np.int16) and float(value).is_integer() and abs(value) < 1 << 62:
        out = np.empty(pixels.shape[:2], np.bool_)
        _differs(np.ascontiguousarray(pixels).reshape(-1, pixels.shape[2]), int(value), out.reshape(-1))
        return out
    return reduce(np.logical_or, [pixels[..., band] != value for band in range(pixels.shape[2])])
