"""Red, green and blue by what files say; layouts as ESA, USGS, USDA and Planet document them."""

from __future__ import annotations

import pytest

from curation.imagery.band_names import rgb_bands

SENTINEL_2 = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
LANDSAT_8 = [f"SR_B{number}" for number in range(1, 8)]
LANDSAT_7 = ["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7"]
PLANET_8 = ["coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"]


@pytest.mark.parametrize(
    ("names", "bands"),
    [
        (SENTINEL_2, (4, 3, 2)),
        (["B2", "B3", "B4", "B8"], (3, 2, 1)),
        (["Band 4: Red", "Band 3: Green", "Band 2: Blue"], (1, 2, 3)),
        (LANDSAT_8, (4, 3, 2)),
        (LANDSAT_7, (3, 2, 1)),
        (
            [f"band {n} reflectance" for n in (1, 2, 3, 4, 5, 7)] + ["band 6 temperature", None],
            (3, 2, 1),
        ),  # a LE07 stack
        ([f"SR_B{n}" for n in range(1, 8)], (4, 3, 2)),  # Landsat 8, surface reflectance
        (["blue", "green", "red", "nir"], (3, 2, 1)),
        (PLANET_8, (6, 4, 2)),
        (["Red", "Green", "Blue", "NIR"], (1, 2, 3)),
        (["S2 B4 (665 nm)", "S2 B3 (560 nm)", "S2 B2 (490 nm)"], (1, 2, 3)),
        (["red edge 1", "red", "green", "blue", "near infrared"], (2, 3, 4)),
        (["VV", "VH"], None),
        ([None, None, None, None], None),
        (["red", "red", "green", "blue"], None),
        (["B1", "B2", "B3"], None),
    ],
)
def test_layouts(names: list[str | None], bands: tuple[int, int, int] | None) -> None:
    assert rgb_bands(names) == bands


def test_the_interpretation_goes_first() -> None:
    assert rgb_bands([None] * 4, ["blue", "green", "red", "undefined"]) == (3, 2, 1)
    assert rgb_bands(["red", "green", "blue"], ["gray", "undefined", "undefined"]) == (1, 2, 3)
