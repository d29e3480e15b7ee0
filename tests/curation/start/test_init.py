"""``rs-curate init``: folders with known content, and the recipes that must follow from them."""

from __future__ import annotations

import io
import os
import random
import signal
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from textures import texture

from curation.base.errors import InputError
from curation.cli import main
from curation.executor.nursery import Line
from curation.sources.recipe import Recipe, RecipeSource, load_recipe, resolve
from curation.start import look as looking
from curation.start.init import init, recipe_of
from curation.start.names import FoundFile, Kinds, walk


def raster(path: Path, bands: int, dtype: str = "uint16", names: tuple[str, ...] = (), high: int = 4_000) -> None:
    """A GeoTIFF of 10 m pixels whose values are spread evenly over 0 to ``high``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    values = rng.integers(0, high, (bands, 96, 96), endpoint=True).astype(dtype)
    with rasterio.open(
        path, "w", driver="GTiff", width=96, height=96, count=bands, dtype=dtype, crs="EPSG:32631",
        transform=from_origin(500_000, 5_000_000, 10, 10), photometric="minisblack",
    ) as file:  # fmt: skip
        file.write(values)
        for band, name in enumerate(names, 1):
            file.set_band_description(band, name)


def chips(folder: Path, count: int, suffix: str = "jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        texture(number, 96).save(folder / f"chip_{number:02d}.{suffix}")


def classes(folder: Path, count: int) -> None:
    """Class maps of five classes."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        blocks = np.random.default_rng(number).integers(0, 5, (12, 12), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / f"chip_{number:02d}.png")


def made(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Recipe, str, str]:
    """The recipe, its text, and what the command printed."""
    path = folder.parent / "recipe.yaml"
    assert main(["init", str(folder), "--out", str(path)]) == 0
    text = " ".join(path.read_text().replace("\n    #", "").split())  # comments are wrapped
    return load_recipe(str(path)), text, capsys.readouterr().out


def only(recipe: Recipe) -> RecipeSource:
    (source,) = recipe.sources
    return source


