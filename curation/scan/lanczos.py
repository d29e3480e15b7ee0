"""Pillow's 8-bit Lanczos, compiled: the reduction that every perceptual hash starts from, bit for bit.

Pillow resizes an 8-bit image in two passes (columns, then rows) with integer weights of 22 fractional bits and rounds
to 8 bits between the passes (``src/libImaging/Resample.c``); ``imagehash`` inherits every one of those roundings, so
an "equivalent" resize flips bits. The weights are computed here in the same order of floating-point operations.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numba
import numpy as np
import numpy.typing as npt
from PIL import Image

from curation.base.arrays import Bytes, Mask, ShortInts, Words
from curation.base.compiled import compiled, given

RowSums = npt.NDArray[np.uint32]
Weights = tuple[ShortInts, ShortInts]

PRECISION = 22
_SUPPORT = 3.0
_CHUNK = 1 << 16
"""Pixels whose squares add up in 32 bits."""


def _lanczos(x: float) -> float:
    if not -_SUPPORT <= x < _SUPPORT:
        return 0.0
    return _sinc(x) * _sinc(x / 3.0)


def _sinc(x: float) -> float:
    return 1.0 if x == 0.0 else math.sin(x * math.pi) / (x * math.pi)


@lru_cache(maxsize=256)
def weights(size: int, out: int) -> Weights:
    """Weights that reduce ``size`` samples to ``out``.

    Returns:
        First tap of each output sample ``(out,)``, and its integer weights ``(out, taps)``, zero beyond the last.
    """
    scale = size / out
    wide = max(scale, 1.0)
    support = _SUPPORT * wide
    first = np.zeros(out, np.int32)
    table = np.zeros((out, min(math.ceil(support) * 2 + 1, size)), np.int32)
    for index in range(out):
        centre = (index + 0.5) * scale
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), size)
        taps = [_lanczos((tap + low - centre + 0.5) * (1.0 / wide)) for tap in range(high - low)]
        total = sum(taps)
        fixed = [tap / total * (1 << PRECISION) for tap in taps]
        first[index] = low
        table[index, : high - low] = [int(tap - 0.5) if tap < 0 else int(tap + 0.5) for tap in fixed]
    shift = np.maximum(first + table.shape[1] - size, 0)  # keeps every row of taps inside the samples
    for row in np.flatnonzero(shift):
        table[row] = np.roll(table[row], int(shift[row]))
    return first - shift.astype(np.int32), table


@compiled(
    numba.void(given(numba.u1, 2), given(numba.i4, 1), given(numba.i4, 2), numba.u1[:, ::1], numba.i4[::1]),
)
def _reduce_rows(grey: Bytes, first: ShortInts, table: ShortInts, out: Bytes, total: ShortInts) -> None:
    """Reduce the height; ``out`` is ``(out, W)``; ``total`` is scratch ``(W,)``."""
    width = grey.shape[1]
    for index in range(out.shape[0]):
        total[:] = 1 << (PRECISION - 1)
        taps = table.shape[1]
        for tap in range(0, taps - 3, 4):  # four at a time: the sums are read and written once for them
            row = first[index] + tap
            a, b, c, d = table[index, tap], table[index, tap + 1], table[index, tap + 2], table[index, tap + 3]
            for column in range(width):
                total[column] += (
                    np.int32(grey[row, column]) * a
                    + np.int32(grey[row + 1, column]) * b
                    + np.int32(grey[row + 2, column]) * c
                    + np.int32(grey[row + 3, column]) * d
                )
        for tap in range(taps - taps % 4, taps):
            weight = table[index, tap]
            row = first[index] + tap
            for column in range(width):
                total[column] += np.int32(grey[row, column]) * weight
        for column in range(width):
            out[index, column] = min(max(total[column] >> PRECISION, 0), 255)


@numba.njit(inline="always")
def _exchange(first: int, second: int, shift: int, mask: int) -> tuple[int, int]:
    """Swap the upper part of ``first`` with the lower part of ``second``, in every lane that ``mask`` names."""
    moved = ((first >> shift) ^ second) & mask
    return first ^ (moved << shift), second ^ moved


@numba.njit(inline="always")
def _transpose_block(grey: Words, block: int, word: int, out: Words) -> None:
    """Transpose eight rows of one word each (Warren, Hacker's Delight, 7-3)."""
    by1, by2, by4 = np.uint64(8), np.uint64(16), np.uint64(32)
    odd1, odd2, odd4 = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF), np.uint64(0x00000000FFFFFFFF)
    top, left = 8 * block, 8 * word
    a, b = _exchange(grey[top, word], grey[top + 1, word], by1, odd1)
    c, d = _exchange(grey[top + 2, word], grey[top + 3, word], by1, odd1)
    e, f = _exchange(grey[top + 4, word], grey[top + 5, word], by1, odd1)
    g, h = _exchange(grey[top + 6, word], grey[top + 7, word], by1, odd1)
    a, c = _exchange(a, c, by2, odd2)
    b, d = _exchange(b, d, by2, odd2)
    e, g = _exchange(e, g, by2, odd2)
    f, h = _exchange(f, h, by2, odd2)
    out[left, block], out[left + 4, block] = _exchange(a, e, by4, odd4)
    out[left + 1, block], out[left + 5, block] = _exchange(b, f, by4, odd4)
    out[left + 2, block], out[left + 6, block] = _exchange(c, g, by4, odd4)
    out[left + 3, block], out[left + 7, block] = _exchange(d, h, by4, odd4)


