"""Crops, resizes and flips against Pillow, torchvision and plain indexing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from pretrain.data.augment import NOISE_SIZE, Box, CropRule, crop_and_resize, crop_box, flip, gsd_after, resize_whole
from pretrain.data.resize import resize_crops

PAPER = CropRule(224, (0.2, 1.0), (3 / 4, 4 / 3), 4.0)


@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(56, 1200), height=st.integers(56, 1200), seed=st.integers(0, 10**6), square=st.booleans(),
    extreme=st.sampled_from([None, 0.0, 0.999999]),
)  # fmt: skip
def test_boxes_lie_in_the_image_and_are_never_enlarged_too_much(width, height, seed, square, extreme) -> None:
    rule = PAPER._replace(ratio=(1.0, 1.0)) if square else PAPER
    noise = np.random.default_rng(seed).random(NOISE_SIZE, np.float32)
    if extreme is not None:
        noise[:] = extreme
    box = crop_box(width, height, rule, noise)
    assert box.left >= 0
    assert box.top >= 0
    assert box.left + box.width <= width
    assert box.top + box.height <= height
    assert min(box.width, box.height) >= rule.min_side == 56
    if square:
        assert box.width == box.height


def test_distribution_is_torchvisions() -> None:
    """10,000 crops of a 400 x 300 image: means of side and place within three standard errors of torchvision's."""
    torch.manual_seed(0)
    image = torch.zeros(3, 300, 400)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, list(PAPER.scale), list(PAPER.ratio)) for _ in range(10_000)]
    )
    noise = np.random.default_rng(0).random((10_000, NOISE_SIZE), np.float32)
    rule = PAPER._replace(max_upsample=100)
    ours = np.array([crop_box(400, 300, rule, row) for row in noise])[:, [1, 0, 3, 2]]
    error = np.sqrt((ours.var(0) + theirs.var(0)) / 10_000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 3 * error).all()


def test_without_a_fitting_try_the_crop_is_central() -> None:
    strip = CropRule(32, (0.9, 1.0), (1.0, 1.0), 4.0)  # nine tenths of a 200 x 40 strip are never a square
    assert crop_box(200, 40, strip, np.full(NOISE_SIZE, 0.5, np.float32)) == Box(80, 0, 40, 40)


@pytest.mark.parametrize("size", [32, 96, 224])
def test_resize_is_pillows_bicubic(size: int, shared) -> None:
    path = next((shared / "reference" / "phash_tiles").glob("*.png"))
    with Image.open(path) as file:
        image = file.convert("RGB").resize((180, 150))
    box = Box(20, 10, 120, 100)
    ours = crop_and_resize(np.asarray(image), box, size).permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(image.crop((20, 10, 140, 110)).resize((size, size), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(ours - theirs).max() <= 1


CHIPS = ("neon_chips/OSBS/OSBS_029.jpg", "neon_chips/YELL/yell_001.jpg", "labelled/coast/coast_000.jpg",
         "blue_marble/relief/etopo1_andes_grey.png")  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(CHIPS), size=st.sampled_from([32, 96, 224]), seed=st.integers(0, 10**6))
def test_random_crops_are_those_of_pillow(repository: Path, name: str, size: int, seed: int) -> None:
    """Within two grey levels, as one worker resizes and as a device resizes many.

    Rows first, as Pillow did in one call up to 12; where a tall crop is reduced, 13 takes columns first, which differs
    by up to twelve at the sharpest edges of these images.
    """
    with Image.open(repository / "manifests/demo" / name) as file:
        image = file.convert("RGB")
    rule = PAPER._replace(size=size, max_upsample=100)
    box = crop_box(image.width, image.height, rule, np.random.default_rng(seed).random(NOISE_SIZE, np.float32))
    left, top, width, height = box
    cut = image.crop((left, top, left + width, top + height))
    theirs = cut.resize((size, height), Image.Resampling.BICUBIC).resize((size, size), Image.Resampling.BICUBIC)
    ours = crop_and_resize(np.array(image), box, size)
    together = resize_crops([torch.from_numpy(np.array(cut)).permute(2, 0, 1)], torch.tensor([[width, height]]), size)
    for pixels in (ours, together[0]):
        assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(theirs)).max() <= 2


def test_a_crop_of_the_right_size_keeps_its_pixels() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(crop_and_resize(rgb, Box(3, 4, 32, 32), 32).permute(1, 2, 0), rgb[4:36, 3:35])
    np.testing.assert_array_equal(resize_whole(rgb, 40).permute(1, 2, 0), rgb[:, 5:45])


def test_gsd_grows_with_the_crop() -> None:
    assert gsd_after(0.5, Box(0, 0, 448, 448), 224) == 1.0
    assert gsd_after(0.3, Box(0, 0, 100, 400), 200) == pytest.approx(0.3)
    assert np.isnan(gsd_after(float("nan"), Box(0, 0, 9, 9), 9))


def test_flips_mirror_only_the_chosen_samples() -> None:
    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).reshape(4, 3, 2, 2)
    noise = torch.tensor([[0.1, 0.9], [0.9, 0.1], [0.1, 0.1], [0.9, 0.9]])
    out = flip(images, noise, 0.5, 0.5)
    assert torch.equal(out[0], images[0].flip(2))
    assert torch.equal(out[1], images[1].flip(1))
    assert torch.equal(out[2], images[2].flip(1).flip(2))
    assert torch.equal(out[3], images[3])
    assert torch.equal(flip(images, noise, 0.0, 0.0), images)
