"""The compiled sums are those of numpy and of the other loops, and nothing is read behind an image."""

from __future__ import annotations

import numpy as np
import pytest
from guarded import guarded
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curation.scan import measurements
from curation.scan.measure_kernel import LONGEST, Kernel, kernel
from curation.scan.measure_loops import by_loops, nothing

NOISE = np.random.default_rng(0).integers(0, 256, (300, 700, 3), np.uint8)
GROUNDS = {
    "noise": NOISE,
    "extremes": NOISE // 128 * np.uint8(255),
    "flat": NOISE // 90 * np.uint8(126),
    "gentle": NOISE // 40 + np.uint8(100),
    "white": np.uint8(255) - NOISE // 127,
    "grey": np.ascontiguousarray(NOISE[:, :, :1].repeat(3, 2)),
}


@pytest.fixture(scope="module")
def compiled() -> Kernel:
    found = kernel()
    if found is None:
        pytest.skip("no C compiler, or no AVX2")
    return found


def by_numpy(rgb: np.ndarray, rows: int) -> list[int]:
    """Sums of pixels, as the fields of ``Sums`` say."""
    c = rgb.astype(np.int64)
    here, right, below = c[:-1:rows, :-1], c[:-1:rows, 1:], c[1::rows, :-1]
    d = right - here
    step = np.maximum(abs(d), abs(below - here)).max(2)
    low, high, same = here.min(2), here.max(2), step == 0
    (r, g, b), (dr, dg, db) = np.moveaxis(here, 2, 0), np.moveaxis(d, 2, 0)
    u, v = r - g, (r + g - 2 * b) // 2
    sums = [np.ones_like(u), same & (high <= 2), same & (low >= 253), same, high - low > 3, u, v, u * u, v * v]
    sums += [dr * dr, dg * dg, db * db, dr * dg, dg * db, dr * db, ~same & (step <= 8)]
    return [int(values.sum()) for values in sums]


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 300), width=st.integers(1, 700), ground=st.sampled_from(sorted(GROUNDS)),
    rows=st.integers(1, 7), bands=st.integers(1, 3),
)  # fmt: skip
@example(height=1, width=1, ground="noise", rows=1, bands=1)
@example(height=4, width=700, ground="extremes", rows=1, bands=1)
@example(height=300, width=2, ground="flat", rows=1, bands=1)
def test_sums_are_numpys(compiled: Kernel, height: int, width: int, ground: str, rows: int, bands: int) -> None:
    rgb = np.ascontiguousarray(GROUNDS[ground][:height, :width])
    found, expected = nothing(), nothing()
    assert compiled.measure(rgb, rows, bands, *found)
    by_loops(rgb, None, rows, bands, *expected)
    assert found[0][:16].tolist() == by_numpy(rgb, rows)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_wide_and_high_images_carry_their_sums(compiled: Kernel) -> None:
    """Of extremes, whose sums would not fit in 32 bits."""
    for rgb in (np.tile(GROUNDS["extremes"][:9], (1, 93, 1)), np.tile(GROUNDS["extremes"][:, :9], (200, 1, 1))):
        found = nothing()
        assert compiled.measure(np.ascontiguousarray(rgb), 1, 1, *found)
        assert found[0][:16].tolist() == by_numpy(rgb, 1)
    assert not compiled.measure(np.zeros((2, LONGEST + 1, 3), np.uint8), 1, 1, *nothing())


def test_without_the_compiled_ones_all_is_the_same(compiled: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    with_them = measurements.measure(NOISE)
    monkeypatch.setattr(measurements, "kernel", lambda: None)
    without = measurements.measure(NOISE)
    assert with_them.sums == without.sums and with_them.told == without.told
    assert with_them.sums == measurements.measure(NOISE, np.ones(NOISE.shape[:2], bool)).sums


@pytest.mark.parametrize("side", [1, 7, 8, 33, 64])
def test_nothing_is_read_behind_the_image(compiled: Kernel, side: int) -> None:
    with guarded(NOISE[:side, :side]) as image:
        found = nothing()
        assert compiled.measure(image, 1, 1, *found)
        assert found[0][:16].tolist() == by_numpy(image, 1)
