"""How 16-bit and float pixels become 8 bits: one low and one high value per band and scene, never per tile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from curation.base.arrays import Pixels

StretchLimits = tuple[float, float, float, float, float, float]
"""Low and high of red, green, blue: what becomes 0 and 255."""

EIGHT_BIT = ("uint8", "bool")
"""Types whose values are shown as they are, unless a manifest says otherwise."""

SAMPLES = 1 << 20
"""Values per band and file that percentiles are taken from, evenly spread."""

SENTINELS = (-999.0, -9999.0, -99999.0, -32767.0, -32768.0, float(np.finfo(np.float32).min), -1e10, -1e20, -1e38)
"""Values that stand for missing pixels where no tag says so."""


def thin(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """At most ``SAMPLES`` of the pixels ``(N, C)``, evenly spaced."""
    step = -(-len(values) // SAMPLES)
    return values[:: max(step, 1)]


def percentiles(samples: Sequence[npt.NDArray[np.float64]], wanted: tuple[float, float]) -> StretchLimits:
    """Limits of a scene from samples ``(N, C)`` of its files' valid pixels, C being 1 or 3."""
    together = np.concatenate(list(samples)) if samples else np.zeros((0, 1))
    if not len(together):
        return (0.0, 1.0) * 3
    low, high = np.percentile(together, wanted, axis=0)
    pairs = np.stack([low, high], axis=1).repeat(3 // together.shape[1], axis=0)
    limits = pairs.reshape(-1).astype(float).tolist()
    return (limits[0], limits[1], limits[2], limits[3], limits[4], limits[5])


def apply(pixels: Pixels, limits: Sequence[float]) -> npt.NDArray[np.uint8]:
    """Stretch pixels ``(H, W, C)`` of any real type to 8 bits; C is 1 or 3, values outside the limits are clipped."""
    if pixels.dtype in (np.uint16, np.uint8):
        return _by_table(pixels, limits)
    result = np.empty(pixels.shape, np.uint8)
    for band in range(pixels.shape[2]):
        result[..., band] = _scaled(pixels[..., band].astype(np.float64), limits[2 * band], limits[2 * band + 1])
    return result


def _by_table(pixels: Pixels, limits: Sequence[float]) -> npt.NDArray[np.uint8]:
    from curation.imagery.pixel_loops import look_up

    every = np.arange(1 << (8 * pixels.dtype.itemsize), dtype=np.float64)
    bands = range(pixels.shape[2])
    return look_up(pixels, np.stack([_scaled(every, limits[2 * band], limits[2 * band + 1]) for band in bands]))


def _scaled(values: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.uint8]:
    if high <= low:
        return np.where(values > low, 255, 0).astype(np.uint8)
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * (255.0 / (high - low))
    return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)


def missing(lowest: float) -> str:
    """What to set where low values are missing pixels rather than measurements, in words."""
    for sentinel in SENTINELS:
        if np.isclose(lowest, sentinel, rtol=1e-6):
            return f"{sentinel!r} is a usual value of missing pixels: set nodata: {sentinel!r} for the source"
    return "if low values are missing pixels, set nodata: VALUE for the source"


def advice(source: str, limits: npt.NDArray[np.float64]) -> str | None:
    """Warning that images are stretched each on its own, with the line that ends it; null for fewer than two.

    Args:
        source: its id.
        limits: ``(N, 6)`` limits of its images, as :func:`percentiles` found them.
    """
    if len(limits) < 2:
        return None
    low, high = np.percentile(limits[:, ::2], 10), np.percentile(limits[:, 1::2], 90)
    fixed = f"[{float(f'{low:.3g}'):.10g}, {float(f'{high:.3g}'):.10g}]"
    return (
        f"{source}: {len(limits):,} images are stretched to 8 bits each on its own, which makes noise of water and "
        f"seams between neighbours; for one look of them all set, under the source, "
        f"stretch: {{how: fixed, fixed: {fixed}}} (their 2nd and 98th percentiles)"
    )
