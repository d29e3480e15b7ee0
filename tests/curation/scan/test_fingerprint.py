"""Fingerprints against imagehash itself and against the stored reference."""

from __future__ import annotations

from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curation.scan import fingerprint, lanczos


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "reference" / "phash_reference.npz", allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="module")
def tiles(shared: Path, reference: dict[str, np.ndarray]) -> list[np.ndarray]:
    folder = shared / "reference" / "phash_tiles"
    return [np.asarray(Image.open(folder / str(name)).convert("RGB")) for name in reference["tile"]]


@pytest.fixture(scope="module")
def found(tiles: list[np.ndarray]) -> fingerprint.Fingerprints:
    return fingerprint.fingerprint(tiles)


def test_kernels_agree_with_the_installed_pillow() -> None:
    assert lanczos.pass_order() != "unknown"


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (32, 200), (200, 32), (64, 33), (1, 7), (8, 500)])
def test_reductions_equal_pillows_where_a_side_keeps_its_length_too(shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    picture = Image.fromarray(rgb).convert("L")
    images = ((picture, 32), (picture.transpose(Image.Transpose.TRANSPOSE), 32), (picture, 64))
    expected = [np.asarray(image.resize((side, side), Image.Resampling.LANCZOS)).reshape(-1) for image, side in images]
    np.testing.assert_array_equal(fingerprint.reduce(rgb).greys, np.concatenate(expected))


def test_phash_equals_the_reference_bit_for_bit(
    found: fingerprint.Fingerprints, reference: dict[str, np.ndarray]
) -> None:
    np.testing.assert_array_equal(found.phash, reference["phash8"])


def test_eight_orientations_equal_the_reference_but_at_ties(
    found: fingerprint.Fingerprints, reference: dict[str, np.ndarray]
) -> None:
    clear = reference["dihedral_min_margin"] >= 1e-5
    np.testing.assert_array_equal(found.orientations[clear], reference["dihedral_phash8"][clear])
    assert clear.mean() > 0.85


def test_pillow_itself_gives_the_same_when_the_kernels_cannot_be_used(
    tiles: list[np.ndarray], found: fingerprint.Fingerprints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanczos, "pass_order", lambda: "unknown")
    again = fingerprint.fingerprint(tiles[:40])
    np.testing.assert_array_equal(again.orientations, found.orientations[:40])
    np.testing.assert_array_equal(again.dct16, found.dct16[:40])


@settings(max_examples=150, deadline=None)
@given(height=st.integers(8, 300), width=st.integers(8, 300), seed=st.integers(0, 2**32 - 1), hard=st.booleans())
def test_phash_equals_imagehash_on_any_size(height: int, width: int, seed: int, hard: bool) -> None:
    noise = np.random.default_rng(seed)
    rgb = noise.integers(0, 2 if hard else 256, (height, width, 3)).astype(np.uint8) * (255 if hard else 1)
    picture = Image.fromarray(rgb)
    found = fingerprint.fingerprint([rgb])
    assert fingerprint.to_hex(found.phash[0]) == str(imagehash.phash(picture))
    assert_block_is_scipys(found, 0, picture)
    turned = Image.fromarray(np.ascontiguousarray(rgb.transpose(1, 0, 2)))
    assert fingerprint.to_hex(found.orientations[0, 5]) == str(imagehash.phash(turned))


def test_flat_and_striped_tiles_equal_imagehash_in_spite_of_ties() -> None:
    flat = [np.full((64, 64, 3), value, np.uint8) for value in (0, 7, 128, 255)]
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 64, 0).repeat(3, 2)
    stripes = np.zeros((80, 80, 3), np.uint8)
    stripes[::8] = 255
    tiles = [*flat, ramp, stripes, stripes.transpose(1, 0, 2).copy()]
    found = fingerprint.fingerprint(tiles)
    assert [fingerprint.to_hex(value) for value in found.phash] == [
        str(imagehash.phash(Image.fromarray(tile))) for tile in tiles
    ]


def test_imagehash_objects_go_in_and_out() -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (50, 60, 3), np.uint8)
    value = imagehash.phash(Image.fromarray(rgb))
    assert fingerprint.from_imagehash(value) == fingerprint.fingerprint([rgb]).phash[0]
    assert fingerprint.to_imagehash(fingerprint.from_imagehash(value)) == value
    with pytest.raises(ValueError, match="64 bits"):
        fingerprint.from_imagehash(imagehash.phash(Image.fromarray(rgb), hash_size=16))
    assert fingerprint.extra_hashes(rgb, ["dhash"]) == {"dhash": str(imagehash.dhash(Image.fromarray(rgb)))}


def test_statistics_are_those_of_pillows_luma() -> None:
    rgb = np.random.default_rng(5).integers(0, 256, (70, 90, 3), np.uint8)
    grey = np.asarray(Image.fromarray(rgb).convert("L")).astype(float)
    valid = np.zeros((70, 90), bool)
    valid[10:40, 20:80] = True
    found = fingerprint.fingerprint([rgb, rgb], [None, valid])
    np.testing.assert_allclose(found.mean, [grey.mean(), grey[valid].mean()], rtol=1e-6)
    np.testing.assert_allclose(found.std, [grey.std(), grey[valid].std()], rtol=1e-5)


def assert_block_is_scipys(found: fingerprint.Fingerprints, number: int, picture: Image.Image) -> None:
    from scipy.fft import dctn

    small = picture.convert("L").resize((64, 64), Image.Resampling.LANCZOS)
    expected = dctn(np.asarray(small).astype(float), norm="ortho")[:16, :16]
    expected[0, 0] = 0
    scale = float(found.dct_scale[number])
    stored = found.dct16[number].astype(float) * scale
    assert np.abs(stored - expected).max() <= scale * 0.51 + 1e-9


def test_dct_block_keeps_the_shape_of_the_spectrum(tiles: list[np.ndarray], found: fingerprint.Fingerprints) -> None:
    for number, tile in enumerate(tiles):
        assert_block_is_scipys(found, number, Image.fromarray(tile))


def test_texture_measure_tells_flat_from_textured() -> None:
    noise = np.random.default_rng(1)
    haze = np.clip(noise.normal(128, 1, (256, 256, 1)), 0, 255).astype(np.uint8).repeat(3, 2)
    field = np.asarray(Image.fromarray(noise.integers(0, 256, (16, 16, 3), np.uint8)).resize((256, 256)))
    energy = fingerprint.fingerprint([haze, field]).ac_energy
    assert energy[0] < 1 < 20 < energy[1]


def test_content_hash_depends_on_shape_and_pixels() -> None:
    flat = np.zeros((4, 6, 3), np.uint8)
    assert fingerprint.content_hash(flat) != fingerprint.content_hash(flat.reshape(6, 4, 3))
    assert fingerprint.content_hash(flat) == fingerprint.content_hash(flat.copy())
    assert fingerprint.fingerprint([]).orientations.shape == (0, 8)
