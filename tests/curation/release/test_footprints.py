"""Footprints as GeoPandas reads them, against rasterio's and pyproj's answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio.warp
import shapely
from rasterio.transform import Affine

from curation.catalogue import Window, table_from_rows, tile_id, write_table
from curation.cli import main

UTM31 = (2.0, 0.0, 500_000.0, 0.0, -2.0, 4_500_000.0)


def tile(
    crs: str | None, affine: tuple[float, ...] | None, window: Window, number: int = 0, **more: Any
) -> dict[str, Any]:
    row = {"kind": "tile", "source": "s", "image": f"{number}.tif", "tile_id": tile_id("s", f"{number}.tif", window)}
    return row | window._asdict() | {"crs": crs, "affine": affine, "verdict": "kept", "gsd_m": 2.0} | more


def footprints(tmp_path: Path, rows: list[dict[str, Any]]) -> geopandas.GeoDataFrame:
    image = {"kind": "image", "source": "s", "image": "0.tif", "tile_id": "x", "verdict": "sliced", "crs": "EPSG:32631"}
    write_table(table_from_rows("catalogue", [image, *rows]), tmp_path / "catalogue.parquet", "catalogue", 2)
    assert main(["footprints", str(tmp_path)]) == 0
    return geopandas.read_parquet(tmp_path / "footprints.parquet")


def boxes_of(tmp_path: Path) -> list[dict[str, float]]:
    """The column that covers the geometry, which GeoPandas does not show."""
    found: list[dict[str, float]] = pq.read_table(tmp_path / "footprints.parquet")["bbox"].to_pylist()
    return found


def test_polygons_lie_where_rasterio_says(tmp_path: Path) -> None:
    window = Window(100, 50, 512, 256)
    turned = tuple(Affine.translation(500_000, 4_500_000) @ Affine.rotation(30) @ Affine.scale(2, -2))[:6]
    found = footprints(tmp_path, [tile("EPSG:32631", UTM31, window), tile("EPSG:32631", turned, window, 1)])
    assert found.crs == "EPSG:4326"
    for affine, polygon in zip((UTM31, turned), found.geometry, strict=True):
        corners = [(100, 50), (612, 50), (612, 306), (100, 306)]
        x, y = zip(*(Affine(*affine) @ corner for corner in corners), strict=True)
        expected = shapely.Polygon(zip(*rasterio.warp.transform("EPSG:32631", "EPSG:4326", x, y), strict=True))
        assert polygon.is_valid and polygon.exterior.is_ccw
        assert polygon.symmetric_difference(expected).area < 1e-9 * expected.area
        utm = geopandas.GeoSeries([polygon], crs=4326).to_crs(32631)
        assert utm.area[0] == pytest.approx(1024 * 512, rel=1e-6)


def test_columns_say_what_the_tile_is(tmp_path: Path) -> None:
    kept = tile("EPSG:32631", UTM31, Window(0, 0, 8, 8), shard=3, position=17)
    lost = tile("EPSG:32631", UTM31, Window(8, 0, 8, 8), verdict="blank", gsd_m=None)
    found = footprints(tmp_path, [kept, lost, tile(None, None, Window(0, 0, 8, 8), 1)])
    assert list(found["id"]) == [kept["tile_id"], lost["tile_id"]]
    assert found["key"][0] == f"00000300017-{kept['tile_id']}"
    assert found["key"].isna()[1] and found["shard"].isna()[1] and np.isnan(found["gsd"][1])
    assert list(found["verdict"]) == ["kept", "blank"]
    assert set(found["proj:code"]) == {"EPSG:32631"}
    boxes = np.array([list(box.values()) for box in boxes_of(tmp_path)])
    assert found.geometry.bounds.to_numpy() == pytest.approx(boxes)


def test_tiles_across_the_antimeridian_are_cut_there(tmp_path: Path) -> None:
    degrees = (0.01, 0.0, 179.0, 0.0, -0.01, 10.0)
    over, before = (
        tile("EPSG:4326", degrees, Window(50, 0, 100, 100)),
        tile("EPSG:4326", degrees, Window(0, 0, 100, 100), 1),
    )
    fiji = tile("EPSG:32701", (100.0, 0.0, 160_000.0, 0.0, -100.0, 8_000_000.0), Window(0, 0, 512, 512), 51)
    found = footprints(tmp_path, [over, before, fiji])
    assert list(found.geom_type) == ["MultiPolygon", "Polygon", "MultiPolygon"]
    east, west = shapely.box(179.5, 9, 180, 10), shapely.box(-180, 9, -179.5, 10)
    assert found.geometry[0].symmetric_difference(east.union(west)).area < 1e-9
    assert found.geometry[1].symmetric_difference(shapely.box(179, 9, 180, 10)).area < 1e-9
    assert found.geometry.is_valid.all()
    assert all(part.exterior.is_ccw for part in found.geometry[2].geoms)
    assert boxes_of(tmp_path)[0] == {"xmin": -180.0, "ymin": 9.0, "xmax": 180.0, "ymax": 10.0}


def test_what_lies_nowhere_on_earth_has_no_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moon = "+proj=longlat +R=1737400 +no_defs"
    far = (2.0, 0.0, 9e9, 0.0, -2.0, 4_500_000.0)
    rows = [tile("EPSG:32631", UTM31, Window(0, 0, 8, 8)), tile("EPSG:32631", far, Window(0, 0, 8, 8), 1)]
    assert len(footprints(tmp_path, [*rows, tile(moon, UTM31, Window(0, 0, 8, 8), 2)])) == 1
    assert "1 tile; of 2 no place is known" in capsys.readouterr().out
    write_table(
        table_from_rows("catalogue", [tile(None, None, Window(0, 0, 8, 8))]), tmp_path / "c.parquet", "catalogue"
    )
    assert main(["footprints", str(tmp_path / "c.parquet")]) == 2
    assert "no tile has a place on the ground" in capsys.readouterr().err


def test_the_metadata_are_those_of_the_specification(tmp_path: Path) -> None:
    footprints(tmp_path, [tile("EPSG:32631", UTM31, Window(0, 0, 8, 8))])
    geo = json.loads(pq.read_schema(tmp_path / "footprints.parquet").metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert column["encoding"] == "WKB" and column["crs"]["id"] == {"authority": "EPSG", "code": 4326}
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
