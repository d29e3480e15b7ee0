"""Unpacking: whole archives of every kind, and hostile ones, which the tests make."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from curation.base.errors import InputError, WorkError
from curation.containers.archives import archive_of
from curation.containers.unpack import UnpackLimits, unpack

FILES = {"a/one.jpg": b"one" * 1000, "b/c/two.tif": random.Random(0).randbytes(200_000), "ü.png": b""}


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def make_zip(path: Path, files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.mkdir("empty")
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes] = FILES) -> Path:
    kind = {".gz": "w:gz", "tbz2": "w:bz2", ".xz": "w:xz"}
    with tarfile.open(path, next((mode for end, mode in kind.items() if path.name.endswith(end)), "w")) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make_seven(path: Path, files: dict[str, bytes] = FILES) -> Path:
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writef(io.BytesIO(data), name)
    return path


def split(path: Path, names: list[str]) -> list[Path]:
    data, parts = path.read_bytes(), []
    step = -(-len(data) // len(names))
    for number, name in enumerate(names):
        parts.append(path.with_name(name))
        parts[-1].write_bytes(data[number * step : (number + 1) * step])
    path.unlink()
    return parts


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tbz2", "x.tar.xz", "x.7z"])
def test_whole_archives(tmp_path: Path, name: str) -> None:
    make = make_zip if name == "x.zip" else make_seven if name == "x.7z" else make_tar
    assert unpack([make(tmp_path / name)], tmp_path / "out") == 3
    assert tree(tmp_path / "out") == FILES


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("x.tar.gz", ["x.tar.gzaa", "x.tar.gzab", "x.tar.gzac"]),
        ("x.7z", ["x.7z.001", "x.7z.002"]),
        ("x.zip", ["x.zip.001", "x.zip.002", "x.zip.003"]),
    ],
)
def test_archives_cut_into_parts(tmp_path: Path, name: str, parts: list[str]) -> None:
    make = {"x.tar.gz": make_tar, "x.7z": make_seven, "x.zip": make_zip}[name]
    assert unpack(split(make(tmp_path / name), parts), tmp_path / "out") == 3
    assert tree(tmp_path / "out") == FILES


def test_zip_in_disks_made_by_the_zip_program(tmp_path: Path) -> None:
    if shutil.which("zip") is None:
        pytest.skip("the zip program is absent")
    for name, data in FILES.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    subprocess.run(["zip", "-q", "-s", "64k", "-r", "../x.zip", "."], cwd=tmp_path / "in", check=True)
    parts = sorted(tmp_path.glob("x.z[0-9]*"))
    assert len(parts) == 3
    unpack([*parts, tmp_path / "x.zip"], tmp_path / "out")
    assert tree(tmp_path / "out") == FILES
    with pytest.raises(WorkError, match="4 parts, 3 are here"):
        unpack([*parts[:-1], tmp_path / "x.zip"], tmp_path / "out2")


def test_zip_in_disks_made_by_hand(tmp_path: Path) -> None:
    whole = make_zip(
        tmp_path / "x.zip", {"a.jpg": b"a" * 999, "b.jpg": random.Random(1).randbytes(999)}, 0
    ).read_bytes()
    end = whole.rindex(b"PK\5\6")
    start = struct.unpack_from("<I", whole, end + 16)[0]
    cut = whole.index(b"b.jpg") - 30  # the second disk begins with b.jpg's header
    directory = bytearray(whole[start:end])
    entry = directory.index(b"b.jpg") - 46
    struct.pack_into("<H", directory, entry + 34, 1)
    struct.pack_into("<I", directory, entry + 42, 0)
    tail = bytearray(whole[end:])
    struct.pack_into("<2H", tail, 4, 1, 1)
    struct.pack_into("<I", tail, 16, start - cut)
    (tmp_path / "x.z01").write_bytes(whole[:cut])
    (tmp_path / "x.zip").write_bytes(whole[cut:start] + directory + tail)
    unpack([tmp_path / "x.z01", tmp_path / "x.zip"], tmp_path / "out")
    assert tree(tmp_path / "out") == {"a.jpg": b"a" * 999, "b.jpg": random.Random(1).randbytes(999)}


def test_names_of_archives_and_parts() -> None:
    table = {
        "a.zip": "a.zip",
        "a.z01": "a.zip",
        "a.zip.001": "a.zip",
        "a.7z.012": "a.7z",
        "S2.tar.gzab": "S2.tar.gz",
        "s2_l1c.tar.gz.partaa": "s2_l1c.tar.gz",
        "a.tif": None,
        "a.h5": None,
        "a.TGZ": "a.TGZ",
    }
    assert {name: archive_of(name) for name in table} == table


@pytest.mark.parametrize("member", ["../evil", "a/../../evil", "/evil", "C:\\evil", "a\\..\\evil"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, kind: str, member: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        make_zip(path, {"ok.jpg": b"1", member: b"2"})
    else:
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo(member))
    with pytest.raises(InputError, match="leads outside"):
        unpack([path], tmp_path / "out")
    assert tree(tmp_path / "out") == {} and not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("x")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(InputError, match="link or a device"):
        unpack([tmp_path / "x.tar"], tmp_path / "out")


def test_links_in_zip_and_7z_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("x")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x").symlink_to("/etc/passwd")
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(tmp_path / "x.7z", "w") as archive:
        archive.writeall(tmp_path / "in", "in")
    for name in ("x.zip", "x.7z"):
        with pytest.raises(InputError, match="link or a device"):
            unpack([tmp_path / name], tmp_path / "out")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.7z"])
def test_bombs_are_refused(tmp_path: Path, name: str) -> None:
    make = {"x.zip": make_zip, "x.tar.gz": make_tar, "x.7z": make_seven}[name]
    path = make(tmp_path / name, {"zeros": bytes(20_000_000)})
    with pytest.raises(InputError, match="grows more than 50 times"):
        unpack([path], tmp_path / "out", UnpackLimits(ratio=50, ratio_from=1 << 20))
    with pytest.raises(InputError, match="more than 1,000 bytes"):
        unpack([path], tmp_path / "out", UnpackLimits(bytes=1_000))
    assert tree(tmp_path / "out") == {}


def test_a_zip_that_lies_about_its_size_is_stopped(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"bomb.jpg": bytes(50_000_000)})
    path.write_bytes(path.read_bytes().replace((50_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises((InputError, WorkError)):
        unpack([path], tmp_path / "out")
    assert sum(map(len, tree(tmp_path / "out").values())) < 1 << 20


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.7z"])
def test_damage_is_an_error_and_leaves_nothing_in_place(tmp_path: Path, name: str) -> None:
    make = make_zip if name == "x.zip" else make_seven if name == "x.7z" else make_tar
    path = make(tmp_path / name)
    path.write_bytes(path.read_bytes()[:150_000])
    with pytest.raises(WorkError, match="cannot be unpacked"):
        unpack([path], tmp_path / "out")
    assert not (tmp_path / "out/a").exists()


def interrupted(path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Staging of an archive whose unpacking ended after its first member."""
    replaced: list[str] = []

    def replace(source: Path, target: Path) -> None:
        if replaced:
            raise KeyboardInterrupt
        replaced.append(str(target))
        Path(source).rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            unpack([path], out)
    return out / ".unpacking-x.zip/files"


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "x.zip")
    staged = interrupted(path, tmp_path / "out", monkeypatch)
    assert [name for name in tree(staged) if not name.endswith(".part")] == ["a/one.jpg"]
    (staged / "a/one.jpg").write_bytes(b"two" * 1000)  # whole, and was written: not written again
    unpack([path], tmp_path / "out")
    assert tree(tmp_path / "out") == {**FILES, "a/one.jpg": b"two" * 1000}