@compiled(numba.void(given(numba.u8, 2), numba.u8[:, ::1]))
def _transpose_words(grey: Words, out: Words) -> None:
    """Transpose bytes, eight by eight inside 64-bit words; ``grey`` is ``(H, W / 8)``, ``out`` is ``(W, H / 8)``.

    64 rows at a time, so that what is written fills whole lines of the cache before they leave it.
    """
    for first in range(0, out.shape[1], 8):
        for word in range(grey.shape[1]):
            for block in range(first, min(first + 8, out.shape[1])):
                _transpose_block(grey, block, word, out)


@compiled(numba.void(given(numba.u1, 1), numba.u1[::1]))
def _luma(rgb: Bytes, out: Bytes) -> None:
    """Flat, or it is not vectorised."""
    for pixel in range(out.size):
        out[pixel] = (
            np.uint32(rgb[3 * pixel]) * np.uint32(19595)
            + np.uint32(rgb[3 * pixel + 1]) * np.uint32(38470)
            + np.uint32(rgb[3 * pixel + 2]) * np.uint32(7471)
            + np.uint32(0x8000)
        ) >> np.uint32(16)


def luma(rgb: Bytes) -> Bytes:
    """Grey ``(H, W)`` of an RGB image ``(H, W, 3)``: Pillow's ``convert("L")``."""
    grey = np.empty(rgb.shape[:2], np.uint8)
    _luma(np.ascontiguousarray(rgb).reshape(-1), grey.reshape(-1))
    return grey


@compiled(numba.types.UniTuple(numba.i8, 2)(given(numba.u1, 1)))
def _sums(grey: Bytes) -> tuple[np.int64, np.int64]:
    """Sum and sum of squares. Of slices, whose indices begin at 0: else numba looks for negative ones, at ten times."""
    total, squares = np.int64(0), np.int64(0)
    for start in range(0, grey.size, _CHUNK):
        piece = grey[start : start + _CHUNK]
        part, square = np.uint32(0), np.uint32(0)
        for pixel in range(piece.size):
            value = np.uint32(piece[pixel])
            part = np.uint32(part + value)
            square = np.uint32(square + np.uint32(value * value))
        total, squares = total + np.int64(part), squares + np.int64(square)
    return total, squares


