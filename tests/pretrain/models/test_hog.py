"""HOG richness against scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from official import channels_first, load
from skimage.feature import hog

from pretrain.models.hog import cell_histograms, hog_features, kernel_beyond, richness, tensor_beyond


@pytest.fixture(scope="module")
def reference(shared):
    return load(shared, "hog_energy")


def test_equals_scikit_image(reference):
    images = channels_first(reference["images_u8"])
    expected = reference["energy_l2_all_channels"].flatten(1)
    assert torch.allclose(richness(images, 16).double(), expected, rtol=1e-4, atol=1e-4)


def test_histograms_equal_scikit_image(reference):
    images = channels_first(reference["images_u8"])
    expected = reference["cells_channel"].permute(4, 0, 1, 2, 3)
    # Only pixels without a row difference can lie on a bin border, and both sides put those into bin 0.
    assert torch.allclose(cell_histograms(images, 8).double(), expected, atol=1e-4)


def test_features_equal_scikit_image_with_cells_as_blocks():
    torch.manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    found = hog_features(image, 16)
    assert found.shape == (1, 6, 108)
    blocks = np.stack(
        [
            hog(plane.numpy() / 255, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(1, 1), block_norm="L2",
                feature_vector=False)[:, :, 0, 0]
            for plane in image[0]
        ]
    )  # fmt: skip
    row, column = 1, 2  # the last patch
    expected = blocks[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(108)
    assert np.allclose(found[0, row * 3 + column].numpy(), expected, atol=1e-4)
    assert not hog_features(torch.full((1, 3, 32, 32), 9, dtype=torch.uint8), 16).any()


@pytest.mark.parametrize(
    ("down", "right"), [(0, 3), (0, -3), (3, 0), (-3, 0), (2, 3), (-2, 3), (2, -3), (-2, -3), (1, 50)]
)
def test_a_plane_fills_the_bin_of_its_direction(down, right):
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    image = (120 + down * (rows - 8) + torch.sign(torch.tensor(right)) * min(abs(right), 8) * (columns - 8)).clamp(
        0, 255
    )
    right = int(math.copysign(min(abs(right), 8), right)) if right else 0
    histogram = cell_histograms(image.to(torch.uint8)[None, None], 4)[:, 0, 0, 1, 1]
    angle = math.degrees(math.atan2(down, right)) % 180
    expected = torch.zeros(9)
    expected[int(angle // 20)] = 2 * math.hypot(down, right) / 255
    assert torch.allclose(histogram, expected, atol=1e-6)


def test_a_constant_image_is_exactly_zero():
    assert not richness(torch.full((2, 3, 32, 32), 77, dtype=torch.uint8), 16).any()


def test_compiled_form_equals_scikit_image(reference):
    images = channels_first(reference["images_u8"])
    compiled = torch.compile(richness, fullgraph=True, backend="eager")(images, 16)
    expected = reference["energy_l2_all_channels"].flatten(1)
    assert torch.allclose(compiled.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "cell"), [((64, 64), 8), ((2, 2), 1), ((6, 33), 3), ((14, 42), 7)])
def test_both_sums_agree_on_noise_and_on_images_that_are_not_contiguous(side, cell):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, *side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    assert torch.allclose(kernel_beyond(images, cell), tensor_beyond(images, cell), rtol=1e-5)


def test_refuses_floats():
    with pytest.raises(ValueError, match=r"uint8 images, not of torch\.float32"):
        richness(torch.rand(1, 3, 32, 32), 16)


def test_threads_share_a_batch():
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    alone, before = kernel_beyond(images, 8), torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert torch.equal(kernel_beyond(images, 8), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("side", "patch"), [(60, 16), (63, 7)])
def test_refuses_sizes_that_do_not_fit(side, patch):
    with pytest.raises(ValueError, match="must be even and divide"):
        richness(torch.zeros(1, 3, side, side, dtype=torch.uint8), patch)


def test_directions_equal_scikit_images_public_function():
    feature = pytest.importorskip("skimage.feature")
    torch.manual_seed(0)
    image = torch.randint(0, 256, (1, 1, 48, 64), dtype=torch.uint8)
    expected = feature.hog(image[0, 0].numpy() / 255, 9, (8, 8), (1, 1), block_norm="L1", feature_vector=False)
    ours = cell_histograms(image, 8)[:, 0, 0].permute(1, 2, 0)
    ours = ours / (ours.sum(dim=2, keepdim=True) + 1e-5)
    assert torch.allclose(ours.double(), torch.from_numpy(expected)[:, :, 0, 0], atol=1e-5)
