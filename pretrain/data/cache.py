"""A folder of this machine that holds shards from elsewhere: named by their content, bounded, shared by all runs.

``<sha256>.tar`` is a shard, whole and verified, or absent: written aside, hashed on the way, renamed. What a process is
about to read it *wants*: it says so in ``runs/``, under a lock that the system frees however the process dies, so that
nothing wanted is removed and nothing is kept for the dead. Nobody but the prefetcher writes or removes shards.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from curation.base.errors import InputError, WorkError
from curation.base.files import UNFINISHED, atomic, sync, sync_folder
from curation.base.locks import NO_FLOCK

_RUNS, _TROUBLE, _PREFETCHER = "runs", "trouble", ".prefetcher"
_SHARD = re.compile(rf"[0-9a-f]{{64}}\.tar|\.[0-9a-f]{{64}}\.tar{re.escape(UNFINISHED)}")
"""Names of ours: nothing else in the folder is counted or removed."""
_WORDS = 1 << 20
"""Bytes in which processes say what they want, and why it does not come."""


class Want(NamedTuple):
    """A shard that is about to be read."""

    folder: str
    """URL that it lies below."""
    file: str
    sha256: str
    bytes: int

    @property
    def url(self) -> str:
        """Where it lies."""
        return f"{self.folder.rstrip('/')}/{self.file}"


class Asked(NamedTuple):
    """What one process asks of the cache."""

    limit: int
    """Bytes of shards that the cache may hold, as far as this process knows; of several the greatest counts."""
    wants: list[Want]
    """The most urgent first."""
    urgent: int
    """How many of them are read now; the others may make way for such."""


class Trouble(NamedTuple):
    """Why a shard has not come."""

    since: float
    """By the machine's clock that nobody sets: the last time that more of it came than ever before."""
    reason: str


