"""Keys of stages: digests of what a result truly depends on, and of nothing else.

A scan depends on the files and on the rules that change pixels or listing; select on the *content* of the scan's parts;
a tar on its own rows and the encoder. No key that names an output holds a time of modification, a folder, a citation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curation.base.errors import InputError
from curation.base.files import digest, file_digest, is_whole
from curation.catalogue import FORMAT_VERSION
from curation.record import read_record
from curation.sources.recipe import Recipe, ResolvedSource

if TYPE_CHECKING:
    from curation.select.generations import Generations

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
    """Key of what is asked for: the catalogue's own, unless it grows from an earlier one.

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


def catalogue_keys(out: Path, asked: str, replace: bool, regenerate: bool) -> tuple[Generations, Path | None]:
    """Keys of the catalogue that is asked for, and the finished one that it grows from.

    A catalogue that grows is keyed by what is asked for and by the one that it grows from. Where the finished catalogue
    was made for what is asked for, it is the one: what it tells is returned, ``ends`` included.

    Args:
        out: folder of the run.
        asked: :func:`select_key`.
        replace: whether a finished catalogue that cannot be read is as good as none.
        regenerate: whether all starts anew.

    Raises:
        InputError: the finished catalogue cannot be read, or is of another format version.
    """
    from curation.select.generations import Generations, read_generations

    anew, finished = Generations(asked, asked), _finished_catalogue(out)
    if regenerate or not is_whole(finished):
        return anew, None
    try:
        before = read_generations(finished)
    except InputError:
        if not replace:
            raise
        return anew, None
    if before.asked == asked:
        return before, finished
    if not any((out / "shards").glob("*.tar")):
        return anew, None
    return Generations(asked, key("grown", asked, before.key or file_digest(finished))), finished


def _finished_catalogue(out: Path) -> Path:
    """The finished catalogue; where it is gone or cut short, that of the stage which made it."""
    public = out / "catalogue.parquet"
    needs = None if is_whole(public) else read_record(out).get("finished")
    stages = [] if needs is None else [out / ".stages" / name for name in needs.stages if name.startswith("select-")]
    return next((path for stage in stages if is_whole(path := stage / public.name)), public)
