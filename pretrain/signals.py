"""Signals as requests: a run that is told to end saves first."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from pretrain.errors import WorkError

_ASKING = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether a signal asked the run to stop."""

    def __init__(self, ear: socket.socket | None = None) -> None:
        self.asked = False
        self._ear = ear
        """Tells of signals, also while the main thread is in no state to: Python's handlers wait until it returns."""

    def listen(self) -> bool:
        """Whether a signal came, asked from any thread."""
        with suppress(OSError):  # nothing to be heard, or closed
            if self._ear is not None and not {*_ASKING}.isdisjoint(self._ear.recv(1 << 16)):
                self.asked = True
        return self.asked


class WaitGivenUp(Exception):
    """What a run waited for it needs no more, since it was asked to stop."""


_current: Stop | None = None
"""Of the run of this process."""


def heed_stop() -> None:
    """End a wait for files of a run that was asked to stop.

    Raises:
        WaitGivenUp: it was.
    """
    if _current is not None and _current.asked:
        raise WaitGivenUp


def was_asked() -> bool:
    """Whether the run of this process was asked to stop; for threads beside a main thread that is held up."""
    return _current is not None and _current.listen()


def pass_on_stop() -> None:
    """Another process of this run was asked to stop."""
    if _current is not None:
        _current.asked = True


@contextmanager
def asked_to_stop() -> Iterator[Stop]:
    """Turn SIGTERM and the first SIGINT into a request to save and stop; a second SIGINT stops at once."""
    global _current
    ear, mouth = socket.socketpair()
    ear.setblocking(False)
    mouth.setblocking(False)
    stop = Stop(ear)

    def ask(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in _ASKING}
    heard_before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    _current = stop
    try:
        yield stop
    finally:
        _current = None
        signal.set_wakeup_fd(heard_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        ear.close()
        mouth.close()


def ignore_in_worker() -> None:
    """Leave the decision to the main process: a scheduler or a terminal signals all processes of a group at once."""
    for number in _ASKING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def telling_of_killed_readers() -> Iterator[None]:
    """Say it in a line when a reading process failed or was killed: torch raises the latter amid whatever runs.

    A batch that is just being handed over ends then before torch knows of its reader's end.

    Raises:
        WorkError: one was.
    """
    try:
        yield
    except (RuntimeError, EOFError, ConnectionError) as error:
        lines = str(error).splitlines() or ["amid a batch"]
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        own = lines[0].startswith("Caught")  # torch's, with a worker's own error at its end
        what = f"failed ({lines[-1]})" if own else f"was ended from outside ({lines[0]})"
        raise WorkError(
            f"a reading process {what}; where memory ran out, set "
            "data.workers or data.prefetch lower; --resume goes on from the last checkpoint"
        ) from None


def kill_left_at_exit() -> None:
    """Have reading processes killed that are left when this process ends, as after a second signal.

    They ignore the signal by which multiprocessing would end them, and it would wait for them for ever.
    """
    atexit.unregister(_kill_left)
    atexit.register(_kill_left)  # called before multiprocessing's own, which was registered earlier


def _kill_left() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise amid what else ends
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
