"""From a folder to a recipe: ``rs-curate init``, and ``rs-curate run FOLDER``."""

from __future__ import annotations

import os
from pathlib import Path

from curation.base.errors import InputError
from curation.base.files import atomic
from curation.sources.recipe import load_recipe
from curation.sources.source import shipped
from curation.start.draft import draft
from curation.start.survey import SECONDS, survey
from curation.start.text import notes, recipe_text, summary


def init(folder: Path, recipe: Path, seconds: float = SECONDS, width: int | None = None) -> str:
    """Survey a folder, write the recipe that follows, and say what was found.

    Args:
        folder: any folder with imagery.
        recipe: file to write.
        seconds: for the survey, beside the start of its processes.
        width: columns of the terminal.

    Raises:
        InputError: the folder cannot be read or holds no image, or the file is there already.
    """
    if recipe.exists():
        raise InputError(f"{recipe}: exists; give another name with --out, or remove it")
    folder = Path(os.path.normpath(folder.absolute()))
    found = survey(folder, seconds)
    drafts = draft(found)
    if not drafts:
        told = "; ".join(notes(found, ())[:4])
        raise InputError(f"{folder}: holds no image that is read{f' ({told})' if told else ''}")
    with atomic(recipe) as aside:
        aside.write_text(recipe_text(found, drafts), encoding="utf-8")
    load_recipe(str(recipe))
    return summary(found, drafts, width)


def recipe_of(word: str, out: Path, width: int | None = None) -> tuple[str, str]:
    """The recipe that ``rs-curate run WORD`` means, and what was found where it was written just now.

    Args:
        word: a YAML file, the name of a shipped recipe, or a folder.
        out: folder of the results; a folder's recipe is ``out/recipe.yaml``, and stays when it is there.
        width: columns of the terminal.

    Raises:
        InputError: the word is both a folder and a shipped recipe, ``out`` lies in the folder, or ``out/recipe.yaml``
            is of another folder.
    """
    folder = Path(word)
    if not folder.is_dir():
        return word, ""
    if word in shipped("recipes"):
        raise InputError(
            f"{word} is a folder here and a shipped recipe; say ./{word} for the folder, or move elsewhere"
        )
    folder, recipe = Path(os.path.normpath(folder.absolute())), out / "recipe.yaml"
    if f"{out.resolve()}{os.sep}".startswith(f"{folder.resolve()}{os.sep}"):
        raise InputError(f"{out}: lies in {folder}, where its shards would be listed as images; give --out elsewhere")
    if not recipe.exists():
        return str(recipe), init(folder, recipe, width=width)
    if str(folder) not in {source.path for source in load_recipe(str(recipe)).sources}:
        raise InputError(f"{recipe}: is of another folder; give another --out, or run {recipe}")
    return str(recipe), ""
