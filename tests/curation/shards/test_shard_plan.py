"""The shard plan against a plain sort of everything in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from curation.base.errors import WorkError
from curation.base.files import UNFINISHED
from curation.catalogue import Window, table_from_rows, tile_id, write_table
from curation.shards import shard_plan
from curation.shards.shard_plan import ShardPart, plan_shards
from curation.sources.recipe import ShardRules

SOURCES = ("zebra", "ant")  # the recipe's order, not the alphabet's
PER_SHARD = 7
LONG = "PROJCS[" + "x" * 3_000 + "]"


def rows_of(seed: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Listing and catalogue of 2 x 40 images with up to six tiles, of which about half are kept."""
    rng = np.random.default_rng(seed)
    listing, catalogue = [], []
    for source in SOURCES:
        for number in range(40):
            image = f"é{number:03d}/{source}.tif"
            member = None if number % 3 else f"member {number}"
            bands = [f"{image}.{band}" for band in "rgb"] if number % 5 == 0 else None
            listing.append(
                {"source": source, "image": image, "file": f"{image}.zip", "member": member, "band_files": bands}
                | {"bytes": 10 * number, "mtime_ns": seed}
            )
            common = {"source": source, "image": image, "file_bytes": 100, "crs": [None, "EPSG:4326", LONG][number % 3]}
            catalogue.append(common | {"kind": "image", "tile_id": tile_id(source, image, None), "verdict": "sliced"})
            for tile in range(int(rng.integers(0, 7)) if number != 11 else 0):
                window = Window(tile * 8, 0, 8, 8)
                catalogue.append(
                    common | window._asdict() | {"kind": "tile", "tile_id": tile_id(source, image, window)}
                    | {"verdict": "kept" if rng.random() < 0.5 else "duplicate", "pass_through": tile == 0}
                    | {"content_hash": rng.bytes(16), "raw_sha256": rng.bytes(32), "phash": int(rng.integers(2**63))}
                    | {"stretch": [0.0, 1.5] * 3 if number % 2 else None, "gsd_m": 0.5 if number % 2 else None}
                )  # fmt: skip
    kept = [row for row in catalogue if row["verdict"] == "kept"]
    for place, row in zip(rng.permutation(len(kept)).tolist(), kept, strict=True):
        row["shard"], row["position"] = place // PER_SHARD, place % PER_SHARD
    return listing, catalogue


def plan(
    folder: Path, listing: list[dict[str, Any]], catalogue: list[dict[str, Any]], rules: ShardRules | None = None
) -> list[ShardPart]:
    write_table(table_from_rows("catalogue", catalogue), folder / "catalogue.parquet", "catalogue", row_group_size=13)
    listings = {source: folder / f"{source}.parquet" for source in SOURCES}
    for source, path in listings.items():
        own = [row for row in listing if row["source"] == source]
        write_table(table_from_rows("images", own), path, "images", row_group_size=3)
    return plan_shards(folder / "catalogue.parquet", listings, folder / "plan", rules or ShardRules())


@pytest.mark.parametrize("bucket", [1, 20, 1 << 19])
def test_the_plan_is_what_a_sort_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: int) -> None:
    monkeypatch.setattr(shard_plan, "BUCKET", bucket)
    listing, catalogue = rows_of()
    parts = plan(tmp_path, listing, catalogue)
    places = {(row["source"], row["image"]): row for row in listing}
    kept = sorted((row for row in catalogue if "shard" in row), key=lambda row: (row["shard"], row["position"]))
    assert [part.number for part in parts] == list(range(-(-len(kept) // PER_SHARD)))
    found = [
        row
        for part in parts
        for row in pq.ParquetFile(tmp_path / "plan" / part.rows).read_row_group(part.row_group).to_pylist()
    ]
    for row, expected in zip(found, kept, strict=True):
        expected = expected | {name: places[row["source"], row["image"]][name] for name in ("file", "member")}
        assert row == {name: expected.get(name) for name in row} | {"band_files": row["band_files"]}
        assert row["band_files"] == places[row["source"], row["image"]]["band_files"]
    assert [part.samples for part in parts[:-1]] == [PER_SHARD] * (len(parts) - 1)
    for part in parts:
        own = [row for row in kept if row["shard"] == part.number]
        assert part.sources == tuple(sorted({row["source"] for row in own}))
        assert part.encoded == any(not row["pass_through"] for row in own)
        # 100 bytes a copied file, half a byte for each of 64 pixels else
        sizes = [100 if row["pass_through"] else 32 for row in own]
        assert part.bytes == sum(sizes) + shard_plan.OVERHEAD * len(own)
    assert not [path for path in (tmp_path / "plan").iterdir() if path.name.endswith(UNFINISHED)]


def test_a_digest_follows_what_a_tar_shows_and_nothing_else(tmp_path: Path) -> None:
    listing, catalogue = rows_of()
    base = [part.digest for part in plan(tmp_path / "base", listing, catalogue)]
    assert len(set(base)) == len(base)
    moved = [row | {"file": "elsewhere", "member": None, "mtime_ns": 9, "bytes": 1} for row in listing]
    assert [part.digest for part in plan(tmp_path / "moved", moved, catalogue)] == base
    row = next(row for row in catalogue if row.get("shard") == 2 and not row["pass_through"])
    copied = next(row for row in catalogue if row.get("shard") == 2 and row["pass_through"])
    same = [(row, {"raw_sha256": b"r" * 32}), (copied, {"content_hash": b"c" * 16}), (row, {"detail": "x"})]
    other = [
        (row, {"content_hash": b"c" * 16}), (copied, {"raw_sha256": b"r" * 32}), (row, {"gsd_m": 9.0}),
        (row, {"crs": "EPSG:32631"}), (row, {"west": 0.0}), (row, {"phash": 7}), (row, {"image": row["image"]}),
    ]  # fmt: skip
    for number, (changed, fields) in enumerate([*same, *other[:-1]]):
        rows = [each | fields if each is changed else each for each in catalogue]
        found = [part.digest for part in plan(tmp_path / str(number), listing, rows)]
        different = [at for at, (a, b) in enumerate(zip(base, found, strict=True)) if a != b]
        assert different == ([] if (changed, fields) in same else [2]), fields
    all_encoded = plan(tmp_path / "encoded", listing, catalogue, ShardRules(pass_through=False))
    assert all(part.encoded for part in all_encoded)


def test_a_plan_is_made_once_and_again_when_a_file_of_it_is_truncated(tmp_path: Path) -> None:
    listing, catalogue = rows_of()
    parts = plan(tmp_path, listing, catalogue)
    rows = tmp_path / "plan" / parts[0].rows
    before = rows.stat().st_ino
    assert plan(tmp_path, listing, catalogue) == parts
    assert rows.stat().st_ino == before
    rows.write_bytes(rows.read_bytes()[:-5])
    assert plan(tmp_path, listing, catalogue) == parts
    assert pq.read_metadata(rows).num_row_groups == len(parts)


def test_a_kept_image_that_is_not_listed_is_named(tmp_path: Path) -> None:
    listing, catalogue = rows_of()
    gone = next(row for row in catalogue if "shard" in row and row["source"] == "ant")
    with pytest.raises(WorkError, match=f"{gone['image']}: is kept, but not listed; run again with --relist"):
        plan(tmp_path, [row for row in listing if row["image"] != gone["image"]], catalogue)


def test_nothing_kept_is_an_empty_plan(tmp_path: Path) -> None:
    listing, catalogue = rows_of()
    assert plan(tmp_path, listing, [row for row in catalogue if "shard" not in row]) == []
