"""What the exclusion rules look at, measured in one pass over an image's pixels.

Rows are sampled evenly (at least :data:`ROWS` of them where there are as many); each sampled pixel is compared with
its right and its lower neighbour. What JPEG hides at the scale of pixels, since it stores colours at half the size, is
measured between blocks of :data:`BLOCK` pixels. Measurements of several patches add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np

from curation.base.arrays import Bytes, Floats, Mask
from curation.base.compiled import compiled, given
from curation.catalogue import STATISTICS
from curation.scan.measure_kernel import kernel
from curation.scan.measure_loops import BLOCK, NEAR, Totals, by_loops, nothing

Value = Any
"""A number of one image, or an array ``(N,)`` of those of many."""

ROWS = 40
BANDS = 16
"""Least number of sampled rows of blocks, where there are as many."""
FEWEST = 4
"""Blocks below which a cell says nothing about the spread of its light."""


class Sums(NamedTuple):
    """Sums over sampled pixels and blocks, in the order in which the loops add them up."""

    counted: Value = 0
    """Pixels that are valid, as their right and lower neighbours are."""
    black: Value = 0
    white: Value = 0
    """... that equal their neighbours and are next to black, to white."""
    flat: Value = 0
    """... that equal their neighbours."""
    coloured: Value = 0
    rg: Value = 0
    yb: Value = 0
    """Opponent colours, red - green and (red + green) / 2 - blue, ..."""
    rg_squared: Value = 0
    yb_squared: Value = 0
    """... and their squares."""
    red_red: Value = 0
    green_green: Value = 0
    blue_blue: Value = 0
    red_green: Value = 0
    green_blue: Value = 0
    red_blue: Value = 0
    """Products of the channels' differences between neighbours along a row."""
    gentle: Value = 0
    light_steps: Value = 0
    colour_steps: Value = 0
    """Squared differences of luma, of the opponent colours, between neighbouring blocks."""
    fine_steps: Value = 0
    fine_turns: Value = 0
    """Of luma between pairs of half blocks: squared differences, products of two successive ones."""


_RUN = 192
"""Values (of 64 pixels) that are looked at together."""


@compiled(numba.f8(numba.i8[:, ::1]))
def _told(cells: Totals) -> float:
    """Correlation ratio of luma, given the cell; within the cells that hold :data:`FEWEST` blocks or more."""
    blocks, light, squares, within, freedom = 0, 0.0, 0.0, 0.0, 0
    for cell in range(cells.shape[1]):
        count, total, square = cells[0, cell], cells[1, cell], cells[2, cell]
        if count == 0:  # as most are
            continue
        blocks, light, squares = blocks + count, light + total, squares + square
        if count >= FEWEST:
            within += square - total * total / count
            freedom += count - 1
    if freedom == 0:
        return 0.0
    spread = (squares - light * light / blocks) / (blocks - 1)
    return 1.0 - min(within / freedom / spread, 1.0) if spread > 0.0 else 0.0


