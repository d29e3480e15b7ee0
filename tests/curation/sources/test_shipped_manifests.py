"""The shipped manifests and recipes: they load, they agree with each other, and their globs take what is real."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path, PurePath

import pytest
import yaml

from curation.base.errors import InputError
from curation.catalogue import Window
from curation.scan.slicing import windows
from curation.sources.globs import compile_globs
from curation.sources.inventory import SourceListing, list_images, patterns_of
from curation.sources.plan import make_plan
from curation.sources.probe import standing
from curation.sources.recipe import Recipe, load_recipe, resolve
from curation.sources.say import format_plan
from curation.sources.source import BY_SCRIPT, EVERY_IMAGE, Source, load_benchmark, load_source, shipped, shipped_path

ALL = [*(("sources", name) for name in shipped("sources")), *(("benchmarks", name) for name in shipped("benchmarks"))]


def load(kind: str, name: str) -> Source:
    return load_source(name) if kind == "sources" else load_benchmark(name)


def shipped_recipe(name: str) -> Recipe:
    """By its path: a folder of that name may lie where the tests are run."""
    return load_recipe(str(shipped_path("recipes", name)))


WITH_EXAMPLES = [(kind, name) for kind, name in ALL if load(kind, name).examples.take]


def test_there_are_enough() -> None:
    assert len(shipped("sources")) >= 120
    wanted = {"aid", "nwpu_resisc45", "dior", "dior_r", "loveda", "spacenet1", "uc_merced", "eurosat_rgb", "whu_rs19"}
    assert wanted | {"optimal_31", "mlrsnet", "airound", "cv_brct"} <= set(shipped("benchmarks"))


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_manifest_is_whole(kind: str, name: str) -> None:
    source = load(kind, name)
    assert source.id == name and source.name and source.facts
    assert source.homepage or source.obtain.repository or source.files, "nobody could find it"
    for pattern in (*patterns_of(source), *source.leave, *(glob for globs in source.splits.values() for glob in globs)):
        compile_globs([pattern])
    if source.obtain.via in BY_SCRIPT:
        assert source.obtain.repository or all(file.url for file in source.files)
        assert source.files or source.obtain.repository or source.remote
    else:
        assert source.obtain.instructions, "a person must be told what to do"
    names = [file.name for file in source.files]
    assert len(names) == len(set(names))
    if source.verified:
        assert source.examples.take and "general knowledge" not in source.facts


@pytest.mark.parametrize(("kind", "name"), WITH_EXAMPLES)
def test_the_globs_take_and_leave_the_paths_that_the_cited_source_shows(kind: str, name: str, tmp_path: Path) -> None:
    source = load(kind, name)
    if source.remote is not None:  # listed over the network; only its globs can be asked here
        taken, left = compile_globs(patterns_of(source)), compile_globs(source.leave)
        by_default = source.images == (EVERY_IMAGE,)
        assert all((by_default or taken(path)) and not left(path) for path in source.examples.take)
        assert all(left(path) or not taken(path) for path in source.examples.leave)
        return
    for path in (*source.examples.take, *source.examples.leave):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    listing = SourceListing(source.id)
    rows = list(list_images(source, tmp_path, listing))
    found = {path for row in rows for path in (row.get("band_files") or [row["image"]])}
    assert found == set(source.examples.take)
    assert not any("lack a band" in warning for warning in listing.warnings)


def test_shares_images_with_is_symmetric_and_names_what_exists() -> None:
    shares: dict[str, set[str]] = {}
    for kind, name in ALL:
        shares.setdefault(name, set()).update(load(kind, name).shares_images_with)
    assert {(b, a) for a, others in shares.items() for b in others} == {
        (a, b) for a, others in shares.items() for b in others
    }


def test_a_set_that_is_source_and_benchmark_is_described_once() -> None:
    for name in set(shipped("sources")) & set(shipped("benchmarks")):
        assert load_source(name).model_dump() == load_benchmark(name).model_dump(exclude={"test_splits"})


PAPER = {"aid", "nwpu_resisc45", "dior", "dior_r", "loveda", "spacenet1"}
SCALE_MAE = {"airound", "cv_brct", "eurosat_rgb", "mlrsnet", "optimal_31", "nwpu_resisc45", "uc_merced", "whu_rs19"}
"""The sets of its kNN table."""

SIZES = {"opticalrs-4m": 4_000_000, "opticalrs-13m": 13_203_698, "open-4m": 4_000_000, "open-13m": 13_203_698}


@pytest.mark.parametrize("name", SIZES)
def test_recipes(name: str, repository: Path) -> None:
    recipe = shipped_recipe(name)
    taken = [entry for entry in recipe.sources if entry.id not in recipe.left_out]
    predicted = sum(entry.predicted_tiles or 0 for entry in taken)
    assert recipe.balance.total == SIZES[name] <= predicted <= SIZES[name] * (1.05 if name.startswith("open") else 1)
    assert all(entry.cap is None or (entry.predicted_tiles or 0) <= entry.cap for entry in recipe.sources)
    assert set(recipe.guard.benchmarks) == PAPER | SCALE_MAE | {"rsscn7"}
    assert recipe.exclude.splits == ("test",)
    sources = [one.source for one in resolve(recipe, Path("data"))]
    ids = {source.id for source in sources}
    page = (repository / f"docs/recipes/{name}.md").read_text()
    for source in sources:
        assert not ids & set(source.shares_images_with), "of sources that share images one is taken"
        assert not set(recipe.guard.benchmarks) & {source.id, *source.shares_images_with}
        assert source.readable and source.kind == "rgb"
    rows = dict(re.findall(r"^\| (\w+) \|.*\| ([\d,]+) \|[^|]*\|$", page, re.MULTILINE))
    assert {key: int(value.replace(",", "")) for key, value in rows.items()} == {
        entry.id: entry.predicted_tiles for entry in taken
    }


OF_RECIPES = {
    entry.id for name in shipped("recipes") for entry in shipped_recipe(name).sources if entry.id in shipped("sources")
}


NOT_SHOWN = "is shown by what was read"
"""How a manifest's facts say that no path of an image is known."""


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_manifest_says_how_many_images_it_has_and_what_a_path_looks_like(kind: str, name: str) -> None:
    found = load(kind, name)
    assert bool(found.expected_images) != bool(found.uncounted), "how many, or why nobody knows"
    if not found.examples.take:
        assert name not in OF_RECIPES
        assert not found.readable or NOT_SHOWN in found.facts, "a path that the globs take, or that none is known"


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_licences_of_pixels_and_labels_are_told_apart(kind: str, name: str, repository: Path) -> None:
    written = yaml.safe_load((repository / f"manifests/{kind}/{name}.yaml").read_text())
    assert set(written["licence"]) == {"pixels", "labels"}
    source = load(kind, name)
    if any(service in source.provider for service in ("Google", "Bing")):
        assert source.redistributable != "yes", "who took the pictures did not allow it"
    if "-NC-" in source.licence.pixels:
        assert source.redistributable in ("noncommercial", "no", "unknown")


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_what_comes_from_the_hub_is_of_a_revision(kind: str, name: str) -> None:
    source = load(kind, name)
    if source.obtain.via == "huggingface":
        urls = [file.url or "" for file in source.files] + list(source.remote.urls if source.remote else ())
        assert source.obtain.revision or (urls and all("/resolve/" in url for url in urls))


