"""Square windows that cover images at their own resolution, each with the classes of its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from curation.base.arrays import Bytes, Ints
from pretrain.data.noise import Purpose, uniform
from pretrain.evaluate.held import Held
from pretrain.evaluate.masks import UNLABELLED


class MaskedWindow(NamedTuple):
    """A square of an image."""

    row: int
    top: int
    left: int
    seen_down: int
    """First rows of the window that the window above shows as well."""
    seen_across: int


def windows(rows: Ints, shapes: dict[int, tuple[int, ...]], side: int) -> list[MaskedWindow]:
    """Windows that cover the images; the last of a line is moved back to the image's edge."""
    return [
        MaskedWindow(row, top, left, seen_down, seen_across)
        for row in rows.tolist()
        for top, seen_down in _starts(shapes[row][0], side)
        for left, seen_across in _starts(shapes[row][1], side)
    ]


def _starts(length: int, side: int) -> Iterator[tuple[int, int]]:
    """Where windows start along an axis, and how much of each the one before shows."""
    for planned in range(0, max(length, 1), side):
        start = max(0, min(planned, length - side))
        yield start, planned - start


class MaskedWindows(Dataset[tuple[Tensor, Tensor, int]]):
    """Windows of all epochs to come: uint8 (3, S, S), class numbers (W, W), and the image's row.

    Args:
        images: (H, W, 4) each, the last band the class numbers.
        chosen: the windows of one epoch; item ``epoch * len(chosen) + place`` is that of a place in an epoch.
        side: of the windows.
        size: at which they are shown.
        flips_of_seed: mirrors each window both ways by chance, as a function of seed, epoch and place.
    """

    def __init__(
        self, images: Held, chosen: list[MaskedWindow], side: int, size: int, flips_of_seed: int | None = None
    ) -> None:  # fmt: skip
        self.images, self.chosen, self.side, self.size, self.seed = images, chosen, side, size, flips_of_seed

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, int]:
        epoch, place = divmod(number, len(self.chosen))
        pixels = torch.from_numpy(self._cut(self.chosen[place])).permute(2, 0, 1)
        if self.seed is not None:
            drawn = uniform(self.seed, Purpose.FLIP, epoch, place, 2) < 0.5
            pixels = pixels.flip([axis for axis, wanted in zip((2, 1), drawn.ravel().tolist(), strict=True) if wanted])
        rgb, labels = pixels[:3], pixels[3].contiguous()
        if self.side != self.size:
            size = (self.size, self.size)
            rgb = F.interpolate(rgb[None], size=size, mode="bicubic", antialias=True, align_corners=False)[0]
        return rgb.contiguous(), labels, self.chosen[place].row

    def _cut(self, window: MaskedWindow) -> Bytes:
        row, top, left, seen_down, seen_across = window
        cut = self.images[row][top : top + self.side, left : left + self.side]
        whole = np.zeros((self.side, self.side, 4), np.uint8)
        whole[..., 3] = UNLABELLED
        whole[: cut.shape[0], : cut.shape[1]] = cut
        whole[:seen_down, :, 3] = whole[:, :seen_across, 3] = UNLABELLED
        return whole
