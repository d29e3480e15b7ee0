"""Parts of a listing that changes: what is cut anew, what is opened again; the result is that of a new scan."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from textures import texture

from curation import catalogue
from curation.base.errors import InputError
from curation.scan import cutting, scan
from curation.scan import parts as scan_parts
from curation.scan.parts import Part, ScanJob
from curation.sources.recipe import Recipe, resolve

# ------------------------------------------------------------------------------------------------ cutting


def starts(names: Any, work: Any) -> list[int]:
    found: list[int] = cutting.starts(np.array(names, np.uint64), np.array(work, np.float32)).tolist()
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.floats(1e-3, 3)), max_size=300))
def test_parts_are_bounded_and_cover_everything_once(units: list[tuple[int, float]]) -> None:
    names, work = [name for name, _ in units], [seconds for _, seconds in units]
    found = starts(names, work)
    assert found == sorted(set(found)) and found[:1] == ([0] if units else [])
    aim = cutting.aim(sum(work))
    for begin, end in pairwise([*found, len(units)]):
        assert end - begin == 1 or sum(work[begin:end]) <= 2 * aim * 1.001


def test_a_small_folder_is_cut_for_many_workers_and_a_large_one_into_seconds() -> None:
    noise = np.random.default_rng(0)
    for count, least, most in ((10_000, 12, 60), (1_000_000, 200, 1_200)):
        work = cutting.seconds(np.full(count, 6_000))
        assert least < len(starts(noise.integers(0, 2**64, count, np.uint64), work)) < most
    assert cutting.aim(1e6) == cutting.LONGEST and cutting.aim(0.1) == cutting.SHORTEST


def test_some_changes_move_some_cuts_only() -> None:
    noise = np.random.default_rng(1)
    names = noise.integers(0, 2**64, 200_000, np.uint64)
    work = cutting.seconds(noise.integers(2_000, 40_000, len(names)))
    changed = names.copy()
    changed[noise.choice(len(names), 20, replace=False)] += np.uint64(1 << 40)
    gone = noise.choice(len(names), 20, replace=False)
    before = {tuple(part.tolist()) for part in np.split(names, starts(names, work)[1:])}
    after = [np.split(changed, starts(changed, work)[1:])]
    after += [np.split(np.delete(names, gone), starts(np.delete(names, gone), np.delete(work, gone))[1:])]
    assert len(before) > 50
    for parts in after:
        assert len([part for part in parts if tuple(part.tolist()) not in before]) <= 3 * 20


# ------------------------------------------------------------------------------------------------ scanning again


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of about four images, so that a dozen make several."""
    monkeypatch.setattr(cutting, "SHORTEST", 4 * cutting.IMAGE_SECONDS)
    monkeypatch.setattr(cutting, "LONGEST", 4 * cutting.IMAGE_SECONDS)
    monkeypatch.setattr(cutting, "BYTES_PER_SECOND", 1e12)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(24):
        texture(number).save(folder / f"chip_{number:02d}.png")
    (folder / "broken.png").write_bytes((folder / "chip_00.png").read_bytes()[:400])
    return folder


def plan(root: Path, out: Path, recipe: dict[str, Any] | None = None, **source: Any) -> list[Part]:
    rows = [
        {"source": "s", "image": path.name, "file": path.name, "bytes": path.stat().st_size,
         "mtime_ns": path.stat().st_mtime_ns}
        for path in sorted(root.iterdir())
    ]  # fmt: skip
    listing = out / "images.parquet"
    catalogue.write_table(catalogue.table_from_rows("images", rows), listing, "images", row_group_size=7)
    made = Recipe.model_validate({"name": "t", "sources": [{"id": "s", "path": str(root), **source}], **(recipe or {})})
    return scan_parts.plan_parts(listing, out / "tiles", ScanJob.of(resolve(made, None)[0], made))


def scanned(parts: list[Part]) -> int:
    """Scan what is not finished; how many images were opened."""
    opened = sum(scan.scan_part(part).opened for part in scan_parts.unfinished(parts))
    scan_parts.sweep(parts)
    assert scan_parts.unfinished(parts) == []
    return opened


def files(parts: list[Part]) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in parts[0].out.parent.iterdir()}
    planned = {part.out.name for part in parts}
    assert planned <= set(found)
    return found


