"""Which fields of a source change what: the keys of inventory and scan are made of these, and of nothing else.

Every field of :class:`curation.sources.source.Source` is in one of the three sets (a test says so): a field that
is forgotten would leave results as they are that it should have changed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from curation.remote.access import RemoteImagery
from curation.sources.source import Source
from curation.sources.subset import ALL, Subset

LISTING = frozenset(
    {
        "id", "files", "container", "image_column", "images", "leave", "follow_links", "splits", "label_from",
        "bands_in_files", "columns", "array", "remote",
    }
)  # fmt: skip
"""What images there are, and where: the inventory. Of ``files``, only names and folders."""

PIXELS = frozenset({"id", "bands", "nodata", "stretch", "trim", "gsd_m"})
"""How an image is read and measured: the scan. What the listing says of an image is compared image by image."""

_UNSET_BEFORE = frozenset({"columns", "array"})
"""Fields that are in the key only where they are set, so that listings from before they were there stay."""

NEITHER = frozenset(
    {
        "name", "kind", "task", "year", "citation", "homepage", "provider", "licence", "redistributable", "obtain",
        "readable", "land", "listed_megabytes", "listed_files", "expected_images", "uncounted", "shares_images_with",
        "examples", "verified", "facts",
    }
)  # fmt: skip
"""What is told to people, asked by later stages, or asked by rules whose answer is in the key (licences)."""


def listing(source: Source, subset: Subset = ALL) -> dict[str, Any]:
    """What a source's listing depends on beside its folder, as JSON values."""
    fields = source.model_dump(mode="json", include=set(LISTING - {"files", "remote"} - _UNSET_BEFORE))
    fields |= {"files": [(file.name, file.into) for file in source.files]}
    newer = source.model_dump(mode="json", include=set(_UNSET_BEFORE), exclude_none=True)
    if source.remote is not None:
        newer["remote"] = source.remote.model_dump(mode="json", exclude=set(RemoteImagery.HOW))
    if not subset.is_all:
        newer["subset"] = asdict(subset)
    return fields | newer


def pixels(source: Source) -> dict[str, Any]:
    """What the rows of a source's images depend on beside the files and the recipe's rules, as JSON values."""
    return source.model_dump(mode="json", include=set(PIXELS))
