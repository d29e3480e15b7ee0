"""The prefetcher of a machine: ``python -m pretrain.data.prefetch CACHE PARENT``, which a run starts for itself.

It brings what the processes of the machine want (:meth:`pretrain.data.cache.ShardCache.asked`), the most urgent first,
a few shards at a time, until the process PARENT that started it is gone. Only one works in a cache; a second one ends
at once. Whatever kills it, what has come stays, and the next one goes on there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import NoReturn

from curation.base.origin import Origin, open_origin
from pretrain.data.cache import ShardCache, Trouble, Want
from pretrain.errors import RscorpusError

CONNECTIONS = 4
"""Shards that come at a time."""
LOOK_S = 0.2
"""Time between two looks at what is wanted."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0


@dataclass
class _Attempts:
    """At a shard that has not come yet."""

    since: float
    """The last time that more of it came than ever before."""
    most: int = -1
    """Bytes that came then."""
    failures: int = 0
    not_before: float = 0.0


@dataclass
class Prefetcher:
    """Brings shards into a cache."""

    cache: ShardCache
    wants: dict[str, Want] = field(default_factory=dict)
    """By SHA-256, the most urgent first."""
    urgent: set[str] = field(default_factory=set)
    """Those that are read now."""
    full: bool = False
    """Whether the disk was at the last attempt: what comes later would take the room of what is read now."""
    limit: int = 0
    attempts: dict[str, _Attempts] = field(default_factory=dict)
    coming: dict[str, Future[None]] = field(default_factory=dict)
    _own: threading.local = field(default_factory=threading.local)

    def look(self, pool: ThreadPoolExecutor) -> None:
        """Take note of what came, and start what is to come next."""
        for digest in [digest for digest, future in self.coming.items() if future.done()]:
            self._note(digest, self.coming.pop(digest))
        self._read_wants()
        planned = {digest: self.wants[digest].bytes for digest in self.coming.keys() & self.wants.keys()}
        for digest, want in self.wants.items():
            if len(self.coming) == CONNECTIONS:
                return
            if digest in self.coming or self.cache.has(want) or (self.full and digest not in self.urgent):
                continue
            planned[digest] = want.bytes  # also of one that waits to be tried again: nothing less urgent takes its room
            if time.monotonic() < self.attempts.setdefault(digest, _Attempts(time.monotonic())).not_before:
                continue
            stays = self.urgent if digest in self.urgent else self.wants.keys()
            if not self.cache.make_room(planned, stays | self.coming.keys(), self.limit):
                self._fail(digest, f"{want.url}: {self._no_room()}")
                return
            self.coming[digest] = pool.submit(self._bring, want)

    def _read_wants(self) -> None:
        """What is wanted, each shard once, by its place in the lists of all processes; of equals the older run's."""
        asked = self.cache.asked()
        ranked = [(place, want) for each in asked for place, want in enumerate(each.wants)]
        wants: dict[str, Want] = {}
        for _, want in sorted(ranked, key=itemgetter(0)):
            wants.setdefault(want.sha256, want)
        self.urgent = {want.sha256 for each in asked for want in each.wants[: each.urgent]}
        self.limit = max((each.limit for each in asked), default=0)
        if wants.keys() != self.wants.keys():
            self.cache.touch(wants.keys() | self.wants.keys())
            self.cache.forget_unfinished(wants.keys() | self.coming.keys())
        self.wants = wants

    def _no_room(self) -> str:
        return (
            f"all {self.limit / 1e9:g} GB of the cache {self.cache.folder} are in use by running trainings; set "
            "data.cache_gigabytes higher, or give this run a data.cache of its own"
        )

    def _bring(self, want: Want) -> None:
        self.cache.store(want, self._origin(want.folder).stream, lambda: want.sha256 in self.wants)

    def _origin(self, url: str) -> Origin:
        """The folder, opened once by each thread: clients are not shared."""
        opened: dict[str, Origin] = self._own.__dict__.setdefault("opened", {})
        if url not in opened:
            opened[url] = open_origin(url)
        return opened[url]

    def _note(self, digest: str, future: Future[None]) -> None:
        """Take note of an attempt that ended."""
        error = future.exception()
        if error is None:
            self.attempts.pop(digest, None)
            self.full = False
            self.cache.tell_trouble(digest, None)
        elif isinstance(error, RscorpusError):
            self._fail(digest, str(error))
        elif isinstance(error, OSError):
            # Others fill this disk as well: what nobody wants makes way before the limit is reached.
            stays = self.urgent if digest in self.urgent else self.wants.keys()
            self.cache.make_room({"": self.limit // 10}, stays | self.coming.keys(), self.cache.used())
            self.full = True
            self.cache.leave_room(digest)
            self._fail(digest, f"{self.cache.folder}: {error.strerror}")
        else:
            raise error

    def _fail(self, digest: str, reason: str) -> None:
        attempts, come = self.attempts[digest], self.cache.come(digest)
        if come > attempts.most:
            attempts.most, attempts.since, attempts.failures = come, time.monotonic(), 0
        pause = min(_FIRST_PAUSE_S * 2**attempts.failures, _LONGEST_PAUSE_S)
        attempts.failures, attempts.not_before = attempts.failures + 1, time.monotonic() + pause
        self.cache.tell_trouble(digest, Trouble(attempts.since, reason))


def main(folder: str, parent: str) -> NoReturn:
    """Work in a cache until the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # of the terminal and of schedulers; the parent decides
    cache = ShardCache(Path(folder))
    with cache.only_prefetcher() as alone:
        if alone:
            prefetcher, pool = Prefetcher(cache), ThreadPoolExecutor(CONNECTIONS, "shard")
            while os.getppid() == int(parent):
                prefetcher.look(pool)
                time.sleep(LOOK_S)
        sys.stderr.flush()
        os._exit(0)  # threads that wait for a server are not waited for, and write nothing once another may


if __name__ == "__main__":
    main(*sys.argv[1:])
