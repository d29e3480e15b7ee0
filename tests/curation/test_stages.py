"""What a changed field repeats: the table of docs/curate.md against real runs on a tiny folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from textures import texture

from curation import keys
from curation.base.terminal import Terminal
from curation.catalogue import tile_id
from curation.pipeline import RunOptions, run
from curation.scan.parts import ScanJob
from curation.sources.recipe import GuardRules, Recipe, RecipeSource, resolve
from curation.sources.source import Source

STAGES = ("inventory", "scan", "select", "write", "report")
ROW = re.compile(rf"^\| ({'|'.join(STAGES)}) \| (.*) \|$", re.MULTILINE)

CHANGED: dict[str, Any] = {
    "name": "other", "description": "words", "seed": 1, "fingerprint.extra": ["dhash"],
    "sources.name": "Mine", "sources.task": "detection", "sources.year": 2020, "sources.citation": "someone",
    "sources.homepage": "https://example.org", "sources.obtain": {"via": "manual"},
    "sources.listed_megabytes": 1.5, "sources.listed_files": 3,
    "sources.land": "asia", "sources.uncounted": "nobody did", "sources.expected_images": 5,
    "sources.sample": 4, "sources.max_images": 3,
    "sources.shares_images_with": ["samrs"], "sources.examples": {"take": ["a.jpg"]}, "sources.verified": True,
    "sources.facts": "a page", "sources.predicted_tiles": 9,
    "sources.images": ["**/*.png"], "sources.leave": ["a.*"], "sources.splits": {"test": ["a.*"]},
    "sources.label_from": "parent", "sources.bands": [3, 2, 1], "sources.nodata": 7,
    "sources.stretch": {"how": "fixed", "fixed": [0, 200]}, "sources.trim": [1, 1, 1, 1], "sources.gsd_m": 2,
    "sources.slice": {"tile": 64, "whole_up_to": 64}, "sources.kind": "grey", "sources.priority": 3, "sources.cap": 4,
    "sources.redistributable": "yes", "sources.licence": {"pixels": "CC0-1.0"}, "sources.provider": "someone",
    "slice.mode": "random", "slice.tile": 100, "slice.overlap": 9, "slice.remainder": "drop", "slice.whole_up_to": 99,
    "slice.min_side": 48, "slice.max_side": 80, "slice.density": 2.0, "slice.max_iou": 0.5,
    "exclude.splits": [], "exclude.licences": ["MIT"], "exclude.redistributable_only": True,
    "exclude.max_pixels": 100_000, "exclude.max_bytes": 1_000_000, "exclude.max_unreadable": 0.9,
    "exclude.min_side": 60, "exclude.max_aspect": 7, "exclude.min_valid": 0.4, "exclude.min_std": 1.5,
    "exclude.min_coloured": 0.02, "exclude.max_flat": 0.7, "exclude.min_gentle": 0.6,
    "exclude.max_colour_spread": 80, "exclude.min_agreement": 0.2, "exclude.agreement_from": 5,
    "exclude.min_grain": 0.1, "exclude.grain_steps_from": 1.2, "exclude.grain_from": 11, "exclude.max_told": 0.8,
    "exclude.told_steps_from": 1.2, "exclude.told_from": 21,
    "exclude.max_soft_alpha": 0.01, "exclude.earth_only": False, "exclude.false_colour": True,
    "exclude.ids": [tile_id("mine", "a.jpg", None)],
    "deduplicate.method": "exact", "deduplicate.radius": 3, "deduplicate.orientations": False,
    "deduplicate.crops": False,
    "deduplicate.confirm": 0.8, "deduplicate.soft_ac_energy": 4, "deduplicate.soft_radius": 9,
    "deduplicate.min_ac_energy": 0.6, "deduplicate.keep": ["area", "priority"], "guard.radius": 3, "guard.crops": False,
    "balance.per_source": 5, "balance.per_place": 2, "balance.per_cell": 2, "balance.total": 6,
    "shards.max_samples": 3, "shards.max_bytes": 2 << 20, "shards.run": 5, "shards.pass_through": False,
    "shards.bytes_per_pixel": 0.7, "shards.encoder": "png", "shards.quality": 70,
}  # fmt: skip
"""Another value for every field that a run on this folder can be given."""

UNTRIED = {
    "sources.id", "sources.path", "sources.files", "sources.container", "sources.image_column", "sources.readable",
    "sources.bands_in_files", "sources.follow_links", "sources.columns", "sources.array", "sources.remote",
    # each of these asks for other files
    "left_out",  # asks for a second source
    "guard.benchmarks", "guard.fingerprints",  # ask for a benchmark's fingerprints
}  # fmt: skip


def expected(docs: Path) -> dict[str, list[str]]:
    """Fields per stage, as documented."""
    text = (docs / "curate.md").read_text(encoding="utf-8").partition("### What a change repeats")[2]
    rows = dict(ROW.findall(text.partition("\n## ")[0]))
    return {stage: re.findall(r"`([a-z_.]+)`", rows[stage]) for stage in STAGES}


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if prefix == "" and isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields_of(kind, f"{name}.")
        else:
            yield prefix + name


def test_the_table_names_every_field_once(repository: Path) -> None:
    listed = [name for names in expected(repository / "docs").values() for name in names]
    sources = [f"sources.{name}" for name in {**Source.model_fields, **RecipeSource.model_fields} if name != "manifest"]
    assert sorted(listed) == sorted([*(name for name in fields_of(Recipe) if name != "sources"), *sources])
    assert CHANGED.keys() | UNTRIED == set(listed)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One worker for all runs."""
    from distributed import LocalCluster

    folder = str(tmp_path_factory.mktemp("workers"))
    before = dict(os.environ)
    try:
        with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, local_directory=folder) as cluster:
            yield cluster.scheduler_address
    finally:  # Dask leaves its thread counts behind, and what computes after it in this process would lose its bits
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, scheduler: str) -> Path:
    """A folder with images and what a run made of them."""
    root = tmp_path_factory.mktemp("stages")
    (root / "mine").mkdir()
    for name in ("a.jpg", "b.jpg", "c.png", "d.png", "e.png"):
        texture(ord(name[0]), 300 if name == "e.png" else 192).save(root / "mine" / name)
    (root / "mine/broken.jpg").write_bytes((root / "mine/a.jpg").read_bytes()[:3_000])
    assert worked(recipe_of({}), root, root / "out", scheduler) == ["inventory", "scan", "select", "write", "report"]
    return root


