"""What the exclusion rules look at, measured in one pass over an image's pixels.

Rows are sampled evenly (at least :data:`ROWS` of them where there are as many); each sampled pixel is compared with
its right and its lower neighbour. Measurements of several patches add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from curation.compiled import compiled

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
i4 = np.int32
"""Numba widens every sum to 64 bits unless told so."""

Sums = npt.NDArray[np.int64]
Row = npt.NDArray[np.int32]

ROWS = 40

TINT = 3
"""Channels that differ by no more are grey: JPEG rounds so much."""
NEAR = 2
"""Distance from pure black or white within which a flat area is fill."""

GENTLE = 8
"""Largest step between neighbours, in grey levels, that counts as gentle."""

_COUNTED, _BLACK, _WHITE, _FLAT, _COLOURED = range(5)
_RG, _YB, _RG2, _YB2 = range(5, 9)
_RR, _GG, _BB, _RG_, _GB_, _RB_ = range(9, 15)
_GENTLE = 15
_SIZE = 16

_CHUNK = 4096
"""Pixels after which 32-bit sums are carried over; the largest grows by 255 * 255 a pixel."""
_RUN = 192
"""Values (of 64 pixels) that are looked at together."""


def _given(kind: numba.types.Type, dimensions: int) -> numba.types.Array:
    return numba.types.Array(kind, dimensions, "C", readonly=True)


@numba.njit(inline="always")
def _add(
    red: Row, green: Row, blue: Row, red2: Row, green2: Row, blue2: Row, take: Row, count: int, sums: Sums
) -> None:
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
def _spread(line: Bytes, out: Row, start: int, count: int) -> None:
    for column in range(count):
        out[column] = line[start + 3 * column]


@compiled(numba.void(_given(numba.u1, 2), _given(numba.b1, 2), numba.b1, numba.i8, numba.i8[::1]))
def _measure(rgb: Bytes, valid: Mask, masked: bool, step: int, sums: Sums) -> None:
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
                _spread(rgb[row], plane[channel], 3 * left + channel, count + 1)
                _spread(rgb[row + 1], plane[3 + channel], 3 * left + channel, count + 1)
            if masked:
                for column in range(count):
                    here = left + column
                    take[column] = valid[row, here] and valid[row, here + 1] and valid[row + 1, here]
            _add(plane[0], plane[1], plane[2], plane[3], plane[4], plane[5], take, count, sums)


@dataclass(frozen=True)
class Statistics:
    """Sums over sampled pixels; the properties are what rules compare with their thresholds."""

    sums: tuple[int, ...]

    @property
    def pixels(self) -> int:
        """Sampled pixels that are valid, as their neighbours are."""
        return self.sums[_COUNTED]

    @property
    def fill(self) -> float:
        """Share of flat areas of pure black or white: collars without a nodata tag, saturation."""
        return (self.sums[_BLACK] + self.sums[_WHITE]) / max(self.pixels, 1)

    @property
    def flat(self) -> float:
        """Share of pixels equal to their right and lower neighbours, collars of black left aside."""
        return (self.sums[_FLAT] - self.sums[_BLACK]) / max(self.pixels - self.sums[_BLACK], 1)

    @property
    def gentle(self) -> float:
        """Of the pixels that differ from a neighbour, the share that differs by at most :data:`GENTLE` grey levels."""
        return self.sums[_GENTLE] / max(self.pixels - self.sums[_FLAT], 1)

    @property
    def coloured(self) -> float:
        """Share of pixels whose channels differ."""
        return self.sums[_COLOURED] / max(self.pixels, 1)

    @property
    def colour_spread(self) -> float:
        """Standard deviation of the opponent colours red-green and yellow-blue, in grey levels.

        The first term of the colourfulness of Hasler and Suesstrunk (2003); without their second, since a colour cast
        is no sign of a map.
        """
        count = max(self.pixels, 1)
        rg, yb = self.sums[_RG] / count, self.sums[_YB] / count
        variance = self.sums[_RG2] / count - rg * rg + self.sums[_YB2] / count - yb * yb
        return math.sqrt(max(variance, 0.0))

    @property
    def edge(self) -> float:
        """Root mean square difference of neighbours along a row, in grey levels, of the channel that has most."""
        return math.sqrt(max(self.sums[_RR], self.sums[_GG], self.sums[_BB]) / max(self.pixels, 1))

    @property
    def agreement(self) -> float:
        """How well the channels' fine detail agrees, -1 to 1.

        Of every channel, the correlation of its differences between neighbours with those of the channel most like
        it; of the three, the least.
        """
        rr, gg, bb = (self.sums[square] for square in (_RR, _GG, _BB))
        rg, gb, rb = (
            self.sums[product] / math.sqrt(first * second) if first > 0 and second > 0 else 0.0
            for product, first, second in ((_RG_, rr, gg), (_GB_, gg, bb), (_RB_, rr, bb))
        )
        return min(max(rg, rb), max(rg, gb), max(gb, rb))


def measure(rgb: Bytes, valid: Mask | None = None) -> Statistics:
    """Measure one image ``(H, W, 3)`` with its valid pixels ``(H, W)``."""
    sums = np.zeros(_SIZE, np.int64)
    mask = np.zeros((1, 1), bool) if valid is None else np.ascontiguousarray(valid)
    flat = np.ascontiguousarray(rgb).reshape(rgb.shape[0], -1)
    _measure(flat, mask, valid is not None, max(rgb.shape[0] // ROWS, 1), sums)
    return Statistics(tuple(sums.tolist()))


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
    return Statistics(tuple(sum(values) for values in zip(*(part.sums for part in parts), strict=True)))
