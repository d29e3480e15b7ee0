"""Folders of shards, here or elsewhere: what is known of them is brought here once, and verified."""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curation.base.files import atomic, file_digest, is_whole
from curation.base.origin import Again, Origin, is_remote, open_origin, read_whole
from curation.shards.format import CHECKSUMS, INDEX_FILE, read_checksums
from pretrain.config import DataConfig
from pretrain.data.cache import ShardCache, Want
from pretrain.errors import InputError, WorkError

_FOLDERS = "folders"
_MOST_CHECKSUMS = 64 << 20
"""Bytes of a ``checksums.json`` that are read: a quarter of a million shards."""
_MOST_OF_A_ROW = 1 << 14
"""Bytes of an index per sample, and of all that is not rows: a server's endless one must not fill the disk."""
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Access:
    """How shards are come by that are elsewhere, or away."""

    cache: ShardCache | None = None
    retry_seconds: float = 0
    """How long to wait for what cannot be had."""
    skip_missing: bool = False
    """Whether the samples of a shard that cannot be had stay with weight 0."""


HERE = Access()
"""All shards are on this machine, and nothing is waited for."""


def access_of(data: DataConfig) -> Access:
    """What a configuration says of it."""
    cache = None if data.cache is None else ShardCache(data.cache.resolve(), int(data.cache_gigabytes * 1e9))
    return Access(cache, data.retry_seconds, data.missing_shard == "skip")


def absolute(place: str) -> str:
    """A folder by its whole path; a URL as it is."""
    return place if is_remote(place) else str(Path(place).resolve())


def localised(place: str | Path, access: Access) -> Path:
    """A folder of this machine with the index and the checksums of a place: the place itself, or what was fetched.

    Raises:
        InputError: no cache is set, or what a folder of shards has is absent there, or refused.
        WorkError: it does not answer, or its index is another than its checksums say.
    """
    if not is_remote(str(place)):
        return Path(place)
    if access.cache is None:
        raise InputError(
            f"data.shards: {place} is elsewhere, and needs a folder of this machine for the shards in use; set "
            "data.cache=/a/folder on a local disk, and data.cache_gigabytes to what it may hold"
        )
    origin = open_origin(str(place))
    try:
        told = read_whole(origin, CHECKSUMS, _MOST_CHECKSUMS, _Patience(access.retry_seconds))
    except InputError as error:
        raise InputError(f"{error}; data.shards wants the folder with the tars and their {CHECKSUMS}") from None
    folder = access.cache.folder / _FOLDERS / hashlib.sha256(told).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the machine's processes start together
            if not _is_here(folder, told):
                _bring(origin, folder, told, _Patience(access.retry_seconds))
    except OSError as error:
        raise InputError(f"data.cache {access.cache.folder}: {error.strerror}; give another folder") from None
    return folder


def _is_here(folder: Path, told: bytes) -> bool:
    """Whether the index was fetched, and neither file was damaged since."""
    path = folder / CHECKSUMS
    return path.is_file() and path.read_bytes() == told and is_whole(folder / INDEX_FILE)


def _bring(origin: Origin, folder: Path, told: bytes, again: Again) -> None:
    """Fetch the index, which is there last."""
    with atomic(folder / CHECKSUMS) as aside:
        aside.write_bytes(told)
    checksums = read_checksums(folder)
    assert checksums is not None
    if not checksums.index:
        raise InputError(
            f"{origin.url}/{CHECKSUMS}: has no checksum of {INDEX_FILE}, as those of earlier releases; publish the "
            "shards again"
        )
    with atomic(folder / INDEX_FILE) as aside:
        most = _MOST_OF_A_ROW * (1 + sum(info.samples for info in checksums.shards))
        _download(origin, aside, most, again)
        if file_digest(aside) != checksums.index:
            raise WorkError(
                f"{origin.url}/{INDEX_FILE}: is another than its {CHECKSUMS} says; both are of one `rs-curate run`, "
                "publish them together"
            )


def _download(origin: Origin, path: Path, most: int, again: Again) -> None:
    with path.open("wb") as file:
        while True:
            try:
                for chunk in origin.stream(INDEX_FILE, file.tell()):
                    file.write(chunk)
                    if file.tell() > most:
                        raise InputError(f"{origin.url}/{INDEX_FILE}: has more than {most:,} bytes")
                return
            except WorkError as error:
                again(error, file.tell())


class _Patience:
    """Waits after an error, or raises it when no more has come for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.since, self.most = seconds, 0.0, -1

    def __call__(self, error: WorkError, come: int) -> None:
        """Given how many bytes have come."""
        if come > self.most:
            self.since, self.most = time.monotonic(), come
        if time.monotonic() - self.since >= self.seconds:
            raise error
        time.sleep(min(_PAUSE_S, self.seconds))


def wanted(place: str | Path, folder: Path, paths: Sequence[Path]) -> list[Want | None]:
    """For each shard of a folder what the prefetcher is asked for, or None where it lies on this machine.

    Raises:
        InputError: index and checksums name different shards, or those were indexed without checksums.
    """
    if not is_remote(str(place)):
        return [None] * len(paths)
    checksums = read_checksums(folder)
    assert checksums is not None
    if [info.file for info in checksums.shards] != [path.name for path in paths]:
        raise InputError(f"{place}: {INDEX_FILE} and {CHECKSUMS} name different shards; publish them together")
    if not all(info.sha256 for info in checksums.shards):
        raise InputError(
            f"{place}: {CHECKSUMS} lacks SHA-256s of shards, without which they are not fetched; `rs-curate index` "
            "the folder, and publish it again"
        )
    return [Want(str(place), info.file, info.sha256, info.bytes) for info in checksums.shards]
