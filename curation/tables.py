"""Two loops over native pixels, compiled: through a table per band, and comparing with one value.

NumPy would widen every 16-bit value to a 64-bit index for the first, and reduce an axis of length three for the second.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def _given(kind: numba.types.Type, dimensions: int) -> numba.types.Array:
    return numba.types.Array(kind, dimensions, "C", readonly=True)


@numba.njit(
    [numba.void(_given(kind, 2), _given(numba.u1, 2), numba.u1[:, ::1]) for kind in (numba.u1, numba.u2)],
    cache=True,
    nogil=True,
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


@numba.njit(
    [numba.void(_given(kind, 2), numba.i8, numba.b1[::1]) for kind in (numba.u1, numba.u2, numba.i2)],
    cache=True,
    nogil=True,
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
    return np.logical_or.reduce([pixels[..., band] != value for band in range(pixels.shape[2])])
