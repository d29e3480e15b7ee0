"""The sums of :mod:`curation.scan.measurements`, by loops that numba compiles.

:mod:`curation.scan.measure_kernel` gives them sooner, where it can be had.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from curation.base.arrays import Bytes, Mask
from curation.base.compiled import compiled, given

i4 = np.int32
"""Numba widens every sum to 64 bits unless told so."""

Totals = npt.NDArray[np.int64]
Line = npt.NDArray[np.int32]
Lines = npt.NDArray[np.int32]

TINT = 3
"""Channels that differ by no more are grey: JPEG rounds so much."""
NEAR = 2
"""Distance from pure black or white within which a flat area is fill."""

GENTLE = 8
"""Largest step between neighbours, in grey levels, that counts as gentle."""

BLOCK = 4
"""Pixels along a side of the blocks whose means are compared: twice what JPEG's colours are averaged over."""
CELLS = 50
"""Cells of red's and of blue's share in a block's light, by which blocks of one colour are found."""
_PIXELS, _BLOCKS = 16, 4
"""How many of the sums each of the two loops adds up."""

_CHUNK = 4096
"""Pixels after which 32-bit sums are carried over; the largest grows by 255 * 255 a pixel."""


@numba.njit(inline="always")
def _add(plane: Lines, take: Line, count: int, sums: Totals) -> None:
    """``plane`` holds red, green and blue of a row and of the row below it."""
    red, green, blue, red2, green2, blue2 = plane[0], plane[1], plane[2], plane[3], plane[4], plane[5]
    zero, one = i4(0), i4(1)
    counted, black, white, flat, coloured, gentle = zero, zero, zero, zero, zero, zero
    rg, yb, rg2, yb2 = zero, zero, zero, zero
    rr, gg, bb, rg_, gb_, rb_ = zero, zero, zero, zero, zero, zero
    for at in range(count):
        t = take[at]
        r, g, b = red[at], green[at], blue[at]
        dr, dg, db = i4((red[at + 1] - r) * t), i4((green[at + 1] - g) * t), i4((blue[at + 1] - b) * t)
        er, eg, eb = i4((red2[at] - r) * t), i4((green2[at] - g) * t), i4((blue2[at] - b) * t)
        low, high = min(r, min(g, b)), max(r, max(g, b))
        same = t if (dr | dg | db | er | eg | eb) == 0 else zero
        counted = i4(counted + t)
        flat = i4(flat + same)
        step = max(max(abs(dr), max(abs(dg), abs(db))), max(abs(er), max(abs(eg), abs(eb))))
        gentle = i4(gentle + (one if step > 0 and step <= GENTLE else zero))
        black = i4(black + (same if high <= NEAR else zero))
        white = i4(white + (same if low >= 255 - NEAR else zero))
        coloured = i4(coloured + (t if high - low > TINT else zero))
        u, v = i4((r - g) * t), i4(((r + g - 2 * b) >> 1) * t)
        rg = i4(rg + u)
        yb = i4(yb + v)
        rg2 = i4(rg2 + u * u)
        yb2 = i4(yb2 + v * v)
        rr = i4(rr + dr * dr)
        gg = i4(gg + dg * dg)
        bb = i4(bb + db * db)
        rg_ = i4(rg_ + dr * dg)
        gb_ = i4(gb_ + dg * db)
        rb_ = i4(rb_ + dr * db)
    values = (counted, black, white, flat, coloured, rg, yb, rg2, yb2, rr, gg, bb, rg_, gb_, rb_, gentle)
    for index in range(len(values)):
        sums[index] += values[index]


@numba.njit(inline="always")
def _spread(line: Bytes, out: Line, count: int) -> None:
    """Every third value; of a slice, whose indices begin at 0: else numba looks for negative ones, at five times."""
    for column in range(count):
        out[column] = line[3 * column]


@compiled(numba.void(given(numba.u1, 2), given(numba.b1, 2), numba.b1, numba.i8, numba.i8[::1]))
def _measure(rgb: Bytes, valid: Mask, masked: bool, step: int, sums: Totals) -> None:
    """``rgb`` is ``(H, 3 * W)``; ``valid`` is read only when ``masked``.

    Pixels are spread into planes first and then counted without branches in 32 bits, or nothing is vectorised.
    """
    height, width = rgb.shape[0], rgb.shape[1] // 3
    plane = np.empty((6, _CHUNK + 1), np.int32)
    take = np.ones(_CHUNK, np.int32)
    for row in range(0, height - 1, step):
        for left in range(0, width - 1, _CHUNK):
            count = min(_CHUNK, width - 1 - left)
            for channel in range(3):
                _spread(rgb[row][3 * left + channel :], plane[channel], count + 1)
                _spread(rgb[row + 1][3 * left + channel :], plane[3 + channel], count + 1)
            if masked:
                for column in range(count):
                    here = left + column
                    take[column] = valid[row, here] and valid[row, here + 1] and valid[row + 1, here]
            _add(plane, take, count, sums)


