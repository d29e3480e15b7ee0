"""What the exclusion rules look at, measured in one pass over an image's pixels.

Rows are sampled evenly (at least :data:`ROWS` of them where there are as many); each sampled pixel is compared with
its right and its lower neighbour. What JPEG hides at the scale of pixels, since it stores colours at half the size, is
measured between blocks of :data:`BLOCK` pixels. Measurements of several patches add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from curation.base.arrays import Bytes, Mask
from curation.base.compiled import compiled

i4 = np.int32
"""Numba widens every sum to 64 bits unless told so."""

Totals = npt.NDArray[np.int64]
Line = npt.NDArray[np.int32]
Lines = npt.NDArray[np.int32]

ROWS = 40

TINT = 3
"""Channels that differ by no more are grey: JPEG rounds so much."""
NEAR = 2
"""Distance from pure black or white within which a flat area is fill."""

GENTLE = 8
"""Largest step between neighbours, in grey levels, that counts as gentle."""

BLOCK = 4
"""Pixels along a side of the blocks whose means are compared: twice what JPEG's colours are averaged over."""
BANDS = 16
"""Least number of sampled rows of blocks, where there are as many."""
CELLS = 50
"""Cells of red's and of blue's share in a block's light, by which blocks of one colour are found."""
FEWEST = 4
"""Blocks below which a cell says nothing about the spread of its light."""


class Sums(NamedTuple):
    """Sums over sampled pixels and blocks, in the order in which the loops add them up."""

    counted: int = 0
    """Pixels that are valid, as their right and lower neighbours are."""
    black: int = 0
    white: int = 0
    """... that equal their neighbours and are next to black, to white."""
    flat: int = 0
    """... that equal their neighbours."""
    coloured: int = 0
    rg: int = 0
    yb: int = 0
    """Opponent colours, red - green and (red + green) / 2 - blue, ..."""
    rg_squared: int = 0
    yb_squared: int = 0
    """... and their squares."""
    red_red: int = 0
    green_green: int = 0
    blue_blue: int = 0
    red_green: int = 0
    green_blue: int = 0
    red_blue: int = 0
    """Products of the channels' differences between neighbours along a row."""
    gentle: int = 0
    light_steps: int = 0
    colour_steps: int = 0
    """Squared differences of luma, of the opponent colours, between neighbouring blocks."""
    fine_steps: int = 0
    fine_turns: int = 0
    """Of luma between pairs of half blocks: squared differences, products of two successive ones."""


_PIXELS, _BLOCKS = 16, 4
"""How many of the sums each of the two loops adds up."""

_CHUNK = 4096
"""Pixels after which 32-bit sums are carried over; the largest grows by 255 * 255 a pixel."""
_RUN = 192
"""Values (of 64 pixels) that are looked at together."""


def _given(kind: numba.types.Type, dimensions: int) -> numba.types.Array:
    return numba.types.Array(kind, dimensions, "C", readonly=True)


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


@compiled(numba.void(_given(numba.u1, 2), _given(numba.b1, 2), numba.b1, numba.i8, numba.i8[::1]))
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
            share = CELLS / (
                total + 480
            )  # ten grey levels a channel, or the hue of what is almost black would be noise
            cell = int(r * share) * CELLS + int(b * share)
            cells[0, cell] += 1
            cells[1, cell] += luma
            cells[2, cell] += luma * luma
    sums[0] += light
    sums[1] += colour


