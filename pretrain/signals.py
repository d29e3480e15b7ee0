"""Signals as requests: a run that is told to end saves first."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pretrain.errors import WorkError


class Stop:
    """Whether a signal asked the run to stop."""

    def __init__(self) -> None:
        self.asked = False


class WaitGivenUp(Exception):
    """What a run waited for it needs no more, since it was asked to stop."""


_alone: Stop | None = None
"""Of the run of this process, where it has no other one."""


def heed_stop() -> None:
    """End a wait for files of a run that was asked to stop; for a process that others wait for nothing ends it.

    Raises:
        WaitGivenUp: it was.
    """
    if _alone is not None and _alone.asked:
        raise WaitGivenUp


@contextmanager
def asked_to_stop(*, alone: bool = False) -> Iterator[Stop]:
    """Turn SIGTERM and the first SIGINT into a request to save and stop; a second SIGINT stops at once.

    Args:
        alone: the run has one process, which may stop between any two steps, and so while it waits for files.
    """
    global _alone
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    _alone = stop if alone else None
    try:
        yield stop
    finally:
        _alone = None
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_in_worker() -> None:
    """Leave the decision to the main process: a scheduler or a terminal signals all processes of a group at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def telling_of_killed_readers() -> Iterator[None]:
    """Say it in a line when a reading process was killed: torch raises that from a signal, amid whatever runs.

    Raises:
        WorkError: one was.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WorkError(
            f"a reading process was ended from outside ({str(error).splitlines()[0]}); where memory ran out, set "
            "data.workers or data.prefetch lower; --resume goes on from the last checkpoint"
        ) from None


def kill_left_at_exit() -> None:
    """Have reading processes killed that are left when this process ends, as after a second signal.

    They ignore the signal by which multiprocessing would end them, and it would wait for them for ever.
    """
    atexit.unregister(_kill_left)
    atexit.register(_kill_left)  # called before multiprocessing's own, which was registered earlier


def _kill_left() -> None:
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
