"""World files, .prj and .aux.xml beside images, written by GDAL or by hand as ESRI describes them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curation.catalogue import Window
from curation.imagery.image import Ground, open_image
from curation.imagery.location import Location
from curation.imagery.sidecars import beside, kinds_in
from curation.sources.recipe import ExcludeRules
from curation.sources.source import Source

ALL = Window(0, 0, 60, 40)
WORLD = "0.5\n0\n0\n-0.5\n500000.25\n5000099.75\n"
"""Half a metre a pixel; the corner of the first pixel lies at 500000, 5000100."""
CORNER = (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_000_100.0)


def utm() -> str:
    from pyproj import CRS

    return CRS.from_epsg(32631).to_wkt("WKT1_ESRI")


def picture(folder: Path, name: str) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def ground(path: Path, **manifest: float) -> Ground:
    with open_image(Location(path.parent, path.name), Source(id="s", **manifest), ExcludeRules()) as image:
        return image.ground([ALL])[0]


@pytest.mark.parametrize(
    ("name", "world"),
    [("a.jpg", "a.jgw"), ("a.jpg", "a.jpgw"), ("a.jpeg", "a.jgw"), ("a.png", "a.pgw"), ("a.bmp", "a.wld"),
     ("a.webp", "a.wpw"), ("a.tif", "a.tfw"), ("a.tif", "a.TFW"), ("A.JPG", "A.JGW")],
)  # fmt: skip
def test_a_world_file_and_a_prj_give_a_place(tmp_path: Path, name: str, world: str) -> None:
    path = picture(tmp_path, name)
    (tmp_path / world).write_text(WORLD)
    path.with_suffix(".prj").write_text(utm())
    with open_image(Location(tmp_path, name), Source(id="s", gsd_m=9), ExcludeRules()) as image:
        assert (image.crs, image.affine) == ("EPSG:32631", CORNER)
        gsd, said, bounds = image.ground([ALL])[0]
        assert said == "file" and gsd == pytest.approx(0.5 / 0.9996, rel=1e-6)
        assert bounds is not None and bounds[0] == pytest.approx(3, abs=1e-9)  # UTM 31's central meridian


@pytest.mark.parametrize("driver", ["JPEG", "PNG"])
def test_gdals_own_aux_xml_is_read(tmp_path: Path, driver: str) -> None:
    path = tmp_path / "a.img"
    profile = {"driver": driver, "width": 60, "height": 40, "count": 3, "dtype": "uint8", "crs": "EPSG:32631"}
    with rasterio.open(path, "w", transform=Affine(*CORNER), **profile) as out:
        out.write(np.random.default_rng(0).integers(0, 256, (3, 40, 60), np.uint8))
    assert (tmp_path / "a.img.aux.xml").exists()
    with open_image(Location(tmp_path, "a.img"), Source(id="s"), ExcludeRules()) as image:
        assert (image.crs, image.affine) == ("EPSG:32631", CORNER)


def test_what_the_file_itself_says_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": 60, "height": 40, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(path, "w", transform=Affine(*CORNER), **profile) as out:
        out.write(np.zeros((3, 40, 60), np.uint8))
    (tmp_path / "a.tfw").write_text(WORLD.replace("0.5", "7"))
    (tmp_path / "a.prj").write_text(utm())
    with open_image(Location(tmp_path, "a.tif"), Source(id="s"), ExcludeRules()) as image:
        assert (image.crs, image.affine) == ("EPSG:32632", CORNER)


def test_a_world_file_alone_is_metres_only_where_it_cannot_be_else(tmp_path: Path) -> None:
    path = picture(tmp_path, "a.jpg")
    world = tmp_path / "a.jgw"
    world.write_text(WORLD)
    assert ground(path) == Ground(pytest.approx(0.5), "file", None)
    assert ground(path, gsd_m=0.3) == Ground(0.3, "manifest", None)  # a person knows better: it may be feet
    for degrees_or_a_drawing in ("0.0001\n0\n0\n-0.0001\n2\n49\n", "1\n0\n0\n-1\n0.5\n39.5\n"):
        world.write_text(degrees_or_a_drawing)
        assert ground(path) == Ground(None, "none", None)


def test_a_picture_turned_by_exif_is_not_placed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif.tobytes())
    (tmp_path / "a.jgw").write_text(WORLD)
    assert ground(tmp_path / "a.jpg") == Ground(None, "none", None)


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa">' + "".join(f'<!ENTITY a{i} "{"&a;" * 50}">' for i in range(999)) + "]>"
HOSTILE = {
    "a.jgw": ["", "1 2 3", "nan\n" * 6, "inf\n" * 6, "1\n" * 7, "1e999\n" * 6, "\0" * 6, "0\n" * 6, "x" * 9_000_000],
    "a.prj": ["", "GEOGCS[" * 5_000, "+init=/etc/passwd", "PROJCS[]", "\0\1\2", "EPSG:4326", 'GEOGCS["' + "x" * 70_000],
    "a.jpg.aux.xml": [
        BOMB + "<PAMDataset><SRS>&a999;</SRS></PAMDataset>", "<SRS" * 60_000, "<SRS>" * 50_000,
        "<SRS>x</SRS><GeoTransform>1,2</GeoTransform>", "<GeoTransform>nan,nan,nan,nan,nan,nan</GeoTransform>",
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><SRS>&e;</SRS>',
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "number"), [(name, at) for name, texts in HOSTILE.items() for at in range(len(texts))]
)
def test_hostile_sidecars_say_nothing_at_once(tmp_path: Path, name: str, number: int) -> None:
    import time

    path = picture(tmp_path, "a.jpg")
    (tmp_path / name).write_text(HOSTILE[name][number])
    start = time.process_time()
    assert ground(path) == Ground(None, "none", None)
    assert time.process_time() - start < 2  # quadratic search or expansion would take minutes


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=200), name=st.sampled_from(sorted(HOSTILE)))
def test_any_bytes_beside_an_image_leave_it_readable(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = picture(folder, "a.jpg")
    (folder / name).write_bytes(data)
    found = ground(path)
    assert found.gsd is None or found.gsd > 0


def test_links_out_of_the_source_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    path = picture(root, "a.jpg")
    (tmp_path / "secret").write_text(WORLD)
    (root / "a.jgw").symlink_to(tmp_path / "secret")
    assert ground(path) == Ground(None, "none", None)
    (root / "a.jgw").unlink()
    os.mkfifo(root / "a.jgw")  # to open it as a file is would wait for ever
    assert ground(path) == Ground(None, "none", None)
    (root / "a.jgw").unlink()
    (root / "a.jgw").mkdir()
    assert ground(path) == Ground(None, "none", None)


def test_a_folder_is_listed_once(tmp_path: Path) -> None:
    for number in range(20):
        picture(tmp_path, f"{number}.jpg")
        (tmp_path / f"{number}.jpg.xml").write_text("an annotation, no sidecar")
    kinds_in.cache_clear()
    for number in range(20):
        assert beside(tmp_path / f"{number}.jpg", tmp_path) == (None, None)
    assert kinds_in.cache_info().misses == 1
    (tmp_path / "7.jgw").write_text(WORLD)
    os.utime(tmp_path, ns=(1, 1))  # the folder's time tells that it changed
    assert beside(tmp_path / "7.jpg", tmp_path).affine == CORNER
    assert beside(tmp_path / "8.jpg", tmp_path).affine is None
