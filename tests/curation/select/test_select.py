from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_for_select import image_row, random_tile, recipe, write

from curation.base.errors import WorkError
from curation.base.splitmix import published_permutation
from curation.catalogue import KEPT, ledger, read_table
from curation.select.balance import over_caps
from curation.select.select import select
from curation.select.shard_assignment import assign, runs_of
from curation.sources.recipe import BalanceRules, ShardRules


def corpus(seed: int = 0, images: int = 30) -> list[dict[str, Any]]:
    """Two sources of sliced images with duplicates across and within, a rejected image and a rejected tile."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(images):
        source, image = "ab"[number % 2], f"folder {number % 3}/{number}.tif"
        rows.append(image_row(source, image))
        for col, row in itertools.product((0, 256), (0, 256)):
            rows.append(random_tile(rng, source, image, col, row, 256, 256, gsd_m=float(rng.integers(1, 4))))
    tiles = [row for row in rows if row["kind"] == "tile"]
    for number in range(0, len(tiles) - 1, 9):
        tiles[number + 1] |= {key: tiles[number][key] for key in ("orientations", "dct16")}
    for number in range(4, len(tiles) - 5, 20):
        tiles[number + 5] |= {key: tiles[number][key] for key in ("orientations", "dct16", "content_hash")}
    tiles[7] |= {"verdict": "nodata", "detail": "valid_share 0.2 < 0.5"}
    rows.append(image_row("b", "broken.jpg", verdict="unreadable", detail="truncated"))
    return rows


RULES: dict[str, Any] = {"shards": {"max_samples": 17, "run": 3}, "balance": {"per_place": 3, "total": 70}, "seed": 5}


def catalogue(tmp_path: Path, rows: list[dict[str, Any]], name: str = "c", **rules: Any) -> Path:
    made, sources = recipe("b", "a", **rules)
    select([write(tmp_path / f"{name}.tiles.parquet", rows)], made, sources, tmp_path / f"{name}.parquet")
    return tmp_path / f"{name}.parquet"


def test_every_row_gets_a_verdict_and_the_ledger_balances(tmp_path):
    rows = corpus()
    table = read_table(catalogue(tmp_path, rows, **RULES), "catalogue")
    counts = ledger(table)
    assert sum(sum(kinds["image"].values()) for kinds in counts.values()) == 31
    assert counts["b"]["image"] == {"sliced": 15, "unreadable": 1}
    tiles: Counter[str] = Counter()
    for kinds in counts.values():
        tiles.update(kinds["tile"])
    assert sum(tiles.values()) == 120 and tiles[KEPT] == 70
    by_id = {row["tile_id"]: row for row in table.to_pylist()}
    assert set(by_id) == {row["tile_id"] for row in rows}
    for row in by_id.values():
        assert (row["shard"] is not None) == (row["position"] is not None) == (row["verdict"] == KEPT)
        if row["verdict"] == "duplicate":
            assert by_id[row["subject"]]["verdict"] in (KEPT, "capped")
            assert row["detail"]
    assert (
        by_id[next(row for row in rows if row.get("verdict") == "nodata")["tile_id"]]["detail"]
        == "valid_share 0.2 < 0.5"
    )


def test_rows_lie_in_the_published_order(tmp_path):
    rows = read_table(catalogue(tmp_path, corpus(), **RULES), "catalogue").to_pylist()
    keys = [
        (
            "ba".index(row["source"]),
            row["image"].encode(),
            row["kind"] == "tile",
            row["row_off"] or 0,
            row["col_off"] or 0,
        )
        for row in rows
    ]
    assert keys == sorted(keys)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), parts=st.integers(1, 7), group=st.integers(9, 60), threads=st.integers(1, 3))
def test_parts_and_threads_change_no_byte(tmp_path_factory, seed, parts, group, threads):
    folder = tmp_path_factory.mktemp("parts")
    rows = corpus()
    expected = catalogue(folder, rows, **RULES).read_bytes()
    rng = np.random.default_rng(seed)
    order, part = rng.permutation(len(rows)), rng.integers(0, parts, len(rows))
    paths = [
        write(folder / f"{number}.parquet", [rows[n] for n in order if part[n] == number], group)
        for number in range(parts)
    ]
    made, sources = recipe("b", "a", **RULES)
    rng.shuffle(paths)
    select(paths, made, sources, folder / "again.parquet", threads=threads)
    assert (folder / "again.parquet").read_bytes() == expected


def test_a_source_that_comes_later_gives_what_all_at_once_gives(tmp_path):
    rows = corpus()
    made, sources = recipe("b", "a", **RULES)
    old = write(tmp_path / "old.parquet", [row for row in rows if row["source"] == "a"])
    only_a, sources_a = recipe("a", **RULES)
    select([old], only_a, sources_a, tmp_path / "first.parquet")
    new = write(tmp_path / "new.parquet", [row for row in rows if row["source"] == "b"])
    select([old, new], made, sources, tmp_path / "second.parquet")
    assert (tmp_path / "second.parquet").read_bytes() == catalogue(tmp_path, rows, **RULES).read_bytes()


def test_two_rows_with_one_id_are_refused_and_named(tmp_path):
    rows = corpus()
    rows.append(rows[1] | {"image": "elsewhere.tif"})
    with pytest.raises(WorkError, match=r"a/elsewhere\.tif .*a/folder 0/0\.tif|a/folder 0/0\.tif .*a/elsewhere\.tif"):
        catalogue(tmp_path, rows)


def test_a_source_that_the_recipe_does_not_name_is_refused(tmp_path):
    made, sources = recipe("a")
    with pytest.raises(WorkError, match="source 'b', which the recipe does not name"):
        select([write(tmp_path / "t.parquet", corpus())], made, sources, tmp_path / "c.parquet")


def test_no_rows_are_an_error(tmp_path):
    with pytest.raises(WorkError, match="no rows"):
        catalogue(tmp_path, [])


# ------------------------------------------------------------------------------------------------ shards


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 200), longest=st.integers(1, 9), samples=st.integers(1, 40))
def test_shards_respect_their_limits_and_keep_runs_together(seed, count, longest, samples):
    rng = np.random.default_rng(seed)
    image = np.sort(rng.integers(0, 30, count))
    sizes = rng.integers(1, 400_000, count)
    rules = ShardRules(max_samples=samples, max_bytes=1 << 20, run=longest)
    shard, position = assign(image, sizes, rules, seed=3)
    written = np.lexsort((position, shard))
    for number in range(shard.max(initial=-1) + 1):
        members = written[shard[written] == number]
        assert position[members].tolist() == list(range(len(members)))
        assert 1 <= len(members) <= samples
        assert sizes[members].sum() <= 1 << 20 or len(members) == 1
    for number in range(shard.max(initial=0)):  # closed because one more would not fit
        members = np.nonzero(shard == number)[0]
        following = written[np.nonzero(shard[written] == number + 1)[0][0]]
        assert len(members) == samples or sizes[members].sum() + sizes[following] > 1 << 20
    runs = runs_of(image, longest)
    order = published_permutation(3, 0, runs[-1] + 1) if count else []
    assert written.tolist() == [n for run in order for n in np.nonzero(runs == run)[0]]


def test_runs_end_with_the_image_or_at_the_longest():
    assert runs_of(np.array([0, 0, 0, 1, 2, 2, 2, 2, 2]), 2).tolist() == [0, 0, 1, 2, 3, 3, 4, 4, 5]


def test_copied_files_count_their_own_bytes_and_others_a_constant(tmp_path):
    rng = np.random.default_rng(0)
    rows = [random_tile(rng, "a", f"{n}", file_bytes=600_000, pass_through=n < 2, ac_energy=0.0) for n in range(4)]
    limits = {"max_bytes": 1 << 20, "bytes_per_pixel": 4.0}  # 256 x 256 x 4 = a quarter of the limit
    table = read_table(catalogue(tmp_path, rows, seed=1, shards=limits), "catalogue").to_pylist()
    sizes: dict[int, int] = {}
    for row in table:
        sizes[row["shard"]] = sizes.get(row["shard"], 0) + (600_000 if row["pass_through"] else 262_144)
    assert max(sizes.values()) <= 1 << 20 and len(sizes) == 2


# ------------------------------------------------------------------------------------------------ caps


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), place=st.integers(1, 6), source=st.integers(1, 40), total=st.integers(1, 90))
def test_caps_hold_and_smaller_caps_keep_subsets(seed, place, source, total):
    rng = np.random.default_rng(seed)
    image = np.sort(rng.integers(0, 30, 100))
    of_source, lot = image // 10, rng.permutation(100).astype(np.uint64)

    def kept(**caps: int) -> np.ndarray:
        return over_caps(image, of_source, lot, BalanceRules(**caps), {1: 7}) == 0

    stays = kept(per_place=place, per_source=source, total=total)
    assert np.bincount(image[stays]).max(initial=0) <= place
    assert np.bincount(of_source[stays]).max(initial=0) <= source
    assert (of_source[stays] == 1).sum() <= 7 and stays.sum() <= total
    assert not (stays & ~kept(per_place=place, per_source=source, total=total + 5)).any()


def test_the_light_version_is_a_subset_of_the_full_one(tmp_path):
    rows = corpus()
    names = []
    for total in (20, 60):
        table = read_table(catalogue(tmp_path, rows, f"c{total}", balance={"total": total}), "catalogue")
        names.append({row["tile_id"] for row in table.to_pylist() if row["verdict"] == KEPT})
    assert len(names[0]) == 20 and names[0] < names[1]


def test_a_source_can_have_a_cap_of_its_own(tmp_path):
    made, sources = recipe({"id": "a", "path": "/x", "cap": 5}, "b")
    select([write(tmp_path / "t.parquet", corpus())], made, sources, tmp_path / "c.parquet")
    table = [row for row in read_table(tmp_path / "c.parquet", "catalogue").to_pylist() if row["source"] == "a"]
    assert sum(row["verdict"] == KEPT for row in table) == 5
    assert {row["detail"] for row in table if row["verdict"] == "capped"} == {"per_source: at most 5"}