def test_chips_with_masks_and_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "My Corpus 2"
    for split, count in (("train", 6), ("Val", 2), ("test", 2)):
        chips(folder / split / "images", count)
        classes(folder / split / "masks", count)
    classes(folder / "train" / "coarse", 4)
    (folder / "train/images/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (folder / "readme.txt").write_text("hello")
    recipe, text, told = made(folder, capsys)
    source = only(recipe)
    assert (recipe.name, source.id, source.path) == ("my-corpus-2", "my_corpus_2", str(folder))
    assert source.manifest == {
        "leave": ["**/masks/**", "train/coarse/*.png"],
        "splits": {"train": ["**/train/**"], "test": ["**/test/**"], "val": ["**/Val/**"]},
    }
    assert '"**/masks/**" # 10 masks or labels: the name says so' in text
    assert "4 masks or labels: at most 5 distinct values in each of 4 files" in text
    assert "broken.jpg: JPEG without a frame header" in text and "1 of 11 cannot be read" in told
    assert "Beside the images: 1 .txt" in told
    assert f"rs-curate run {tmp_path / 'recipe.yaml'} --out CORPUS" in told


def test_named_bands_and_a_stretch_by_percentiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "s2"
    for number in range(70):
        raster(folder / f"scene_{number}.tif", 4, names=("B02", "B03", "B04", "B08"))
    recipe, text, told = made(folder, capsys)
    source = only(recipe)
    low, high = source.manifest["stretch"]["fixed"]
    # the 2nd and 98th percentile of values spread evenly over 0 to 4,000; zero is missing in 16-bit rasters
    assert low == pytest.approx(80, abs=10) and high == pytest.approx(3920, abs=10)
    assert set(source.manifest) == {"stretch"} and "bands" not in source.manifest
    assert "percentile of the pixels of 70 images." in text
    assert "3, 2, 1 in 70" in text and "GSD: 10 m" in text and "70 EPSG:32631" in text
    assert "warning" not in told


def test_bands_without_names_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "stacks"
    raster(folder / "a.tif", 12)
    raster(folder / "b.tif", 12)
    recipe, text, told = made(folder, capsys)
    assert "bands" not in only(recipe).manifest
    assert "2 of the images opened have 12 bands and do not say which are red, green and blue" in told
    assert " bands: [RED, GREEN, BLUE] 2nd and 98th" in text


def test_grey_beside_colour_becomes_a_source_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mixed"
    chips(folder / "colour", 5)
    for number in range(3):
        raster(folder / f"pan/{number}.tif", 1)
    recipe, _, _ = made(folder, capsys)
    colour, pan = recipe.sources
    assert (colour.id, colour.manifest) == ("mixed_rgb", {"images": ["**/*.jpg"]})
    assert pan.id == "mixed_grey_uint16" and pan.manifest["kind"] == "grey" and pan.manifest["images"] == ["**/*.tif"]


def test_grey_among_colour_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mixed"
    for number in range(3):
        raster(folder / f"{number}.tif", 3, "uint8", high=255)
    raster(folder / "3.tif", 1, "uint8", high=255)
    recipe, _, told = made(folder, capsys)
    assert "kind" not in only(recipe).manifest
    assert "warning: mixed: 1 of 4 opened have one band, such as 3.tif, and a source of kind: rgb leaves those" in told


def test_one_file_per_band(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "bands"
    for patch in ("p1", "p2"):
        for band in ("B01", "B02", "B03", "B04", "B08"):
            raster(folder / patch / f"{patch}_{band}.tif", 1)
    recipe, text, _ = made(folder, capsys)
    listed = resolve(recipe, None)[0]
    from curation.sources.inventory import list_images

    rows = list(list_images(listed.source, listed.root))
    assert [row["band_files"] for row in rows] == [
        [f"{patch}/{patch}_{band}.tif" for band in ("B04", "B03", "B02")] for patch in ("p1", "p2")
    ]
    assert "Other bands are not taken: _B" in text


def test_archives_and_what_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "packed"
    chips(tmp_path / "loose", 6)
    folder.mkdir()
    with zipfile.ZipFile(folder / "part_1.zip", "w") as archive:
        for path in sorted((tmp_path / "loose").iterdir()):
            archive.write(path, f"images/{path.name}")
        archive.writestr("inner.zip", b"PK")
    with tarfile.open(folder / "more.tar", "w") as archive:
        for path in sorted((tmp_path / "loose").iterdir())[:4]:
            archive.add(path, path.name)
    (folder / "cut.zip").write_bytes((folder / "part_1.zip").read_bytes()[:500])
    (folder / "shard.tfrecord").write_bytes(b"0")
    recipe, _, told = made(folder, capsys)
    found = {source.manifest["container"]: source for source in recipe.sources}
    assert set(found) == {"zip", "tar"}
    assert found["zip"].manifest["images"] == ["**/*.zip/**/*.jpg"]
    from curation.sources.inventory import list_images

    counts = {each.source.container: len(list(list_images(each.source, each.root))) for each in resolve(recipe, None)}
    assert counts == {"zip": 6 + 1, "tar": 4}  # and a row for the zip that is cut
    assert "not read: 1 file ends in .zip inside of zip files" in told and "unpack it" in told
    assert "not read: 1 file ends in .tfrecord" in told
    assert "not whole: cut.zip: not a whole archive" in told


def test_content_counts_and_not_the_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "odd"
    chips(folder, 3)
    for number in range(2):
        raster(folder / f"{number}.gtif", 3, "uint8", high=255)
    (folder / "fake.jp2").write_bytes(b"<html>not found</html>")
    recipe, _, told = made(folder, capsys)
    assert only(recipe).manifest == {"images": ["**/*.{gtif,jpg}"]}
    assert "not read: 1 file ends in .jp2 in . (not an image format that is read" in told


def test_masks_that_no_source_takes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "towns"
    chips(folder / "images", 4)
    raster(folder / "pan/0.tif", 1)
    classes(folder / "gt", 4)
    recipe, text, told = made(folder, capsys)
    assert [source.manifest["images"] for source in recipe.sources] == [["**/*.jpg"], ["**/*.tif"]]
    assert not any("leave" in source.manifest for source in recipe.sources)
    for shown in (text, told):
        assert "not taken: **/gt/**: 4 masks or labels: the name says so" in shown


def test_links_that_lead_outside_are_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chips(tmp_path / "blobs", 3)
    folder = tmp_path / "snapshots"
    folder.mkdir()
    for number, blob in enumerate(sorted((tmp_path / "blobs").iterdir())):
        (folder / f"{number}.jpg").symlink_to(blob)
    recipe, _, _ = made(folder, capsys)
    assert only(recipe).manifest == {"follow_links": str(tmp_path / "blobs")}


def test_a_huge_raster_is_cut_by_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    with rasterio.open(
        folder / "a.tif", "w", driver="GTiff", width=5_000, height=100, count=3, dtype="uint8", photometric="rgb"
    ) as file:
        file.write(np.random.default_rng(0).integers(0, 255, (3, 100, 5_000), dtype=np.uint8))
    recipe, text, _ = made(folder, capsys)
    assert only(recipe).slice is not None and only(recipe).slice.mode == "grid"
    assert "1 of 1 opened are 4,096 pixels or longer, up to 5,000" in text


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "does not exist; give the folder"),
        (lambda folder: folder.write_bytes(b"1"), "is a file; give the folder that holds it"),
        (lambda folder: folder.mkdir(), "holds no file"),
        (lambda folder: (folder.mkdir(), (folder / "a.nc").write_bytes(b"1")), "holds no image .*1 file ends in .nc"),
    ],
)
def test_folders_without_images(tmp_path: Path, prepare, message: str) -> None:
    prepare(tmp_path / "f")
    with pytest.raises(InputError, match=message):
        init(tmp_path / "f", tmp_path / "recipe.yaml")
    assert not (tmp_path / "recipe.yaml").exists()


