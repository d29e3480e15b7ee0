"""Walk over a raw image so that each of its blocks is decoded once, whatever its size.

An image that fits in memory is read in one piece. A larger one is read in strips of whole rows; windows are handed
out as soon as their last row is there, and the whole image is fingerprinted on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from curation.base.arrays import Bytes, Mask
from curation.catalogue import Window
from curation.imagery.image import Image, padded
from curation.scan import fingerprint
from curation.scan.fingerprint import Reduced

WHOLE_PIXELS = 40_000_000
"""Images of at most so many pixels are held in one piece."""
STRIP_PIXELS = (4_000_000, 20_000_000)
"""Fewest and most pixels read at a time of larger ones."""
PATCH, SAMPLES, SAMPLE_ROWS = 256, 8, 32
"""Of a larger image's samples: longest side, number along an axis, rows of those that span the width."""


class Patch(NamedTuple):
    """Pixels ``(h, w, 3)`` and valid pixels ``(h, w)`` (null: all) of a window; their luma where it is at hand."""

    window: Window
    rgb: Bytes
    valid: Mask | None
    grey: Bytes | None = None


def patches(image: Image) -> list[Patch]:
    """The image in one piece, or samples spread evenly over it when it is too large for that.

    Raises:
        UnreadableImage: a block cannot be decoded.
    """
    area = image.area
    if area.width * area.height <= WHOLE_PIXELS:
        return [_patch(image, area)]
    height, width = image.block_shape
    if width >= area.width:  # striped: whole rows cost no more than parts of them
        size, columns, rows = (area.width, max(SAMPLE_ROWS, height)), 1, SAMPLES
    else:
        size, columns, rows = (min(width, PATCH), min(height, PATCH)), SAMPLES, SAMPLES
    lefts = np.linspace(0, max(area.width - size[0], 0), columns).astype(int) // width * width
    tops = np.linspace(0, max(area.height - size[1], 0), rows).astype(int) // height * height
    return [
        _patch(image, Window(area.col_off + int(left), area.row_off + int(top), *size))
        for top in tops
        for left in lefts
    ]


def _patch(image: Image, window: Window) -> Patch:
    return Patch(window, *image.read(window))


def valid_share(pieces: Sequence[Patch], fill: float) -> float:
    """Share of valid pixels of some patches, flat areas of pure black or white (``fill``) not counted."""
    total = sum(patch.window.width * patch.window.height for patch in pieces)
    inside = sum(patch.rgb[..., 0].size if patch.valid is None else int(patch.valid.sum()) for patch in pieces)
    return inside / max(total, 1) * (1.0 - fill)


@dataclass
class BlockWalk:
    """Iterate over the patches of ``windows`` (ordered by row), reading every row once.

    Attributes:
        image: an open image.
        windows: windows to hand out, ordered by their first row.
        whole: the image's area, when it has been read in one piece before.
        fingerprinted: whether rows are reduced on the way, for :meth:`reduced`.
    """

    image: Image
    windows: Sequence[Window]
    whole: Patch | None
    fingerprinted: bool = True
    _rows: fingerprint.RowReducer | None = field(default=None, init=False)
    _reduced: Reduced | None = field(default=None, init=False)

    def __iter__(self) -> Iterator[Patch]:
        if self.whole is not None:
            return (cut(self.whole, window) for window in self.windows)
        return self._by_strips()

    def reduced(self) -> Reduced:
        """Reduction of the whole image; of a large one, after the walk."""
        if self._reduced is None:
            if self.whole is not None:
                self._reduced = fingerprint.reduce(self.whole.rgb, self.whole.valid)
            else:
                if self._rows is None or not self._rows.complete:
                    for _ in self._by_strips():
                        pass
                assert self._rows is not None  # mypy cannot see the loop
                self._reduced = self._rows.reduced()
        return self._reduced

    def _by_strips(self) -> Iterator[Patch]:
        area = self.image.area
        self._rows = fingerprint.RowReducer(area.height, area.width)
        held: Patch | None = None
        waiting = list(self.windows)
        top = 0
        while top < area.height:
            step = _step(area, self.image.block_shape[0], top, waiting)
            strip = Window(area.col_off, area.row_off + top, area.width, min(step, area.height - top))
            fresh = _patch(self.image, strip)
            if self.fingerprinted:
                fresh = fresh._replace(grey=self._rows.add(fresh.rgb, fresh.valid))
            first = min((window.row_off for window in waiting), default=strip.row_off + strip.height)
            held = _joined(held, fresh, first)
            bottom = area.row_off + top + strip.height
            last = bottom == area.row_off + area.height
            ready = [window for window in waiting if window.row_off + window.height <= bottom or last]
            waiting = [window for window in waiting if not (window.row_off + window.height <= bottom or last)]
            for window in ready:
                yield cut(held, window)
            top += step


def _step(area: Window, block: int, top: int, waiting: Sequence[Window]) -> int:
    """Rows to read from ``top`` on: whole blocks, to where the next window ends, so that its rows need no joining."""
    least, most = (max(pixels // (area.width * block), 1) * block for pixels in STRIP_PIXELS)
    end = min((window.row_off + window.height - area.row_off for window in waiting), default=area.height)
    wanted = -(-max(end - top, 1) // block) * block
    return min(max(wanted, least), most)


def _joined(held: Patch | None, fresh: Patch, first: int) -> Patch:
    """``held`` from row ``first`` on, with ``fresh`` below it."""
    if held is None or first >= fresh.window.row_off:
        return fresh
    skip = max(first - held.window.row_off, 0)
    valid = None
    if held.valid is not None or fresh.valid is not None:
        valid = np.concatenate([_mask(held)[skip:], _mask(fresh)])
    rgb = np.concatenate([held.rgb[skip:], fresh.rgb])
    known = held.grey is not None and fresh.grey is not None
    grey = np.concatenate([held.grey[skip:], fresh.grey]) if known else None  # type: ignore[index, list-item]
    window = Window(held.window.col_off, held.window.row_off + skip, held.window.width, rgb.shape[0])
    return Patch(window, rgb, valid, grey)


def _mask(patch: Patch) -> Mask:
    return np.ones(patch.rgb.shape[:2], bool) if patch.valid is None else patch.valid


def cut(patch: Patch, window: Window) -> Patch:
    """A window out of a patch; what reaches beyond it is zero and not valid."""
    if window == patch.window:
        return patch
    top, left = window.row_off - patch.window.row_off, window.col_off - patch.window.col_off
    place = slice(top, top + window.height), slice(left, left + window.width)
    rgb = patch.rgb[place]
    valid = None if patch.valid is None else patch.valid[place]
    grey = None if patch.grey is None else patch.grey[place]
    if rgb.shape[:2] != (window.height, window.width):
        rgb, valid = padded(rgb, valid, window)
        grey = None
    if valid is not None and valid.all():
        valid = None
    return Patch(window, np.ascontiguousarray(rgb), valid, None if grey is None else np.ascontiguousarray(grey))
