"""Where a window lies on the ground, and how long its pixels are there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.base.arrays import Doubles
from curation.catalogue import Window

Affine = tuple[float, float, float, float, float, float]
Bounds = tuple[float, float, float, float]
"""West, south, east, north in degrees; west > east across 180 degrees."""

EARTH_RADIUS = 6_371_000.0

FARTHEST = 1e8
"""Metres from the origin beyond which a projection's answer is noise; zone numbers before eastings reach 6e7."""
LONGITUDES, LATITUDES = 540.0, 91.0
"""Degrees beyond which a coordinate is none; grids that count the centres of pixels pass the poles a little."""
GSDS = (1e-6, 1e6)
"""Metres per pixel outside of which a transform says nothing."""
PLANE = 10_000.0
"""Least easting and northing of a transform without a CRS that is believed."""
SHORTEST = 1e-12
"""Step of a pixel, in the CRS's units, below which coordinates do not resolve it."""


@dataclass(frozen=True)
class Frame:
    """How the coordinates of a CRS become degrees, or at least metres.

    Attributes:
        geod: the ellipsoid; null where the CRS has none, as a building site's or a photogrammetric block's.
        to_base: from the CRS to its geographic one; null where it is one.
        degrees: the geographic CRS's angular unit (grads in France), in degrees.
        meridian: its prime meridian, degrees east of Greenwich.
        metres: the CRS's linear units along x and y, in metres; null where it has none, or coordinates are no plane.
        reach: largest x and y, in the CRS's units, that are a place.
    """

    geod: Any
    to_base: Any
    degrees: float
    meridian: float
    metres: tuple[float, float] | None
    reach: tuple[float, float]


@lru_cache(maxsize=256)
def frame_of(wkt: str) -> Frame | None:
    """Frame of a CRS (WKT, ``AUTHORITY:CODE``, PROJ string); null where PROJ knows none, or it is no map's.

    Cached, since a million chips share a CRS and it takes longer to parse than a chip to measure.
    """
    from pyproj import CRS, Transformer
    from pyproj.exceptions import ProjError

    try:
        crs = _horizontal(CRS.from_user_input(wkt))
        if crs.is_engineering:
            return Frame(None, None, 1.0, 0.0, _plane(crs), (math.inf, math.inf))
        base = crs.source_crs if crs.is_derived and crs.is_geographic else crs.geodetic_crs
        if base is None or not base.is_geographic or crs.get_geod() is None:
            return None  # vertical, temporal, geocentric: none has a horizontal plane
        to_base = None if base == crs else Transformer.from_crs(crs, base, always_xy=True)
        degrees, origin = math.degrees(base.axis_info[0].unit_conversion_factor), base.prime_meridian
        meridian = math.degrees(origin.longitude * origin.unit_conversion_factor)
        metres = None if crs.is_geographic else _plane(crs)
        across, down = metres or (1.0, 1.0)
        reach = (
            (LONGITUDES / degrees, LATITUDES / degrees) if crs.is_geographic else (FARTHEST / across, FARTHEST / down)
        )
        return Frame(crs.get_geod(), to_base, degrees, meridian, metres, reach)
    except ProjError:
        return None


def _horizontal(crs: Any) -> Any:
    """The part of a compound or bound CRS that says east and north."""
    while crs.is_bound or crs.sub_crs_list:
        crs = crs.source_crs if crs.is_bound else crs.sub_crs_list[0]
    return crs


def _plane(crs: Any) -> tuple[float, float] | None:
    """Linear units of a plane's two axes, in metres."""
    axes = crs.axis_info[:2]
    if len(axes) < 2 or crs.coordinate_system.name != "cartesian":
        return None
    if any(axis.unit_name in ("unknown", "degree", "radian", "grad") for axis in axes):
        return None
    across, down = (float(axis.unit_conversion_factor) for axis in axes)
    return (across, down) if across > 0 and down > 0 else None


