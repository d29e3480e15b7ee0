"""Decoded images, held as far as memory is set aside for them; the others are decoded again each time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from curation.base.arrays import Bytes, Ints
from pretrain.errors import UnreadableImage

HELD_BYTES = 4 << 30


class Held:
    """Images by row.

    Args:
        read: decodes one; raises UnreadableImage or OSError.
    """

    def __init__(self, read: Callable[[int], Bytes]) -> None:
        self._read, self._held, self._bytes = read, dict[int, Bytes](), 0
        self.shapes: dict[int, tuple[int, ...]] = {}
        """Of those that were found readable: (H, W, bands)."""
        self.bad: dict[int, str] = {}
        """Why the others are not."""

    def readable(self, rows: Ints) -> Ints:
        """Those of the rows that can be read; decodes all of them once."""
        for row in rows.tolist():
            try:
                pixels = self[row]
            except (UnreadableImage, OSError) as error:
                self.bad[row] = str(error)
                continue
            self.shapes[row] = pixels.shape
            if self._bytes + pixels.nbytes <= HELD_BYTES:
                self._held[row], self._bytes = pixels, self._bytes + pixels.nbytes
        return rows[~np.isin(rows, list(self.bad))]

    def __getitem__(self, row: int) -> Bytes:
        held = self._held.get(row)
        return self._read(row) if held is None else held