@compiled(
    numba.void(_given(numba.u1, 2), _given(numba.b1, 2), numba.b1, numba.i8, numba.i8[::1], numba.i8[:, ::1]),
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


@compiled(numba.f8(numba.i8[:, ::1]))
def _told(cells: Totals) -> float:
    """Correlation ratio of luma, given the cell; within the cells that hold :data:`FEWEST` blocks or more."""
    blocks, light, squares, within, freedom = 0, 0.0, 0.0, 0.0, 0
    for cell in range(cells.shape[1]):
        count, total, square = cells[0, cell], cells[1, cell], cells[2, cell]
        blocks, light, squares = blocks + count, light + total, squares + square
        if count >= FEWEST:
            within += square - total * total / count
            freedom += count - 1
    if freedom == 0:
        return 0.0
    spread = (squares - light * light / blocks) / (blocks - 1)
    return 1.0 - min(within / freedom / spread, 1.0) if spread > 0.0 else 0.0


@dataclass(frozen=True)
class Statistics:
    """Sums over sampled pixels; the properties are what rules compare with their thresholds."""

    sums: Sums
    cells: Totals
    """``(3, CELLS * CELLS)``: of the blocks of each colour, number, sum of luma and sum of its squares."""

    @property
    def pixels(self) -> int:
        """Sampled pixels that are valid, as their neighbours are."""
        return self.sums.counted

    @property
    def fill(self) -> float:
        """Share of flat areas of pure black or white: collars without a nodata tag, saturation."""
        return (self.sums.black + self.sums.white) / max(self.pixels, 1)

    @property
    def flat(self) -> float:
        """Share of pixels equal to their right and lower neighbours, collars of black left aside."""
        return (self.sums.flat - self.sums.black) / max(self.pixels - self.sums.black, 1)

    @property
    def gentle(self) -> float:
        """Of the pixels that differ from a neighbour, the share that differs by at most :data:`GENTLE` grey levels."""
        return self.sums.gentle / max(self.pixels - self.sums.flat, 1)

    @property
    def coloured(self) -> float:
        """Share of pixels whose channels differ."""
        return self.sums.coloured / max(self.pixels, 1)

    @property
    def colour_spread(self) -> float:
        """Standard deviation of the opponent colours red-green and yellow-blue, in grey levels.

        The first term of the colourfulness of Hasler and Suesstrunk (2003); without their second, since a colour cast
        is no sign of a map.
        """
        count = max(self.pixels, 1)
        rg, yb = self.sums.rg / count, self.sums.yb / count
        variance = self.sums.rg_squared / count - rg * rg + self.sums.yb_squared / count - yb * yb
        return math.sqrt(max(variance, 0.0))

    @property
    def edge(self) -> float:
        """Root mean square difference of neighbours along a row, in grey levels, of the channel that has most."""
        return math.sqrt(max(self.sums.red_red, self.sums.green_green, self.sums.blue_blue) / max(self.pixels, 1))

    @property
    def agreement(self) -> float:
        """How well the channels' fine detail agrees, -1 to 1.

        Of every channel, the correlation of its differences between neighbours with those of the channel most like
        it; of the three, the least.
        """
        sums = self.sums
        rr, gg, bb = sums.red_red, sums.green_green, sums.blue_blue
        rg, gb, rb = (
            product / math.sqrt(first * second) if first > 0 and second > 0 else 0.0
            for product, first, second in ((sums.red_green, rr, gg), (sums.green_blue, gg, bb), (sums.red_blue, rr, bb))
        )
        return min(max(rg, rb), max(rg, gb), max(gb, rb))

    @property
    def colour_steps(self) -> float:
        """Root mean square step of colour between neighbouring blocks, as a multiple of that of light; 0 and above.

        Light falls on everything: in visible light what lies side by side differs in brightness first, in colour
        second. Not so where channels are different quantities, or colours stand for numbers.
        """
        return math.sqrt(self.sums.colour_steps / max(self.sums.light_steps, 1))

    @property
    def grain(self) -> float:
        """Correlation of successive steps of light along a row of half blocks, -1 to 1.

        Below zero in noise (-0.5 where it is white), above in what has shapes.
        """
        return self.sums.fine_turns / max(self.sums.fine_steps, 1)

    @property
    def told(self) -> float:
        """Share of the variance of light between blocks that their hue tells, 0 to 1; the correlation ratio.

        On the ground sun and shade fall on one colour; where colours stand for numbers, each has one brightness.
        """
        return float(_told(self.cells))


def measure(rgb: Bytes, valid: Mask | None = None) -> Statistics:
    """Measure one image ``(H, W, 3)`` with its valid pixels ``(H, W)``."""
    sums, cells = np.zeros(_PIXELS + _BLOCKS, np.int64), np.zeros((3, CELLS * CELLS), np.int64)
    mask = np.zeros((1, 1), bool) if valid is None else np.ascontiguousarray(valid)
    flat, height = np.ascontiguousarray(rgb).reshape(rgb.shape[0], -1), rgb.shape[0]
    _measure(flat, mask, valid is not None, max(height // ROWS, 1), sums[:_PIXELS])
    _measure_blocks(flat, mask, valid is not None, max(height // BLOCK // BANDS, 1), sums[_PIXELS:], cells)
    return Statistics(Sums(*sums.tolist()), cells)


@compiled(
    numba.types.UniTuple(numba.i8, 2)(_given(numba.u1, 2), _given(numba.b1, 2), numba.b1, numba.i8),
)  # fmt: skip
def _fill(rgb: Bytes, valid: Mask, masked: bool, step: int) -> tuple[int, int]:
    """Sampled pixels, and those of them that are flat and black or white; most runs hold no value near either."""
    height, values = rgb.shape[0], 3 * (rgb.shape[1] // 3 - 1)
    counted, filled = 0, 0
    for row in range(0, height - 1, step):
        line, below = rgb[row], rgb[row + 1]
        if masked:
            for column in range(values // 3):
                counted += valid[row, column] and valid[row, column + 1] and valid[row + 1, column]
        else:
            counted += values // 3
        for start in range(0, values, _RUN):
            stop = min(start + _RUN, values)
            extreme = 0
            for at in range(start, stop):
                extreme += (line[at] <= NEAR) | (line[at] >= 255 - NEAR)
            if extreme < 3:
                continue
            for at in range(start, stop, 3):
                low, high = min(line[at], line[at + 1], line[at + 2]), max(line[at], line[at + 1], line[at + 2])
                if high > NEAR and low < 255 - NEAR:
                    continue
                column = at // 3
                inside = not masked or (valid[row, column] and valid[row, column + 1] and valid[row + 1, column])
                for channel in range(at, at + 3):
                    inside &= line[channel] == line[channel + 3] and line[channel] == below[channel]
                filled += inside
    return counted, filled


def fill(rgb: Bytes, valid: Mask | None = None) -> float:
    """:attr:`Statistics.fill` alone of one image ``(H, W, 3)``, at a tenth of the time."""
    mask = np.zeros((1, 1), bool) if valid is None else np.ascontiguousarray(valid)
    flat = np.ascontiguousarray(rgb).reshape(rgb.shape[0], -1)
    counted, filled = _fill(flat, mask, valid is not None, max(rgb.shape[0] // ROWS, 1))
    return filled / max(counted, 1)


def together(parts: Iterable[Statistics]) -> Statistics:
    """Statistics of several patches as of one image."""
    found = list(parts)
    if len(found) == 1:
        return found[0]
    sums = Sums(*(sum(values) for values in zip(*(part.sums for part in found), strict=True)))
    return Statistics(sums, np.sum([part.cells for part in found], axis=0))
