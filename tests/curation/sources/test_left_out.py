"""Runs without some of a recipe's sources: what is told, what is recorded, and what is not done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from textures import texture

from curation.base.errors import InputError
from curation.cli import main
from curation.sources.inventory import check_root
from curation.sources.left_out import leave_out
from curation.sources.recipe import Recipe, resolve
from curation.sources.source import load_source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sources that are there, one that is absent, one of which a broken download left only hidden files."""
    for number, name in enumerate("ab"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for chip in range(6):
            texture(10 * number + chip).save(tmp_path / "data" / name / f"{chip}.jpg")
    (tmp_path / "data/d/.fetched").mkdir(parents=True)
    for names, file in (("abcd", "all.yaml"), ("ab", "two.yaml")):
        sources = ", ".join(f"{{id: {name}, path: {name}}}" for name in names)
        (tmp_path / file).write_text(f"name: mine\nsources: [{sources}]\n")
    return tmp_path


def run(root: Path, recipe: str, out: str, *more: str) -> int:
    where = ["--data", str(root / "data"), "--out", str(root / out), "--workers", "1"]
    return main(["run", str(root / recipe), *where, *more])


def test_what_is_left_out_is_told_and_recorded_and_what_was_scanned_stays(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, "all.yaml", "out", "--only", "a") == 0
    assert "6 images -> 6 tiles" in capsys.readouterr().out
    scanned = {path: path.stat().st_mtime_ns for path in (root / "out/.stages").glob("scan.a-*/*")}
    assert scanned

    assert run(root, "all.yaml", "out", "--skip-absent", "--regenerate") == 0
    said = capsys.readouterr()
    assert "12 images -> 12 tiles" in said.out
    reasons = {"c": "its folder does not exist", "d": "its folder is empty"}
    for name, why in reasons.items():
        assert f"{name} is left out: {why}" in said.out + said.err
        assert f"{name} is left out: {why}" in (root / "out/report.html").read_text()
    assert {path: path.stat().st_mtime_ns for path in (root / "out/.stages").glob("scan.a-*/*")} == scanned
    metadata = pq.read_schema(root / "out/catalogue.parquet").metadata
    assert json.loads(metadata[b"rscorpus.rules"])["left_out"] == reasons
    assert main(["lock", str(root / "out")]) == 0
    assert json.loads((root / "out/lock/lock.json").read_text())["recipe"]["left_out"] == reasons

    assert run(root, "two.yaml", "two") == 0
    tars = {path.name: path.read_bytes() for path in (root / "two/shards").glob("*.tar")}
    assert tars == {path.name: path.read_bytes() for path in (root / "out/shards").glob("*.tar")}
    assert main(["rebuild", str(root / "out/lock"), "--data", str(root / "data"), "--out", str(root / "again")]) == 0
    assert tars == {path.name: path.read_bytes() for path in (root / "again/shards").glob("*.tar")}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--only", "a", "e"], "--only e: recipe mine has no such source; it has a, b, c, d"),
        (["--only", "c", "d", "--skip-absent"], "has its images in place; the first, c:"),
        (["left_out.e=closed"], "no source of the recipe is named e"),
        (["left_out={a: x, b: x, c: x, d: x}"], "names every source"),
        ([], "/c does not exist; put its images there"),
    ],
)
def test_nothing_to_run_is_one_clear_line(
    root: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, "all.yaml", "out", *more) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_a_recipe_leaves_out_what_it_says_and_only_takes_what_it_names(root: Path) -> None:
    assert run(root, "all.yaml", "out", "left_out={b: no rights, c: closed, d: closed}") == 0
    assert {path.name[5] for path in (root / "out/.stages").glob("scan.*")} == {"a"}
    recipe = Recipe.model_validate({"name": "x", "sources": ["uc_merced", "rsscn7"], "left_out": {"rsscn7": "twice"}})
    assert [source.id for source in resolve(recipe, root)] == ["uc_merced"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("spacenet2", "rs-curate fetch spacenet2 --data {data}"),  # its archives lie on S3
        ("eurosat_rgb", "rs-curate fetch eurosat_rgb --data {data}"),
        ("airbus_ship", "rs-curate fetch airbus_ship --data {data} says how to get its images"),
    ],
)
def test_where_a_command_helps_it_is_named(tmp_path: Path, name: str, advice: str) -> None:
    with pytest.raises(InputError) as error:
        check_root(load_source(name), tmp_path / name)
    assert str(error.value).endswith(f"does not exist; {advice.format(data=tmp_path)}")
    with pytest.raises(InputError, match="rs-curate fetch RECIPE --data DATA"):  # by its own name it goes elsewhere
        check_root(load_source(name), tmp_path / "elsewhere")


def test_imagery_that_is_read_where_it_lies_is_never_absent(tmp_path: Path) -> None:
    far = {"id": "far", "container": "remote", "remote": {"urls": ["https://example.org/a.tif"]}}
    recipe = Recipe.model_validate({"name": "r", "sources": [far, {"id": "b", "path": "b"}]})
    left = leave_out(recipe, tmp_path, skip_absent=True)
    assert left.left_out == {"b": "its folder does not exist"}
