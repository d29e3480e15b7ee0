"""Leave sources out of one run: those that nobody asked for, and those whose images are not there.

What is left out stands in the recipe's ``left_out``, and with the recipe in the run's record, its report and its lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from curation.base.errors import InputError
from curation.sources.inventory import absence, how_to_get
from curation.sources.recipe import Recipe, resolve

NOT_NAMED = "not named by --only"


def leave_out(recipe: Recipe, data: Path | None, only: Sequence[str] = (), skip_absent: bool = False) -> Recipe:
    """The recipe with ``left_out`` as a run was asked for it.

    Args:
        recipe: what to run.
        data: folder of the raw sources.
        only: ids of the sources to take, also where the recipe leaves them out; empty: all that it takes.
        skip_absent: leave out sources whose folder is missing, or holds nothing.

    Raises:
        InputError: ``only`` names no source of the recipe, or no source is left.
    """
    if only:
        ids = [entry.id for entry in recipe.sources]
        for name in only:
            if name not in ids:
                raise InputError(f"--only {name}: recipe {recipe.name} has no such source; it has {', '.join(ids)}")
        reasons = {name: recipe.left_out.get(name, NOT_NAMED) for name in ids if name not in only}
        recipe = recipe.model_copy(update={"left_out": reasons})
    if not skip_absent:
        return recipe
    sources = resolve(recipe, data)
    gone = {source.id: why for source in sources if source.source.remote is None and (why := absence(source.root))}
    if len(gone) == len(sources):
        first = sources[0]
        raise InputError(
            f"--skip-absent: no source of recipe {recipe.name} has its images in place; the first, {first.id}: "
            f"{first.root} {gone[first.id]}; {how_to_get(first.source, first.root)}"
        )
    told = {name: f"its folder {why}" for name, why in gone.items()}
    return recipe.model_copy(update={"left_out": {**recipe.left_out, **told}})
