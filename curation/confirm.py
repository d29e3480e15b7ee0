# mypy: disable-error-code="untyped-decorator,no-untyped-call,assignment,call-arg"
"""The second opinion: whether the low-frequency DCT blocks of two tiles agree, in any of the eight orientations.

Turning or mirroring an image only changes signs of its DCT coefficients, or transposes them, so one block per tile is
enough for all orientations. The kernels follow the keep rule of *Duplicates, defined*: in rank order a tile stays
unless one that stays already is the same.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

from curation.neighbour_kernels import popcount

_f64, _i64, _u64 = types.float64, types.int64, types.uint64
_block = types.Array(types.int8, 1, "C")
_blocks = types.Array(types.int8, 2, "C")
_turned = types.Array(_u64, 2, "C")
_norms = types.Array(types.float32, 1, "C")
_longs = types.Array(_i64, 1, "C")
_bytes = types.Array(types.int8, 1, "C")

SIDE = 16
TURNS = ("as it is", "rot90", "rot180", "rot270", "mirror", "mirror+rot90", "mirror+rot180", "mirror+rot270")
"""The eight orientations: ``np.fliplr`` where mirrored, then ``np.rot90`` counter-clockwise."""

_TRANSPOSED = (False, True, False, True, False, True, False, True)
_SIGN_ROWS = (False, True, True, False, False, False, True, True)
_SIGN_COLUMNS = (False, False, True, True, True, False, False, True)


@numba.njit(_f64(_block, _block, _i64), nogil=True, cache=True)
def product(a: Any, b: Any, turn: int) -> float:
    """Scalar product, without the mean, of block ``a`` and block ``b`` turned; both (256,) int8, row-major."""
    transposed, rows, columns = _TRANSPOSED[turn], _SIGN_ROWS[turn], _SIGN_COLUMNS[turn]
    total = 0
    for u in range(SIDE):
        for odd in range(2):
            part = 0
            for v in range(odd, SIDE, 2):
                other = b[v * SIDE + u] if transposed else b[u * SIDE + v]
                part += np.int32(a[u * SIDE + v]) * np.int32(other)
            total += -part if (rows and u % 2 == 1) != (columns and odd == 1) else part
    return float(total - np.int32(a[0]) * np.int32(b[0]))


@numba.njit(types.void(_blocks, _norms), nogil=True, cache=True)
def norms(blocks: Any, out: Any) -> None:
    """Euclidean norm of every block without its mean, written to ``out``."""
    for i in range(blocks.shape[0]):
        out[i] = np.sqrt(product(blocks[i], blocks[i], 0))


@numba.njit(
    types.Tuple((_i64, _i64, _f64))(
        _turned, _blocks, _norms, _turned, _blocks, _norms, _i64, _i64, _i64, _i64, _f64
    ),
    nogil=True, cache=True,
)  # fmt: skip
def compare(
    codes_a: Any, blocks_a: Any, norms_a: Any, codes_b: Any, blocks_b: Any, norms_b: Any, i: int, j: int, turns: int,
    radius: int, least: float,
) -> Any:  # fmt: skip
    """Distance, orientation and correlation in which item i of a and j of b are confirmed to be one.

    Of the orientations within the radius whose correlation reaches ``least``, the closest is given; distance -1 where
    there is none.
    """
    best, best_turn, best_correlation = -1, 0, 0.0
    for turn in range(turns):
        for direction in range(1 if turn == 0 else 2):
            difference = codes_a[i, 0] ^ codes_b[j, turn] if direction == 0 else codes_a[i, turn] ^ codes_b[j, 0]
            distance = np.int64(popcount(difference))
            if distance > radius or (best >= 0 and distance >= best):
                continue
            scale = float(norms_a[i]) * float(norms_b[j])
            if scale == 0.0:
                continue
            if direction == 0:
                correlation = product(blocks_a[i], blocks_b[j], turn) / scale
            else:
                correlation = product(blocks_b[j], blocks_a[i], turn) / scale
            if correlation >= least:
                best, best_turn, best_correlation = distance, turn, correlation
    return best, best_turn, best_correlation


@numba.njit(
    types.void(
        _turned, _blocks, _norms, _turned, _blocks, _norms, _longs, _longs, _i64, _i64, _f64, _longs, _bytes, _norms
    ),
    nogil=True, cache=True,
)  # fmt: skip
def compare_pairs(
    codes_a: Any, blocks_a: Any, norms_a: Any, codes_b: Any, blocks_b: Any, norms_b: Any, i: Any, j: Any, turns: int,
    radius: int, least: float, distance: Any, turn: Any, correlation: Any,
) -> None:  # fmt: skip
    """:func:`compare` for all pairs (``i[k]``, ``j[k]``); the answers are written to the last three arrays."""
    for k in range(i.shape[0]):
        near, how, agreement = compare(
            codes_a, blocks_a, norms_a, codes_b, blocks_b, norms_b, i[k], j[k], turns, radius, least
        )
        distance[k], turn[k], correlation[k] = near, how, agreement


@numba.njit(
    types.void(
        _longs, _i64, _i64, _turned, _blocks, _norms, _i64, _i64, _f64, _longs, _bytes, _bytes, _norms
    ),
    nogil=True, cache=True,
)  # fmt: skip
def keep_best(
    starts: Any, first: int, last: int, codes: Any, blocks: Any, norm: Any, turns: int, radius: int, least: float,
    stands_in: Any, distance: Any, turn: Any, correlation: Any,
) -> None:  # fmt: skip
    """Apply the keep rule inside the components ``first`` to ``last``.

    Args:
        starts: (C + 1,) where each component's members start; members in rank order.
        first: first component.
        last: one past the last.
        codes: (M, 8) hashes of the members.
        blocks: (M, 256) DCT blocks.
        norm: (M,) their norms.
        turns: orientations to look at, 1 or 8.
        radius: Hamming radius.
        least: least correlation.
        stands_in: (M,) written: the member that stands for this one; -1 where it stays.
        distance: (M,) written: Hamming distance to it.
        turn: (M,) written: the orientation.
        correlation: (M,) written.
    """
    longest = 0
    for component in range(first, last):
        longest = max(longest, starts[component + 1] - starts[component])
    kept = np.empty(longest, np.int64)
    for component in range(first, last):
        count = 0
        for member in range(starts[component], starts[component + 1]):
            stands_in[member] = -1
            for place in range(count):
                near, how, agreement = compare(
                    codes, blocks, norm, codes, blocks, norm, kept[place], member, turns, radius, least
                )
                if near >= 0:
                    stands_in[member] = kept[place]
                    distance[member], turn[member], correlation[member] = near, how, agreement
                    break
            if stands_in[member] < 0:
                kept[count] = member
                count += 1
