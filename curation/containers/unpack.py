"""Unpack archives that strangers made: zip, tar and its compressions, 7z, and archives in parts.

Names that lead outside, links, devices and bombs are refused before or while bytes are written. Members go to a hidden
folder first and are moved when all are there; a killed run goes on with the members that it has not yet written, as
long as the archive is the same file.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from curation.base.errors import InputError, WorkError
from curation.containers.archives import DISK, TAR_SUFFIXES, archive_of
from curation.containers.multidisk_zip import open_members as open_split_members
from curation.containers.multidisk_zip import zip_name


@dataclass(frozen=True)
class UnpackLimits:
    """What an archive may become."""

    bytes: int = 1 << 50
    """Most bytes in all."""
    ratio: float = 200.0
    """Most bytes per byte of the archive, once more than ``ratio_from`` were written."""
    ratio_from: int = 1 << 30
    members: int = 100_000_000


LIMITS = UnpackLimits()


class _Member(NamedTuple):
    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(parts: Sequence[Path], into: Path, limits: UnpackLimits = LIMITS) -> int:
    """Unpack one archive into a folder; files that are there with the same name are replaced.

    Args:
        parts: The archive, or its parts in order (of a zip in several disks the ``.zip`` last).
        into: The folder, made when absent.
        limits: Bounds on what comes out.

    Returns:
        Number of members written.

    Raises:
        InputError: a member is a link or a device or leads outside, or the archive is a bomb, encrypted or of no
            known kind.
        WorkError: the archive is damaged, or the disk is full.
    """
    into.mkdir(parents=True, exist_ok=True)
    name = archive_of(parts[-1].name) or parts[-1].name
    staging = into / f".unpacking-{name}"
    try:
        _stage(staging, parts)
        if not (staging / ".whole").exists():
            _extract(parts, name, staging, limits)
            (staging / ".whole").touch()
        count = _move(staging / "files", into, parts)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise WorkError(f"{name}: cannot be unpacked ({error or type(error).__name__})") from None
    except InputError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    shutil.rmtree(staging)
    return count


def _stage(staging: Path, parts: Sequence[Path]) -> None:
    """Make the hidden folder; what another version of the archive left there is removed, not mixed with this one's."""
    identity = json.dumps([[part.name, part.stat().st_size, part.stat().st_mtime_ns] for part in parts])
    note = staging / ".archive"
    if not note.is_file() or note.read_text() != identity:
        if staging.exists():
            shutil.rmtree(staging)
        staging.mkdir()
        note.write_text(identity)
    (staging / "files").mkdir(exist_ok=True)


def _extract(parts: Sequence[Path], name: str, staging: Path, limits: UnpackLimits) -> None:
    folder = staging / "files"
    if name.lower().endswith(".7z"):
        return _extract_seven(parts, name, folder, limits)
    size = sum(part.stat().st_size for part in parts)
    written = count = 0
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(os.fdopen(os.open(staging / ".done", os.O_RDWR | os.O_CREAT), "r+b", 0))
        done = int(progress.read() or 0)
        for member in _members(parts, name, stack):
            count += 1
            target = folder / safe_name(name, member.name)
            written += member.size
            _within(name, written, size, count, limits)
            if count > done or not (target.is_file() and target.stat().st_size == member.size):
                _write(name, member, target)  # the later of two equal names replaces the earlier
                progress.seek(0)
                progress.write(b"%d" % count)
    return None


def _within(name: str, written: int, size: int, count: int, limits: UnpackLimits) -> None:
    if written > limits.bytes or count > limits.members:
        raise InputError(
            f"{name}: holds more than {limits.bytes:,} bytes or {limits.members:,} files; it is not unpacked"
        )
    if written > limits.ratio_from and written > limits.ratio * max(size, 1):
        raise InputError(f"{name}: grows more than {limits.ratio:g} times; it is not unpacked")


