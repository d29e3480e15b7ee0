"""Where a listing is cut into parts: by what its images weigh and by their names, so that small changes stay small.

A boundary follows an image because of that image's own name and size, as in content-defined chunking (Muthitacharoen,
Chen and Mazieres, "A low-bandwidth network file system", SOSP 2001): when images come, go or change, the cuts before
and some way behind them are what they were. Nothing here looks at the number of workers.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from curation.base.arrays import Floats, Ints, Words
from curation.base.compiled import compiled, given

IMAGE_SECONDS = 2e-4
BYTES_PER_SECOND = 55e6
"""What the scan of a JPEG takes on one core, about: so much, and the time of its bytes. It sizes parts, no more."""
SHORTEST, LONGEST = 0.125, 1.0
"""Seconds of work that parts aim at: a listing's share of one in :data:`PIECES`, within these. Putting a part on disk
takes a hundredth."""
PIECES = 32


def seconds(sizes: Ints) -> Floats:
    """Estimated work ``(N,)`` of images of some sizes in bytes."""
    return (IMAGE_SECONDS + sizes / BYTES_PER_SECOND).astype(np.float32)


def aim(total: float) -> float:
    """Seconds that the parts of a listing of ``total`` seconds aim at.

    In powers of two, so that a folder that grows by some images is not cut anew.
    """
    share = min(max(total / PIECES, SHORTEST), LONGEST)
    return max(float(2.0 ** math.floor(math.log2(share))), SHORTEST)


def starts(names: Words, work: Floats) -> Ints:
    """First units of the parts.

    Args:
        names: digests ``(N,)`` of what is never cut: images, or whole scenes.
        work: their estimated seconds ``(N,)``.

    Returns:
        Ascending indices ``(P,)``. A part holds half the aim to twice the aim; what is larger is alone.
    """
    flags = np.zeros(len(names), np.bool_)
    if len(names):
        _mark(names, work, aim(float(work.sum(dtype=np.float64))), flags)
    return np.flatnonzero(flags)


@compiled(
    numba.void(
        given(numba.u8, 1), given(numba.f4, 1),
        numba.f8, numba.b1[::1],
    )
)  # fmt: skip
def _mark(names: Words, work: Floats, target: float, first: npt.NDArray[np.bool_]) -> None:
    """Mark the first unit of every part."""
    held, closed = 0.0, True
    for unit in range(names.size):
        if closed or held + work[unit] > 2 * target:
            first[unit] = True
            held = 0.0
        held += work[unit]
        chance = np.float64(names[unit] >> np.uint64(11)) * 2.0**-53
        closed = held >= target / 2 and chance < work[unit] / target
