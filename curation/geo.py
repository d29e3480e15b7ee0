"""Where a window lies on the ground, and how long its pixels are there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.catalogue import Window

Floats = npt.NDArray[np.float64]
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

    def _degrees(self, columns: Floats, rows: Floats) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
        """Longitudes and latitudes of points ``(N, P)``, and of which N all are known; the others' are zero."""
        a, b, c, d, e, f = self.affine
        lon, lat = self._to_degrees.transform(a * columns + b * rows + c, d * columns + e * rows + f)
        known = np.isfinite(lon).all(axis=1) & np.isfinite(lat).all(axis=1)
        return np.where(known[:, None], lon, 0.0), np.where(known[:, None], lat, 0.0), known

    def gsd(self, windows: Sequence[Window]) -> list[float | None]:
        """Geometric mean of the ground lengths, in metres, of a pixel step right and down at each window's centre.

        Null where the projection has no answer.
        """
        left, top, width, height = _columns(windows)
        step, none = np.array([-0.5, 0.5]), np.zeros(2)
        across = left + width / 2 + np.concatenate([step, none])
        down = top + height / 2 + np.concatenate([none, step])
        lon, lat, known = self._degrees(across, down)
        _, _, lengths = self._geod.inv(lon[:, ::2], lat[:, ::2], lon[:, 1::2], lat[:, 1::2])
        areas = np.where(known, lengths[:, 0] * lengths[:, 1], 0.0)
        return [math.sqrt(area) if area > 0 else None for area in areas.tolist()]

    def bounds(self, windows: Sequence[Window]) -> list[Bounds | None]:
        """Boxes around each window's corners and its sides' midpoints; null where the projection has no answer."""
        left, top, width, height = _columns(windows)
        across = left + width * np.array([0, 0.5, 1, 1, 1, 0.5, 0, 0])
        down = top + height * np.array([0, 0, 0, 0.5, 1, 1, 1, 0.5])
        lon, lat, known = self._degrees(across, down)
        if not self._geographic:  # else read off, so that a map of the whole Earth is not taken for nothing
            corner = lon[:, :1]  # relative to it, so that 180 degrees is no edge
            lon = corner + ((lon - corner + 180.0) % 360.0 - 180.0)
        edges = np.stack([lon.min(axis=1), lat.min(axis=1), lon.max(axis=1), lat.max(axis=1)], axis=1)
        return [_box(*edge) if told else None for told, edge in zip(known.tolist(), edges.tolist(), strict=True)]


def _columns(windows: Sequence[Window]) -> Floats:
    """(4, N, 1): left, top, width and height of N windows."""
    return np.array(windows, np.float64).reshape(-1, 4).T[..., None]


def _box(west: float, south: float, east: float, north: float) -> Bounds:
    if east - west >= 360.0:
        return (-180.0, south, 180.0, north)
    return (_wrapped(west), south, _wrapped(east), north)


def _wrapped(longitude: float) -> float:
    return longitude if -180.0 <= longitude <= 180.0 else (longitude + 180.0) % 360.0 - 180.0