@compiled(numba.types.UniTuple(numba.i8, 3)(given(numba.u1, 1), given(numba.b1, 1)))
def _sums_inside(grey: Bytes, valid: Mask) -> tuple[np.int64, np.int64, np.int64]:
    count, total, squares = np.int64(0), np.int64(0), np.int64(0)
    for start in range(0, grey.size, _CHUNK):
        piece, inside = grey[start : start + _CHUNK], valid[start : start + _CHUNK]
        some, part, square = np.uint32(0), np.uint32(0), np.uint32(0)
        for pixel in range(piece.size):
            taken = np.uint32(inside[pixel])
            value = np.uint32(np.uint32(piece[pixel]) * taken)
            some = np.uint32(some + taken)
            part = np.uint32(part + value)
            square = np.uint32(square + np.uint32(value * value))
        count, total, squares = count + np.int64(some), total + np.int64(part), squares + np.int64(square)
    return count, total, squares


def moments(grey: Bytes, valid: Mask | None = None) -> tuple[int, int, int]:
    """Count, sum and sum of squares of the ``valid`` pixels ``(H, W)`` (null: all) of a grey image ``(H, W)``."""
    flat = np.ascontiguousarray(grey).reshape(-1)
    if valid is None:
        return (flat.size, *_sums(flat))
    count, total, squares = _sums_inside(flat, np.ascontiguousarray(valid).reshape(-1))
    return int(count), int(total), int(squares)