def recipe_of(changes: dict[str, Any]) -> Recipe:
    recipe: dict[str, Any] = yaml.safe_load(
        "{name: mine, sources: [{id: mine, path: mine}], slice: {mode: grid, tile: 128, whole_up_to: 200}}"
    )
    for name, value in changes.items():
        section, _, inner = name.partition(".")
        if not inner:
            recipe[section] = value
        elif section == "sources":
            recipe["sources"][0][inner] = value
        else:
            recipe.setdefault(section, {})[inner] = value
    return Recipe.model_validate(recipe)


def worked(recipe: Recipe, root: Path, out: Path, scheduler: str, regenerate: bool = False) -> list[str]:
    options = RunOptions(scheduler=scheduler, replace=True, regenerate=regenerate)
    return list(run(recipe, root, out, options, Terminal()).worked)


GROUPS = [
    ("report", r"description|exclude\..*|sources\.predicted_tiles"),
    ("report", r"sources\..*"),
    ("write", r"name|shards\..*"),
    ("write", r"sources\..*"),
    ("select", r"seed|sources\.(priority|cap)|deduplicate\..*|guard\..*|balance\..*|shards\..*"),
    ("select", r"sources\.(kind|redistributable)|exclude\..*"),
    ("scan", r"slice\.(?!mode).*|fingerprint\..*|exclude\.(?!redistributable|licences|splits).*|sources\.slice"),
    ("scan", r"sources\..*"),
    ("inventory", r".*"),
]
"""Fields that are changed together: no stage before the one that the table names runs."""


@pytest.mark.parametrize(("stage", "fields"), GROUPS)
def test_nothing_before_the_documented_stage_runs_again(
    repository: Path, finished: Path, tmp_path: Path, scheduler: str, stage: str, fields: str
) -> None:
    names = [name for name in expected(repository / "docs")[stage] if re.fullmatch(fields, name)]
    changes = {name: CHANGED[name] for name in names if name not in UNTRIED}
    assert changes
    shutil.copytree(finished / "out", tmp_path / "out")
    assert worked(recipe_of(changes), finished, tmp_path / "out", scheduler)[0] == stage


def test_each_field_of_select_and_scan_is_in_its_key(repository: Path, finished: Path) -> None:
    def select_key(changes: dict[str, Any]) -> str:
        recipe = recipe_of(changes)
        return keys.select_key(recipe, resolve(recipe, finished), {"mine": ["digest"]}, {})

    def scan_key(changes: dict[str, Any]) -> str:
        recipe = recipe_of(changes)
        return keys.key(ScanJob.of(resolve(recipe, finished)[0], recipe).rules())

    table = expected(repository / "docs")
    for stage, key in (("select", select_key), ("scan", scan_key)):
        for name in set(table[stage]) - UNTRIED:
            base = {"sources.splits": CHANGED["sources.splits"]} if name == "exclude.splits" else {}
            assert key(base | {name: CHANGED[name]}) != key(base), name
    for name in set(table["write"] + table["report"]) - UNTRIED:
        assert select_key({name: CHANGED[name]}) == select_key({}), name
    assert GuardRules.model_fields.keys() == {"benchmarks", "radius", "crops", "fingerprints"}  # files come as digests


def test_going_back_repeats_nothing_but_the_tars(finished: Path, tmp_path: Path, scheduler: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    assert worked(recipe_of({"seed": 5}), finished, out, scheduler) == ["select", "report"]  # all stays where it is
    assert worked(recipe_of({"seed": 5}), finished, out, scheduler, True) == ["select", "write", "report"]
    assert worked(recipe_of({}), finished, out, scheduler, True) == ["write"]
    assert worked(recipe_of({}), finished, out, scheduler) == []
