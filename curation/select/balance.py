"""Caps on what is kept: per image, per degree of the Earth, per source, in all; however the rows came in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from curation.base.arrays import Ints
from curation.sources.recipe import BalanceRules

PER_PLACE, PER_CELL, PER_SOURCE, TOTAL = 1, 2, 3, 4


def over_caps(
    image: Ints,
    source: Ints,
    lot: npt.NDArray[np.uint64],
    rules: BalanceRules,
    source_caps: dict[int, int],
    cell: Ints | None = None,
) -> npt.NDArray[np.int8]:
    """Which kept tiles exceed a cap, and which cap.

    The caps act one after the other: raw image, cell, source, all. Of a group that is too large, the tiles with the
    lowest lots stay, so that a smaller cap keeps a subset of what a larger one keeps.

    Args:
        image: (N,) number of the raw image of every tile.
        source: (N,) number of its source.
        lot: (N,) the tile's lot, a hash of seed and id.
        rules: the caps.
        source_caps: caps of single sources by number; the smaller of this and ``rules.per_source`` holds.
        cell: (N,) number of its cell of the Earth, -1 where its place is not known; asked for by ``rules.per_cell``.

    Returns:
        (N,) int8: 0 where the tile stays, else ``PER_PLACE``, ``PER_CELL``, ``PER_SOURCE`` or ``TOTAL``.
    """
    result = np.zeros(len(image), np.int8)
    if rules.per_place is not None:
        _cap(result, image, lot, np.full(len(image), rules.per_place), PER_PLACE)
    if rules.per_cell is not None and cell is not None:
        _cap(result, cell, lot, np.where(cell >= 0, rules.per_cell, len(image)), PER_CELL)
    most = len(image) if rules.per_source is None else rules.per_source
    if rules.per_source is not None or source_caps:
        caps = np.full(int(np.max(source, initial=0)) + 1, most)
        for number, cap in source_caps.items():
            if number < len(caps):
                caps[number] = min(cap, most)
        _cap(result, source, lot, caps[source], PER_SOURCE)
    if rules.total is not None:
        _cap(result, np.zeros_like(source), lot, np.full(len(image), rules.total), TOTAL)
    return result


def _cap(result: npt.NDArray[np.int8], group: Ints, lot: npt.NDArray[np.uint64], cap: Ints, code: int) -> None:
    """Mark with ``code`` the tiles beyond the ``cap`` lowest lots of their group, among those not yet marked."""
    (open_,) = np.nonzero(result == 0)
    order = open_[np.lexsort((lot[open_], group[open_]))]
    if not len(order):
        return
    index = np.arange(len(order))
    opens = np.concatenate([[True], group[order][1:] != group[order][:-1]])
    place = index - np.maximum.accumulate(np.where(opens, index, 0))
    result[order[place >= cap[order]]] = code
