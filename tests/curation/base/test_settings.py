"""Settings: what a user mistypes, and what the message says."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation.base.errors import InputError
from curation.base.settings import load, override, parse_yaml, validate
from curation.sources.recipe import Recipe, load_recipe
from curation.sources.source import Source


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nsorces: [{id: x}]\n", ["recipe.yaml", "sorces", "did you mean 'sources'"]),
        ("name: a\nsources: [{id: x, gsd: 1}]\n", ["recipe.yaml", "sources.0.gsd", "gsd_m"]),
        ("name: a\nsources: [{id: x}]\nslice: {mode: gird}\n", ["slice.mode", "'grid'", "'random'", "'gird'"]),
        ("name: a\nsources: [{id: x}]\nslice: {tile: 8}\n", ["slice.tile", "16"]),
        ("name: a\n", ["sources", "required"]),
        ("name: a\nsources: [{id: x}, {id: x}]\n", ["unique", "x"]),
        ("name: a\nname: b\nsources: [{id: x}]\n", ["'name' is given twice"]),
        ("- 1\n", ["expected a mapping"]),
        ("a: [\n", ["not valid YAML"]),
        ("", ["expected a mapping"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: list[str]) -> None:
    with pytest.raises(InputError) as error:
        load(Recipe, write(tmp_path, text))
    message = str(error.value)
    assert "\n" not in message
    for words in said:
        assert words in message


def test_missing_file_and_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load(Recipe, tmp_path / "none.yaml")
    with pytest.raises(InputError, match="is a folder"):
        load(Recipe, tmp_path)
    with pytest.raises(InputError, match="no recipe is named 'nowhere'"):
        load_recipe("nowhere")


def test_overrides_reach_into_lists_and_new_sections() -> None:
    data = {"name": "a", "sources": [{"id": "x"}]}
    changed = override(data, ["slice.tile=256", "sources.0.gsd_m=[0.3, 0.5]", "seed=7"])
    recipe = validate(Recipe, changed, "here")
    assert (recipe.slice.tile, recipe.seed) == (256, 7)
    assert recipe.sources[0].manifest == {"gsd_m": [0.3, 0.5]}
    assert data == {"name": "a", "sources": [{"id": "x"}]}


@pytest.mark.parametrize("assignment", ["tile", "=3", "name.deeper=1", "sources.5.id=y"])
def test_overrides_that_lead_nowhere(assignment: str) -> None:
    with pytest.raises(InputError, match="expected key=value|nothing named"):
        override({"name": "a", "sources": [{"id": "x"}]}, [assignment])


def test_yaml_words_and_ranges() -> None:
    source = validate(Source, parse_yaml("{id: a, redistributable: yes, gsd_m: [0.1, 10]}", "here"), "here")
    assert source.redistributable == "yes"
    assert source.gsd == pytest.approx(1.0)  # geometric mean of 0.1 and 10


@pytest.mark.parametrize("gsd", ["0", "-1", "[2, 1]", "[0, 1]"])
def test_gsd_must_be_positive_and_ordered(gsd: str) -> None:
    with pytest.raises(InputError, match="gsd_m"):
        validate(Source, parse_yaml(f"{{id: a, gsd_m: {gsd}}}", "here"), "here")


def test_paths_in_manifests_stay_inside() -> None:
    with pytest.raises(InputError, match="relative"):
        validate(Source, parse_yaml("{id: a, files: [{name: ../x.zip}]}", "here"), "here")
