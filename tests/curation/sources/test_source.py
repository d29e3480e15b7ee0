"""What a source may not say: values that would silently take nothing, everything, or something else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curation.base.errors import InputError, UnreadableImage
from curation.base.settings import validate
from curation.imagery.image import open_image
from curation.imagery.location import Location
from curation.sources.plan import make_plan
from curation.sources.recipe import ExcludeRules, Recipe, resolve
from curation.sources.refuse import check_splits, check_twins, held_out, remarks, twins
from curation.sources.say import format_plan
from curation.sources.source import Source


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stretch": {"how": "per_scene", "percentiles": [98, 2]}}, "percentiles: [98, 2] must be [low, high]"),
        ({"stretch": {"how": "per_scene", "percentiles": [50, 50]}}, "percentiles: [50, 50] must be [low, high]"),
        ({"stretch": {"how": "per_scene", "percentiles": [-5, 200]}}, "percentiles: [-5, 200] must be [low, high]"),
        ({"stretch": {"how": "per_scene", "scene": "(("}}, "scene: '((' is no regular expression"),
        ({"stretch": {"how": "per_scene", "scene": "T31"}}, "scene needs one group in parentheses"),
        ({"bands_in_files": {"r": "r", "g": "g", "b": "b", "key": "("}}, "key: '(' is no regular expression"),
        ({"bands_in_files": {"r": "r", "g": "g", "b": "b", "key": "B4"}}, "key needs one group in parentheses"),
        ({"trim": [-3, 0, 0, 0]}, "trim.0: Input should be greater than or equal to 0"),
        ({"bands": [0, 1, 2]}, "bands.0: Input should be greater than or equal to 1"),
    ],
)
def test_wrong_values_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        validate(Source, {"id": "mine", **fields}, "mine.yaml")


def test_a_split_that_no_source_has_is_refused() -> None:
    source = {"id": "a", "path": "/x", "splits": {"val": ["v/*"]}}
    recipe = Recipe.model_validate({"name": "r", "sources": [source], "exclude": {"splits": ["tset"]}})
    with pytest.raises(InputError, match="exclude.splits: no source has a split 'tset'; there are val"):
        check_splits(recipe, resolve(recipe, None))


def test_test_splits_are_left_out_and_that_is_told() -> None:
    splits = {"train": ["train/*"], "test": ["test/*"]}
    given = {"name": "r", "sources": [{"id": "a", "path": "/x", "splits": splits}, {"id": "b", "path": "/y"}]}
    recipe = Recipe.model_validate(given)
    sources = resolve(recipe, None)
    check_splits(recipe, sources)
    assert held_out(recipe, sources) == "left out by exclude.splits: a (test); exclude.splits=[] takes them"
    assert held_out(recipe, sources) in format_plan(make_plan(recipe))
    every = Recipe.model_validate(given | {"exclude": {"splits": []}})
    assert held_out(every, sources) == ""


def test_bands_choose_among_the_three_of_a_jpeg_and_no_more(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 200, 30
    Image.fromarray(pixels).save(tmp_path / "a.png")
    where = Location(tmp_path, "a.png")
    with open_image(where, Source(id="s", bands=(3, 2, 1)), ExcludeRules()) as image:
        assert image.read(image.area)[0][0, 0].tolist() == [30, 0, 200]
        assert not image.pass_through
    with (
        open_image(where, Source(id="s", bands=(7, 8, 9)), ExcludeRules()) as image,
        pytest.raises(UnreadableImage, match=r"PNG holds 3 bands; bands: \[7, 8, 9\] asks for more"),
    ):
        image.read(image.area)


def test_a_source_that_holds_an_evaluation_set_demands_that_it_is_guarded(tmp_path):
    """RSICD was made from AID, among others; UC Merced is a source and a benchmark."""
    given = {
        "name": "mine",
        "sources": [{"id": name, "path": str(tmp_path)} for name in ("rsicd", "uc_merced", "fair1m")],
    }
    recipe = Recipe.model_validate(given | {"guard": {"benchmarks": ["dior"]}})
    sources = resolve(recipe, None)
    assert twins(recipe, sources) == {"rsicd": ["aid"], "uc_merced": ["uc_merced"]}
    assert ("rsicd holds images of aid, which nothing keeps out", "warning: ") in list(remarks(recipe, sources))
    wanted = r"^rsicd, uc_merced: .*guard\.benchmarks=\[dior,aid,uc_merced\].*--unguarded aid --unguarded uc_merced"
    with pytest.raises(InputError, match=wanted):
        check_twins(recipe, sources, [])
    with pytest.raises(InputError, match=r"^rsicd: .* images of aid are .*guard\.benchmarks=\[dior,aid\]"):
        check_twins(recipe, sources, ["uc_merced"])
    check_twins(recipe, sources, ["aid", "uc_merced"])
    guarded = Recipe.model_validate(given | {"guard": {"benchmarks": ["uc_merced", "aid"]}})
    check_twins(guarded, sources, [])