def test_a_recipe_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(InputError, match="exists; give another name with --out"):
        init(tmp_path, tmp_path / "recipe.yaml")


# ------------------------------------------------------------------------------------------------ guards


def _dies_of_2(line: Line, root: Path, places: list[FoundFile]) -> list[looking.Look]:
    if any(place.file == "2.jpg" for place in places):
        os.kill(os.getpid(), signal.SIGSEGV)
    return [looking.Look(place, format="JPEG") for place in places]


def test_an_image_that_brings_its_process_down_is_told_and_the_others_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "_look_at", _dies_of_2)
    nursery = looking.Nursery(looking.PRELOAD)
    try:
        looks = list(looking.look(nursery, tmp_path, [FoundFile(f"{n}.jpg") for n in range(12)], 60))
    finally:
        nursery.close()
    assert sorted(look.place.file for look in looks) == sorted(f"{n}.jpg" for n in range(12))
    (bad,) = [look for look in looks if look.error]
    assert bad.place.file == "2.jpg" and bad.error == "crashed: process killed by signal 11"


def test_a_walk_ends_when_time_is_up(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"d{number}").mkdir()
    names = walk(tmp_path, -1.0, random.Random(0))
    assert not names.complete and names.folders == 0


def test_a_draw_is_even_and_bounded() -> None:
    """Of 5,000 files 96 are drawn, as many from the first half as from the second but for chance (5 sigma: 24)."""
    kinds = Kinds(random.Random(1))
    for number in range(5_000):
        kinds.add(FoundFile(f"{number}.jpg"), f"{number}.jpg")
    (kind,) = kinds
    assert kind.count == 5_000 and len(kind.drawn) == 96 == len(set(kind.drawn))
    assert abs(sum(int(place.file[:-4]) < 2_500 for place in kind.drawn) - 48) < 25


# ------------------------------------------------------------------------------------------------ run FOLDER


def test_a_word_that_is_a_folder_and_a_recipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chips(tmp_path / "demo", 3)
    with pytest.raises(InputError, match=r"say \./demo for the folder"):
        recipe_of("demo", tmp_path / "out")
    path, told = recipe_of("./demo", tmp_path / "out")
    assert path == str(tmp_path / "out/recipe.yaml") and "demo" in told
    before = Path(path).read_bytes()
    assert recipe_of(str(tmp_path / "demo"), tmp_path / "out") == (path, "")
    assert Path(path).read_bytes() == before
    chips(tmp_path / "other", 3)
    with pytest.raises(InputError, match="is of another folder"):
        recipe_of("other", tmp_path / "out")
    with pytest.raises(InputError, match="give --out elsewhere"):
        recipe_of("other", tmp_path / "other/corpus")


def test_a_table_of_images_is_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "hub"
    folder.mkdir()
    data = []
    for number in range(5):
        held = io.BytesIO()
        texture(number, 96).save(held, "PNG")
        data.append({"bytes": held.getvalue(), "path": f"{number}.png"})
    pq.write_table(pa.table({"image": data, "label": list(range(5))}), folder / "train-0.parquet")
    source = only(made(folder, capsys)[0])
    assert source.manifest["container"] == "parquet"
