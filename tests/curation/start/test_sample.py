"""A drawn part of the images: which ones, what a limited run makes of them, and what a dry run tells."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from textures import texture

from curation.catalogue import read_table, table_from_rows, write_table
from curation.cli import main
from curation.start.estimate import Estimate
from curation.start.sample import draw


def listing(path: Path, source: str, count: int) -> Path:
    rows = [
        {"source": source, "image": f"{n:05d}.jpg", "file": f"{n:05d}.jpg", "bytes": 1, "mtime_ns": 0}
        for n in range(count)
    ]
    write_table(table_from_rows("images", rows), path, "images")
    return path


def names(drawn: dict[str, Path]) -> set[tuple[str, str]]:
    tables = [read_table(path, "images", ["source", "image"]) for path in drawn.values()]
    return {(row["source"], row["image"]) for row in pa.concat_tables(tables).cast(
        pa.schema([("source", pa.string()), ("image", pa.string())])
    ).to_pylist()}  # fmt: skip


def test_a_draw_is_exact_even_and_repeats_itself(tmp_path: Path) -> None:
    listings = {"a": listing(tmp_path / "a.parquet", "a", 3_000), "b": listing(tmp_path / "b.parquet", "b", 1_000)}
    small = names(dict(draw(listings, 200, 0, lambda source: tmp_path / f"200/{source}.parquet")))
    large = names(dict(draw(listings, 400, 0, lambda source: tmp_path / f"400/{source}.parquet")))
    other = names(dict(draw(listings, 200, 1, lambda source: tmp_path / f"1/{source}.parquet")))
    assert len(small) == 200 and len(large) == 400 and small < large and other != small
    # 150 of 200 are expected of source a; a standard deviation is sqrt(200 * 0.75 * 0.25) = 6.1
    assert abs(sum(source == "a" for source, _ in small) - 150) < 31
    assert draw(listings, 4_000, 0, lambda source: tmp_path / source) is listings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    made.mkdir()
    for number in range(30):
        texture(number, 128).save(made / f"{number:02d}.png")
    return made


def test_a_dry_run_tells_and_a_limited_run_makes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"
    common = ["run", str(folder), "--out", str(out), "--workers", "2"]
    assert main([*common, "--dry-run", "slice.whole_up_to=100", "slice.tile=64"]) == 0
    told = capsys.readouterr().out
    assert "images: 30, in" in told and "tiles:  about 120 before" in told  # 128 px in tiles of 64: four each
    # half a byte a pixel: 30 images of 128 x 128 pixels
    assert "at most about 0.2 MB of shards" in told and "to scan with 2 workers" in told
    assert not (out / "shards").exists() and not (out / "catalogue.parquet").exists()
    assert main([*common, "--limit", "7"]) == 0
    told = capsys.readouterr().out
    assert "7 of 30 images drawn by seed 0" in told and "7 images -> 7 tiles" in told
    assert "7 of 30" in (out / "report.html").read_text()
    first = read_table(out / "catalogue.parquet", "catalogue")["image"].to_pylist()
    assert main([*common, "--limit", "7"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main([*common]) == 2
    assert "--replace" in capsys.readouterr().err
    assert main([*common, "--replace"]) == 0
    assert "30 images -> 30 tiles" in capsys.readouterr().out
    assert set(first) < set(read_table(out / "catalogue.parquet", "catalogue")["image"].to_pylist())


def test_an_estimate_is_the_sample_times_the_factor(tmp_path: Path) -> None:
    found = Estimate(1_000_000, 400, 100, 250, 5_000_000, 50.0)
    images, tiles, disk, time = found.lines(10, tmp_path)
    assert images == "images: 1,000,000, in 400 parts of the scan"
    assert tiles.startswith("tiles:  about 2,500,000 before")
    assert "about 50.0 GB of shards" in disk
    assert "about 13.9 h to scan with 10 workers" in time  # 50 s for 100 images: 500,000 s for a million, by ten
