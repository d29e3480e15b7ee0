"""The difference of two catalogues, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation.catalogue import Window, table_from_rows, tile_id, write_table
from curation.cli import main


def tile(source: str, number: int, verdict: str = "kept", shard: int | None = None, position: int | None = None) -> Any:
    window = Window(number * 8, 0, 8, 8)
    place = {"shard": shard, "position": position}
    row = {"kind": "tile", "source": source, "image": "a.tif", "tile_id": tile_id(source, "a.tif", window)}
    return row | {"verdict": verdict} | place


def catalogue(path: Path, rows: list[dict[str, Any]]) -> Path:
    image = {"kind": "image", "source": "one", "image": "a.tif", "tile_id": "x", "verdict": "sliced"}
    write_table(table_from_rows("catalogue", [image, *rows]), path, "catalogue", row_group_size=2)
    return path


@pytest.fixture
def first(tmp_path: Path) -> Path:
    kept = [
        tile("one", 0, shard=0, position=0),
        tile("one", 1, shard=0, position=1),
        tile("one", 2, shard=0, position=2),
    ]
    two = [tile("two", 0, shard=0, position=3), tile("two", 1, "duplicate"), tile("two", 2, shard=1, position=0)]
    return catalogue(tmp_path / "a.parquet", [*kept, *two])


def test_every_tile_that_is_kept_in_either_is_told_once(
    tmp_path: Path, first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = [tile("one", 0, shard=0, position=0), tile("one", 1, "blank"), tile("one", 2, shard=0, position=1)]
    two = [tile("two", 0, "leak"), tile("two", 1, shard=0, position=2), tile("two", 7, shard=1, position=0)]
    second = catalogue(tmp_path / "b.parquet", [*kept, *two])
    assert main(["diff", str(first), str(second), "--rows", str(tmp_path / "rows.parquet")]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        ["one", "kept", "1"],
        ["one", "lost", "1", "blank"],
        ["one", "moved", "1"],
        ["two", "lost", "1", "leak"],
        ["two", "lost", "1", "not", "there"],
        ["two", "new", "1", "duplicate"],
        ["two", "new", "1", "not", "there"],
    ]
    rows = {
        (row["source"], row["change"], row["reason"]): row
        for row in pq.read_table(tmp_path / "rows.parquet").to_pylist()
    }
    assert len(rows) == 6
    moved = rows["one", "moved", None]
    assert (moved["tile_id"], moved["position"]) == (tile("one", 2)["tile_id"], 1)


def test_equal_catalogues_and_emptied_ones(tmp_path: Path, first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(first), str(first)]) == 0
    assert "nothing differs: 5 tiles" in capsys.readouterr().out
    none = catalogue(tmp_path / "none.parquet", [])
    assert main(["diff", str(none), str(first)]) == 0
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()] == [
        ["one", "new", "3"],
        ["two", "new", "2"],
    ]