@pytest.mark.usefixtures("small_parts")
def test_a_new_listing_opens_only_what_changed_and_gives_what_a_new_scan_gives(root: Path, tmp_path: Path) -> None:
    parts = plan(root, tmp_path / "out")
    assert len(parts) > 3 and scanned(parts) == 25
    before = scan_parts.content_of_source(parts)
    texture(100).save(root / "chip_03.png")  # changed
    texture(101).save(root / "chip_05b.png")  # new
    (root / "chip_11.png").unlink()  # removed
    os.utime(root / "chip_20.png", ns=(5, 5))  # touched: looked at again, with the same result
    parts = plan(root, tmp_path / "out")
    assert scanned(parts) == 3
    fresh = plan(root, tmp_path / "fresh")
    assert scanned(fresh) == 25
    assert files(parts) == files(fresh)
    after = scan_parts.content_of_source(parts)
    assert after == scan_parts.content_of_source(fresh) != before
    images = [image for part in parts for image in catalogue.read_table(part.out, "tiles")["image"].to_pylist()]
    assert "chip_11.png" not in images and "chip_05b.png" in images


@pytest.mark.usefixtures("small_parts")
def test_time_of_change_is_in_no_digest(root: Path, tmp_path: Path) -> None:
    parts = plan(root, tmp_path / "out")
    scanned(parts)
    before = scan_parts.content_of_source(parts)
    for path in root.iterdir():
        os.utime(path, ns=(7, 7))
    again = plan(root, tmp_path / "out")
    assert [part.out for part in again] == [part.out for part in parts]
    assert scanned(again) == 25
    assert scan_parts.content_of_source(again) == before


def test_a_listing_that_is_cut_otherwise_opens_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"fingerprint": {"extra": ["dhash"]}}
    parts = plan(root, tmp_path / "out", extra)
    assert len(parts) == 1 and scanned(parts) == 25
    whole = scan_parts.content_of_source(parts)
    monkeypatch.setattr(cutting, "SHORTEST", 5 * cutting.IMAGE_SECONDS)
    monkeypatch.setattr(cutting, "LONGEST", 5 * cutting.IMAGE_SECONDS)
    parts = plan(root, tmp_path / "out", extra)
    assert len(parts) > 3 and scanned(parts) == 0
    fresh = plan(root, tmp_path / "fresh", extra)
    assert scanned(fresh) == 25
    assert files(parts) == files(fresh)
    assert scan_parts.content_of_source(parts) == whole


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"no part at all"])
def test_a_part_that_was_cut_short_is_made_again(root: Path, tmp_path: Path, damage: bytes) -> None:
    (part,) = plan(root, tmp_path / "out")
    scanned([part])
    whole = part.out.read_bytes()
    part.out.write_bytes(damage or whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no finished part of the scan; run the same command again"):
        scan_parts.content_of(part)
    assert scanned([part]) == 25
    assert part.out.read_bytes() == whole


def test_a_changed_member_opens_its_scene_again(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    root.mkdir()

    def write(name: str, factor: int) -> None:
        values = np.moveaxis(np.asarray(texture(1)), -1, 0).astype(np.uint16) * factor
        _, height, width = values.shape
        with rasterio.open(
            root / f"{name}.tif", "w", driver="GTiff", height=height, width=width, count=3, dtype="uint16"
        ) as file:
            file.write(values)

    for name, factor in (("T1_a", 10), ("T2_a", 3), ("T1_b", 40), ("T2_b", 7)):
        write(name, factor)
    how = {"how": "per_scene", "scene": "(T[0-9])_"}
    assert scanned(plan(root, tmp_path / "out", stretch=how)) == 4
    write("T1_b", 80)
    parts = plan(root, tmp_path / "out", stretch=how)
    assert scanned(parts) == 2
    fresh = plan(root, tmp_path / "fresh", stretch=how)
    assert scanned(fresh) == 4 and files(parts) == files(fresh)
    (root / "T2_b.tif").unlink()
    assert scanned(plan(root, tmp_path / "out", stretch=how)) == 1  # the limits of T2_a were those of both


def test_the_lines_of_a_part_come_in_its_order(root: Path, tmp_path: Path) -> None:
    (part,) = plan(root, tmp_path / "out")
    assert scan_parts.listed(part)["image"].to_pylist() == sorted(path.name for path in root.iterdir())
    few = replace(part, rows=(20, 3, 8))
    assert scan_parts.listed(few)["image"].to_pylist() == [sorted(os.listdir(root))[row] for row in (20, 3, 8)]