@numba.njit(inline="always")
def _halves(upper: Bytes, lower: Bytes, half: Line, block: Lines) -> None:
    """Luma of the half blocks of two rows, 16 times the mean; their channels are added to those of the blocks."""
    for at in range(half.size):
        left = 6 * at
        r = i4(upper[left]) + upper[left + 3] + lower[left] + lower[left + 3]
        g = i4(upper[left + 1]) + upper[left + 4] + lower[left + 1] + lower[left + 4]
        b = i4(upper[left + 2]) + upper[left + 5] + lower[left + 2] + lower[left + 5]
        half[at] = i4(77 * r + 150 * g + 29 * b) >> 6
        block[0, at >> 1] += r
        block[1, at >> 1] += g
        block[2, at >> 1] += b


@numba.njit(inline="always")
def _turns(half: Line, take: Line, sums: Totals) -> None:
    steps, turns = 0, 0
    for at in range(half.size - 2):
        first, second = half[at + 1] - half[at], half[at + 2] - half[at + 1]
        t = take[at >> 1] * take[(at + 2) >> 1]
        steps += t * first * first
        turns += t * first * second
    sums[2] += steps
    sums[3] += turns


@numba.njit(inline="always")
def _steps(block: Lines, take: Line, sums: Totals, cells: Totals) -> None:
    red, green, blue = block[0], block[1], block[2]
    light, colour = 0, 0
    last = 0
    for at in range(take.size):
        r, g, b = red[at], green[at], blue[at]
        luma = (77 * r + 150 * g + 29 * b) >> 8
        if at > 0 and take[at] and take[at - 1]:
            rg = (r - red[at - 1]) - (g - green[at - 1])
            yb = (((r - red[at - 1]) + (g - green[at - 1])) >> 1) - (b - blue[at - 1])
            light += (luma - last) * (luma - last)
            colour += rg * rg + yb * yb
        last = luma
        total = r + g + b
        if take[at] and 48 * NEAR < total < 48 * (255 - NEAR):
            # Ten grey levels a channel more, or the hue of what is almost black would be noise.
            share = CELLS / (total + 480)
            cell = int(r * share) * CELLS + int(b * share)
            cells[0, cell] += 1
            cells[1, cell] += luma
            cells[2, cell] += luma * luma
    sums[0] += light
    sums[1] += colour


@compiled(
    numba.void(given(numba.u1, 2), given(numba.b1, 2), numba.b1, numba.i8, numba.i8[::1], numba.i8[:, ::1]),
)  # fmt: skip
def _measure_blocks(rgb: Bytes, valid: Mask, masked: bool, step: int, sums: Totals, cells: Totals) -> None:
    """``rgb`` is ``(H, 3 * W)``; every ``step``-th row of blocks is looked at."""
    across = rgb.shape[1] // 3 // BLOCK
    half, block, take = np.empty((2, 2 * across), np.int32), np.empty((3, across), np.int32), np.ones(across, np.int32)
    for band in range(0, rgb.shape[0] // BLOCK, step):
        top = BLOCK * band
        block[:] = 0
        _halves(rgb[top], rgb[top + 1], half[0], block)
        _halves(rgb[top + 2], rgb[top + 3], half[1], block)
        if masked:
            for at in range(across):
                take[at] = valid[top : top + BLOCK, BLOCK * at : BLOCK * at + BLOCK].all()
        _turns(half[0], take, sums)
        _turns(half[1], take, sums)
        _steps(block, take, sums, cells)


def nothing() -> tuple[Totals, Totals]:
    """Sums and cells of no pixel."""
    return np.zeros(_PIXELS + _BLOCKS, np.int64), np.zeros((3, CELLS * CELLS), np.int64)


def by_loops(rgb: Bytes, valid: Mask | None, rows: int, bands: int, sums: Totals, cells: Totals) -> None:
    """Add the sums of every so many rows of pixels, and of blocks."""
    mask = np.zeros((1, 1), bool) if valid is None else np.ascontiguousarray(valid)
    flat = rgb.reshape(rgb.shape[0], -1)
    _measure(flat, mask, valid is not None, rows, sums[:_PIXELS])
    _measure_blocks(flat, mask, valid is not None, bands, sums[_PIXELS:], cells)
