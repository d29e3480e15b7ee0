"""Why an image or a tile is left out. Each rule is a small function that returns a reason, or None.

Rules come in the order in which their facts become known: the listing, the header, the pixels of the image, the
pixels of a tile. Thresholds that a recipe may set are fields of :class:`curation.manifest.ExcludeRules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from curation import stretch
from curation.catalogue import Window
from curation.manifest import ExcludeRules, Source
from curation.raster import Image
from curation.statistics import Statistics
from curation.strips import Patch


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
    """Everything the header tells: values that are no light, another planet, declared false colour, shape and size."""
    if image.dtype.startswith("complex"):
        return Reason("not_optical", f"dtype: {image.dtype}; complex values are radar")
    if rules.earth_only and image.georeference is not None and not image.georeference.on_earth:
        return Reason("not_optical", "earth_only: the CRS is that of another celestial body")
    if source.kind == "false_colour" and not rules.false_colour:
        return Reason("false_colour", "kind: the manifest says false_colour")
    return by_shape(image.area, rules)


def by_shape(area: Window, rules: ExcludeRules) -> Reason | None:
    """Too long for its width, or too small."""
    short, long = sorted((area.width, area.height))
    if long > rules.max_aspect * max(short, 1):
        return Reason("aspect", f"max_aspect: {long / max(short, 1):.1f}, at most {rules.max_aspect:g}")
    if short < rules.min_side:
        return Reason("too_small", f"min_side: {short} pixels, at least {rules.min_side}")
    return None


# ------------------------------------------------------------------------------------------------ pixels


def by_content(image: Image, found: Statistics, rules: ExcludeRules) -> Reason | None:
    """What the pixels of a raw image show, each rule asking one question of the same measurement."""
    kind = image.source.kind
    if found.pixels == 0:
        return None
    return (
        by_values(image)
        or by_transparency(image, rules)
        or by_flatness(found, kind, rules)
        or (_by_bands(found, rules) if kind == "rgb" else None)
    )


def _by_bands(found: Statistics, rules: ExcludeRules) -> Reason | None:
    """What the three bands of visible light have to do with each other."""
    return (
        by_colour(found, rules)
        or by_spread(found, rules)
        or by_agreement(found, rules)
        or by_grain(found, rules)
        or by_told(found, rules)
    )


def by_values(image: Image) -> Reason | None:
    """Decibels, temperatures, differences: light is not negative."""
    limits = image.stretch
    if limits is None or image.source.stretch is not None:
        return None
    middle = min((low + high) / 2 for low, high in zip(limits[::2], limits[1::2], strict=True))
    if middle >= 0:
        return None
    hint = stretch.missing(min(limits[::2]))
    return Reason("not_optical", f"values: middle of a band is {middle:.4g}, at least 0; {hint}")


def by_transparency(image: Image, rules: ExcludeRules) -> Reason | None:
    """Figures: lines and letters are smoothed into a transparent canvas; a mask of valid pixels has hard edges."""
    share = image.soft_alpha
    if share <= rules.max_soft_alpha or image.georeference is not None:
        return None
    return Reason("not_optical", f"max_soft_alpha: {share:.4f} half transparent, at most {rules.max_soft_alpha:g}")


def by_flatness(found: Statistics, kind: str, rules: ExcludeRules) -> Reason | None:
    """Masks, class maps, charts, drawings: areas of exactly one colour that end in hard edges.

    Calm water under strong compression is flat as well, but what steps it has are gentle. In one-band sources that says
    nothing: neighbouring class numbers are one apart.
    """
    gentle = found.gentle if kind == "rgb" else 0.0
    if found.flat <= rules.max_flat or gentle >= rules.min_gentle:
        return None
    measured = f"{found.flat:.3f} of the pixels equal their neighbours, {gentle:.3f} of the others nearly"
    return Reason("not_optical", f"max_flat: {measured}; at most {rules.max_flat:g} unless {rules.min_gentle:g}")


def by_colour(found: Statistics, rules: ExcludeRules) -> Reason | None:
    """One band, also where it is stored as three: panchromatic, radar, elevation, hillshade, masks."""
    if found.coloured >= rules.min_coloured:
        return None
    return Reason("not_optical", f"min_coloured: {found.coloured:.4f} of the pixels, at least {rules.min_coloured:g}")


def by_spread(found: Statistics, rules: ExcludeRules) -> Reason | None:
    """Colour-coded masks and maps, also as JPEG: colours are spread further than any ground's."""
    if found.colour_spread <= rules.max_colour_spread:
        return None
    detail = f"max_colour_spread: {found.colour_spread:.1f} grey levels, at most {rules.max_colour_spread:g}"
    return Reason("not_optical", detail)


def by_agreement(found: Statistics, rules: ExcludeRules) -> Reason | None:
    """Radar composites and noise: in visible light every channel has its edges where another has them."""
    if found.edge < rules.agreement_from or found.agreement >= rules.min_agreement:
        return None
    return Reason(
        "not_optical", f"min_agreement: {found.agreement:.3f} between channels, at least {rules.min_agreement:g}"
    )


def by_grain(found: Statistics, rules: ExcludeRules) -> Reason | None:
    """Radar composites and noise, also as JPEG: colours step more than light does, and light has no shapes."""
    if found.colour_steps < rules.grain_steps_from or found.edge < rules.agreement_from:
        return None
    if found.colour_spread < rules.grain_from or found.grain >= rules.min_grain:
        return None
    return Reason(
        "not_optical", f"min_grain: {found.grain:.3f} along rows, at least {rules.min_grain:g}{_steps(found)}"
    )


def by_told(found: Statistics, rules: ExcludeRules) -> Reason | None:
    """Colour-mapped elevation, indices, temperatures, also as JPEG: the hue tells the brightness."""
    if found.colour_steps < rules.told_steps_from or found.colour_spread < rules.told_from:
        return None
    if found.told <= rules.max_told:
        return None
    return Reason("not_optical", f"max_told: {found.told:.3f} of the light, at most {rules.max_told:g}{_steps(found)}")


def _steps(found: Statistics) -> str:
    return f" where colour steps {found.colour_steps:.2f} times as much as light"


# ------------------------------------------------------------------------------------------------ tiles


def valid_share(patches: Sequence[Patch], fill: float) -> float:
    """Share of valid pixels of some patches, flat areas of pure black or white (``fill``) not counted."""
    total = sum(patch.window.width * patch.window.height for patch in patches)
    inside = sum(patch.rgb[..., 0].size if patch.valid is None else int(patch.valid.sum()) for patch in patches)
    return inside / max(total, 1) * (1.0 - fill)


def by_nodata(share: float, rules: ExcludeRules) -> Reason | None:
    """Too little of the tile is imagery."""
    return (
        Reason("nodata", f"min_valid: {share:.3f}, at least {rules.min_valid:g}") if share < rules.min_valid else None
    )


def by_texture(std: float, rules: ExcludeRules) -> Reason | None:
    """Sea, haze, saturation: nothing to see."""
    return (
        Reason("blank", f"min_std: {std:.2f} grey levels, at least {rules.min_std:g}") if std < rules.min_std else None
    )
