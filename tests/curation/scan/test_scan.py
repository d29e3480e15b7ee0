"""From files to rows of tiles: the ledger, what a row says, restarts, scenes, rasters larger than a strip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from PIL import Image

from curation import catalogue
from curation.catalogue import Window
from curation.imagery.image import open_image
from curation.imagery.location import Location
from curation.scan import block_walk, cutting, fingerprint, part_files, scan
from curation.scan import parts as scan_parts
from curation.sources.recipe import ExcludeRules, Recipe, resolve


def scene(height: int = 200, width: int = 200, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed)
    total = np.full((height, width, 3), (120.0, 115.0, 100.0))
    for side, strength in ((4, 40), (20, 30), (100, 15)):
        grey = noise.normal(0, strength, (side, side, 1)) + noise.normal(0, strength / 6, (side, side, 3))
        for band in range(3):
            total[..., band] += np.asarray(Image.fromarray(grey[..., band].astype(np.float32)).resize((width, height)))
    return np.clip(total, 0, 255).astype(np.uint8)


def parts_of(root: Path, out: Path, recipe: dict[str, Any] | None = None, **source: Any) -> list[scan_parts.Part]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    rows = [
        {
            "source": "s", "image": str(path.relative_to(root)), "file": str(path.relative_to(root)),
            "bytes": path.stat().st_size, "mtime_ns": 0, "split": "test" if "test" in path.name else None,
        }
        for path in files
    ]  # fmt: skip
    listing = out / "images.parquet"
    catalogue.write_table(catalogue.table_from_rows("images", rows), listing, "images", row_group_size=3)
    made = Recipe.model_validate({"name": "t", "sources": [{"id": "s", "path": str(root), **source}], **(recipe or {})})
    return scan_parts.plan_parts(listing, out / "tiles", scan_parts.ScanJob.of(resolve(made, None)[0], made))


def rows_of(parts: list[scan_parts.Part]) -> list[dict[str, Any]]:
    for part in parts:
        scan.scan_part(part)
    return [row for part in parts for row in catalogue.read_table(part.out, "tiles").to_pylist()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    root.mkdir()
    Image.fromarray(scene()).save(root / "a.jpg", quality=92)
    Image.fromarray(scene(seed=1)).save(root / "b.png")
    (root / "broken.jpg").write_bytes((root / "a.jpg").read_bytes()[:900])
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(root / "black.png")
    Image.fromarray(scene(40, 200)).save(root / "thin.png")
    Image.fromarray(scene(seed=2)).save(root / "test_c.png")
    (root / "note.txt").write_text("no image")
    return root


def test_every_image_is_in_the_ledger(folder: Path, tmp_path: Path) -> None:
    rows = rows_of(parts_of(folder, tmp_path, {"exclude": {"splits": ["test"]}}))
    images = {row["image"]: row for row in rows if row["kind"] == "image"}
    assert {name: row["verdict"] for name, row in images.items()} == {
        "a.jpg": None, "b.png": None, "broken.jpg": "unreadable", "black.png": None, "note.txt": "unreadable",
        "thin.png": None, "test_c.png": "excluded_split",
    }  # fmt: skip
    assert all(row["detail"] for row in images.values() if row["verdict"])
    assert [row["image"] for row in rows if row["kind"] == "tile"] == ["a.jpg", "b.png", "black.png", "thin.png"]
    assert len({row["tile_id"] for row in rows}) == len(rows)


def test_a_row_says_what_the_tile_is(folder: Path, tmp_path: Path) -> None:
    rows = rows_of(parts_of(folder, tmp_path, gsd_m=0.5))
    image, tile = (next(r for r in rows if r["image"] == "a.jpg" and r["kind"] == kind) for kind in ("image", "tile"))
    pixels = np.asarray(Image.open(folder / "a.jpg"))
    assert (tile["col_off"], tile["row_off"], tile["width"], tile["height"]) == (0, 0, 200, 200)
    assert image["width"] is None and (image["image_width"], image["image_height"]) == (200, 200)
    assert tile["tile_id"] == catalogue.tile_id("s", "a.jpg", Window(0, 0, 200, 200))
    assert tile["pass_through"] and tile["format"] == "JPEG" and tile["dtype"] == "uint8" and tile["bands"] == 3
    assert (tile["gsd_m"], tile["gsd_from"]) == (0.5, "manifest")
    assert fingerprint.to_hex(tile["phash"]) == str(imagehash.phash(Image.open(folder / "a.jpg")))
    assert tile["orientations"][0] == tile["phash"] == image["phash"]
    assert tile["content_hash"] == fingerprint.content_hash(pixels) == image["content_hash"]
    assert len(tile["dct16"]) == 256 and tile["valid_share"] > 0.95 and tile["stretch"] is None
    import hashlib

    assert tile["raw_sha256"] == hashlib.sha256((folder / "a.jpg").read_bytes()).digest()


def test_what_the_rules_look_at_is_measured_once_and_judged_by_nobody(folder: Path, tmp_path: Path) -> None:
    strict = {"exclude": {"min_side": 4000, "max_flat": 0, "min_std": 127, "min_valid": 1, "max_colour_spread": 0}}
    rows = rows_of(parts_of(folder, tmp_path / "one"))
    assert rows == rows_of(parts_of(folder, tmp_path / "two", strict))
    of_images = catalogue.MEASUREMENTS["image"]
    for row in rows:
        assert row["kind"] == "image" or all(row[name] is None for name in of_images)
    by_name = {row["image"]: row for row in rows if row["kind"] == "image"}
    thin, black, broken = (by_name[name] for name in ("thin.png", "black.png", "broken.jpg"))
    assert (thin["short_side"], thin["elongation"], thin["on_earth"]) == (40, 5.0, None)
    assert (thin["soft_alpha"], thin["band_middle"]) == (0.0, None)
    assert (black["coloured"], black["fill"], black["edge"]) == (0.0, 1.0, 0.0)
    assert black["sampled"] == 40 * 199  # 40 of the 200 rows, each pixel with a right neighbour
    assert all(broken[name] is None for name in of_images)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 3), (2, 9000)])
def test_no_image_is_too_small_to_be_scanned(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "raw").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / "raw/a.png")
    image, *tiles = rows_of(parts_of(tmp_path / "raw", tmp_path))
    assert image["verdict"] is None and image["short_side"] == min(size)
    assert sum(tile["width"] * tile["height"] for tile in tiles) >= size[0] * size[1]
    assert {tile["verdict"] for tile in tiles} == {None}


def test_what_the_write_stage_reads_again_is_what_was_hashed(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    values = (np.moveaxis(scene(700, 900), -1, 0).astype(np.uint16) + 3) * 37
    values[:, :300, :100] = 0
    with rasterio.open(root / "a.tif", "w", driver="GTiff", height=700, width=900, count=3, dtype="uint16") as out:
        out.write(values)
    recipe = {"slice": {"mode": "grid", "tile": 256, "remainder": "pad", "whole_up_to": 128}}
    parts = parts_of(root, tmp_path, recipe)
    tiles = [row for row in rows_of(parts) if row["kind"] == "tile"]
    assert len(tiles) == 3 * 4
    job = parts[0].job
    for tile in tiles:
        with open_image(Location(root, "a.tif"), job.source.source, job.exclude, tile["stretch"]) as image:
            rgb, _ = image.read(Window(tile["col_off"], tile["row_off"], tile["width"], tile["height"]))
        assert fingerprint.content_hash(rgb) == tile["content_hash"]
    assert any(tile["valid_share"] < 0.9 for tile in tiles)


@pytest.mark.parametrize("mode", ["grid", "random"])
@pytest.mark.parametrize("tiled", [True, False])
def test_large_rasters_give_the_same_rows_strip_by_strip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, tiled: bool
) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    layout: dict[str, Any] = {"tiled": True, "blockxsize": 128, "blockysize": 128} if tiled else {"blockysize": 3}
    profile = {"driver": "GTiff", "height": 1500, "width": 1100, "count": 3, "dtype": "uint8", "nodata": 0, **layout}
    pixels = scene(1500, 1100)
    pixels[:, :200] = 0
    with rasterio.open(
        root / "a.tif", "w", crs="EPSG:32631", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 5e6), **profile
    ) as out:
        out.write(np.moveaxis(pixels, -1, 0))
    recipe = {"slice": {"mode": mode, "tile": 200, "whole_up_to": 64, "max_side": 400, "density": 0.7}}
    whole = rows_of(parts_of(root, tmp_path / "one", recipe))
    monkeypatch.setattr(block_walk, "WHOLE_PIXELS", 100_000)
    monkeypatch.setattr(block_walk, "STRIP_PIXELS", (50_000, 150_000))
    monkeypatch.setattr(block_walk, "valid_share", _exact_share(block_walk.valid_share, pixels))
    cut = rows_of(parts_of(root, tmp_path / "two", recipe))
    key = {row["tile_id"]: row for row in whole}
    assert len(cut) == len(whole) > 10
    for row in cut:
        assert row == key[row["tile_id"]] or row["kind"] == "image"
    image = next(row for row in cut if row["kind"] == "image")
    expected = key[image["tile_id"]]
    for column in ("phash", "content_hash", "west", "gsd_m"):  # boxes of one pixel: 1500 < 2 x 1024
        assert image[column] == expected[column]
    assert image["mean"] == pytest.approx(expected["mean"]) and image["std"] == pytest.approx(expected["std"])


def _exact_share(original: Any, pixels: np.ndarray) -> Any:
    """The random mode draws by the valid share, which samples only estimate: take the true one in both runs."""

    def share(patches: Any, fill: float) -> float:
        return original(patches, fill) if len(patches) == 1 else float((pixels != 0).any(-1).mean()) * (1 - fill)

    return share


def test_scenes_of_several_files_share_their_limits_and_their_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    for name, factor in (("T1_a", 10), ("T2_a", 3), ("T1_b", 40)):
        values = np.moveaxis(scene(), -1, 0).astype(np.uint16) * factor
        with rasterio.open(
            root / f"{name}.tif", "w", driver="GTiff", height=200, width=200, count=3, dtype="uint16"
        ) as f:
            f.write(values)
    monkeypatch.setattr(cutting, "SHORTEST", 1e-6)
    monkeypatch.setattr(cutting, "LONGEST", 1e-6)
    parts = parts_of(root, tmp_path, stretch={"how": "per_scene", "scene": "(T[0-9])_"})
    assert [part.images for part in parts] == [2, 1]
    limits = {row["image"]: row["stretch"] for row in rows_of(parts) if row["kind"] == "tile"}
    assert limits["T1_a.tif"] == limits["T1_b.tif"] != limits["T2_a.tif"]


def test_a_part_that_exists_is_not_made_again(folder: Path, tmp_path: Path) -> None:
    part = parts_of(folder, tmp_path)[0]
    first = scan.scan_part(part)
    stamp = part.out.stat().st_mtime_ns
    again = scan.scan_part(part)
    assert part.out.stat().st_mtime_ns == stamp
    assert (first.images, first.tiles, first.verdicts) == (again.images, again.tiles, again.verdicts) == (
        7, 4, {"kept": 4, "unreadable": 2, "excluded_split": 1},
    )  # fmt: skip


def test_the_same_input_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first, second = (parts_of(folder, tmp_path / name)[0] for name in ("one", "two"))
    scan.scan_part(first)
    scan.scan_part(second)
    assert first.out.read_bytes() == second.out.read_bytes()


def test_a_split_part_joins_to_the_whole(folder: Path, tmp_path: Path) -> None:
    part = parts_of(folder, tmp_path / "one")[0]
    scan.scan_part(part)
    halved = parts_of(folder, tmp_path / "two")[0]
    pieces = halved.split()
    for piece in pieces:
        scan.scan_part(piece)
    halved.join(pieces)
    assert pq.read_table(halved.out).equals(pq.read_table(part.out))
    assert not any(piece.out.exists() for piece in pieces)


def test_hashes_of_other_kinds_are_written_beside_the_part(folder: Path, tmp_path: Path) -> None:
    extra = {"fingerprint": {"extra": ["dhash", "whash"]}}
    part = parts_of(folder, tmp_path / "one", extra)[0]
    scan.scan_part(part)
    hashes = {row["tile_id"]: row for row in pq.read_table(part_files.extra_file(part.out)).to_pylist()}
    tiles = [row for row in catalogue.read_table(part.out, "tiles").to_pylist() if row["kind"] == "tile"]
    assert set(hashes) == {tile["tile_id"] for tile in tiles}
    for tile in tiles:
        assert hashes[tile["tile_id"]]["dhash"] == str(imagehash.dhash(Image.open(folder / tile["image"])))
    halved = parts_of(folder, tmp_path / "two", extra)[0]
    pieces = halved.split()
    for piece in pieces:
        scan.scan_part(piece)
    halved.join(pieces)
    assert pq.read_table(part_files.extra_file(halved.out)).equals(pq.read_table(part_files.extra_file(part.out)))


def test_images_given_up_are_crashed(folder: Path, tmp_path: Path) -> None:
    part = parts_of(folder, tmp_path)[0].split()[0].split()[0].without("process killed by signal 11")
    row = rows_of([part])[0]
    assert (row["verdict"], row["detail"]) == ("crashed", "process killed by signal 11")


def test_the_key_of_a_job_follows_every_rule_that_the_scan_reads(folder: Path, tmp_path: Path) -> None:
    base = parts_of(folder, tmp_path)[0].job.rules()
    read = {"max_pixels": 65, "max_bytes": 65}
    changes = [({"exclude": {name: value}}, {}) for name, value in read.items()]
    for recipe, source in [*changes, ({"slice": {"tile": 100}}, {}), ({}, {"gsd_m": 1})]:
        assert parts_of(folder, tmp_path, recipe, **source)[0].job.rules() != base
    others: dict[str, Any] = {name: 1 for name in ExcludeRules.model_fields if name not in ExcludeRules.SCAN_FIELDS}
    others |= {"min_side": 65, "max_aspect": 9, "earth_only": False, "false_colour": True, "ids": ["0" * 20]}
    assert parts_of(folder, tmp_path, {"exclude": others})[0].job.rules() == base


def test_the_seed_is_part_of_the_key_where_windows_are_drawn(folder: Path, tmp_path: Path) -> None:
    def rules(seed: int, mode: str) -> dict[str, Any]:
        return parts_of(folder, tmp_path, {"seed": seed, "slice": {"mode": mode}})[0].job.rules()

    assert rules(0, "random") != rules(1, "random")
    assert rules(0, "grid") == rules(1, "grid")
