"""What a recipe leaves out: the thresholds of the exclusion rules."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from curation.base.settings import Strict


def _own_id(value: object) -> object:
    """A tile's or an image's id; of a sample's key, which ends in one, that id.

    Raises:
        ValueError: it is none, or YAML has read it as a number.
    """
    if not isinstance(value, str):
        raise ValueError(f"{value!r}: ids of digits alone must stand in quotes, or YAML takes them for numbers")
    found = re.fullmatch(r"(?:[0-9]{11}-)?([0-9a-f]{20})", value)
    if found is None:
        raise ValueError(f"{value!r}: no id of 20 hex digits, and no key of a sample; rs-curate why OUT IMAGE tells it")
    return found.group(1)


class ExcludeRules(Strict):
    """Thresholds of the exclusion rules; each names the rule in :mod:`curation.select.exclude` that reads it.

    A threshold is bounded by the range of what it is compared with: one beyond would silently take all or nothing.
    """

    SCAN_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"splits", "licences", "redistributable_only", "max_pixels", "max_bytes"}
    )
    """Fields that the scan itself reads; all others are judged from what it measured."""

    splits: tuple[str, ...] = ("test",)
    """Splits to leave out, of the sources that have them."""
    licences: tuple[str, ...] | None = None
    """Licences to take; null: all."""
    redistributable_only: bool = False
    min_side: int = Field(64, ge=8, description="pixels")
    max_aspect: float = Field(8.0, ge=1)
    min_valid: float = Field(0.5, ge=0, le=1)
    """Least share of valid pixels in a tile."""
    max_unreadable: float = Field(0.5, ge=0, le=1)
    """Share of a source's images above which unreadable ones stop the run (sources of 20 images or more)."""
    min_std: float = Field(2.0, ge=0, le=127.5)
    """Least standard deviation of a tile's valid luma, in grey levels."""
    min_coloured: float = Field(0.01, ge=0, le=1)
    """Least share of pixels whose channels differ; below, an image is single-band. Sources of ``kind: rgb`` only."""
    max_flat: float = Field(0.65, ge=0, le=1)
    """Largest share of pixels that equal their neighbours, where the others step hard: masks, class maps, charts."""
    min_gentle: float = Field(0.5, ge=0, le=1)
    """Of the other pixels, the share of gentle steps from which on a flat image is calm water. ``kind: rgb`` only."""
    max_colour_spread: float = Field(70.0, ge=0, le=361)
    """Largest standard deviation of the opponent colours, in grey levels: colour-coded maps. ``kind: rgb`` only."""
    min_agreement: float = Field(0.3, ge=-1, le=1)
    """Least correlation of fine detail between channels: radar composites, noise. ``kind: rgb`` only."""
    agreement_from: float = Field(4.0, ge=0, le=255)
    """Difference of neighbours, in grey levels, below which channels differ by noise alone and are not compared."""
    min_grain: float = Field(0.0, ge=-1, le=1)
    """Least correlation of successive steps of light: radar composites, noise, also as JPEG. ``kind: rgb`` only."""
    grain_steps_from: float = Field(1.35, ge=0)
    """Steps of colour between blocks, as a multiple of those of light, from which ``min_grain`` is asked; dull fields
    reach 1.29."""
    grain_from: float = Field(12.0, ge=0, le=361)
    """Spread of colours, in grey levels, below which encoders alone make colours step, and grain is not asked."""
    max_told: float = Field(0.9, ge=0, le=1)
    """Largest share of the variance of light that the hue tells: colour-mapped numbers. ``kind: rgb`` only."""
    told_steps_from: float = Field(1.1, ge=0)
    """Steps of colour between blocks, as a multiple of those of light, from which ``max_told`` is asked."""
    told_from: float = Field(20.0, ge=0, le=361)
    """Spread of colours, in grey levels, below which nothing is mapped to colours, and ``max_told`` is not asked."""
    max_soft_alpha: float = Field(0.005, ge=0, le=1)
    """Largest share of half transparent pixels of an image without CRS: figures."""
    earth_only: bool = True
    """Leave out images whose CRS is that of another celestial body."""
    false_colour: bool = False
    """Take sources whose manifest says ``kind: false_colour``."""
    max_pixels: int = Field(250_000_000, ge=1)
    """Most pixels that are decoded at once: of a whole image, or of one block of a raster that is read by windows."""
    max_bytes: int = Field(64 << 30, ge=1)
    ids: tuple[Annotated[str, BeforeValidator(_own_id)], ...] = ()
    """Tiles, images or keys of samples to take out of a finished corpus; all else stays where it is."""

    def thresholds(self) -> dict[str, Any]:
        """What ``select`` compares measurements with, as JSON values: part of its key and of the catalogue."""
        return self.model_dump(mode="json", exclude={*self.SCAN_FIELDS, "max_unreadable"})

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """``min_std: no`` would be taken for 0 without a word."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("a number is needed here; yes and no are none")
        return value