def _write(name: str, member: _Member, target: Path) -> None:
    """Write one member, no more bytes than its header promised, and give it its name last."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(target.name + ".part")
    left = member.size
    with member.open() as stream, aside.open("wb") as out:
        while chunk := stream.read(1 << 20):
            left -= len(chunk)
            if left < 0:
                raise InputError(f"{name}: {member.name}: more bytes than its header says; it is not unpacked")
            out.write(chunk)
    if left:
        raise EOFError(f"{member.name}: cut short")
    os.replace(aside, target)


def safe_name(archive: str, member: str) -> PurePosixPath:
    """A member's path, checked to lie below the folder it is unpacked into.

    Raises:
        InputError: it does not.
    """
    parts = PurePosixPath(member).parts
    bad = not parts or ".." in parts or member.startswith("/") or "\\" in member or "\0" in member
    if bad or re.match(r"[A-Za-z]:", member):
        raise InputError(f"{archive}: {member!r} leads outside the archive; it is not unpacked")
    return PurePosixPath(*parts)


def _move(source: Path, into: Path, parts: Sequence[Path]) -> int:
    """Move a tree into place, file by file where folders exist already; no member replaces the archive itself."""
    count, own = 0, {part.resolve() for part in parts}
    for folder, _, files in os.walk(source):
        target = into / Path(folder).relative_to(source)
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            if (target / file).resolve() not in own:
                os.replace(Path(folder) / file, target / file)
                count += 1
    return count


# ------------------------------------------------------------------------------------------------ the kinds


def _members(parts: Sequence[Path], name: str, stack: contextlib.ExitStack) -> Iterator[_Member]:
    lower = name.lower()
    stream: IO[bytes] = stack.enter_context(
        parts[0].open("rb") if len(parts) == 1 else io.BufferedReader(_Joined(parts), 1 << 20)
    )
    if lower.endswith(".zip") and len(parts) > 1 and DISK.fullmatch(parts[0].name):
        sizes = [part.stat().st_size for part in parts]
        return (_Member(*member) for member in open_split_members(stream, sizes))
    if lower.endswith(".zip"):
        return _zip_members(stack.enter_context(zipfile.ZipFile(stream)), name)
    if lower.endswith(TAR_SUFFIXES):
        return _tar_members(stack.enter_context(tarfile.open(fileobj=stream, mode="r|*")), name)
    raise InputError(f"{name}: zip, tar, tar.gz, tar.bz2, tar.xz and 7z are unpacked here; unpack it by hand")


def _zip_members(archive: zipfile.ZipFile, name: str) -> Iterator[_Member]:
    for info in archive.infolist():
        mode = info.external_attr >> 16
        if info.flag_bits & 1:
            raise InputError(f"{name}: {info.filename} is encrypted; unpack it by hand")
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError(f"{name}: {info.filename!r} is a link or a device; it is not unpacked")
        if not info.is_dir():
            yield _Member(zip_name(info), info.file_size, lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar_members(archive: tarfile.TarFile, name: str) -> Iterator[_Member]:
    while (info := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
        if info.isdir():
            continue
        if not info.isreg() or info.issparse():
            raise InputError(f"{name}: {info.name!r} is a link or a device; it is not unpacked")
        opened = archive.extractfile(info)
        if opened is not None:
            yield _Member(info.name, info.size, lambda opened=opened: opened)  # type: ignore[misc]


def _extract_seven(parts: Sequence[Path], name: str, folder: Path, limits: UnpackLimits) -> None:
    """Unpack a 7z in one pass: its members are often one compressed stream, so that none can be skipped."""
    try:
        import py7zr
        from py7zr.io import Py7zIO, WriterFactory
    except ImportError:
        raise InputError(f"{name} needs py7zr; pip install py7zr") from None

    class File(Py7zIO):  # type: ignore[misc]
        """Opens its file anew for each write: py7zr makes the writers of all members at once."""

        def __init__(self, path: Path) -> None:
            self._path = path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")

        def write(self, data: bytes | bytearray) -> int:
            """Append what was decompressed."""
            with self._path.open("ab") as out:
                return out.write(data)

        def read(self, size: int | None = None) -> bytes:
            return b""

        def seek(self, offset: int, whence: int = 0) -> int:
            return 0

        def flush(self) -> None:
            return None

        def size(self) -> int:
            """Bytes written so far."""
            return self._path.stat().st_size

    class Files(WriterFactory):  # type: ignore[misc]
        def create(self, filename: str) -> Py7zIO:
            """A file below the folder, by its name's own words."""
            return File(folder / safe_name(name, filename))

    try:
        with io.BufferedReader(_Joined(parts)) as stream, py7zr.SevenZipFile(stream) as archive:
            total = 0
            for count, file in enumerate(archive.files, 1):
                if file.is_symlink or file.is_junction or file.is_socket:
                    raise InputError(f"{name}: {file.filename!r} is a link or a device; it is not unpacked")
                safe_name(name, file.filename)
                total += int(file.uncompressed or 0)
                _within(name, total, sum(part.stat().st_size for part in parts), count, limits)
            archive.extractall(factory=Files())
    except py7zr.exceptions.ArchiveError as error:
        raise WorkError(f"{name}: cannot be unpacked ({error})") from None


class _Joined(io.RawIOBase):
    """Files one after another, read as one."""

    def __init__(self, parts: Iterable[Path]) -> None:
        self._parts = list(parts)
        self._starts = [0]
        for part in self._parts:
            self._starts.append(self._starts[-1] + part.stat().st_size)
        self._position = 0
        self._open: tuple[int, IO[bytes]] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        """Place in all parts together."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in all parts together."""
        self._position = offset + (0, self._position, self._starts[-1])[whence]
        return self._position

    def readinto(self, buffer: object) -> int:
        """Read on, to the end of the part at most."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        number = next((n for n in range(len(self._parts)) if self._position < self._starts[n + 1]), None)
        if number is None:
            return 0
        if self._open is None or self._open[0] != number:
            self._close()
            self._open = (number, self._parts[number].open("rb"))
        self._open[1].seek(self._position - self._starts[number])
        data = self._open[1].read(min(len(view), self._starts[number + 1] - self._position))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def close(self) -> None:
        """Close the part that is open."""
        self._close()
        super().close()
