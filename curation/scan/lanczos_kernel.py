"""The three reductions of a tile and the sums of its luma in one call of C, at half the time of numba's loops.

Taken where a C compiler and a processor with AVX2 are at hand, and only if it gives the numbers of
:mod:`curation.scan.lanczos`.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from curation.base.arrays import Bytes
from curation.base.native import address, function
from curation.scan import lanczos

SOURCE = Path(__file__).with_suffix(".c")
LONGEST = 16_384
"""Sides up to which scratch stays in a processor's cache."""
_SPLIT = 15
"""Bits of a weight's low part."""


class _Axis(ctypes.Structure):
    """How one axis is reduced; arrays are those of the C file."""

    _fields_ = (
        ("first", ctypes.c_void_p), ("pairs", ctypes.c_void_p), ("weights", ctypes.c_void_p), ("out", ctypes.c_int32),
    )  # fmt: skip


class Reductions(NamedTuple):
    """What :func:`curation.scan.lanczos.reductions` and :func:`curation.scan.lanczos.moments` give of one image."""

    greys: Bytes
    total: int
    squares: int


class Kernel(NamedTuple):
    """The compiled function."""

    function: Any

    def reduce(self, pixels: Bytes, small: int, large: int, by_size: bool) -> Reductions | None:
        """Reduce RGB ``(H, W, 3)`` or luma ``(H, W)``; null where a side is too long or there is no memory.

        ``small``, ``large`` and ``by_size`` are those of :func:`curation.scan.lanczos.reductions`; sides are multiples
        of 16, the large one no less than the small.
        """
        height, width = pixels.shape[:2]
        if not 0 < min(height, width) <= max(height, width) <= LONGEST or pixels.shape[2:] not in ((), (3,)):
            return None
        axes, across_first = _plan(height, width, small, large, by_size)
        given, out = np.ascontiguousarray(pixels), np.empty(2 * small**2 + large**2, np.uint8)
        sums = np.empty(2, np.int64)
        at, channels = given.__array_interface__["data"][0], 3 if pixels.ndim == 3 else 1
        if self.function(at, channels, height, width, axes, across_first, address(out), address(sums)):
            return None
        return Reductions(out, *sums.tolist())


@cache
def kernel() -> Kernel | None:
    """The function of this process; null where it cannot be compiled or run, or gives other numbers."""
    place, number, axes = ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Axis) * 4
    arguments = [place, number, ctypes.c_long, ctypes.c_long, axes, number, place, place]
    compiled = function(SOURCE, "reduce", arguments, can="can_reduce")
    return None if compiled is None or not _is_exact(Kernel(compiled)) else Kernel(compiled)


@lru_cache(maxsize=64)  # each holds its axes, of some 50 bytes a row and column
def _plan(height: int, width: int, small: int, large: int, by_size: bool) -> tuple[Any, int]:
    """Axes, across and down, to the small and to the large side; bits of the reductions that begin across.

    Of the transpose, what goes down is the image's width.
    """
    if small % 16 or large % 16 or not 0 < small <= large:
        raise ValueError(f"cannot reduce to {small} and {large} pixels")
    across_first = (
        not (by_size and lanczos.height_first(height, width, small)),
        by_size and lanczos.height_first(width, height, small),
        not (by_size and lanczos.height_first(height, width, large)),
    )
    axes = [ctypes.pointer(_axis(size, side)) for side in (small, large) for size in (width, height)]
    return (ctypes.POINTER(_Axis) * 4)(*axes), sum(bit << place for place, bit in enumerate(across_first))


@lru_cache(maxsize=256)
def _axis(size: int, out: int) -> _Axis:
    """Weights of pairs of samples, without those that are zero at either end; the last of an odd number is half one."""
    first, table = lanczos.weights(size, out)
    taps = np.arange(table.shape[1])
    ends = [np.where(table != 0, first[:, None] + taps, none) for none in (size, -1)]
    start, stop = ends[0].min(1) // 2, ends[1].max(1) // 2 + 1
    every = np.zeros((out, (size + 1) // 2 * 2), np.int32)
    np.put_along_axis(every, first[:, None] + taps, table, 1)
    weights = np.concatenate([row[2 * low : 2 * high] for row, low, high in zip(every, start, stop, strict=True)])
    half = 1 << (_SPLIT - 1)
    low = ((weights + half) & (2 * half - 1)) - half
    parts = np.stack([low.reshape(-1, 2), ((weights - low) >> _SPLIT).reshape(-1, 2)], 1).astype(np.int16)
    held = start.astype(np.int32), (stop - start).astype(np.int32), parts
    axis = _Axis(*(array.ctypes.data for array in held), out)
    axis.held = held
    return axis


def _is_exact(found: Kernel) -> bool:
    """Whether images, reduced and enlarged, in either order of passes, give the numbers of numba's loops."""
    noise = np.random.default_rng(0)
    for height, width in ((1, 1), (20, 31), (150, 150), (97, 33), (256, 200), (300, 170), (40, 300)):
        rgb = noise.integers(0, 2, (height, width, 3), np.uint8) * np.uint8(255)  # clipped between the passes
        grey = lanczos.luma(rgb)
        for pixels in (rgb, grey):
            for by_size in (False, True):
                made = found.reduce(pixels, 32, 64, by_size)
                if made is None or (grey.size, made.total, made.squares) != lanczos.moments(grey):
                    return False
                if not np.array_equal(made.greys, lanczos.reductions(grey, 32, 64, by_size)):
                    return False
    return True
