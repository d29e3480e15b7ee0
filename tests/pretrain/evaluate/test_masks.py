"""Masks: the published layouts, values that become classes, outlines that become pixels, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from curation.base.errors import InputError, UnreadableImage
from curation.base.settings import validate
from pretrain.evaluate.masks import UNLABELLED, MaskSet, open_masks


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def test_loveda_as_it_is_unpacked(tmp_path: Path) -> None:
    values = np.arange(8).repeat(8).reshape(8, 8)  # 0 is no data, 7 agriculture
    for part, scene, name in (("Train", "Rural", "0"), ("Train", "Urban", "1"), ("Val", "Rural", "2522")):
        save(tmp_path / part / scene / "images_png" / f"{name}.png", np.full((8, 8, 3), 90))
        save(tmp_path / part / scene / "masks_png" / f"{name}.png", values)
    save(tmp_path / "Test" / "Rural" / "images_png" / "4191.png", np.zeros((8, 8, 3)))  # published without masks
    data = open_masks(MaskSet(path=tmp_path, layout="loveda"))
    assert [data.pairs[row].name for row in data.train] == [
        "Train/Rural/images_png/0.png",
        "Train/Urban/images_png/1.png",
    ]
    assert [data.pairs[row].name for row in data.test] == ["Val/Rural/images_png/2522.png"]
    assert data.classes == ["background", "building", "road", "water", "barren", "forest", "agriculture"]
    pixels = data.read(0)
    assert pixels.shape == (8, 8, 4)
    assert pixels[:, 0, 3].tolist() == [UNLABELLED, 0, 1, 2, 3, 4, 5, 6]


def spacenet(folder: Path, name: str, outlines: list[list[list[float]]], epsg: int = 4326) -> None:
    """A 10 x 8 px image of half a metre a pixel (in degrees for 4326) with its corner in Rio, and its outlines."""
    path = folder / "3band" / f"3band_AOI_1_RIO_{name}.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = from_origin(-43.5, -22.9, 1e-5, 1e-5)
    with rasterio.open(path, "w", "GTiff", 10, 8, 3, crs=f"EPSG:{epsg}", transform=grid, dtype="uint8") as raster:
        raster.write(np.full((3, 8, 10), 70, np.uint8))
    features = [
        {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        for ring in outlines
    ]
    label = folder / "geojson" / f"Geo_AOI_1_RIO_{name}.geojson"
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text(json.dumps({"type": "FeatureCollection", "features": features}) if outlines else "")


def test_outlines_of_spacenet_are_filled(tmp_path: Path) -> None:
    # From the third to the sixth column and the second to the fourth row.
    left, right, top, low = -43.5 + 2e-5, -43.5 + 6e-5, -22.9 - 1e-5, -22.9 - 4e-5
    ring = [[left, top], [right, top], [right, low], [left, low], [left, top]]
    spacenet(tmp_path, "img1", [ring])
    spacenet(tmp_path, "img2", [])  # published empty: no building
    data = open_masks(MaskSet(path=tmp_path, layout="spacenet"))
    assert data.classes == ["background", "building"]
    expected = np.zeros((8, 10))
    expected[1:4, 2:6] = 1
    assert data.read(0)[..., 3].tolist() == expected.tolist()
    assert not data.read(1)[..., 3].any()
    assert len(data.train) == len(data.test) == 1


def test_folders_and_values(tmp_path: Path) -> None:
    half = np.zeros((6, 6))
    half[:, 3:] = 255
    half[0, 0] = 7  # none of the classes
    for number in range(4):
        save(tmp_path / "images" / "deep" / f"{number}.jpg", np.full((6, 6, 3), number))
        save(tmp_path / "masks" / "deep" / f"{number}.png", half)
    config = MaskSet(path=tmp_path, classes={0: "ground", 255: "building"}, train_share=0.75)
    data = open_masks(config)
    assert (len(data.train), len(data.test)) == (3, 1)
    assert not set(data.train) & set(data.test)
    assert data.read(0)[0, :, 3].tolist() == [UNLABELLED, 0, 0, 1, 1, 1]
    assert data.digest() == open_masks(config).digest() != open_masks(config.model_copy(update={"seed": 1})).digest()
    for part in ("train", "test"):
        save(tmp_path / part / "images" / "a.png", np.zeros((6, 6, 3)))
        save(tmp_path / part / "masks" / "a.tif", half)
    assert [pair.name for pair in open_masks(config).pairs] == ["test/images/a.png", "train/images/a.png"]


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    config = MaskSet(path=tmp_path, classes={0: "ground", 1: "building"})
    with pytest.raises(InputError, match="0 images with masks to train on .* in images and masks as layout folders"):
        open_masks(config)
    for number, mask in enumerate((np.zeros((6, 5)), np.zeros((6, 6, 3)), np.zeros((6, 6)))):
        save(tmp_path / "images" / f"{number}.png", np.zeros((6, 6, 3)))
        save(tmp_path / "masks" / f"{number}.png", mask)
    data = open_masks(config)
    with pytest.raises(UnreadableImage, match="its mask has 5 x 6 px, not its size"):
        data.read(0)
    with pytest.raises(UnreadableImage, match="its mask has 3 bands"):
        data.read(1)
    (tmp_path / "masks" / "2.png").write_bytes(b"no mask")
    with pytest.raises(UnreadableImage, match="its mask cannot be decoded"):
        data.read(2)
    save(tmp_path / "images" / "3.png", np.zeros((6, 6, 3)))
    with pytest.raises(InputError, match=r"images/3.png: has no mask in masks; add it, or take the image away"):
        open_masks(config)
    with pytest.raises(InputError, match="classes: give each class's value in the masks"):
        validate(MaskSet, {"path": str(tmp_path)}, "suite.yaml")


def test_outlines_that_cannot_be_drawn_are_told(tmp_path: Path) -> None:
    for name, text in {"img1": '{"features": [{"geometry": 3}]}', "img2": "no JSON"}.items():
        spacenet(tmp_path, name, [])
        (tmp_path / "geojson" / f"Geo_AOI_1_RIO_{name}.geojson").write_text(text)
    data = open_masks(MaskSet(path=tmp_path, layout="spacenet"))
    for row in (0, 1):
        with pytest.raises(UnreadableImage, match="its outlines cannot be drawn"):
            data.read(row)
