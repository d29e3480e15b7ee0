"""Keys of stages: digests of what a result truly depends on, and of nothing else.

A scan depends on the files and on the rules that change pixels or listing; select on the *content* of the scan's parts;
a tar on its own rows and the encoder. No key that names an output holds a time of modification, a folder, a citation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from curation.base.files import digest, file_digest
from curation.catalogue import FORMAT_VERSION
from curation.sources.recipe import Recipe, ResolvedSource

SELECT_VERSION = 2
"""Raised when the same rows and rules give another catalogue than before. 2: views of the centre."""

PLACED_BY = {"max_samples", "max_bytes", "run", "pass_through", "bytes_per_pixel"}
"""Fields of ``shards`` that decide where a tile goes; the others decide how it is encoded."""


def key(*parts: object) -> str:
    """Twelve hex digits that change when the format version or anything in ``parts`` does."""
    return digest([FORMAT_VERSION, *parts], 6)


def select_key(
    recipe: Recipe,
    sources: Sequence[ResolvedSource],
    scanned: Mapping[str, str],
    fingerprints: Mapping[str, Path],
) -> str:
    """Key of the catalogue.

    Args:
        recipe: rules and seed.
        sources: the recipe's sources, in its order.
        scanned: digest of what the scan found of each source.
        fingerprints: file of every guarded benchmark.
    """
    return key(
        "select",
        SELECT_VERSION,
        [[source.id, scanned[source.id]] for source in sources],
        recipe.model_dump(mode="json", include={"seed", "deduplicate", "balance"}),
        recipe.exclude.thresholds(),
        recipe.guard.radius,
        recipe.guard.crops,
        recipe.shards.model_dump(mode="json", include=PLACED_BY),
        [[each.priority, each.cap, each.source.redistributable, each.source.kind] for each in sources],
        {name: file_digest(path) for name, path in fingerprints.items()},
        *([recipe.left_out] if recipe.left_out else []),
    )