def test_another_version_of_an_archive_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {**FILES, "a/one.jpg": b"old" * 1000}
    interrupted(make_zip(tmp_path / "x.zip", old), tmp_path / "out", monkeypatch)
    unpack([make_zip(tmp_path / "x.zip")], tmp_path / "out")
    assert tree(tmp_path / "out") == FILES


def test_of_two_members_of_one_name_the_later_is_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for data in (b"old", b"new"):
            info = tarfile.TarInfo("a.jpg")
            info.size = 3
            archive.addfile(info, io.BytesIO(data))
    unpack([tmp_path / "x.tar"], tmp_path / "out")
    assert tree(tmp_path / "out") == {"a.jpg": b"new"}


def test_two_archives_share_folders(tmp_path: Path) -> None:
    unpack([make_zip(tmp_path / "x.zip", {"img/1.jpg": b"1"})], tmp_path / "out")
    unpack([make_zip(tmp_path / "y.zip", {"img/2.jpg": b"2"})], tmp_path / "out")
    assert tree(tmp_path / "out") == {"img/1.jpg": b"1", "img/2.jpg": b"2"}


def test_a_member_of_the_archives_own_name_does_not_replace_it(tmp_path: Path) -> None:
    """As in SpaceNet 8's archive of Germany."""
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        for name in ("a.tar.gz", "b/c.txt"):
            member = tarfile.TarInfo(name)
            member.size = 5
            file.addfile(member, io.BytesIO(b"stray"))
    before = archive.read_bytes()
    assert unpack([archive], tmp_path) == 1
    assert archive.read_bytes() == before
    assert (tmp_path / "b/c.txt").read_bytes() == b"stray"
