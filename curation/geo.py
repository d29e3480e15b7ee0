"""Where a window lies on the ground, and how long its pixels are there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.catalogue import Window

if TYPE_CHECKING:
    import numpy.typing as npt

Bounds = tuple[float, float, float, float]
"""West, south, east, north in degrees; west > east across 180 degrees."""

EARTH_RADIUS = 6_371_000.0


@dataclass(frozen=True)
class Georeference:
    """CRS and affine of a raw image.

    Attributes:
        wkt: the CRS as WKT2 or as ``AUTHORITY:CODE``.
        affine: a, b, c, d, e, f: x = a*column + b*row + c, y = d*column + e*row + f.
    """

    wkt: str
    affine: tuple[float, float, float, float, float, float]

    @cached_property
    def _to_degrees(self) -> Any:
        from pyproj import CRS, Transformer

        crs = CRS.from_user_input(self.wkt)
        return Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)

    @cached_property
    def _geographic(self) -> bool:
        from pyproj import CRS

        return bool(CRS.from_user_input(self.wkt).is_geographic)

    @cached_property
    def _geod(self) -> Any:
        from pyproj import CRS

        return CRS.from_user_input(self.wkt).get_geod()

    @property
    def on_earth(self) -> bool:
        """Whether the ellipsoid is the Earth's, within a hundredth."""
        return abs(self._geod.a / EARTH_RADIUS - 1.0) < 0.01

    def _degrees(self, columns: npt.ArrayLike, rows: npt.ArrayLike) -> tuple[Any, Any]:
        a, b, c, d, e, f = self.affine
        columns, rows = np.asarray(columns, float), np.asarray(rows, float)
        return self._to_degrees.transform(a * columns + b * rows + c, d * columns + e * rows + f)  # type: ignore[no-any-return]

    def gsd(self, window: Window) -> float | None:
        """Geometric mean of the ground lengths, in metres, of a pixel step right and down at the window's centre."""
        column, row = window.col_off + window.width / 2, window.row_off + window.height / 2
        lon, lat = self._degrees([column - 0.5, column + 0.5, column, column], [row, row, row - 0.5, row + 0.5])
        if not np.all(np.isfinite(lon)) or not np.all(np.isfinite(lat)):
            return None
        _, _, lengths = self._geod.inv([lon[0], lon[2]], [lat[0], lat[2]], [lon[1], lon[3]], [lat[1], lat[3]])
        product = float(lengths[0]) * float(lengths[1])
        return math.sqrt(product) if product > 0 else None

    def bounds(self, window: Window) -> Bounds | None:
        """Box around the window's corners and the midpoints of its sides; null where the projection has no answer."""
        left, top, width, height = window
        across = left + width * np.array([0, 0.5, 1, 1, 1, 0.5, 0, 0])
        down = top + height * np.array([0, 0, 0, 0.5, 1, 1, 1, 0.5])
        lon, lat = self._degrees(across, down)
        if not np.all(np.isfinite(lon)) or not np.all(np.isfinite(lat)):
            return None
        if self._geographic:  # read off, so that a map of the whole Earth is not taken for nothing
            west, east = float(lon.min()), float(lon.max())
        else:
            turn = (lon - lon[0] + 180.0) % 360.0 - 180.0  # relative to one corner, so that 180 degrees is no edge
            west, east = float(lon[0] + turn.min()), float(lon[0] + turn.max())
        if east - west >= 360.0:
            return (-180.0, float(lat.min()), 180.0, float(lat.max()))
        return (_wrapped(west), float(lat.min()), _wrapped(east), float(lat.max()))


def _wrapped(longitude: float) -> float:
    return longitude if -180.0 <= longitude <= 180.0 else (longitude + 180.0) % 360.0 - 180.0
