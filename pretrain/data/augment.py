"""Random resized crops and flips from given uniform numbers: nothing here draws any.

Workers crop and resize single images to uint8; flips are applied on the device to a whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.data.crop_kernel import resizer

TRIES = 10
NOISE_SIZE = 2 * TRIES + 2
"""Uniform numbers that one crop needs: an area and a ratio per try, and a place."""


class CropRule(NamedTuple):
    """What random crops may be."""

    size: int
    """Side of the square that comes out, in pixels."""
    scale: tuple[float, float]
    """Least and greatest share of the image's area."""
    ratio: tuple[float, float]
    """Least and greatest width over height."""
    max_upsample: float
    """No crop is enlarged by more."""
    fast: bool = False
    """Whether JPEGs are decoded at a lower resolution where the crop is reduced all the same."""
    packed: bool = False
    """Whether JPEGs are left for the device to decode."""

    @property
    def min_side(self) -> int:
        """Least side of a crop, and so of an image, in pixels."""
        return math.ceil(self.size / self.max_upsample)


class Box(NamedTuple):
    """A crop in pixels."""

    left: int
    top: int
    width: int
    height: int

    def on(self, across: float, down: float) -> Box:
        """The box on an image whose sides were reduced by these factors."""
        if across == down == 1:
            return self
        left, top = round(self.left * across), round(self.top * down)
        right, bottom = round((self.left + self.width) * across), round((self.top + self.height) * down)
        return Box(left, top, max(right - left, 1), max(bottom - top, 1))


def around(boxes: Sequence[Box]) -> Box:
    """The least box that holds all."""
    left, top = min(box.left for box in boxes), min(box.top for box in boxes)
    right, bottom = max(box.left + box.width for box in boxes), max(box.top + box.height for box in boxes)
    return Box(left, top, right - left, bottom - top)


def crop_box(width: int, height: int, rule: CropRule, noise: npt.NDArray[np.float32]) -> Box:
    """Choose a crop as ``torchvision.transforms.RandomResizedCrop`` does, bounded from below by ``max_upsample``.

    Args:
        width: of the image, at least ``rule.min_side``, like ``height``.
        height: of the image.
        rule: what the crop may be.
        noise: (NOISE_SIZE,) uniform numbers in [0, 1).
    """
    numbers = noise.tolist()
    least, greatest = max(rule.scale[0], rule.min_side**2 / (width * height)), rule.scale[1]
    low, (narrow, broad) = min(least, greatest), map(math.log, rule.ratio)
    for share, shape in zip(numbers[: 2 * TRIES : 2], numbers[1 : 2 * TRIES : 2], strict=True):
        area = width * height * (low + share * (greatest - low))
        aspect = math.exp(narrow + shape * (broad - narrow))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w <= width and h <= height and min(w, h) >= rule.min_side:
            return Box(int(noise[-2] * (width - w + 1)), int(noise[-1] * (height - h + 1)), w, h)
    return _central_box(width, height, rule.ratio)


def _central_box(width: int, height: int, ratio: tuple[float, float]) -> Box:
    """The greatest central crop whose ratio is allowed."""
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return Box((width - w) // 2, (height - h) // 2, w, h)


def crop_and_resize(rgb: npt.NDArray[np.uint8], box: Box, size: int, out: Tensor | None = None) -> Tensor:
    """Cut ``box`` out of (H, W, 3) uint8 and resize it, antialiased and bicubic, to (3, size, size) uint8.

    Args:
        rgb: the image.
        box: within it.
        size: of the square that comes out.
        out: where that goes; a new tensor where it is not given.
    """
    out = torch.empty((3, size, size), dtype=torch.uint8) if out is None else out
    cut = rgb[box.top : box.top + box.height, box.left : box.left + box.width]
    compiled = resizer()
    if compiled is None or not compiled.resize(cut, out):
        image = torch.from_numpy(np.ascontiguousarray(cut)).permute(2, 0, 1)[None]
        out.copy_(F.interpolate(image, size=(size, size), mode="bicubic", antialias=True, align_corners=False)[0])
    return out


def resize_whole(rgb: npt.NDArray[np.uint8], size: int) -> Tensor:
    """Centre-crop the greatest square of (H, W, 3) uint8 and resize it to (3, size, size): what evaluation sees."""
    height, width = rgb.shape[:2]
    return crop_and_resize(rgb, _central_box(width, height, (1.0, 1.0)), size)


def gsd_after(gsd_m: float, box: Box, size: int) -> float:
    """Ground sample distance after the resize, metres: the geometric mean of both axes."""
    return gsd_m * math.sqrt(box.width * box.height) / size


def flip(images: Tensor, noise: Tensor, hflip: float, vflip: float) -> Tensor:
    """Mirror the samples whose noise lies below the given shares.

    Args:
        images: (B, 3, H, W).
        noise: (B, 2 or more) uniform; the first column is for left-right, the second for top-bottom.
        hflip: share mirrored left to right.
        vflip: share mirrored top to bottom.
    """
    for axis, column, share in ((3, 0, hflip), (2, 1, vflip)):
        if share > 0:
            chosen = (noise[:, column] < share)[:, None, None, None]
            images = torch.where(chosen, images.flip(axis), images)
    return images


def turn(images: Tensor, noise: Tensor, share: float) -> Tensor:
    """Turn samples by one, two or three quarters, as ``torch.rot90`` does, each as often as the others.

    Args:
        images: (B, 3, S, S).
        noise: (B,) uniform; those below ``share`` are turned.
        share: of the samples; 0.75 makes all four orientations equally frequent.
    """
    if share > 0:
        quarters = torch.where(noise < share, 1 + (3 / share * noise).long().clamp(max=2), 0)[:, None, None, None]
        for number in (1, 2, 3):
            images = torch.where(quarters == number, images.rot90(number, (2, 3)), images)
    return images
