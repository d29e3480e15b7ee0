"""What keeps an image from being scanned at all: its licence, its split, values that are no light.

Everything else is measured, and judged by :mod:`curation.select.exclude`.
"""

from __future__ import annotations

from typing import NamedTuple

from curation.sources.recipe import ExcludeRules
from curation.sources.source import Source


class Reason(NamedTuple):
    """A verdict of :data:`curation.catalogue.REASONS`, and its rule, measured value and threshold in words."""

    verdict: str
    detail: str


def by_licence(source: Source, rules: ExcludeRules) -> Reason | None:
    """The recipe takes certain licences only, or only what may be redistributed."""
    if rules.licences is not None and source.licence.pixels not in rules.licences:
        return Reason("licence", f"licences: {source.licence.pixels}, allowed {', '.join(rules.licences)}")
    if rules.redistributable_only and source.redistributable != "yes":
        return Reason("licence", f"redistributable_only: {source.redistributable}, required yes")
    return None


def by_split(split: str | None, rules: ExcludeRules) -> Reason | None:
    """The recipe leaves a split out."""
    if split is not None and split in rules.splits:
        return Reason("excluded_split", f"splits: {split}, excluded {', '.join(rules.splits)}")
    return None


def by_type(dtype: str) -> Reason | None:
    """Complex values are radar; there is nothing to show, and nothing to measure."""
    return Reason("not_optical", f"dtype: {dtype}; complex values are radar") if dtype.startswith("complex") else None
