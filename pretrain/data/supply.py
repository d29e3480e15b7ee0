"""The shards of this window are on this machine, and those of the next are on their way.

Each process says what it is about to read, in its own main process and in the order that is a pure function, so nothing
of it is saved. What lies elsewhere a prefetcher brings (:mod:`pretrain.data.prefetch`); what lies on a local disk the
kernel is told to read ahead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from pretrain.data.cache import ShardCache, Want
from pretrain.data.corpus import Corpus
from pretrain.errors import InputError, WorkError
from pretrain.signals import heed_stop

_LOOK_S = 2.0
"""Time between two looks whether the machine has a prefetcher."""
_PAUSE_S = 0.05


@dataclass
class ShardCounts:
    """How shards from elsewhere were come by."""

    entered: int = 0
    """Shards of windows that were read."""
    at_hand: int = 0
    """Of these, those that had come before they were needed."""
    waited: float = 0.0
    """Seconds that were waited for the others."""

    @property
    def hits(self) -> float:
        """Share that was at hand."""
        return self.at_hand / self.entered if self.entered else 1.0


class Supply:
    """What one process wants of its shards."""

    def __init__(self, corpus: Corpus, counts: ShardCounts) -> None:
        self.corpus, self.access, self.counts = corpus, corpus.access, counts
        self.missing: set[int] = set()
        """Shards that could not be had."""
        self._windows: dict[object, tuple[list[int], list[int]]] = {}
        self._in_use: deque[set[int]] = deque()
        self._taken: set[int] = set()
        """Of windows from which the batch that is put together has rows."""

    def enter(self, feed: object, shards: Sequence[int], coming: Sequence[int]) -> None:
        """A feed is about to read ``shards``, and then those that are ``coming``."""
        self._windows[feed] = list(shards), list(coming)
        Thread(target=_read_ahead, args=([self.corpus.paths[shard] for shard in coming],), daemon=True).start()

    def took(self, feed: object) -> None:
        """A feed has given rows of its window; they stay until they are :meth:`sent`."""
        self._taken.update(self._windows[feed][0])

    def sent(self, shards: Iterable[int]) -> None:
        """A request that reads these shards was handed out; they stay until it is :meth:`served`."""
        self._taken.clear()
        self._in_use.append(set(shards))

    def served(self) -> None:
        """The oldest request was served."""
        self._in_use.popleft()


class RemoteSupply(Supply):
    """With a cache and its prefetcher."""

    def __init__(self, corpus: Corpus, cache: ShardCache, counts: ShardCounts) -> None:
        super().__init__(corpus, counts)
        self.cache = cache
        self._said: tuple[list[Want], int] = [], 0
        self._unsaid = ""
        """Why it could not be said what is wanted."""
        self._next_look = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """Want things until the block ends."""
        with self.cache.wanting() as self._say:
            try:
                yield
            finally:
                self._stop()

    def enter(self, feed: object, shards: Sequence[int], coming: Sequence[int]) -> None:
        """Say what is wanted, and wait until ``shards`` are here.

        Raises:
            WorkError: one cannot be had, and none may be missing.
        """
        super().enter(feed, shards, coming)
        self._want()
        self.missing = {shard for shard in self.missing if self._away(shard) is not None}
        self.counts.entered += len(shards)
        self.counts.at_hand += sum(self._away(shard) is None for shard in shards)
        began = time.monotonic()
        self._wait([shard for shard in shards if shard not in self.missing])
        self.counts.waited += time.monotonic() - began

    def served(self) -> None:
        """The oldest request was served; what nobody reads any more may go."""
        super().served()
        self._want()
        self._tend()

    def _want(self) -> None:
        windows = self._windows.values()
        now = [shard for window, _ in windows for shard in window]
        now += [shard for use in [*self._in_use, self._taken] for shard in sorted(use)]
        urgent = self._wants(now)
        wants = self._wants([*now, *(shard for _, coming in windows for shard in coming)])
        if (wants, len(urgent)) != self._said:
            try:
                self._say(wants, len(urgent))
            except OSError as error:  # a full disk: said again later, and what is here can be read
                self._unsaid = f"{self.cache.folder}: {error.strerror}"
            else:
                self._said, self._unsaid = (wants, len(urgent)), ""

    def _wants(self, shards: Iterable[int]) -> list[Want]:
        return [want for shard in dict.fromkeys(shards) if (want := self.corpus.wants[shard]) is not None]

    def _wait(self, shards: list[int]) -> None:
        began = changed = time.monotonic()
        seen = -1
        while left := {shard: want for shard in shards if (want := self._away(shard)) is not None}:
            self._want()
            self._tend()
            if (come := self.cache.used()) != seen:  # also of other shards, which may have to come first
                seen, changed = come, time.monotonic()
            for shard, want in left.items():
                if reason := self._hopeless(want, began, changed):
                    self._give_up(shard, want, reason)
            shards = [shard for shard in left if shard not in self.missing]
            heed_stop()
            time.sleep(_PAUSE_S)

    def _away(self, shard: int) -> Want | None:
        want = self.corpus.wants[shard]
        return None if want is None or self.cache.has(want) else want

    def _hopeless(self, want: Want, began: float, changed: float) -> str:
        """Why a shard is not waited for any longer; empty while it is."""
        trouble, seconds = self.cache.trouble(want.sha256), self.access.retry_seconds
        if trouble is not None and time.monotonic() - max(trouble.since, began) > seconds:
            return trouble.reason
        if time.monotonic() - changed > max(seconds, 2 * _LOOK_S):
            return trouble.reason if trouble is not None else self._silence(want)
        return ""

    def _silence(self, want: Want) -> str:
        """Why nothing is told of a shard: a full disk has no room for that either."""
        if shutil.disk_usage(self.cache.folder).free < want.bytes - self.cache.come(want.sha256):
            return f"{self.cache.folder}: its disk is full"
        return self._unsaid or "no byte of it came"

    def _give_up(self, shard: int, want: Want, reason: str) -> None:
        if not self.access.skip_missing:
            raise WorkError(
                f"{want.url}: could not be had for {self.access.retry_seconds:g} s ({reason}); bring it back, and "
                "--resume goes on from the last checkpoint (data.retry_seconds is the time that is waited; "
                "data.missing_shard=skip goes on without its samples)"
            )
        self.missing.add(shard)

    def _tend(self) -> None:
        """Have a prefetcher: the machine's, or one started here."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_S
        starting = self._process is not None and self._process.poll() is None
        if not starting and not self.cache.has_prefetcher():
            command = [sys.executable, "-m", "pretrain.data.prefetch", str(self.cache.folder), str(os.getpid())]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def supplied(corpus: Corpus, counts: ShardCounts | None = None) -> Iterator[Supply]:
    """What brings the shards of a corpus, until the block ends; ``counts`` is kept up to date."""
    cache, counts = corpus.access.cache, counts or ShardCounts()
    if cache is None or not any(corpus.wants):
        yield Supply(corpus, counts)
        return
    supply = RemoteSupply(corpus, cache, counts)
    with supply.open():
        yield supply


