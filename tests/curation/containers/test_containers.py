"""Members of archives and tables, read in place."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rasterio.io import MemoryFile

from curation.base.errors import InputError, UnreadableImage
from curation.containers import CONTAINERS, BrokenArchive, list_members, read_member

FILES = {"a/one.jpg": b"one" * 1000, "b/zwei.jpg": bytes(range(256)) * 40, "ü/three.png": b""}


def make_zip(path: Path, files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes] = FILES, style: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=style) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read_all(path: Path) -> dict[str, bytes]:
    return {m.name: read_member(path.parent, path.name, m.locator, 1 << 20) for m in list_members(path)}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_members(tmp_path: Path, method: int) -> None:
    path = make_zip(tmp_path / "x.zip", method=method)
    assert read_all(path) == FILES
    assert {m.name: m.bytes for m in list_members(path)} == {name: len(data) for name, data in FILES.items()}
    assert read_member(tmp_path, "x.zip", "a/one.jpg", 1 << 20) == FILES["a/one.jpg"]


def test_names_beyond_ascii_of_the_zip_program(tmp_path: Path) -> None:
    if shutil.which("zip") is None:
        pytest.skip("the zip program is absent")
    (tmp_path / "é1.jpg").write_bytes(b"1")
    subprocess.run(["zip", "-q", "x.zip", "é1.jpg"], cwd=tmp_path, check=True)
    assert read_all(tmp_path / "x.zip") == {"é1.jpg": b"1"}


def test_streamed_zip_whose_header_has_no_sizes(tmp_path: Path) -> None:
    class Unseekable(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, chunk) -> int:
            self.data += bytes(chunk)
            return len(chunk)

    stream = Unseekable()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", b"abc" * 99)
    (tmp_path / "x.zip").write_bytes(stream.data)
    assert read_all(tmp_path / "x.zip") == {"a.jpg": b"abc" * 99}


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_members(tmp_path: Path, style: int) -> None:
    files = FILES if style == tarfile.USTAR_FORMAT else {**FILES, "long/" * 60 + "name.jpg": b"far"}
    path = make_tar(tmp_path / "x.tar", files, style)
    assert read_all(path) == files
    assert read_member(tmp_path, "x.tar", "b/zwei.jpg", 1 << 20) == FILES["b/zwei.jpg"]


@pytest.mark.parametrize("column", [None, "image"])
def test_parquet_rows(tmp_path: Path, column: str | None) -> None:
    images = [{"bytes": b"one", "path": "1.jpg"}, None, {"bytes": b"three", "path": None}, {"bytes": b"4", "path": ""}]
    pq.write_table(pa.table({"label": [0, 1, 2, 3], "image": images}), tmp_path / "x.parquet", row_group_size=2)
    members = list(list_members(tmp_path / "x.parquet", column))
    assert [m.name for m in members] == ["000000000", "000000002", "000000003"]
    assert [read_member(tmp_path, "x.parquet", m.locator, 9) for m in members] == [b"one", b"three", b"4"]


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("nulls", [False, True])
def test_parquet_pages_read_as_arrow_reads_them(tmp_path: Path, compression: str, version: str, nulls: bool) -> None:
    chance = random.Random(1)
    images = [chance.randbytes(chance.randrange(12_000)) for _ in range(200)] + [b"again"] * 90
    values = [None if nulls and chance.random() < 0.2 else image for image in images]
    struct = [None if nulls and chance.random() < 0.1 else {"path": "", "bytes": value} for value in values]
    table = pa.table(
        {"plain": pa.array(values), "struct": struct, "repeated": pa.array(values[-90:] * 2 + values[:110])}
    )
    for name, dictionary in (("plain", False), ("struct", False), ("plain", True), ("repeated", True)):
        path = tmp_path / f"{name}-{dictionary}.parquet"
        pq.write_table(
            table.select([name]), path, row_group_size=150, compression=compression, data_page_version=version,
            use_dictionary=dictionary, data_page_size=16_384, write_batch_size=chance.choice([7, 1024]),
            write_page_checksum=chance.random() < 0.5, compression_level=1 if compression == "brotli" else None,
        )  # fmt: skip
        expected = [value["bytes"] if isinstance(value, dict) else value for value in table[name].to_pylist()]
        members = list(list_members(path, name))
        assert [int(member.name) for member in members] == [
            at for at, value in enumerate(expected) if value is not None
        ]
        for member in members + chance.sample(members, 20):
            assert read_member(tmp_path, path.name, member.locator, 12_000) == expected[int(member.name)]


def test_parquet_encodings_that_are_left_to_arrow(tmp_path: Path) -> None:
    images = [random.Random(n).randbytes(500 + n) for n in range(50)]
    pq.write_table(
        pa.table({"image": images}), tmp_path / "x.parquet", row_group_size=20, use_dictionary=False,
        column_encoding={"image": "DELTA_LENGTH_BYTE_ARRAY"},
    )  # fmt: skip
    members = list_members(tmp_path / "x.parquet")
    assert [read_member(tmp_path, "x.parquet", member.locator, 600) for member in members] == images


def test_parquet_is_listed_without_its_pixels_and_a_damaged_page_costs_its_own_rows(tmp_path: Path) -> None:
    images = [random.Random(n).randbytes(20_000) for n in range(200)]
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"image": images}), path, row_group_size=100, compression="none", use_dictionary=False,
        data_page_size=100_000, write_batch_size=4, write_page_checksum=True,
    )  # fmt: skip
    data = bytearray(path.read_bytes())
    footer = int.from_bytes(data[-8:-4], "little") + 8
    whole = list(list_members(path))
    path.write_bytes(bytes(len(data) - footer) + data[-footer:])
    assert list(list_members(path)) == whole and len(whole) == 200
    assert {member.bytes for member in whole} == {pq.read_metadata(path).row_group(0).total_byte_size // 100}
    data[data.index(images[150])] ^= 1
    path.write_bytes(data)
    bad = []
    for at, member in enumerate(whole):
        try:
            assert read_member(tmp_path, "x.parquet", member.locator, 20_000) == images[at]
        except UnreadableImage as error:
            assert "checksum" in str(error)
            bad.append(at)
    assert 150 in bad and len(bad) < 20


def test_a_damaged_row_group_does_not_hide_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    images = [None if n % 5 == 0 else bytes([n]) * 900 for n in range(60)]
    pq.write_table(pa.table({"image": images}), path, row_group_size=20, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data[start : start + 12] = b"\xff" * 12
    path.write_bytes(data)
    members = {int(member.name): member for member in list_members(path)}
    assert sorted(members) == [n for n in range(60) if 20 <= n < 40 or n % 5]
    assert read_member(tmp_path, "x.parquet", members[41].locator, 900) == images[41]
    for row in range(20, 40):
        with pytest.raises(UnreadableImage, match=r"x\.parquet"):
            read_member(tmp_path, "x.parquet", members[row].locator, 900)


@pytest.mark.parametrize("seed", range(40))
def test_damage_anywhere_in_a_parquet_table_is_told_and_bounded(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = tmp_path / "x.parquet"
    images = [None if n % 9 == 0 else b"12345678" * (n % 7) for n in range(400)]
    pq.write_table(pa.table({"image": images}), path, row_group_size=200, compression="snappy", data_page_size=512)
    data = bytearray(path.read_bytes())
    for _ in range(3):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(data)
    try:
        members = list(list_members(path))
    except InputError:
        return
    for member in members:
        try:
            assert len(read_member(tmp_path, "x.parquet", member.locator, 100)) <= 100
        except UnreadableImage as error:
            assert "x.parquet" in str(error)


def test_parquet_without_images_names_the_columns_that_could(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [0], "picture": [b"x"]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"image_column to one of: picture"):
        list(list_members(tmp_path / "x.parquet", "label"))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_more_than_the_limit_is_refused(tmp_path: Path, make) -> None:
    path = make(tmp_path / f"x.{make.__name__[5:]}", {"bomb.jpg": bytes(1 << 20)})
    (member,) = list_members(path)
    with pytest.raises(UnreadableImage, match="limit"):
        read_member(tmp_path, path.name, member.locator, (1 << 20) - 1)
    assert len(read_member(tmp_path, path.name, member.locator, 1 << 20)) == 1 << 20


def test_a_zip_that_lies_about_its_size_is_bounded(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"bomb.jpg": bytes(50_000_000)})
    path.write_bytes(path.read_bytes().replace((50_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    (member,) = list_members(path)
    assert member.bytes == 10
    with pytest.raises(UnreadableImage, match="limit"):
        read_member(tmp_path, "x.zip", member.locator, 1_000)


def test_damage_is_one_unreadable_image(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"a.jpg": b"x" * 100, "b.jpg": b"y" * 100}, zipfile.ZIP_STORED)
    first, second = list_members(path)
    path.write_bytes(path.read_bytes().replace(b"xxx", b"xyx", 1))
    with pytest.raises(UnreadableImage, match="checksum"):
        read_member(tmp_path, "x.zip", first.locator, 1_000)
    assert read_member(tmp_path, "x.zip", second.locator, 1_000) == b"y" * 100
    for wrong in ("nothing.jpg", "@5+3 a.jpg", "@999999999+3 a.jpg", ""):
        with pytest.raises(UnreadableImage, match=r"x\.zip"):
            read_member(tmp_path, "x.zip", wrong, 1_000)


@pytest.mark.parametrize("damage", ["header", "end"])
def test_a_damaged_tar_gives_what_is_whole_and_then_says_so(tmp_path: Path, damage: str) -> None:
    path = make_tar(tmp_path / "x.tar", {f"{n}.jpg": b"x" * 600 for n in range(9)}, tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    at = data.index(b"5.jpg")
    if damage == "header":
        data[at : at + 300] = random.Random(0).randbytes(300)
    path.write_bytes(data if damage == "header" else data[: at + 700])
    members = []
    with pytest.raises(BrokenArchive, match="fetch it again"):
        for member in list_members(path):
            members.append(member.name)
    assert members == [f"{n}.jpg" for n in range(5)]


def test_links_in_archives_are_not_listed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("link.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert list(list_members(tmp_path / "x.tar")) == list(list_members(tmp_path / "x.zip")) == []


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.parquet", "x.h5"])
def test_a_broken_archive_says_to_fetch_it_again(tmp_path: Path, name: str) -> None:
    whole = {"x.zip": make_zip, "x.tar": make_tar}.get(name)
    data = (
        whole(tmp_path / name, {"a.jpg": random.Random(0).randbytes(5_000)}).read_bytes()[:2_000]
        if whole
        else b"no table"
    )
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=r"fetch it again"):
        list(list_members(tmp_path / name))


@pytest.mark.parametrize(
    ("dtype", "shape"), [("uint8", (3, 8, 9, 3)), ("uint16", (2, 8, 8, 4)), ("float64", (2, 5, 6))]
)
def test_hdf5_images(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    h5py = pytest.importorskip("h5py")
    data = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["group/images"] = data
        file["labels"] = np.zeros(shape[0])
    members = list(list_members(tmp_path / "x.h5"))
    assert [member.name for member in members] == [f"{n:09d}" for n in range(shape[0])]
    for image, member in zip(data, members, strict=True):
        assert member.bytes == image.nbytes
        with MemoryFile(read_member(tmp_path, "x.h5", member.locator, 1 << 20)) as memory, memory.open() as raster:
            np.testing.assert_array_equal(raster.read().transpose(1, 2, 0).squeeze(), image)
    with pytest.raises(UnreadableImage, match="limit"):
        read_member(tmp_path, "x.h5", members[0].locator, 10)
    with pytest.raises(UnreadableImage, match="no such image"):
        read_member(tmp_path, "x.h5", "@99+0 group/images", 1 << 20)


def test_hdf5_that_names_another_file_is_not_followed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(bytes(192))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.zeros((1, 8, 8, 3), "uint8")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["good"] = np.zeros((1, 8, 8, 3), "uint8")
        file.create_dataset("raw", (1, 8, 8, 3), "uint8", external=[(str(tmp_path / "secret"), 0, 192)])
        file["linked"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "images")
        layout = h5py.VirtualLayout((1, 8, 8, 3), "uint8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "images", (1, 8, 8, 3))
        file.create_virtual_dataset("virtual", layout)
    assert [member.locator for member in list_members(tmp_path / "x.h5")] == ["@0+0 good"]
    for name in ("raw", "linked", "virtual"):
        with pytest.raises(UnreadableImage, match="no such image"):
            read_member(tmp_path, "x.h5", f"@0+0 {name}", 1 << 20)


def test_hdf5_with_several_datasets_asks_which(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["sen1"], file["sen2"] = np.zeros((2, 4, 4, 8)), np.zeros((2, 4, 4, 3), "uint8")
    with pytest.raises(InputError, match="image_column to one of: sen1, sen2"):
        list(list_members(tmp_path / "x.h5"))
    assert len(list(list_members(tmp_path / "x.h5", "sen2"))) == 2


def test_what_can_be_read_in_place(tmp_path: Path) -> None:
    assert CONTAINERS["zip"].is_readable(make_zip(tmp_path / "a.zip"))
    assert CONTAINERS["tar"].is_readable(make_tar(tmp_path / "a.tar"))
    assert not CONTAINERS["zip"].is_readable(make_zip(tmp_path / "b.zip", method=zipfile.ZIP_LZMA))
