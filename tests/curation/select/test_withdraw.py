"""Takedowns: what is named goes, and nothing else moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows_for_select import image_row, random_tile, recipe, write

from curation.base.errors import InputError
from curation.catalogue import read_table
from curation.cli import main
from curation.select.select import SelectSummary, select
from curation.sources.recipe import load_recipe


def corpus() -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for number in range(12):
        rows.append(image_row("a", f"{number}.tif"))
        rows += [random_tile(rng, "a", f"{number}.tif", col, 0, 256, 256) for col in (0, 256, 512)]
    tiles = [row for row in rows if row["kind"] == "tile"]
    tiles[5] |= {name: tiles[4][name] for name in ("orientations", "dct16", "content_hash")}  # the second is the copy
    return rows


def catalogue(folder: Path, *ids: str) -> tuple[dict[str, dict[str, Any]], SelectSummary]:
    made, sources = recipe("a", shards={"max_samples": 4}, balance={"total": 30}, exclude={"ids": ids})
    out = folder / "c.parquet"
    summary = select([write(folder / "tiles.parquet", corpus())], made, sources, out)
    return {row["tile_id"]: row for row in read_table(out, "catalogue").to_pylist()}, summary


def test_only_what_is_named_changes(tmp_path: Path) -> None:
    before, _ = catalogue(tmp_path)
    kept = [row for row in before.values() if row["verdict"] == "kept"]
    subject = next(row["subject"] for row in before.values() if row["verdict"] == "duplicate")
    image = next(row for row in before.values() if row["kind"] == "image" and row["image"] == "7.tif")
    key = f"{kept[3]['shard']:06d}{kept[3]['position']:05d}-{kept[3]['tile_id']}"
    after, summary = catalogue(tmp_path, subject, image["tile_id"], key, "0" * 20)
    gone = {subject, kept[3]["tile_id"]} | {row["tile_id"] for row in kept if row["image"] == "7.tif"}
    changed = {name for name, row in after.items() if row != before[name]}
    assert changed == gone
    for name in gone:
        row = after[name]
        assert (row["verdict"], row["shard"], row["position"]) == ("withdrawn", None, None)
        assert row["detail"] == f"ids: taken out of shard {before[name]['shard']}"
    assert summary.reasons["withdrawn"] == len(gone) >= 3
    assert "1 of exclude.ids are of no tile and no image" in str(summary)


@pytest.mark.parametrize(
    ("text", "told"), [("12345678901234567890", "must stand in quotes"), ("abc", "no id of 20 hex")]
)
def test_ids_that_are_none_are_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: r\nsources: [{{id: a, path: a}}]\nexclude: {{ids: [{text}]}}\n")
    with pytest.raises(InputError, match=told):
        load_recipe(str(path))


def test_a_takedown_changes_only_the_shards_that_it_touches(tmp_path: Path) -> None:
    from textures import texture

    (tmp_path / "a").mkdir()
    for number in range(6):
        texture(number).save(tmp_path / "a" / f"{number}.jpg")
    (tmp_path / "r.yaml").write_text("name: r\nsources: [{id: a, path: a}]\nshards: {max_samples: 2}\n")
    line = ["run", str(tmp_path / "r.yaml"), "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(line) == 0
    shards = tmp_path / "out/shards"
    before = {path.name: path.stat().st_ino for path in shards.glob("*.tar")}
    rows = read_table(tmp_path / "out/catalogue.parquet", "catalogue").to_pylist()
    gone = next(row for row in rows if row["shard"] == 1 and row["position"] == 0)
    whole = [row["tile_id"] for row in rows if row["shard"] == 2]
    assert main([*line, f"exclude.ids=['{gone['tile_id']}', '{whole[0]}', '{whole[1]}']", "--replace"]) == 0
    after = {path.name: path.stat().st_ino for path in shards.glob("*.tar")}
    assert set(after) == {"r-000000.tar", "r-000001.tar"}
    assert after["r-000000.tar"] == before["r-000000.tar"] and after["r-000001.tar"] != before["r-000001.tar"]
    assert main(["verify", str(shards), "--workers", "1"]) == 0