def refuse_small_cache(corpus: Corpus, window: int, groups: int) -> None:
    """Check that the cache holds two windows of the greatest shards.

    Args:
        corpus: opened shards.
        window: shards that are mixed.
        groups: that are read on this machine.

    Raises:
        InputError: it does not.
    """
    cache = corpus.access.cache
    sizes = sorted((want.bytes for want in corpus.wants if want is not None), reverse=True)
    need = sum(sizes[: 2 * window * groups])
    if cache is not None and cache.limit < need:
        raise InputError(
            f"data.cache_gigabytes: {cache.limit / 1e9:g} holds less than two windows of {window} shards "
            f"({need / 1e9:.3g} GB); set data.cache_gigabytes={need / 1e9 * 1.05:.3g} or more"
        )


def _read_ahead(paths: list[Path]) -> None:
    """Have the kernel read files into memory, where half of what is free holds them: else they push out each other."""
    sizes = {}
    for path in paths:
        with suppress(OSError):
            sizes[path] = path.stat().st_size
    if not hasattr(os, "posix_fadvise") or sum(sizes.values()) > _free_memory() // 2:
        return
    for path in sizes:
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)


def _free_memory() -> int:
    """Bytes that the kernel can give without swapping; 0 where it does not say."""
    with suppress(OSError, ValueError, IndexError), open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return 0
