"""What is refused of a recipe, or told of it, before any file is listed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from curation.base.errors import InputError
from curation.sources.exclude_rules import ExcludeRules
from curation.sources.recipe import Recipe, ResolvedSource
from curation.sources.source import shipped


def check_splits(recipe: Recipe, sources: Sequence[ResolvedSource]) -> None:
    """Refuse a split that no source has: it would leave out nothing, without a word. The default may be of none.

    Raises:
        InputError: ``exclude.splits`` names one.
    """
    known = sorted({split for source in sources for split in source.source.splits})
    there = f"there are {', '.join(known)}" if known else "none says what its splits are (field splits)"
    for split in recipe.exclude.splits:
        if split not in known and split not in ExcludeRules().splits:
            raise InputError(f"recipe {recipe.name}: exclude.splits: no source has a split {split!r}; {there}")


def held_out(recipe: Recipe, sources: Sequence[ResolvedSource]) -> str:
    """A line that says which splits of which sources are left out; empty where none is."""
    found = {source.id: sorted(set(recipe.exclude.splits) & source.source.splits.keys()) for source in sources}
    told = ", ".join(f"{source} ({', '.join(splits)})" for source, splits in found.items() if splits)
    return f"left out by exclude.splits: {told}; exclude.splits=[] takes them" if told else ""


def remarks(recipe: Recipe, sources: Sequence[ResolvedSource]) -> Iterator[tuple[str, str]]:
    """What a run says before it begins and its report repeats, each line with what comes before it in the terminal."""
    for name, why in recipe.left_out.items():
        yield f"{name} is left out: {why}", ""
    if line := held_out(recipe, sources):
        yield line, ""
    for source, names in twins(recipe, sources).items():
        yield f"{source} holds images of {', '.join(names)}, which nothing keeps out", "warning: "


def check_apart(out: Path, sources: Sequence[ResolvedSource]) -> None:
    """Refuse an output folder that the next listing would take for raw images.

    Raises:
        InputError: it lies in a source's folder, or is one.
    """
    for source in sources:
        if source.root.resolve() in (out.resolve(), *out.resolve().parents):
            raise InputError(f"--out {out}: lies where source {source.id} has its images ({source.root}); give another")


def twins(recipe: Recipe, sources: Sequence[ResolvedSource]) -> dict[str, list[str]]:
    """Per source that, by its manifest, holds images of benchmarks which the recipe does not guard: those."""
    benchmarks = {name for name in shipped("benchmarks") if name not in recipe.guard.benchmarks}
    shared = {source.id: sorted(benchmarks & {source.id, *source.source.shares_images_with}) for source in sources}
    return {source: names for source, names in shared.items() if names}


def check_twins(recipe: Recipe, sources: Sequence[ResolvedSource], unguarded: Sequence[str]) -> None:
    """Demand that a benchmark is guarded whose images a source holds.

    Args:
        recipe: its guard.
        sources: their manifests say what they hold (``shares_images_with``, and which benchmark they are); a folder
            of the user's own that merely has a benchmark's name is left to :func:`remarks`.
        unguarded: benchmarks to do without.

    Raises:
        InputError: one is not guarded, nor to be done without.
    """
    known = shipped("sources")
    held = twins(recipe, [source for source in sources if source.id in known or source.source.shares_images_with])
    if missing := sorted({name for names in held.values() for name in names} - set(unguarded)):
        holders = [source for source, names in held.items() if set(names) & set(missing)]
        guard = [*recipe.guard.benchmarks, *missing]
        raise InputError(
            f"{', '.join(holders)}: by the manifest, images of {', '.join(missing)} are among them, and an encoder "
            f"could be evaluated on what it was trained on; guard.benchmarks=[{','.join(guard)}] keeps them out, "
            f"{' '.join(f'--unguarded {name}' for name in missing)} takes them"
        )
