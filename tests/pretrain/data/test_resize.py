"""Crops of many sizes resized by two products: Pillow's pixels, and the same bits in every batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from imagery import picture
from PIL import Image

from pretrain.data.augment import Box, crop_and_resize
from pretrain.data.resize import UNIT, resize_crops, resize_weights

SIDES = [(64, 64), (65, 63), (200, 150), (33, 40), (512, 400), (31, 31), (60, 80), (500, 500)]
"""Width and height."""
STRIPS = [(33, 512), (512, 40), (16, 200), (1, 64), (64, 1)]


def resized(crops: list[torch.Tensor], size: int) -> torch.Tensor:
    return resize_crops(crops, torch.tensor([crop.shape[:0:-1] for crop in crops]), size)


def crops_of(kind: str, all_sides: list[tuple[int, int]] = SIDES) -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    made = [picture(n, *sides) if kind == "smooth" else rng.integers(0, 2, (*sides[::-1], 3)) * 255
            for n, sides in enumerate(all_sides)]  # fmt: skip
    return [torch.from_numpy(pixels.astype(np.uint8)).permute(2, 0, 1) for pixels in made]


@pytest.mark.parametrize("size", [32, 64, 224])
def test_pixels_are_those_of_pillow(size: int) -> None:
    """Noise of black and white is cut off at 0 and 255 everywhere, so that the order of the axes shows: rows first.

    Pillow takes first the axis that leaves less to do. On imagery that is no more than rounding.
    """
    for kind in ("smooth", "black and white"):
        crops = crops_of(kind)
        for crop, ours in zip(crops, resized(crops, size), strict=True):
            image = Image.fromarray(crop.permute(1, 2, 0).numpy())
            rows_first = image.resize((size, image.height), Image.Resampling.BICUBIC)
            for theirs in (rows_first, image) if kind == "smooth" else (rows_first,):
                pixels = np.asarray(theirs.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
                apart = np.abs(ours.permute(1, 2, 0).numpy() - pixels)
                assert apart.max() <= 2 and apart.mean() < (0.1 if theirs is image else 0.02)


@pytest.mark.parametrize("size", [32, 224])
def test_strips_are_those_of_torch(size: int) -> None:
    """Rows first whatever the shape, as workers resize; of a strip Pillow may take columns first."""
    for kind in ("smooth", "black and white"):
        crops = crops_of(kind, [*SIDES, *STRIPS])
        for crop, ours in zip(crops, resized(crops, size), strict=True):
            theirs = crop_and_resize(crop.permute(1, 2, 0).numpy(), Box(0, 0, *crop.shape[:0:-1]), size)
            apart = (ours.int() - theirs.int()).abs()
            assert apart.max() <= 2 and apart.float().mean() < 0.04


def test_a_crop_of_the_right_size_keeps_its_pixels() -> None:
    crops = [crop for crop in crops_of("black and white") if crop.shape[1:] == (64, 64)]
    assert torch.equal(resized(crops, 64)[0], crops[0])


def test_bits_do_not_depend_on_the_batch_nor_on_the_order_of_a_sum() -> None:
    """Each alone, unpadded, summed as whole numbers of 64 bits."""
    crops = crops_of("black and white", [*SIDES, *STRIPS])
    together = resized(crops, 48)
    for crop, ours in zip(crops, together, strict=True):
        down, across = (resize_weights(torch.tensor([n]), n, 48)[0].long() for n in crop.shape[1:])
        rows = ((crop.long() @ across.T + UNIT // 2) // UNIT).clamp(0, 255)
        assert torch.equal(ours.long(), ((down @ rows + UNIT // 2) // UNIT).clamp(0, 255))


def test_float32_holds_every_sum() -> None:
    """Of 255 times the absolute weights, of lines that are enlarged and reduced; a grey area stays as it is."""
    for size in (1, 16, 224):
        for side in {1, 2, 3, *range(max(size // 8, 1), size + 2, 13), size, 300, 8192}:
            weights = resize_weights(torch.tensor([side]), side, size)[0].double()
            assert 255 * weights.abs().sum(1).max() + UNIT < 2**24
            assert torch.equal(weights, weights.round()) and (weights.sum(1) == UNIT).all()


@pytest.mark.cuda
def test_a_gpu_gives_the_same_bits() -> None:
    crops = crops_of("black and white")
    torch.set_float32_matmul_precision("high")
    try:
        found = resize_crops([c.cuda() for c in crops], torch.tensor([c.shape[:0:-1] for c in crops]).cuda(), 224)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(found.cpu(), resized(crops, 224))
