"""The shipped imagery: documented, small, faults in place, labels apart from the sources of the recipe."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import imagehash
import numpy as np
import pytest
import rasterio
from PIL import Image, ImageOps

from curation.sources.recipe import load_recipe, resolve

CLASSES = {"coast", "desert", "forest", "meadow", "vegetation"}
PLANTED = {
    "neon_chips/YELL/yell_031.jpg": "unreadable",
    "neon_chips/labels/yell_020_mask.jpg": "not_optical",
    "neon_chips/labels/yell_020_mask.png": "not_optical",
    "neon_chips/web/yell_007.jpg": "duplicate",
    "neon_chips/web/yell_020_turned.jpg": "duplicate",
    "neon_chips/web/pines_turned.jpg": "leak",
    "neon_chips/web/grass_part.jpg": "leak",
    "blue_marble/relief/etopo1_andes_grey.png": "not_optical",
}
"""What SOURCES.md promises for files that become one row."""


@pytest.fixture(scope="module")
def demo(repository: Path) -> Path:
    return repository / "manifests" / "demo"


def test_the_tree_stays_small(demo: Path) -> None:
    assert sum(path.stat().st_size for path in demo.rglob("*") if path.is_file()) <= 12_000_000


def test_every_file_is_documented(demo: Path) -> None:
    text = (demo / "SOURCES.md").read_text(encoding="utf-8")
    patterns = [_glob(name) for name in re.findall(r"`([^`\s]+/[^`\s]+)`", text)]
    patterns.append(re.compile(r"neon_chips/YELL/yell_0[0-3]\d\.jpg"))
    patterns += [re.compile(rf"labelled/{label}/{label}_\d+\.jpg") for label in CLASSES]
    for path in sorted(demo.rglob("*")):
        name = path.relative_to(demo).as_posix()
        if path.is_file() and name not in ("SOURCES.md", "planted.csv", "labelled.yaml"):
            assert any(pattern.fullmatch(name) for pattern in patterns), name


def _glob(name: str) -> re.Pattern[str]:
    braces = re.sub(r"\\\{([^}]*)\\\}", lambda found: f"({found[1].replace(',', '|')})", re.escape(name))
    return re.compile(braces.replace(r"\*", "[^/]*"))


def test_planted_faults_are_those_that_are_documented(demo: Path) -> None:
    with (demo / "planted.csv").open(newline="") as file:
        listed = {row["file"]: row["verdict"] for row in csv.DictReader(file)}
    assert listed == PLANTED | {"neon_chips/OSBS/OSBS_029.jpg": "duplicate"}
    table = (demo / "SOURCES.md").read_text(encoding="utf-8").partition("## Planted faults")[2].partition("\n## ")[0]
    for file, verdict in listed.items():
        (line,) = [line for line in table.splitlines() if line.startswith(f"| `{file}`")]
        assert f"`{verdict}`" in line


def test_recipe_names_every_source_and_not_the_labels(demo: Path) -> None:
    sources = resolve(load_recipe(str(demo.parent / "recipes" / "demo.yaml")), demo)
    folders = {path.name for path in demo.iterdir() if path.is_dir()}
    assert {source.root.name for source in sources} == folders - {"labelled"}
    assert all(source.source.redistributable == "yes" for source in sources)


def test_scenes_are_tiled_and_placed_where_the_original_says(demo: Path) -> None:
    with rasterio.open(demo / "neon_scenes/OSBS/OSBS_029.tif") as file:
        assert file.crs.to_epsg() == 32617
        assert file.transform[:6] == pytest.approx((0.1, 0, 404211.9, 0, -0.1, 3285142.9))
    with rasterio.open(demo / "neon_scenes/YELL/2019_YELL_528000_4978000.tif") as file:
        assert file.profile["tiled"] and file.block_shapes[0] == (256, 256) and file.crs is None
    with rasterio.open(demo / "blue_marble/blue_marble_east.tif") as file:
        assert tuple(file.bounds) == pytest.approx((60, -90, 180, 90))


def test_sixteen_bit_strip_has_a_collar_of_nodata(demo: Path) -> None:
    with rasterio.open(demo / "neon_16bit/2019_YELL_strip.tif") as file:
        pixels = file.read()
        assert file.dtypes == ("uint16",) * 3 and file.nodata == 0
    assert pixels.max() <= 2040
    empty = (pixels == 0).all(axis=0)
    assert not empty[416, 268] and empty[0, 0] and empty[-1, -1]
    assert empty.mean() == pytest.approx(1 - 384 * 768 / empty.size, abs=0.01)


def test_copies_are_copies_by_their_hash(demo: Path) -> None:
    chips = demo / "neon_chips"
    assert _phash(chips / "YELL/yell_007.jpg") - _phash(chips / "web/yell_007.jpg") <= 4
    assert _phash(chips / "YELL/yell_020.jpg") - _phash(chips / "web/yell_020_turned.jpg", turn=-90) <= 4
    assert _phash(chips / "YELL/yell_020.jpg") - _phash(chips / "web/yell_020_turned.jpg") > 20


def test_leaks_show_chips_of_the_evaluation_set(demo: Path) -> None:
    turned, part = demo / "neon_chips/web/pines_turned.jpg", demo / "neon_chips/web/grass_part.jpg"
    assert _phash(demo / "labelled/forest/forest_010.jpg") - _phash(turned, turn=-90) <= 4
    with Image.open(demo / "labelled/meadow/meadow_023.jpg") as whole, Image.open(part) as cut:
        assert cut.size == (86, 86)
        same = np.asarray(whole.crop((4, 8, 90, 94)), float) - np.asarray(cut, float)
    assert np.abs(same).mean() < 6  # grey levels; two JPEGs of grass


def _phash(path: Path, turn: int = 0) -> imagehash.ImageHash:
    with Image.open(path) as image:
        return imagehash.phash(image.convert("RGB").rotate(turn))


def test_faulty_files_are_as_documented(demo: Path) -> None:
    chips = demo / "neon_chips"
    with Image.open(chips / "YELL/yell_031.jpg") as image, pytest.raises(OSError, match="truncated"):
        image.load()
    with Image.open(chips / "labels/yell_020_mask.png") as mask:
        assert mask.mode == "P" and len(np.unique(np.asarray(mask))) == 4
    with Image.open(demo / "blue_marble/relief/etopo1_andes_grey.png") as relief:
        assert relief.mode == "L"
    with Image.open(chips / "camera/frame_0001.jpg") as frame:
        assert frame.getexif()[0x0112] == 6
        assert (frame.size, ImageOps.exif_transpose(frame).size) == ((144, 96), (96, 144))


def test_labelled_chips_are_balanced(demo: Path) -> None:
    counts = {folder.name: len(list(folder.glob("*.jpg"))) for folder in (demo / "labelled").iterdir()}
    assert set(counts) == CLASSES
    assert min(counts.values()) >= 36 and max(counts.values()) <= 42
