"""What is refused of a recipe before any file is listed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from curation.base.errors import InputError
from curation.sources.recipe import Recipe, ResolvedSource


def check_splits(recipe: Recipe, sources: Sequence[ResolvedSource]) -> None:
    """Refuse a split that no source has: it would leave out nothing, without a word.

    Raises:
        InputError: ``exclude.splits`` names one.
    """
    known = sorted({split for source in sources for split in source.source.splits})
    there = f"there are {', '.join(known)}" if known else "none says what its splits are (field splits)"
    for split in recipe.exclude.splits:
        if split not in known:
            raise InputError(f"recipe {recipe.name}: exclude.splits: no source has a split {split!r}; {there}")


def check_apart(out: Path, sources: Sequence[ResolvedSource]) -> None:
    """Refuse an output folder that the next listing would take for raw images.

    Raises:
        InputError: it lies in a source's folder, or is one.
    """
    for source in sources:
        if source.root.resolve() in (out.resolve(), *out.resolve().parents):
            raise InputError(f"--out {out}: lies where source {source.id} has its images ({source.root}); give another")
