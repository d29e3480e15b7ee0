"""The table: ids, versions, atomic writes, the ledger."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.base.errors import FormatVersionError, InputError
from curation.base.files import atomic, is_whole
from curation.catalogue import (
    CATALOGUE,
    IMAGES,
    TILES,
    Window,
    ledger,
    open_table,
    read_table,
    table_from_rows,
    tile_id,
    write_table,
)

IMAGE_ROW = {"source": "a", "image": "x.jpg", "file": "x.jpg", "bytes": 3, "mtime_ns": 5}


def test_tile_id_is_blake2b_of_source_path_and_window() -> None:
    expected = hashlib.blake2b(b"rsscn7\0aGrass/a001.jpg\x000,128,256,256", digest_size=10).hexdigest()
    assert tile_id("rsscn7", "aGrass/a001.jpg", Window(0, 128, 256, 256)) == expected
    assert tile_id("rsscn7", "aGrass/a001.jpg", None) != expected


def test_tile_id_sees_one_name_in_two_unicode_forms() -> None:
    assert tile_id("a", "caf\u00e9.jpg", None) == tile_id("a", "cafe\u0301.jpg", None)


def test_scan_and_select_share_their_columns() -> None:
    shared = [field for field in TILES if field.name not in ("dct16", "dct_scale", "orientations")]
    assert shared == [field for field in CATALOGUE if field.name not in ("shard", "position")]


def test_tables_come_back_with_their_version(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "images.parquet"
    write_table(table_from_rows("images", [IMAGE_ROW]), path, "images")
    assert read_table(path, "images").to_pylist()[0]["bytes"] == 3
    assert open_table(path, "images").schema_arrow.remove_metadata() == IMAGES
    assert [p.name for p in path.parent.iterdir()] == ["images.parquet"]


def test_other_tables_and_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    write_table(table_from_rows("images", [IMAGE_ROW]), path, "images")
    with pytest.raises(InputError, match="holds images, expected tiles"):
        open_table(path, "tiles")
    path.write_bytes(b"not parquet at all")
    with pytest.raises(InputError, match="not a Parquet file"):
        open_table(path, "images")


@pytest.mark.parametrize("kind", ["images", "tiles", "catalogue"])
@pytest.mark.parametrize(("name", "version"), [("opticalrs", "1"), ("rscorpus", "3")])
def test_every_table_of_another_format_version_is_refused_with_the_way_out(
    tmp_path: Path, kind: str, name: str, version: str
) -> None:
    old = table_from_rows(kind, []).replace_schema_metadata({f"{name}.table": kind, f"{name}.version": version})
    pq.write_table(old, tmp_path / "old.parquet")
    with pytest.raises(
        FormatVersionError,
        match=rf"old\.parquet: format version {version}, this release reads 2; run the curation again, or install",
    ):
        open_table(tmp_path / "old.parquet", kind)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic(path) as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def rows(*verdicts: tuple[str, str | None]) -> pa.Table:
    return table_from_rows(
        "catalogue",
        [
            {"kind": kind, "tile_id": str(n), "source": "a", "image": "x", "verdict": verdict}
            for n, (kind, verdict) in enumerate(verdicts)
        ],
    )


def test_ledger_counts_images_and_tiles_apart() -> None:
    table = rows(("image", "sliced"), ("image", "unreadable"), ("tile", "kept"), ("tile", "kept"), ("tile", "blank"))
    assert ledger(table) == {"a": {"image": {"sliced": 1, "unreadable": 1}, "tile": {"kept": 2, "blank": 1}}}


@pytest.mark.parametrize("row", [("tile", None), ("tile", "lost"), ("tile", "sliced"), ("image", "kept")])
def test_ledger_refuses_rows_that_end_nowhere(row: tuple[str, str | None]) -> None:
    with pytest.raises(ValueError, match="rows with verdict"):
        ledger(rows(row))


def test_names_of_unfinished_files_are_never_shared(tmp_path: Path) -> None:
    """Containers share process ids: two writers of one file must not write into one temporary file."""
    with atomic(tmp_path / "x") as first, atomic(tmp_path / "x") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "x").read_text() == "first"  # the outer block ends last
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_an_atomic_file_is_on_disk_before_it_has_its_name(tmp_path: Path) -> None:
    """The system calls as the kernel saw them: file synced, renamed, folder synced."""
    code = "import sys, pathlib, curation.catalogue as c\nwith c.atomic(pathlib.Path(sys.argv[1])) as a: a.touch()"
    log, path = tmp_path / "log", tmp_path / "folder" / "x"
    traced = ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o", str(log)]
    try:
        subprocess.run([*traced, sys.executable, "-c", code, str(path)], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("strace is absent, or may not trace here")
    calls = [line.split()[1].partition("(")[0] for line in log.read_text().splitlines() if str(path.parent) in line]
    assert calls == ["fsync", "rename", "fsync"]
    assert path.exists()


@pytest.mark.parametrize("left", [0, 7, 200, -1, -9])
def test_a_truncated_part_counts_as_absent(tmp_path: Path, left: int) -> None:
    path = tmp_path / "images.parquet"
    assert not is_whole(path)
    write_table(table_from_rows("images", [IMAGE_ROW]), path, "images")
    assert is_whole(path)
    data = path.read_bytes()
    path.write_bytes(data[:left])
    assert not is_whole(path)
    path.write_bytes(data[:left] + b"\0" * len(data[left:]))  # the length was on disk, the bytes were not
    assert not is_whole(path)
