"""The compiled resize gives torch's very pixels, reads nothing beside the crop, and says what it cannot do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from guarded import guarded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pretrain.data import augment
from pretrain.data.augment import Box, crop_and_resize
from pretrain.data.crop_kernel import Resizer, resizer

NOISE = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
STRIPES = np.where(NOISE > 127, 255, 0).astype(np.uint8)
"""Of the two extremes, where sums overshoot a byte."""


@pytest.fixture(scope="module")
def compiled() -> Resizer:
    found = resizer()
    if found is None:
        pytest.skip("no C compiler, or no AVX2")
    return found


def by_torch(cut: np.ndarray, size: int) -> torch.Tensor:
    image = torch.from_numpy(cut.copy()).permute(2, 0, 1)[None]
    return F.interpolate(image, size=(size, size), mode="bicubic", antialias=True, align_corners=False)[0]


@settings(max_examples=150, deadline=None)
@given(
    box=st.builds(Box, st.integers(0, 60), st.integers(0, 60), st.integers(16, 600), st.integers(16, 600)),
    size=st.sampled_from([32, 96, 100, 160, 224, 256]), extreme=st.booleans(),
)  # fmt: skip
def test_pixels_are_torchs(compiled: Resizer, box: Box, size: int, extreme: bool) -> None:
    image = STRIPES if extreme else NOISE
    cut = image[box.top : box.top + box.height, box.left : box.left + box.width]
    out = torch.empty(3, size, size, dtype=torch.uint8)
    if compiled.resize(cut, out):
        assert torch.equal(out, by_torch(cut, size))
    else:
        assert (
            min(box.width, box.height) < 4 * max(box.width, box.height, size) / size + 8
        )  # taps are as many as pixels
    assert torch.equal(crop_and_resize(image, box, size), by_torch(cut, size))


@pytest.mark.parametrize("size", [30, 225])
def test_other_sizes_and_tiny_images_are_left_to_torch(compiled: Resizer, size: int) -> None:
    assert not compiled.resize(NOISE, torch.empty(3, size, size, dtype=torch.uint8))
    assert not compiled.resize(NOISE[:, :3], torch.empty(3, 32, 32, dtype=torch.uint8))
    assert not compiled.resize(NOISE[:, ::2], torch.empty(3, 32, 32, dtype=torch.uint8))
    assert torch.equal(crop_and_resize(NOISE, Box(0, 0, 3, 300), size), by_torch(NOISE[:300, :3], size))
    assert torch.equal(crop_and_resize(NOISE[:, ::2], Box(0, 0, 90, 80), size), by_torch(NOISE[:80, :180:2], size))


def test_rows_that_lie_otherwise_are_left_to_torch(compiled: Resizer) -> None:
    """Upwards, over each other, or of one colour: what ends last in memory is not the last row."""
    out, image = torch.empty(3, 32, 32, dtype=torch.uint8), NOISE[:90, :80].copy()
    once = np.lib.stride_tricks.as_strided(image, (90, 80, 3), (0, 3, 1))
    for cut in (image[::-1], once, image[:, :, :1]):
        assert not compiled.resize(cut, out)
    for cut in (image[::-1], once):
        assert torch.equal(crop_and_resize(cut, Box(0, 0, 80, 90), 32), by_torch(cut, 32))


def test_without_the_compiled_one_pixels_are_the_same(compiled: Resizer, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = crop_and_resize(NOISE, Box(10, 20, 300, 333), 224)
    monkeypatch.setattr(augment, "resizer", lambda: None)
    assert torch.equal(with_it, crop_and_resize(NOISE, Box(10, 20, 300, 333), 224))


@pytest.mark.parametrize("side", [40, 64, 77])
def test_nothing_is_read_behind_the_image(compiled: Resizer, side: int) -> None:
    with guarded(NOISE[:side, :side]) as image:
        out = torch.empty(3, 64, 64, dtype=torch.uint8)
        assert compiled.resize(image, out) and torch.equal(out, by_torch(image, 64))
