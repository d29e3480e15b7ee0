"""Workers of this machine: forked from the nursery, watched, and replaced.

A worker that is dead, does not start, says nothing or takes too much memory is ended and replaced; what it was doing
is done elsewhere. When workers are replaced again and again and no part gets done, the run ends: it never waits for
workers that nobody will start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from curation.base.errors import NO_ROOM, WorkError
from curation.executor.nursery import Child, Nursery

AGAIN = "the same command goes on from here"
"""What every message ends with that tells of the end of a run."""

FULL = 0.95
"""Share of its memory at which a worker is ended, before the kernel ends a process of its own choice."""


@dataclass(frozen=True)
class Patience:
    """How long is waited for what, in seconds."""

    start: float = 180.0
    """For a worker to connect: imports take 3 s, and thirty times that on a machine with too much to do."""
    silence: float = 300.0
    """For a worker to say that it lives: a decoder that holds the interpreter's lock may take as long for one image."""
    elsewhere: float = 600.0
    """For any worker of a running scheduler, or that scheduler itself, to answer: a batch system may restart it."""
    rounds: int = 5
    """Times that all workers are replaced without any part being done."""


class Workers:
    """A number of worker processes.

    Args:
        nursery: where they are forked.
        count: how many.
        memory: bytes that each may hold.
        start: forks one, given a name that no other worker has had.
        patience: how long is waited.
    """

    def __init__(
        self, nursery: Nursery, count: int, memory: int, start: Callable[[str], Child], patience: Patience
    ) -> None:
        self._nursery, self._memory, self._start, self._patience = nursery, memory, start, patience
        self._named = self._replaced = 0
        self._looked = time.monotonic()
        self._children = [self._new() for _ in range(count)]

    def _new(self) -> Child:
        self._named += 1
        return self._start(f"worker-{self._named}")

    def worked(self) -> None:
        """A part was done: what was replaced before counts no more."""
        self._replaced = 0

    def tend(self) -> None:
        """Replace every worker that cannot work.

        Raises:
            WorkError: that was done too often.
        """
        now = time.monotonic()
        stood_still = now - self._looked > self._patience.start / 4  # this process was stopped, or worked elsewhere
        self._looked = now
        faults = {}
        for at, child in enumerate(self._children):
            child.listen()
            if stood_still:
                child.heard = now
            if fault := self._fault(child, now):
                faults[at] = fault
        if any(self._children[at].pid is None and not self._children[at].ended for at in faults):
            self._nursery.replace()  # it forks no more
        for at, fault in faults.items():
            self._children[at].end()
            self._count(fault)
            self._children[at] = self._new()

    def _fault(self, child: Child, now: float) -> str | None:
        if child.done and isinstance(error := child.result, OSError) and error.errno in NO_ROOM:
            raise error
        if child.ended or child.done:
            return child.became()
        patience = self._patience.silence if child.ready else self._patience.start
        if now - child.heard > patience:
            return f"{'said nothing' if child.ready else 'did not start'} for {patience:.0f} s"
        if child.resident > FULL * self._memory:
            return f"held more than its {self._memory / 1e9:.1f} GB of memory"
        return None

    def _count(self, fault: str) -> None:
        self._replaced += 1
        if self._replaced > self._patience.rounds * len(self._children):
            raise WorkError(
                f"{self._replaced:,} workers ended in a row and no part was done (the last one: {fault}); look at the "
                f"machine's memory and load, or give fewer --workers; {AGAIN}"
            )
