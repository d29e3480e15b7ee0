"""Take tiles out of a corpus that was finished: by id, after all else is decided, each leaving a hole in its shard.

So no other tile moves: a takedown changes the shards that it touches and no byte of the others. Copies of a tile that
is taken out stay out, and what a cap kept out does not take its place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from curation.base.arrays import Ints
from curation.select.rows import CatalogueRows


def withdrawn(rows: CatalogueRows, kept: Ints, ids: Sequence[str]) -> tuple[Ints, int]:
    """Which kept tiles are named, themselves or by their image.

    Args:
        rows: all rows.
        kept: (K,) numbers of kept tiles, ascending.
        ids: ids of tiles and images.

    Returns:
        Numbers of the tiles, ascending, and how many of the ids no row has.
    """
    if not ids:
        return kept[:0], 0
    wanted = np.frombuffer(bytes.fromhex("".join(sorted(set(ids)))), np.dtype("V10"))
    found = np.flatnonzero(np.isin(rows.lots(), _lots(wanted)))
    names = {bytes(each) for each in wanted}
    found = np.array([row for row in found.tolist() if bytes(rows.ids[row]) in names], np.int64)
    images = rows.image[found[~rows.is_tile[found]]]
    gone = kept[np.isin(kept, found) | np.isin(rows.image[kept], images)]
    return gone, len(wanted) - len(found)


def _lots(ids: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """First eight bytes of ids, as :meth:`CatalogueRows.lots` gives them."""
    return ids.view(np.uint8).reshape(-1, 10)[:, :8].copy().view(">u8")[:, 0].astype(np.uint64)
