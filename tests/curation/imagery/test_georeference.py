"""Places and lengths on the ground, for every CRS and transform that a file can hold. Expected values by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.catalogue import Window
from curation.imagery.georeference import Affine, Georeference

WINDOWS = [Window(0, 0, 64, 64), Window(3, 5, 1, 1)]
HALF_METRE: Affine = (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_000_000.0)
DEGREE = (1e-4, 0.0, 2.0, 0.0, -1e-4, 49.0)
INTERNATIONAL = "+proj=tmerc +lat_0=0 +lon_0=9 +k=1 +x_0=3500000 +ellps=bessel +towgs84=598.1,73.7,418.2,0,0,-2,6.7"
ROTATED_POLE = (
    "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +to_meter=0.0174532925199433 +type=crs"
)

CRSS = {
    "site in metres": 'LOCAL_CS["site",UNIT["metre",1]]',
    "site in feet": 'LOCAL_CS["site",UNIT["foot",0.3048]]',
    "site, WKT2": 'ENGCRS["site",EDATUM["x"],CS[Cartesian,2],AXIS["(E)",east],AXIS["(N)",north],LENGTHUNIT["metre",1]]',
    "site without a unit": 'LOCAL_CS["site",UNIT["unknown",1]]',
    "site in degrees": 'LOCAL_CS["site",UNIT["degree",0.0174532925199433]]',
    "unit of length zero": 'LOCAL_CS["site",UNIT["metre",0]]',
    "unit beyond all numbers": 'LOCAL_CS["site",UNIT["metre",1e308]]',
    "utm": "EPSG:32631",
    "geographic": "EPSG:4326",
    "geographic 3D": "EPSG:4979",
    "geocentric": "EPSG:4978",
    "vertical": "EPSG:5773",
    "compound": "EPSG:9518",
    "compound, projected": "EPSG:7415",
    "bound": INTERNATIONAL,
    "derived": ROTATED_POLE,
    "time": 'TIMECRS["t",TDATUM["x"],CS[TemporalCount,1],AXIS["t",future,TIMEUNIT["day",86400]]]',
    "mars": "+proj=eqc +R=3396190 +units=m +type=crs",
    "moon": 'GEOGCS["Moon",DATUM["D_Moon",SPHEROID["Moon",1737400,0]],PRIMEM["G",0],UNIT["degree",0.0174532925199433]]',
    "degrees, no datum": 'GEOGCS["x",DATUM["Unknown",SPHEROID["u",6378137,298]],PRIMEM["G",0],UNIT["degree",0.017453]]',
    "sphere of a metre": 'GEOGCS["x",DATUM["U",SPHEROID["u",1,0]],PRIMEM["G",0],UNIT["degree",0.0174532925199433]]',
    "grads of Paris": "EPSG:27572",
    "satellite": "+proj=geos +h=35785831 +lon_0=0 +sweep=y +type=crs",
    "nonsense": "PROJCS[no",
    "nothing": "",
}


@pytest.mark.parametrize(("name", "expected"), [("metres", 0.5), ("feet", 0.1524)])
def test_a_building_site_has_a_gsd_but_no_place(name: str, expected: float) -> None:
    place = Georeference(CRSS[f"site in {name}"], (0.3, 0.4, 10.0, 0.4, -0.3, 20.0))  # turned, 0.5 units a pixel
    assert place.gsd(WINDOWS) == pytest.approx([expected] * 2)
    assert place.bounds(WINDOWS) == [None, None] and place.on_earth


@pytest.mark.parametrize(
    "name", ["site without a unit", "site in degrees", "geocentric", "vertical", "time", "nonsense"]
)
def test_a_crs_that_is_no_plane_says_nothing(name: str) -> None:
    place = Georeference(CRSS[name], HALF_METRE)
    assert place.gsd(WINDOWS) == [None, None] and place.bounds(WINDOWS) == [None, None] and place.on_earth


def test_the_horizontal_part_of_a_compound_counts() -> None:
    affine = (0.5, 0.0, 155_000.0, 0.0, -0.5, 463_000.0)  # Amersfoort, where RD New's scale is 0.9999079
    found = Georeference(CRSS["compound, projected"], affine)
    assert found.gsd(WINDOWS)[0] == pytest.approx(0.5 / 0.9999079, rel=1e-6)
    assert found.bounds(WINDOWS) == Georeference("EPSG:28992", affine).bounds(WINDOWS)


def test_grads_east_of_paris_become_degrees_east_of_greenwich() -> None:
    """Lambert II's origin: 52 grads north, 0 grads of Paris, which is 2 degrees 20' 14.025'' east of Greenwich."""
    found = Georeference(CRSS["grads of Paris"], (1.0, 0.0, 600_000.0, 0.0, -1.0, 2_200_000.0))
    bounds = found.bounds([Window(0, 0, 1, 1)])[0]
    assert bounds is not None
    assert bounds[0] == pytest.approx(2 + 20 / 60 + 14.025 / 3600, abs=1e-6)
    assert bounds[3] == pytest.approx(46.8, abs=1e-6)
    assert found.gsd([Window(0, 0, 1, 1)]) == pytest.approx([1 / 0.99987742], rel=1e-6)  # its scale at the origin


def test_a_rotated_pole_is_turned_back() -> None:
    """The rotated grid's own equator and meridian cross at 50.75 N, 18 E (the CORDEX grid of Europe)."""
    found = Georeference(CRSS["derived"], (0.1, 0.0, -0.05, 0.0, -0.1, 0.05)).bounds([Window(0, 0, 1, 1)])[0]
    assert found is not None
    assert (found[0] + found[2]) / 2 == pytest.approx(18, abs=0.01)
    assert (found[1] + found[3]) / 2 == pytest.approx(50.75, abs=0.01)


