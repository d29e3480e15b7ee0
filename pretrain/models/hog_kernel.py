# mypy: disable-error-code="untyped-decorator,no-untyped-call,assignment"
"""Compiled inner loop of :mod:`pretrain.models.hog` for CPUs: a line of pixels at a time stays in the nearest cache."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from curation.base.compiled import compiled  # numba with a cache: no file, no shard


@compiled(error_model="numpy")
def fill_beyond(planes: Any, cell: int, edges: Any, sums: Any, first: int, last: int) -> None:
    """Sum gradient magnitudes at or beyond each bin's start, per cell, of the planes ``first`` to ``last``.

    Args:
        planes: (n, H, W) uint8, one colour channel each.
        cell: side of a cell in pixels; divides H and W.
        edges: (bins - 1,) float32, cotangents of the starts of bins 1, 2, ...
        sums: (bins, n, H/cell, W/cell) float32, overwritten.
        first: plane to begin with; threads share a batch.
        last: plane to end before.
    """
    height, width = planes.shape[1:]
    down, right = np.zeros(width, np.float32), np.zeros(width, np.float32)
    magnitude, quotient = np.empty(width, np.float32), np.empty(width, np.float32)
    beyond = np.empty((len(edges) + 1, width), np.float32)
    for plane in range(first, last):
        for row in range(height // cell):
            beyond[:] = 0
            for y in range(row * cell, (row + 1) * cell):
                line = planes[plane, y]
                for x in range(1, width - 1):
                    right[x] = np.int32(line[x + 1]) - np.int32(line[x - 1])
                if 0 < y < height - 1:
                    above, below = planes[plane, y - 1], planes[plane, y + 1]
                    for x in range(width):
                        down[x] = np.int32(below[x]) - np.int32(above[x])
                else:
                    down[:] = 0
                for x in range(width):
                    magnitude[x] = math.sqrt(down[x] * down[x] + right[x] * right[x])
                    quotient[x] = right[x] / down[x] if down[x] != 0 else np.float32(np.inf)
                for x in range(width):
                    beyond[0, x] += magnitude[x]
                for index in range(len(edges)):
                    for x in range(width):
                        beyond[index + 1, x] += magnitude[x] if quotient[x] <= edges[index] else np.float32(0)
            for index in range(beyond.shape[0]):
                for column in range(width // cell):
                    total = np.float32(0)
                    for x in range(column * cell, (column + 1) * cell):
                        total += beyond[index, x]
                    sums[index, plane, row, column] = total