@dataclass(frozen=True)
class Georeference:
    """CRS and affine of a raw image. Whatever they hold, nothing is raised and nothing made up: the answer is null.

    Attributes:
        wkt: the CRS as WKT2 or as ``AUTHORITY:CODE``.
        affine: a, b, c, d, e, f: x = a*column + b*row + c, y = d*column + e*row + f.
    """

    wkt: str
    affine: Affine

    @cached_property
    def _frame(self) -> Frame | None:
        return frame_of(self.wkt)

    @property
    def on_earth(self) -> bool:
        """Whether the ellipsoid is the Earth's, within a hundredth; a CRS without one is of no other body."""
        geod = None if self._frame is None else self._frame.geod
        return geod is None or abs(geod.a / EARTH_RADIUS - 1.0) < 0.01

    @cached_property
    def _spans(self) -> bool:
        """Whether the affine is finite and maps the image to an area, not to a line or a point."""
        a, b, _, d, e, _ = self.affine
        if not all(map(math.isfinite, self.affine)):
            return False
        right, down = math.hypot(a, d), math.hypot(b, e)
        return min(right, down) > SHORTEST and abs((a / right) * (e / down) - (b / down) * (d / right)) > 1e-6

    def _degrees(self, frame: Frame, columns: Doubles, rows: Doubles) -> tuple[Doubles, Doubles, npt.NDArray[np.bool_]]:
        """Longitudes and latitudes of points ``(N, P)``, and of which N all are known; the others' are zero."""
        a, b, c, d, e, f = self.affine
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is out of reach
            x, y = a * columns + b * rows + c, d * columns + e * rows + f
        lon, lat = (x, y) if frame.to_base is None else frame.to_base.transform(x, y)
        lon, lat = lon * frame.degrees + frame.meridian, lat * frame.degrees
        inside = (np.abs(x) <= frame.reach[0]) & (np.abs(y) <= frame.reach[1])
        told = np.asarray((inside & (np.abs(lon) <= LONGITUDES) & (np.abs(lat) <= LATITUDES)).all(axis=1))
        return np.where(told[:, None], lon, 0.0), np.where(told[:, None], np.clip(lat, -90.0, 90.0), 0.0), told

    def gsd(self, windows: Sequence[Window]) -> list[float | None]:
        """Geometric mean of the ground lengths, in metres, of a pixel step right and down at each window's centre.

        In a CRS without an ellipsoid, of its plane. Null where the projection has no answer.
        """
        frame = self._frame
        if frame is None or not self._spans:
            return [None] * len(windows)
        if frame.geod is None:
            return [self._plane_gsd(frame)] * len(windows)
        left, top, width, height = _columns(windows)
        step, none = np.array([-0.5, 0.5]), np.zeros(2)
        across = left + width / 2 + np.concatenate([step, none])
        down = top + height / 2 + np.concatenate([none, step])
        lon, lat, known = self._degrees(frame, across, down)
        _, _, lengths = frame.geod.inv(lon[:, ::2], lat[:, ::2], lon[:, 1::2], lat[:, 1::2])
        areas = np.where(known, lengths[:, 0] * lengths[:, 1], 0.0)
        return [_plausible(math.sqrt(area)) if area > 0 else None for area in areas.tolist()]

    def _plane_gsd(self, frame: Frame) -> float | None:
        if frame.metres is None:
            return None
        (across, down), (a, b, _, d, e, _) = frame.metres, self.affine
        return _plausible(math.sqrt(math.hypot(a * across, d * down)) * math.sqrt(math.hypot(b * across, e * down)))

    def bounds(self, windows: Sequence[Window]) -> list[Bounds | None]:
        """Boxes around each window's corners and its sides' midpoints; null where the projection has no answer."""
        frame = self._frame
        if frame is None or frame.geod is None or not self._spans:
            return [None] * len(windows)
        left, top, width, height = _columns(windows)
        across = left + width * np.array([0, 0.5, 1, 1, 1, 0.5, 0, 0])
        down = top + height * np.array([0, 0, 0, 0.5, 1, 1, 1, 0.5])
        lon, lat, known = self._degrees(frame, across, down)
        if frame.to_base is not None:  # else read off, so that a map of the whole Earth is not taken for nothing
            corner = lon[:, :1]  # relative to it, so that 180 degrees is no edge
            lon = corner + ((lon - corner + 180.0) % 360.0 - 180.0)
        edges = np.stack([lon.min(axis=1), lat.min(axis=1), lon.max(axis=1), lat.max(axis=1)], axis=1)
        return [_box(*edge) if told else None for told, edge in zip(known.tolist(), edges.tolist(), strict=True)]


def gsd_of_plane(affine: Affine) -> float | None:
    """GSD of a transform without a CRS, taken as metres; null where it may be degrees, pixels or a drawing's own units.

    Eastings and northings are large numbers: only where both are does the transform speak of a map's plane. Feet are
    not told from metres.
    """
    if min(abs(affine[2]), abs(affine[5])) < PLANE:
        return None
    return Georeference('LOCAL_CS["plane",UNIT["metre",1]]', affine).gsd([Window(0, 0, 1, 1)])[0]


def _columns(windows: Sequence[Window]) -> Doubles:
    """(4, N, 1): left, top, width and height of N windows."""
    return np.array(windows, np.float64).reshape(-1, 4).T[..., None]


def _plausible(gsd: float) -> float | None:
    return gsd if GSDS[0] <= gsd <= GSDS[1] else None


def _box(west: float, south: float, east: float, north: float) -> Bounds:
    if east - west >= 360.0:
        return (-180.0, south, 180.0, north)
    return (_wrapped(west), south, _wrapped(east), north)


def _wrapped(longitude: float) -> float:
    return longitude if -180.0 <= longitude <= 180.0 else (longitude + 180.0) % 360.0 - 180.0