def test_what_is_known_to_be_closed_is_gone_with_its_day_and_in_no_plan() -> None:
    """torchgeo/torchgeo#4054 is of 26 August 2026."""
    for name in ("skyscript", "forest_damage"):
        found = standing(load_source(name))
        assert (found.state, found.checked) == ("gone", "2026-08-26")
        assert "403" in found.note
    for name in ("opticalrs-4m", "opticalrs-13m"):
        plan = make_plan(shipped_recipe(name))
        assert {row.id for row in plan.rows if row.standing.state == "gone"} == set()
        assert {told.partition(" ")[0] for told in plan.left_out} == {"skyscript", "forest_damage"}


@pytest.mark.parametrize("name", ["open-4m", "open-13m"])
def test_an_open_recipe_is_fetched_by_script_and_may_be_published(name: str) -> None:
    plan = make_plan(shipped_recipe(name))
    assert plan.tiles == SIZES[name]
    rows = [row for row in plan.rows if not row.benchmark]
    assert {(row.standing.state, row.redistributable) for row in rows} == {("automatic", "yes")}
    assert "of these tiles 100.0% come by script, 100.0% are redistributable" in format_plan(plan)
    assert max(row.predicted_tiles or 0 for row in rows) <= plan.tiles / 3
    assert all(row.gsd_m and row.land for row in rows if (row.predicted_tiles or 0) > 10_000)


@pytest.mark.parametrize("size", ["4m", "13m"])
def test_the_published_corpus_is_fetched_whole_and_cut_no_further(size: str) -> None:
    recipe = shipped_recipe(f"opticalrs-published-{size}")
    (source,) = resolve(recipe, Path("data"))
    assert source.source.obtain.repository == f"initiacms/OpticalRS-{size.upper()}"
    volumes = [f"OpticalRS-{size.upper()}.{end}" for end in ("z01", "z99", "z100", "zip")]
    assert all(any(PurePath(name).match(glob) for glob in source.source.obtain.wanted) for name in volumes)
    assert not PurePath("README.md").match(source.source.obtain.wanted[0])
    assert windows(Window(0, 0, 1024, 1024), source.slice, 0, "s", "i") == [Window(0, 0, 1024, 1024)]
    assert set(recipe.guard.benchmarks) == set(shipped_recipe(f"opticalrs-{size}").guard.benchmarks)


def test_the_real_rsscn7_is_whole(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "rsscn7").symlink_to(shared / "data/classification/RSSCN7_256")
    listing = SourceListing("rsscn7")
    rows = list(list_images(load_source("rsscn7"), tmp_path / "rsscn7", listing))
    assert (len(rows), listing.expected, listing.warnings) == (2_800, 2_800, [])
    assert {row["label"] for row in rows} == {p.name for p in (tmp_path / "rsscn7").iterdir()}


def test_unknown_names_list_what_exists() -> None:
    with pytest.raises(InputError, match=r"no source is named 'rsscn8'"):
        load_source("rsscn8")


def test_the_generated_pages_are_up_to_date(repository: Path) -> None:
    spec = importlib.util.spec_from_file_location("generate", repository / "docs/generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    stale = [path for path, text in generate.pages().items() if (repository / "docs" / path).read_text() != text]
    assert not stale, "run: python docs/generate.py"
