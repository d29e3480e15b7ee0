"""What plan, check and sources compute and say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from curation.base.columns import table
from curation.base.errors import InputError
from curation.sources.fetch import FetchResult
from curation.sources.plan import check, list_sources, make_plan, targets
from curation.sources.recipe import Recipe, load_recipe, resolve
from curation.sources.say import format_check, format_fetch, format_plan, format_sources
from curation.sources.source import Source


def test_a_plan_a_person_can_act_on(tmp_path: Path) -> None:
    plan = make_plan(load_recipe("opticalrs-13m"), tmp_path)
    assert plan.tiles == 13_203_698
    assert plan.shards == -(-13_203_698 // 8_192)  # 1 GiB of 128 KiB tiles closes a shard before 10,000 samples do
    text = format_plan(plan)
    for part in (
        "spacenet2",
        "CC-BY-SA-4.0",
        "s3",
        "loveda (benchmark)",
        "airbus_ship (Airbus Ship Detection) must be fetched by hand:",
        f"into {tmp_path / 'airbus_ship'}",
        "predicted: 13,203,698 tiles",
        "rs-curate fetch opticalrs-13m --data DATA",
    ):
        assert part in text
    by_hand = {row.id for row in plan.rows if row.by_hand}
    assert "airbus_ship" in by_hand and "spacenet2" not in by_hand and "aid" in by_hand


def test_sums_of_a_plan() -> None:
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "sources": [
                {"id": "a", "path": "a", "predicted_tiles": 700, "listed_megabytes": 1500, "obtain": {"via": "direct"}},
                {"id": "b", "path": "b", "predicted_tiles": 500},
            ],
            "balance": {"total": 1000},
            "shards": {"max_samples": 300, "bytes_per_pixel": 1.0},
        }
    )
    plan = make_plan(recipe)
    assert (plan.tiles, plan.shards) == (1_000, 4)
    assert plan.gigabytes == 1.5 and plan.shard_gigabytes == pytest.approx(1_000 * 512 * 512 / 1e9)
    assert plan.disk_gigabytes == pytest.approx(3.0 + plan.shard_gigabytes)
    assert [row.megabytes for row in plan.rows] == [1500, None]
    assert not any(row.by_hand for row in plan.rows), "a local folder needs nobody"


def test_sums_of_imagery_that_is_read_where_it_lies() -> None:
    tar = {"urls": ["https://x/{1..10}.tar"], "ranges": 5_000, "range_megabytes": 64}
    entry = {"id": "a", "predicted_tiles": 10, "container": "remote", "obtain": {"via": "s3"}}
    shards = {"max_samples": 300, "bytes_per_pixel": 1.0}
    told = {"name": "x", "sources": [{**entry, "remote": tar}], "shards": shards}
    plan = make_plan(Recipe.model_validate(told))
    assert plan.gigabytes == 3_200  # 10 tars x 5,000 ranges x 64 MB
    assert plan.disk_gigabytes == pytest.approx(50 + plan.shard_gigabytes)  # the spool, and no archive
    assert "3,200 GB" in format_plan(plan) and "at most 50 GB of spools" in format_plan(plan)
    few = {**told, "sources": [{**entry, "sample": 2, "remote": {**tar, "ranges": 100}}]}
    assert make_plan(Recipe.model_validate(few)).spool_gigabytes == pytest.approx(12.8)  # no more than is read


def test_a_split_that_no_source_has_is_refused_by_the_plan_too() -> None:
    told = {"name": "x", "sources": [{"id": "a", "path": "a"}], "exclude": {"splits": ["tset"]}}
    with pytest.raises(InputError, match="no source has a split 'tset'"):
        make_plan(Recipe.model_validate(told))
    assert not make_plan(Recipe.model_validate({**told, "exclude": {"splits": []}})).held_out


def test_sources_by_task_licence_and_route() -> None:
    everything = list_sources()
    assert len(everything) >= 120
    assert {source.task for source in list_sources(task="change")} == {"change"}
    assert all("CC-BY-4.0" in source.licence.pixels for source in list_sources(licence="cc-by-4.0"))
    assert {source.redistributable for source in list_sources(redistributable=True)} == {"yes"}
    both = list_sources(task="segmentation", obtain="s3")
    assert {source.id for source in both} >= {"spacenet2", "spacenet5"}
    text = format_sources(both)
    assert text.splitlines()[0].startswith("id") and text.endswith(f"{len(both)} sources")
    parsed = json.loads(format_sources(both, as_json=True))
    assert Source.model_validate(parsed[0]) == both[0]
    with pytest.raises(InputError, match=r"--task ships: no such value; one of: .*detection"):
        list_sources(task="ships")


def test_what_can_be_named(tmp_path: Path) -> None:
    assert [one.id for one in targets("spacenet2", tmp_path)] == ["spacenet2"]
    assert targets("loveda", tmp_path)[0].root == tmp_path / "loveda"
    names = [one.id for one in targets("opticalrs-4m", tmp_path)]
    assert names[-14:-8] == ["aid", "nwpu_resisc45", "dior", "dior_r", "loveda", "spacenet1"]
    (tmp_path / "mine.yaml").write_text("name: mine\nsources: [{id: mine, path: /some/where}]\n")
    assert targets(str(tmp_path / "mine.yaml"), None)[0].root == Path("/some/where")
    with pytest.raises(InputError, match="'opticalrs-5m' is no recipe, source or benchmark"):
        targets("opticalrs-5m", tmp_path)
    with pytest.raises(InputError, match="--data DIR"):
        targets("spacenet2", None)


def test_check_counts_and_names_what_is_wrong(tmp_path: Path) -> None:
    for path in ("spacenet5/AOI_7/PS-RGB/1.tif", "uc_merced/Images/a/1.tif", "uc_merced/Images/a/2.tif"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    rows = check([target for name in ("spacenet5", "uc_merced", "inria") for target in targets(name, tmp_path)])
    assert [(row.found, row.missing, row.surplus, row.fine) for row in rows] == [
        (1, 0, 0, True),
        (2, 2_098, 0, False),
        (0, 360, 0, False),
    ]
    text = format_check(rows)
    assert "source uc_merced: 2 images found, 2,100 expected" in text
    assert f"source inria: {tmp_path / 'inria'} does not exist; rs-curate fetch inria --data {tmp_path}" in text
    assert text.endswith("1 of 3 as expected")


def test_check_of_the_real_rsscn7(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "rsscn7").symlink_to(shared / "data/classification/RSSCN7_256")
    (row,) = check(targets("rsscn7", tmp_path))
    assert (row.found, row.expected, row.missing, row.surplus, row.fine) == (2_800, 2_800, 0, 0, True)


def test_what_a_fetch_says(tmp_path: Path) -> None:
    results = [
        FetchResult("a", tmp_path, downloaded=3, unpacked=1),
        FetchResult("b", tmp_path, instructions="b must be fetched by hand:\n  1. open it"),
        FetchResult("c", tmp_path, error="source c: x.zip was not fetched: 404"),
        FetchResult("d", tmp_path, notes=["its images are there already"]),
    ]
    text = format_fetch(results)
    for part in ("b must be fetched by hand", "404", "d", "its images are there already"):
        assert part in text
    assert text.endswith("2 of 4 are there")


def test_columns_align() -> None:
    assert table(("a", "n"), [("xx", "1"), ("y", "10")], right=(1,)).splitlines() == [
        "a    n",
        "--  --",
        "xx   1",
        "y   10",
    ]


def test_imagery_that_is_read_where_it_lies_is_not_listed_to_be_checked(tmp_path: Path) -> None:
    far = {"id": "far", "container": "remote", "remote": {"urls": ["https://example.org/a.tif"]}}
    rows = check(resolve(Recipe.model_validate({"name": "r", "sources": [far]}), tmp_path))
    assert "read where it lies" in format_check(rows)
    assert not list(tmp_path.iterdir())
