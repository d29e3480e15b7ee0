"""The compiled reductions are Pillow's, their sums those of Pillow's luma, and nothing is read behind an image."""

from __future__ import annotations

import numpy as np
import pytest
from guarded import guarded
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from curation.scan import fingerprint, lanczos, lanczos_kernel
from curation.scan.lanczos_kernel import Kernel, kernel

NOISE = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
STRIPES = np.where(NOISE > 127, 255, 0).astype(np.uint8)
"""Of the two extremes, where sums overshoot a byte."""


@pytest.fixture(scope="module")
def compiled() -> Kernel:
    found = kernel()
    if found is None or lanczos.pass_order() == "unknown":
        pytest.skip("no C compiler, no AVX2, or a Pillow whose kernels are others")
    return found


def by_pillow(picture: Image.Image) -> np.ndarray:
    images = ((picture, 32), (picture.transpose(Image.Transpose.TRANSPOSE), 32), (picture, 64))
    made = [np.asarray(image.resize((side, side), Image.Resampling.LANCZOS)).reshape(-1) for image, side in images]
    return np.concatenate(made)


@settings(max_examples=150, deadline=None)
@given(height=st.integers(1, 700), width=st.integers(1, 700), hard=st.booleans(), grey=st.booleans())
@example(height=1, width=1, hard=True, grey=False)
@example(height=1, width=700, hard=True, grey=False)
@example(height=700, width=3, hard=True, grey=False)
def test_reductions_and_sums_are_pillows(compiled: Kernel, height: int, width: int, hard: bool, grey: bool) -> None:
    rgb = (STRIPES if hard else NOISE)[:height, :width]
    picture = Image.fromarray(rgb).convert("L")
    luma = np.asarray(picture)
    found = compiled.reduce(luma if grey else rgb, 32, 64, lanczos.pass_order() == "by_size")
    assert found is not None
    np.testing.assert_array_equal(found.greys, by_pillow(picture))
    assert (found.total, found.squares) == (luma.sum(dtype=np.int64), (luma.astype(np.int64) ** 2).sum())


def test_longer_sides_are_left_to_the_other_loops(compiled: Kernel) -> None:
    longest = np.tile(NOISE[:2], (1, 25, 1))[:, : lanczos_kernel.LONGEST + 1]
    assert compiled.reduce(longest, 32, 64, True) is None
    assert compiled.reduce(longest[:, :-1], 32, 64, True) is not None
    np.testing.assert_array_equal(fingerprint.reduce(longest).greys, by_pillow(Image.fromarray(longest).convert("L")))


@pytest.mark.parametrize("masked", [False, True])
def test_without_the_compiled_ones_all_is_the_same(
    compiled: Kernel, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = STRIPES[:170, :300]
    valid = NOISE[:170, :300, 0] > 20 if masked else None
    with_them = fingerprint.reduce(rgb, valid)
    monkeypatch.setattr(lanczos_kernel, "kernel", lambda: None)
    without = fingerprint.reduce(rgb, valid)
    np.testing.assert_array_equal(with_them.greys, without.greys)
    assert (with_them.mean, with_them.std) == (without.mean, without.std)


@pytest.mark.parametrize("side", [1, 17, 18, 64, 77])
def test_nothing_is_read_behind_the_image(compiled: Kernel, side: int) -> None:
    with guarded(NOISE[:side, :side]) as image:
        found = compiled.reduce(image, 32, 64, True)
        assert found is not None
        np.testing.assert_array_equal(found.greys, by_pillow(Image.fromarray(image).convert("L")))
