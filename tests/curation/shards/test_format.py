"""The shard format from both sides: the webdataset library reads ours, we index what webdataset wrote."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from shard_samples import sample, shard_samples, write_folder

from curation.base.errors import FormatVersionError, InputError, WorkError
from curation.shards.foreign import index_tar, index_tars
from curation.shards.format import (
    Sample,
    ShardInfo,
    numbered,
    open_index,
    read_checksums,
    read_index,
    read_info,
    write_checksums,
    write_index,
    write_info,
    write_shard,
)
from curation.shards.verify import verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "shards")


def test_equal_samples_give_equal_bytes_with_nothing_of_the_machine_in_them(tmp_path: Path) -> None:
    first = write_shard(iter(shard_samples(0)), tmp_path / "a.tar")
    again = write_shard(shard_samples(0), tmp_path / "sub" / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    assert data == (tmp_path / "sub/a.tar").read_bytes()
    assert first.sha256 == again.sha256 == hashlib.sha256(data).hexdigest()
    assert first.bytes == len(data)
    assert data[257:265] == b"ustar\x0000"
    with tarfile.open(tmp_path / "a.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)


def test_index_rows_point_at_the_bytes(folder: Path) -> None:
    index, paths = open_index(folder)
    assert index.num_row_groups == len(paths) == 3
    for number, path in enumerate(paths):
        data = path.read_bytes()
        for row, expected in zip(index.read_row_group(number).to_pylist(), shard_samples(number), strict=True):
            image = data[row["image_offset"] : row["image_offset"] + row["image_size"]]
            assert (row["shard"], row["key"], row["image_format"]) == (number, expected.key, expected.image_format)
            assert image == expected.image
            assert row["image_sha256"] == hashlib.sha256(image).digest()
            meta = data[row["json_offset"] : row["json_offset"] + row["json_size"]]
            assert json.loads(meta) == expected.meta
            assert (row["source"], row["licence"]) == (expected.meta["source"], "CC0-1.0")
    gsd = read_index(folder, ["gsd_m"])["gsd_m"].to_numpy()
    np.testing.assert_array_equal(gsd, np.tile(np.float32([0.3, 0.3, np.nan, 0.3]), 3))


def test_webdataset_reads_our_shards_in_index_order(folder: Path) -> None:
    urls = [str(path) for path in open_index(folder)[1]]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    index = read_index(folder).to_pylist()
    assert [s["__key__"] for s in samples] == [row["key"] for row in index]
    for decoded, row in zip(samples, index, strict=True):
        assert decoded[row["image_format"]].shape == (row["height"], row["width"], 3)
        assert decoded["json"]["width"] == row["width"]
    assert verify(folder) == []


def test_a_shard_indexed_again_gives_the_rows_that_writing_gave(folder: Path, tmp_path: Path) -> None:
    written = write_shard(shard_samples(1), tmp_path / "again.tar")
    indexed = index_tar(tmp_path / "again.tar")
    assert (written.samples, written.bytes, written.sha256) == (indexed.samples, indexed.bytes, indexed.sha256)
    assert written.rows.to_pylist()[0] == indexed.rows.to_pylist()[0]
    write_info(written, tmp_path / "again.parquet")
    kept = read_info(tmp_path / "again.parquet")
    assert (kept.file, kept.sha256) == ("again.tar", written.sha256)
    assert numbered(kept, 0).schema == written.rows.schema
    assert numbered(kept, 0)["image_sha256"] == written.rows["image_sha256"]


def test_tars_that_webdataset_wrote_are_indexed(tmp_path: Path) -> None:
    images = [np.random.default_rng(n).integers(0, 256, (8 + n, 9, 3), dtype=np.uint8) for n in range(4)]
    path = tmp_path / "foreign.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for n, rgb in enumerate(images):
            writer.write({"__key__": f"deep/{n:04d}", "seg.png": rgb, "png": rgb, "json": {"gsd_m": 0.5 if n else "?"}})
        writer.write({"__key__": "text", "txt": "no image here"})
        writer.write({"__key__": "plain", "jpg": images[0]})
    (info,) = index_tars([path])
    rows = info.rows.to_pylist()
    assert [row["key"] for row in rows] == ["deep/0000", "deep/0001", "deep/0002", "deep/0003", "plain"]
    assert [(row["width"], row["height"]) for row in rows] == [(9, 8), (9, 9), (9, 10), (9, 11), (9, 8)]
    assert rows[4]["json_offset"] == -1
    assert np.isnan(rows[0]["gsd_m"])
    assert rows[1]["gsd_m"] == 0.5
    data = path.read_bytes()
    for row, rgb in zip(rows[:4], images, strict=True):
        with Image.open(io.BytesIO(data[row["image_offset"] : row["image_offset"] + row["image_size"]])) as image:
            np.testing.assert_array_equal(np.asarray(image), rgb)
    write_index([info], tmp_path)
    write_checksums([info], tmp_path)
    assert verify(tmp_path) == []


def test_samples_that_would_break_readers_are_refused(tmp_path: Path) -> None:
    good, nan = sample(0, 0), sample(0, 1, gsd=float("nan"))
    for bad in (Sample("A.b", good.image, "jpg", good.meta), Sample(good.key, good.image, "jpg", good.meta), nan):
        with pytest.raises(ValueError):
            write_shard([good, bad], tmp_path / "bad.tar")
    with pytest.raises(WorkError, match="without samples"):
        write_shard([], tmp_path / "bad.tar")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sha256", "../" * 21 + "a"),
        ("sha256", "/etc/x"),
        ("sha256", 7),
        ("sha256", "A" * 64),
        ("bytes", -1),
        ("bytes", "12"),
        ("bytes", 1e3),
        ("bytes", 10**30),
        ("samples", None),
        ("samples", True),
    ],
)
def test_checksums_that_cannot_be_are_refused(folder: Path, field: str, value: object) -> None:
    """A trainer's cache makes a file's name of the SHA-256, and room for the bytes."""
    told = json.loads((folder / "checksums.json").read_text())
    told["shards"][0][field] = value
    (folder / "checksums.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"checksums.json: x-000000.tar: .* (is no SHA-256|are no numbers of)"):
        read_checksums(folder)


def test_other_versions_and_other_files_are_refused_with_the_way_out(folder: Path) -> None:
    checksums = folder / "checksums.json"
    text = checksums.read_text()
    checksums.write_text(text.replace('"format_version": 2', '"format_version": 1'))
    with pytest.raises(FormatVersionError, match=r"version 1, this release reads 2; write the shards again"):
        read_checksums(folder)
    checksums.write_text(text.replace("x-000000.tar", "../x-000000.tar"))
    with pytest.raises(InputError, match="no plain file name"):
        read_checksums(folder)
    checksums.write_text("[" * 100_000)
    with pytest.raises(InputError, match="not a checksums file"):
        read_checksums(folder)
    checksums.unlink()
    assert read_checksums(folder, missing_ok=True) is None
    table = pq.read_table(folder / "index.parquet")
    for names in (b"{", b"3", b"[null]"):
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"rscorpus.files": names}),
                       folder / "index.parquet")  # fmt: skip
        with pytest.raises(InputError, match=r"does not name its shards|no plain file name"):
            open_index(folder)
    metadata = {**table.schema.metadata, b"rscorpus.version": b"9"}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "index.parquet")
    with pytest.raises(FormatVersionError, match="version 9"):
        open_index(folder)
    old = {b"opticalrs.table": b"index", b"opticalrs.version": b"1", b"opticalrs.files": b"[]"}
    pq.write_table(table.replace_schema_metadata(old), folder / "index.parquet")
    with pytest.raises(FormatVersionError, match="version 1, this release reads 2; write the shards again"):
        open_index(folder)
    with pytest.raises(InputError, match="no such folder"):
        open_index(folder / "missing")
    with pytest.raises(InputError, match="is the output of a run; its shards are"):
        open_index(folder.parent)
    with pytest.raises(InputError, match="rs-curate index"):
        open_index(folder.parent.parent)


def test_hostile_tars_are_refused_or_read_as_unknown(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("not a tar" * 200)
    with pytest.raises(InputError, match="not an uncompressed tar"):
        index_tar(tmp_path / "text.tar")
    good = sample(0, 0)
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in [("a.jpg", b"not a jpeg"), ("a.json", b"[" * 100_000), ("b.JPG", good.image)]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("c.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    rows = index_tar(path, checksums=False).rows.to_pylist()
    assert [(row["key"], row["width"], row["image_sha256"]) for row in rows] == [("a", 0, None), ("b", 30, None)]


def test_checksums_hold_key_and_order(folder: Path) -> None:
    checksums = read_checksums(folder)
    assert checksums is not None
    assert checksums.key == "abc"
    assert [info.file for info in checksums.shards] == [f"x-{n:06d}.tar" for n in range(3)]
    assert checksums.shards[0] == ShardInfo(
        "x-000000.tar", 4, (folder / "x-000000.tar").stat().st_size, checksums.shards[0].sha256
    )