def test_coordinates_that_are_no_longitude_and_latitude_are_no_place() -> None:
    for name in ("geographic", "geographic 3D", "compound", "moon", "degrees, no datum"):
        found = Georeference(CRSS[name], HALF_METRE)
        assert found.gsd(WINDOWS) == [None, None] and found.bounds(WINDOWS) == [None, None]
    half_a_pixel_over_the_pole = Georeference("EPSG:4326", (0.25, 0.0, -180.125, 0.0, -0.25, 90.125))
    assert half_a_pixel_over_the_pole.bounds([Window(0, 0, 1440, 721)]) == [(-180.0, -90.0, 180.0, 90.0)]


def test_other_bodies() -> None:
    assert not Georeference(CRSS["mars"], HALF_METRE).on_earth
    assert not Georeference(CRSS["moon"], DEGREE).on_earth
    assert Georeference(CRSS["satellite"], HALF_METRE).on_earth


ABSURD = {
    "zero": (0.0,) * 6,
    "a line": (1.0, 1.0, 0.0, 1.0, 1.0, 0.0),
    "not a number": (math.nan,) * 6,
    "infinite": (math.inf, 0.0, 0.0, 0.0, -1.0, 0.0),
    "huge": (1e300, 0.0, 0.0, 0.0, -1e300, 0.0),
    "far away": (1.0, 0.0, 1e300, 0.0, -1.0, 1e300),
    "largest": (1.7e308,) * 6,
    "smallest": (5e-324, 0.0, 0.0, 0.0, -5e-324, 0.0),
}


@pytest.mark.parametrize("name", CRSS)
@pytest.mark.parametrize("transform", ABSURD)
def test_absurd_transforms_say_nothing(name: str, transform: str) -> None:
    place = Georeference(CRSS[name], ABSURD[transform])  # type: ignore[arg-type]
    if transform != "far away" or not name.startswith("site"):  # a site's origin may lie anywhere
        assert place.gsd(WINDOWS) == [None, None]
    assert place.bounds(WINDOWS) == [None, None]


numbers = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(sorted(CRSS)), affine=st.tuples(*[numbers | st.floats(-1e7, 1e7)] * 6))
def test_whatever_a_file_holds_the_answer_is_a_place_or_nothing(name: str, affine: Any) -> None:
    place = Georeference(CRSS[name], affine)
    for gsd, box in zip(place.gsd(WINDOWS), place.bounds(WINDOWS), strict=True):
        assert gsd is None or 0 < gsd < math.inf
        if box is not None:
            west, south, east, north = box
            assert -180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90
