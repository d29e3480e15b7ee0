"""JPEGs that travel as they are, from a worker that knows their crops to the device that decodes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pretrain.data.augment import Box


class PackedImage(NamedTuple):
    """One of them."""

    data: bytes
    sides: tuple[int, int]
    """Height and width, as the header says."""
    boxes: list[Box]
    """Its crops."""
    place: str = ""
    """Where it lies, for people."""


class Packed(NamedTuple):
    """Those of a micro-batch, n in number."""

    data: Tensor
    """(bytes,) uint8: one file after the other; one piece of shared memory."""
    lengths: list[int]
    """Of the files."""
    rows: Tensor
    """(n,) int64: their places among the batch's images."""
    sides: list[tuple[int, int]]
    boxes: Tensor
    """(n, K, 4) int64: left, top, width and height of the crops."""
    places: list[str]


def pack(by_row: Mapping[int, PackedImage]) -> Packed:
    """Put images together, given by their places in the batch."""
    images = by_row.values()
    data = torch.from_numpy(np.frombuffer(bytearray().join(image.data for image in images), np.uint8))
    lengths, sides = [len(image.data) for image in images], [image.sides for image in images]
    boxes = torch.tensor([image.boxes for image in images])
    return Packed(data, lengths, torch.tensor(list(by_row)), sides, boxes, [image.place for image in images])
