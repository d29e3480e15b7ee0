"""How 16-bit and float pixels become 8 bits: one low and one high value per band and scene, never per tile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.generic]
Limits = tuple[float, float, float, float, float, float]
"""Low and high of red, green, blue: what becomes 0 and 255."""

SAMPLES = 1 << 20
"""Values per band and file that percentiles are taken from, evenly spread."""


def thin(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """At most ``SAMPLES`` of the pixels ``(N, C)``, evenly spaced."""
    step = -(-len(values) // SAMPLES)
    return values[:: max(step, 1)]


def percentiles(samples: Sequence[npt.NDArray[np.float64]], wanted: tuple[float, float]) -> Limits:
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
    from curation.tables import look_up

    every = np.arange(1 << (8 * pixels.dtype.itemsize), dtype=np.float64)
    bands = range(pixels.shape[2])
    return look_up(pixels, np.stack([_scaled(every, limits[2 * band], limits[2 * band + 1]) for band in bands]))


def _scaled(values: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.uint8]:
    if high <= low:
        return np.where(values > low, 255, 0).astype(np.uint8)
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * (255.0 / (high - low))
    return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)
