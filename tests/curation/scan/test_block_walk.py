"""Rasters too large to be held: read by strips, windows and fingerprints as if they were held."""

from __future__ import annotations

from pathlib import Path

import imagehash
import numpy as np
import pytest
import rasterio
from PIL import Image
from textures import texture

from curation.catalogue import Window
from curation.imagery.image import open_image
from curation.imagery.location import Location
from curation.scan import block_walk, fingerprint, lanczos
from curation.sources.recipe import ExcludeRules
from curation.sources.source import Source


@pytest.mark.parametrize(
    ("height", "width", "down", "across"), [(100, 70, 3, 4), (57, 200, 1, 7), (300, 31, 5, 1), (1000, 900, 29, 31)]
)
@pytest.mark.parametrize("strip", [13, 1000])
def test_averages_over_boxes_are_those_of_pillow(height: int, width: int, down: int, across: int, strip: int) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    expected = np.asarray(Image.fromarray(grey).reduce((across, down)))
    found, sums = np.zeros_like(expected), np.zeros(width, np.uint32)
    for top in range(0, height, strip):
        lanczos.average(grey[top : top + strip], top, height, down, across, sums, found)
    assert np.array_equal(found, expected)


@pytest.fixture
def raster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray]:
    """A striped GeoTIFF of 1500 x 2300, and limits that make it too large to be held."""
    monkeypatch.setattr(block_walk, "WHOLE_PIXELS", 500_000)
    monkeypatch.setattr(block_walk, "STRIP_PIXELS", (100_000, 600_000))
    pixels = np.asarray(texture(3, 2300))[:1500]
    profile = {"driver": "GTiff", "width": 2300, "height": 1500, "count": 3, "dtype": "uint8", "blockysize": 8,
               "interleave": "pixel", "compress": "deflate"}  # fmt: skip
    with rasterio.open(tmp_path / "large.tif", "w", **profile) as out:
        out.write(np.moveaxis(pixels, -1, 0))
    return tmp_path / "large.tif", pixels


def test_windows_are_cut_and_the_whole_is_fingerprinted_on_the_way(raster: tuple[Path, np.ndarray]) -> None:
    path, pixels = raster
    windows = [Window(left, top, 512, 512) for top in range(0, 1500, 400) for left in range(0, 2300, 512)]
    with open_image(Location(path.parent, path.name), Source(id="mine"), ExcludeRules()) as image:
        assert len(block_walk.patches(image)) > 1
        walk = block_walk.BlockWalk(image, windows, None)
        seen = []
        for patch in walk:
            seen.append(patch.window)
            rows, columns = patch.window.row_off, patch.window.col_off
            inside = pixels[rows : rows + 512, columns : columns + 512]
            assert np.array_equal(patch.rgb[: inside.shape[0], : inside.shape[1]], inside)
            assert patch.valid is None if inside.shape[:2] == (512, 512) else not patch.valid.all()  # type: ignore[union-attr]
        reduced = walk.reduced()
    assert seen == windows
    grey = Image.fromarray(pixels).convert("L")
    expected = grey.reduce((2, 1)).resize((32, 32), Image.Resampling.LANCZOS, (0, 0, 1150, 1500))
    assert np.array_equal(reduced.small, np.asarray(expected))
    assert reduced.content_hash == fingerprint.content_hash(pixels)
    assert reduced.mean == pytest.approx(np.asarray(grey).mean(), abs=1e-9)
    assert reduced.std == pytest.approx(np.asarray(grey).std(), abs=1e-6)


def test_the_hash_of_a_large_image_is_near_imagehash_in_every_orientation(raster: tuple[Path, np.ndarray]) -> None:
    path, pixels = raster
    with open_image(Location(path.parent, path.name), Source(id="mine"), ExcludeRules()) as image:
        found = fingerprint.finish([block_walk.BlockWalk(image, [], None).reduced()]).orientations[0]
    picture = Image.fromarray(pixels)
    for turns, value in enumerate(found[:4]):
        expected = imagehash.phash(picture.rotate(90 * turns, expand=True))
        assert fingerprint.to_imagehash(int(value)) - expected <= 2
