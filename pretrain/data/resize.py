"""Crops of many sizes, resized at once by two batched matrix products: what a GPU does where a CPU resizes one by one.

Antialiased bicubic as in Pillow (``ImagingResample`` in ``Resample.c``): each output is a weighted mean of the pixels
that it covers, rows first, rounded in between. Weights are multiples of 2^-15, so that float32 holds every sum exactly
(255 * 1.25 * 2^15 < 2^24): the same bits in every batch, in whatever order a device adds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pretrain.device import whole_products

UNIT = 1 << 15
"""What the weights of an output add up to."""
_FINER = 1 << 25


def resize_crops(crops: Sequence[Tensor], sides: Tensor, size: int) -> Tensor:
    """Resize (3, h, w) uint8 crops of any sizes, on one device, to (B, 3, size, size) uint8.

    Args:
        crops: of images.
        sides: (B, 2) width and height of each, on the same device.
        size: side that comes out, pixels.
    """
    high, wide = (max(crop.shape[axis] for crop in crops) for axis in (1, 2))
    padded = torch.zeros((len(crops), 3, high, wide), device=sides.device)
    for place, crop in zip(padded, crops, strict=True):
        place[:, : crop.shape[1], : crop.shape[2]] = crop
    across, down = resize_weights(sides[:, 0], wide, size), resize_weights(sides[:, 1], high, size)
    with whole_products():
        rows = _rounded(torch.einsum("bchw,bsw->bchs", padded, across))
        return _rounded(torch.einsum("bchs,bth->bcts", rows, down)).to(torch.uint8)


def resize_weights(sides: Tensor, longest: int, size: int) -> Tensor:
    """Whole-number weights (B, size, longest) of a line's pixels for each of ``size`` outputs, float32.

    Args:
        sides: (B,) pixels of each line, at most ``longest``.
        longest: pixels that lines are padded to; the weights of padding are 0.
        size: outputs.
    """
    side = sides.to(torch.float64)[:, None, None]
    places, outputs = (torch.arange(count, dtype=torch.float64, device=sides.device) for count in (longest, size))
    scale = side / size
    centre = (outputs[None, :, None] + 0.5) * scale
    weights = bicubic((places + 0.5 - centre) / scale.clamp(min=1)) * (places < side)
    fine = (weights / weights.sum(2, keepdim=True) * UNIT * _FINER).round().long()
    running = (fine.cumsum(2) + _FINER // 2) // _FINER  # rounded so, errors do not add up
    return running.diff(dim=2, prepend=torch.zeros_like(running[:, :, :1])).float()


def bicubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2 (Cubic convolution interpolation, 1981), as Pillow's and torch's antialiased one."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _rounded(sums: Tensor) -> Tensor:
    """Weighted sums to grey levels."""
    return ((sums + UNIT // 2) / UNIT).floor_().clamp_(0, 255)