@compiled(
    numba.void(given(numba.u1, 2), numba.i8, numba.i8, numba.i8, numba.i8, numba.u4[::1], numba.u1[:, ::1]),
)
def average(grey: Bytes, first: int, height: int, down: int, across: int, sums: RowSums, out: Bytes) -> None:
    """Rows ``first`` and on of ``height`` averaged over boxes of ``down`` x ``across``, as Pillow's ``Image.reduce``.

    Boxes at the lower and right edge hold what there is. ``sums`` ``(W,)`` carries a box that is not full from one
    call to the next, zeros at first; the boxes that fill up are written to ``out``.
    """
    width = grey.shape[1]
    for row in range(grey.shape[0]):
        for column in range(width):
            sums[column] += np.uint32(grey[row, column])
        place = first + row
        if (place + 1) % down and place + 1 < height:
            continue
        for box in range(out.shape[1]):
            left, right = box * across, min((box + 1) * across, width)
            pixels = np.int64((place % down + 1) * (right - left))
            total = np.uint64(pixels // 2)
            for column in range(left, right):
                total += np.uint64(sums[column])
            inverse = np.uint64(np.float32(4294967296.0) / np.float32(256 * pixels))  # Pillow's own division
            out[place // down, box] = np.uint8((total * inverse) >> np.uint64(24))
        sums[:] = 0


@numba.njit
def _transposed(grey: Bytes) -> Bytes:
    """Transpose of ``(H, W)``, both multiples of eight."""
    out = np.empty((grey.shape[1], grey.shape[0]), np.uint8)
    _transpose_words(grey.view(np.uint64), out.view(np.uint64))
    return out


@numba.njit
def _padded(grey: Bytes) -> Bytes:
    """Sides filled up to multiples of eight, with anything."""
    height, width = grey.shape
    tall, wide = (height + 7) // 8 * 8, (width + 7) // 8 * 8
    if (tall, wide) == (height, width):
        return grey
    out = np.empty((tall, wide), np.uint8)
    for row in range(height):
        out[row, :width] = grey[row]
    return out


@numba.njit
def _resize(grey: Bytes, transpose: Bytes, down: Weights, across: Weights, rows_first: bool, out: Bytes) -> None:
    """Pillow's two passes, in either order, from padded images; ``out`` is ``(S, S)``, S a multiple of eight."""
    start, one, other = (grey, down, across) if rows_first else (transpose, across, down)
    once = np.empty((out.shape[0], start.shape[1]), np.uint8)
    total = np.empty(max(start.shape[1], out.shape[0]), np.int32)
    _reduce_rows(start, one[0], one[1], once, total[: start.shape[1]])
    _reduce_rows(_transposed(once), other[0], other[1], out, total[: out.shape[0]])
    if rows_first:
        out[:] = _transposed(out)


_WEIGHTS = numba.types.Tuple((given(numba.i4, 1), given(numba.i4, 2)))


@compiled(
    numba.void(
        numba.u1[:, ::1], _WEIGHTS, _WEIGHTS, _WEIGHTS, _WEIGHTS, numba.types.UniTuple(numba.b1, 3),
        numba.i8, numba.i8, numba.u1[::1],
    )
)  # fmt: skip
def _reductions(
    grey: Bytes, down: Weights, across: Weights, large_down: Weights, large_across: Weights,
    rows_first: tuple[bool, bool, bool], small: int, large: int, out: Bytes,
) -> None:  # fmt: skip
    grey = _padded(grey)
    transpose = _transposed(grey)
    one, two = small * small, 2 * small * small
    _resize(grey, transpose, down, across, rows_first[0], out[:one].reshape(small, small))
    _resize(transpose, grey, across, down, rows_first[1], out[one:two].reshape(small, small))
    _resize(grey, transpose, large_down, large_across, rows_first[2], out[two:].reshape(large, large))


def reductions(grey: Bytes, small: int, large: int, by_size: bool) -> Bytes:
    """A grey image ``(H, W)`` reduced to ``(small, small)``, its transpose to the same, and it to ``(large, large)``.

    They are flat, one after the other.

    Args:
        grey: the image; it is not changed.
        small: a multiple of eight.
        large: a multiple of eight.
        by_size: whether an image's shape tells which pass is first; else it is that over the width.
    """
    height, width = grey.shape
    order = (
        by_size and height_first(height, width, small),
        by_size and height_first(width, height, small),
        by_size and height_first(height, width, large),
    )
    out = np.empty(2 * small * small + large * large, np.uint8)
    tables = (weights(size, side) for side in (small, large) for size in (height, width))
    _reductions(np.require(grey, requirements=["C", "W"]), *tables, order, small, large, out)
    return out


def by_pillow(picture: Image.Image, small: int, large: int, corner: tuple[float, float]) -> Bytes:
    """What :func:`reductions` gives, of a grey picture from its upper left to ``corner``, its right and lower edge."""
    transposed = picture.transpose(Image.Transpose.TRANSPOSE)
    images = ((picture, small, corner), (transposed, small, corner[::-1]), (picture, large, corner))
    lanczos = Image.Resampling.LANCZOS
    made = [image.resize((size, size), lanczos, (0.0, 0.0, *edge)) for image, size, edge in images]
    return np.concatenate([np.asarray(image).reshape(-1) for image in made])


def height_first(height: int, width: int, out: int) -> bool:
    """Whether Pillow 13 reduces the height first: where it shrinks, by more than twice what the width loses."""
    return height > out and height - out > 2 * (width - out)


@lru_cache(maxsize=1)
def pass_order() -> Literal["by_size", "width_first", "unknown"]:
    """In which order the installed Pillow makes its passes, tried on noise; releases differ.

    ``unknown`` means that the kernels differ from this Pillow, which must then be used itself.
    """
    noise = np.random.default_rng(0)
    orders: set[str] = {"by_size", "width_first"}
    for height, width in (
        (256, 256),
        (31, 200),
        (97, 33),
        (20, 64),
        (20, 20),
        (60, 40),
        (300, 170),
        (300, 160),
        (141, 160),
    ):
        hard = noise.integers(0, 2, (height, width, 3), np.uint8) * 255  # overshoots get clipped between the passes
        soft = noise.integers(0, 256, (height, width, 3), np.uint8)
        for rgb in (hard, soft):
            picture = Image.fromarray(rgb).convert("L")
            grey = luma(rgb)
            expected = by_pillow(picture, 32, 64, picture.size)
            for order in tuple(orders):
                if not np.array_equal(reductions(grey, 32, 64, order == "by_size"), expected):
                    orders.discard(order)
    return "by_size" if "by_size" in orders else "width_first" if "width_first" in orders else "unknown"