class Statistics(NamedTuple):
    """Sums over sampled pixels; the properties are what rules compare with their thresholds.

    Of one image, or of N at once: then sums and properties are arrays ``(N,)``.
    """

    sums: Sums
    told: Value
    """Share of the variance of light between blocks that their hue tells, 0 to 1; the correlation ratio.

    On the ground sun and shade fall on one colour; where colours stand for numbers, each has one brightness.
    """
    cells: Totals | None = None
    """Of the blocks of each colour, number, sum of luma and sum of its squares; of one image."""

    def without_cells(self) -> Statistics:
        """What the properties need, at a hundredth of the memory."""
        return Statistics(self.sums, self.told)

    @property
    def pixels(self) -> Value:
        """Sampled pixels that are valid, as their neighbours are."""
        return self.sums.counted

    @property
    def fill(self) -> Value:
        """Share of flat areas of pure black or white: collars without a nodata tag, saturation."""
        return (self.sums.black + self.sums.white) / (self.pixels + (self.pixels == 0))

    @property
    def flat(self) -> Value:
        """Share of pixels equal to their right and lower neighbours, collars of black left aside."""
        return (self.sums.flat - self.sums.black) / np.maximum(self.pixels - self.sums.black, 1)

    @property
    def gentle(self) -> Value:
        """Of the pixels that differ from a neighbour, the share that differs by no more than a gentle step."""
        return self.sums.gentle / np.maximum(self.pixels - self.sums.flat, 1)

    @property
    def coloured(self) -> Value:
        """Share of pixels whose channels differ."""
        return self.sums.coloured / np.maximum(self.pixels, 1)

    @property
    def colour_spread(self) -> Value:
        """Standard deviation of the opponent colours red-green and yellow-blue, in grey levels.

        The first term of the colourfulness of Hasler and Suesstrunk (2003); without their second, since a colour cast
        is no sign of a map.
        """
        count = np.maximum(self.pixels, 1)
        rg, yb = self.sums.rg / count, self.sums.yb / count
        variance = self.sums.rg_squared / count - rg * rg + self.sums.yb_squared / count - yb * yb
        return np.sqrt(np.maximum(variance, 0.0))

    @property
    def edge(self) -> Value:
        """Root mean square difference of neighbours along a row, in grey levels, of the channel that has most."""
        most = np.maximum(np.maximum(self.sums.red_red, self.sums.green_green), self.sums.blue_blue)
        return np.sqrt(most / np.maximum(self.pixels, 1))

    @property
    def agreement(self) -> Value:
        """How well the channels' fine detail agrees, -1 to 1.

        Of every channel, the correlation of its differences between neighbours with those of the channel most like
        it; of the three, the least.
        """
        sums = self.sums
        rr, gg, bb = sums.red_red, sums.green_green, sums.blue_blue
        rg, gb, rb = (
            _correlation(*three)
            for three in ((sums.red_green, rr, gg), (sums.green_blue, gg, bb), (sums.red_blue, rr, bb))
        )
        return np.minimum(np.minimum(np.maximum(rg, rb), np.maximum(rg, gb)), np.maximum(gb, rb))

    @property
    def colour_steps(self) -> Value:
        """Root mean square step of colour between neighbouring blocks, as a multiple of that of light; 0 and above.

        Light falls on everything: in visible light what lies side by side differs in brightness first, in colour
        second. Not so where channels are different quantities, or colours stand for numbers.
        """
        return np.sqrt(self.sums.colour_steps / np.maximum(self.sums.light_steps, 1))

    @property
    def grain(self) -> Value:
        """Correlation of successive steps of light along a row of half blocks, -1 to 1.

        Below zero in noise (-0.5 where it is white), above in what has shapes.
        """
        return self.sums.fine_turns / np.maximum(self.sums.fine_steps, 1)


def _correlation(product: Value, first: Value, second: Value) -> Value:
    """Of two series from the sums of their products and of their squares; 0 where one does not vary."""
    both = np.sqrt(first * 1.0 * second)
    return np.where(both > 0.0, product / np.where(both > 0.0, both, 1.0), 0.0)


def columns(found: Sequence[Statistics | None]) -> dict[str, Floats]:
    """The columns :data:`curation.catalogue.STATISTICS` ``(N,)`` of N images; of null, anything."""
    every = [one or Statistics(Sums(), 0.0) for one in found]
    sums = Sums(*np.array([one.sums for one in every], np.float64).reshape(-1, len(Sums._fields)).T)
    many = Statistics(sums, np.array([one.told for one in every], np.float64))
    return {name: getattr(many, name).astype(np.float32) for name in STATISTICS}


def measure(rgb: Bytes, valid: Mask | None = None) -> Statistics:
    """Measure one image ``(H, W, 3)`` with its valid pixels ``(H, W)``."""
    sums, cells = nothing()
    rgb, by_c = np.ascontiguousarray(rgb), kernel() if valid is None else None
    steps = max(rgb.shape[0] // ROWS, 1), max(rgb.shape[0] // BLOCK // BANDS, 1)
    if by_c is None or not by_c.measure(rgb, *steps, sums, cells):
        by_loops(rgb, valid, *steps, sums, cells)
    return Statistics(Sums(*sums.tolist()), _told(cells), cells)


@compiled(
    numba.types.UniTuple(numba.i8, 2)(given(numba.u1, 2), given(numba.b1, 2), numba.b1, numba.i8),
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
    cells = np.sum([part.cells for part in found if part.cells is not None], axis=0)
    return Statistics(sums, _told(cells), cells)