@dataclass(frozen=True)
class ShardCache:
    """The folder, and how many bytes of shards this process lets it hold."""

    folder: Path
    limit: int = 0

    def path(self, digest: str) -> Path:
        """Where the shard of a SHA-256 lies, once it is there."""
        return self.folder / f"{digest}.tar"

    def has(self, want: Want) -> bool:
        """Whether a shard is there, and was not cut short since."""
        with suppress(FileNotFoundError):
            return self.path(want.sha256).stat().st_size == want.bytes
        return False

    def used(self) -> int:
        """Bytes of shards, whole and unfinished."""
        return sum(size for _, size, _ in self._files())

    def come(self, digest: str) -> int:
        """Bytes of a shard that have come."""
        with suppress(FileNotFoundError):
            return self.path(digest).stat().st_size
        with suppress(FileNotFoundError):
            return self._aside(digest).stat().st_size
        return 0

    def _aside(self, digest: str) -> Path:
        return self.folder / f".{digest}.tar{UNFINISHED}"

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """Shards with their bytes, and when they were last wanted."""
        for path in self.folder.iterdir():
            if _SHARD.fullmatch(path.name):
                with suppress(FileNotFoundError):
                    facts = path.stat()
                    yield path, facts.st_size, facts.st_mtime

    def make_room(self, planned: Mapping[str, int], wanted: Set[str], limit: int) -> bool:
        """Remove shards that nobody wants, the longest unwanted first, until those planned fit; says if they do.

        Args:
            planned: bytes of the whole shard, by SHA-256; what has come of it is not counted again.
            wanted: what stays.
            limit: bytes that all may take.
        """
        files = sorted(self._files(), key=lambda file: file[2])
        room = limit - sum(held for path, held, _ in files if digest_of(path) not in planned) - sum(planned.values())
        for path, held, _ in files:
            if room < 0 and digest_of(path) not in wanted:
                with suppress(PermissionError):  # of another user's shard
                    _remove(path)
                    room += held
        return room >= 0

    def touch(self, wanted: Set[str]) -> None:
        """Note that shards are wanted now."""
        for digest in wanted:
            with suppress(FileNotFoundError, PermissionError):
                os.utime(self.path(digest))

    def store(self, want: Want, stream: Callable[[str, int], Iterator[bytes]], go_on: Callable[[], bool]) -> None:
        """Write what is left of a shard, verify it and give it its name.

        Args:
            want: the shard.
            stream: its bytes, given name and offset; may break off with what it raises, and another call goes on.
            go_on: asked between chunks; what has come stays where it is when it says no.

        Raises:
            WorkError: its bytes are others than its folder's checksums say. They are thrown away.
            OSError: the disk is full.
        """
        aside = self._aside(want.sha256)
        with aside.open("ab+") as file:
            hashed = _hashed(file)
            for chunk in stream(want.file, file.tell()) if file.tell() < want.bytes else ():
                file.write(chunk)
                file.flush()
                hashed.update(chunk)
                if file.tell() > want.bytes or not go_on():
                    break
            size = file.tell()
        if size > want.bytes or (size == want.bytes and hashed.hexdigest() != want.sha256):
            aside.unlink()
            told = f"has more than {want.bytes:,} bytes, or" if size > want.bytes else "its bytes have"
            raise WorkError(f"{want.url}: {told} another SHA-256 than its folder's checksums.json says")
        if size == want.bytes:
            sync(aside)
            os.replace(aside, self.path(want.sha256))
            sync_folder(self.folder)
        elif go_on():
            raise WorkError(f"{want.url}: ends after {size:,} of {want.bytes:,} bytes")

    def leave_room(self, digest: str) -> None:
        """Give back the end of an unfinished shard: on a full disk nobody could say what is wanted next."""
        path = self._aside(digest)
        with suppress(FileNotFoundError):
            os.truncate(path, max(path.stat().st_size - _WORDS, 0))

    def forget_unfinished(self, wanted: Set[str]) -> None:
        """Remove what is left of shards that nobody wants any more."""
        for path, _, _ in list(self._files()):
            if path.name.endswith(UNFINISHED) and digest_of(path) not in wanted:
                path.unlink(missing_ok=True)

    def tell_trouble(self, digest: str, trouble: Trouble | None) -> None:
        """Say why a shard has not come, or that there is no reason any more."""
        path = self.folder / _TROUBLE / digest
        if trouble is None:
            with suppress(OSError):
                path.unlink()
            return
        with suppress(OSError), atomic(path) as aside:  # on a full disk there is no room for this either
            aside.write_text(json.dumps(trouble), encoding="utf-8")

    def trouble(self, digest: str) -> Trouble | None:
        """Why a shard has not come; None where nothing is known."""
        with suppress(FileNotFoundError, ValueError, TypeError):
            return Trouble(*json.loads((self.folder / _TROUBLE / digest).read_bytes()))
        return None

    # -------------------------------------------------------------------------------- what the processes want

    def asked(self) -> list[Asked]:
        """What each living process wants, the one that started first first. What the dead left is removed."""
        found = []
        for run in sorted((self.folder / _RUNS).glob("[!.]*")):
            with suppress(FileNotFoundError, ValueError, TypeError):
                if _is_free(run / "lock"):
                    shutil.rmtree(run, ignore_errors=True)
                else:
                    limit, wants, urgent = json.loads((run / "wants.json").read_bytes())
                    found.append(Asked(limit, [Want(*each) for each in wants], urgent))
        return found

    @contextmanager
    def wanting(self) -> Iterator[Callable[[list[Want], int], None]]:
        """Yield a function that says what this process wants, until the block ends or the process dies.

        It is given the shards, the most urgent first, and how many of them are read now.

        Raises:
            InputError: the folder cannot be written, or its file system has no locks.
        """
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}"  # sorted, they stand in the order of their start
        made, run = self.folder / _RUNS / f".{name}", self.folder / _RUNS / name
        with _usable(self.folder):
            made.mkdir(parents=True)
            lock = (made / "lock").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)

        def say(wants: list[Want], urgent: int) -> None:
            folder = run if run.exists() else made
            with atomic(folder / "wants.json") as aside:
                aside.write_text(json.dumps([self.limit, wants, urgent]), encoding="utf-8")

        with lock:
            with _usable(self.folder):
                say([], 0)
                made.rename(run)
            try:
                yield say
            finally:
                shutil.rmtree(run, ignore_errors=True)

    @contextmanager
    def only_prefetcher(self) -> Iterator[bool]:
        """Whether this process is the machine's prefetcher, until the block ends or the process dies."""
        with (self.folder / _PREFETCHER).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def has_prefetcher(self) -> bool:
        """Whether a living process is the machine's prefetcher."""
        try:
            return not _is_free(self.folder / _PREFETCHER)
        except FileNotFoundError:
            return False


def _remove(path: Path) -> None:
    """Remove a file, and what it takes of the disk: readers that wait for the next shard may have it open."""
    with suppress(FileNotFoundError), ExitStack() as stack:
        file = None
        with suppress(PermissionError):  # another user's, in a folder that both may write
            file = stack.enter_context(path.open("ab"))
        path.unlink()
        if file is not None and not os.fstat(file.fileno()).st_nlink:  # else another name of it is somebody's
            file.truncate(0)


def digest_of(path: Path) -> str:
    """The SHA-256 in the name of a shard, whole or unfinished."""
    return path.name.removeprefix(".").partition(".")[0]


def _hashed(file: BinaryIO) -> hashlib._Hash:
    """The hash of what a file holds already; the file stands at its end then."""
    file.seek(0)
    found = hashlib.sha256()
    while chunk := file.read(1 << 20):
        found.update(chunk)
    return found


def _is_free(path: Path) -> bool:
    """Whether nobody holds the lock on a file."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_FLOCK:
            why = "its file system has no locks"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = "its disk is full"
        else:
            why = f"cannot be written ({error.strerror})"
        raise InputError(f"data.cache {folder}: {why}; give a folder on a disk of this machine") from None
