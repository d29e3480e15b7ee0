"""Why an image or a tile is left out. Each rule is a small function that returns a reason, or None.

Rules come in the order in which their facts become known: the listing, the header, the pixels of the image, the
pixels of a tile. Thresholds that a recipe may set are fields of :class:`curation.manifest.ExcludeRules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from curation.catalogue import Window
from curation.manifest import ExcludeRules, Source
from curation.raster import Image
from curation.strips import Patch

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class Reason(NamedTuple):
    """A verdict of :data:`curation.catalogue.REASONS`, and its rule, measured value and threshold in words."""

    verdict: str
    detail: str


# ------------------------------------------------------------------------------------------------ listing


def by_licence(source: Source, rules: ExcludeRules) -> Reason | None:
    """The recipe takes certain licences only, or only what may be redistributed."""
    if rules.licences is not None and source.licence not in rules.licences:
        return Reason("licence", f"licences: {source.licence}, allowed {', '.join(rules.licences)}")
    if rules.redistributable_only and source.redistributable != "yes":
        return Reason("licence", f"redistributable_only: {source.redistributable}, required yes")
    return None


def by_split(split: str | None, rules: ExcludeRules) -> Reason | None:
    """The recipe leaves a split out."""
    if split is not None and split in rules.splits:
        return Reason("excluded_split", f"splits: {split}, excluded {', '.join(rules.splits)}")
    return None


# ------------------------------------------------------------------------------------------------ header


def by_header(image: Image, source: Source, rules: ExcludeRules) -> Reason | None:
    """Everything the header tells: values that are no light, false colour by declaration, shape and size."""
    if image.dtype.startswith("complex"):
        return Reason("not_optical", f"dtype: {image.dtype}, complex values are radar")
    if source.kind == "false_colour" and not rules.false_colour:
        return Reason("false_colour", "kind: false_colour, declared by the manifest")
    area = image.area
    return by_shape(area, rules)


def by_shape(area: Window, rules: ExcludeRules) -> Reason | None:
    """Too long for its width, or too small."""
    short, long = sorted((area.width, area.height))
    if long > rules.max_aspect * max(short, 1):
        return Reason("aspect", f"max_aspect: {long / max(short, 1):.1f}, at most {rules.max_aspect:g}")
    if short < rules.min_side:
        return Reason("too_small", f"min_side: {short}, at least {rules.min_side}")
    return None


# ------------------------------------------------------------------------------------------------ pixels


def by_content(patches: Sequence[tuple[Bytes, Mask | None]], source: Source, rules: ExcludeRules) -> Reason | None:
    """What the pixels of a raw image show: single band, masks and label rasters."""
    pixels = np.concatenate([(rgb if valid is None else rgb[valid]).reshape(-1, 3) for rgb, valid in patches])
    if not len(pixels):
        return None
    return _grey(pixels, source)


def _grey(pixels: Bytes, source: Source) -> Reason | None:
    if source.kind == "grey":
        return None
    spread = pixels.max(axis=1) - pixels.min(axis=1)
    coloured = float((spread > 3).mean())
    if coloured < 0.001:
        return Reason("not_optical", f"single band: {coloured:.4f} of the pixels have colour, at least 0.001")
    return None


# ------------------------------------------------------------------------------------------------ tiles


def valid_share(patches: Sequence[Patch]) -> float:
    """Share of valid pixels of some patches."""
    total = sum(patch.window.width * patch.window.height for patch in patches)
    inside = sum(
        patch.rgb.shape[0] * patch.rgb.shape[1] if patch.valid is None else int(patch.valid.sum()) for patch in patches
    )
    return inside / max(total, 1)


def by_nodata(valid_share: float, rules: ExcludeRules) -> Reason | None:
    """Too little of the tile is imagery."""
    if valid_share < rules.min_valid:
        return Reason("nodata", f"min_valid: {valid_share:.3f}, at least {rules.min_valid:g}")
    return None


def by_texture(std: float, rules: ExcludeRules) -> Reason | None:
    """Sea, haze, saturation: nothing to see."""
    if std < rules.min_std:
        return Reason("blank", f"min_std: {std:.2f}, at least {rules.min_std:g}")
    return None
