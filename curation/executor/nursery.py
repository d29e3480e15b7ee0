"""Processes that are ready in hundredths of a second, and of which none outlives this one.

A worker imports numba, GDAL and pyarrow, which takes seconds and some hundred megabytes. So one process, the nursery,
imports them, runs no thread, and is forked for every worker and for every throw-away process. It is started anew, not
forked from this process, whose threads (Dask's) no fork survives.

A :class:`Child` is heard or it is not: it says every second that it lives. Nothing here waits for a child or for the
nursery, so none of them can hang the run, stopped (SIGSTOP), swapped out or dead. They form a session of their own:
Ctrl-C in a terminal reaches only the command, which ends them all at once.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28), "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
    "DASK_LOGGING__DISTRIBUTED": "critical", "JE_ARROW_MALLOC_CONF": "background_thread:false",
}  # fmt: skip
"""One thread a process; glibc keeps up to 256 MB that are freed, since getting every image's pages anew from the
kernel takes a tenth of the scan (Dask's own setting gives all back at once); what fails is raised, once, by this
process; an allocator that pyarrow brings along, and that we do not use, starts no thread."""

PRELOAD = ("distributed", "curation.scan.scan", "curation.shards.write")

BEAT_S = 1.0
"""A child says as often that it lives."""

EXIT_S = 5.0
"""The nursery, if it lives and is not stopped, reports an exit code much sooner, on a loaded machine too."""

_BEAT, _READY, _DONE = b"b", b"r", b"d"


class Child:
    """One process that was forked for one function, seen from here.

    Attributes:
        pid: None until the process has said it.
        heard: when it was last heard, by the monotonic clock; its start before that.
        ready: it has said that what it prepares is done.
        done: the function has returned.
        ended: the process is gone.
    """

    def __init__(self, line: socket.socket, memory: int, exit_code: Callable[[float], int | None]) -> None:
        self._line, self._memory, self._exit_code = line, memory, exit_code
        self.pid: int | None = None
        self.heard = time.monotonic()
        self.ready = self.ended = False
        self.done = False

    def listen(self, seconds: float = 0.0) -> None:
        """Take what the process has said, waiting at most ``seconds`` for its next word."""
        if self.ended or not _readable(self._line, seconds):
            return
        try:
            said = self._line.recv(1 << 16)
        except ConnectionError:
            said = b""
        self.ended = not said
        self.heard = time.monotonic()
        if said and self.pid is None:
            self.pid, said = int.from_bytes(said[:4], "little"), said[4:]
        self.ready |= _READY in said
        self.done |= _DONE in said

    @property
    def result(self) -> Any:
        """What the function returned; None before."""
        if not self.done:
            return None
        os.lseek(self._memory, 0, os.SEEK_SET)
        with open(self._memory, "rb", closefd=False) as file:
            return cloudpickle.load(file)

    @property
    def resident(self) -> int:
        """Bytes of memory that the process holds."""
        with contextlib.suppress(OSError, IndexError):
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return 0

    def end(self) -> None:
        """End the process now, whatever it does."""
        if self.pid is not None and not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Forget the process; one that still runs ends when it finds that nobody listens."""
        self.ended = True
        if self._memory >= 0:
            os.close(self._memory)
            self._line.close()
            self._memory = -1

    def became(self) -> str:
        """What became of a process that has ended."""
        code = self._exit_code(EXIT_S)
        if code == -signal.SIGALRM:
            return "took longer than its deadline"
        if code is None:
            return "process ended"
        return f"process killed by signal {-code}" if code < 0 else f"process ended with code {code}"


class Nursery:
    """The process that is forked; a new one takes over when it is gone, and children of the old one live on.

    Args:
        preload: modules that it imports.
    """

    def __init__(self, preload: Sequence[str] = PRELOAD) -> None:
        self._preload = ",".join(preload)
        self._codes: dict[int, int] = {}
        self._forked = self._before = 0
        self._groups: list[int] = []
        self._start()

    def _start(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.setblocking(False)
        self._before = self._forked  # of those another nursery knows
        path = os.pathsep.join(
            str(Path(folder).absolute()) for folder in sys.path
        )  # functions are found as they are here
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "curation.executor.nursery", str(theirs.fileno()), self._preload],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
                env=os.environ | ENVIRONMENT | {"PYTHONPATH": path},
            )  # fmt: skip
        self._groups.append(self._process.pid)

    def replace(self) -> None:
        """Start a new nursery; for one that is dead, or forks no more."""
        self._process.kill()
        self._process.wait()
        self._line.close()
        self._start()

    def fork(self, fn: Callable[..., Any], *arguments: Any) -> Child:
        """Have ``fn(line, *arguments)`` run in a process of its own; does not wait for it.

        Args:
            fn: gets the :class:`Line` to this process first. What it returns is the child's result.
            arguments: picklable.
        """
        if self._process.poll() is not None:
            self.replace()
        ours, theirs = socket.socketpair()
        memory = os.memfd_create("arguments")
        with open(memory, "wb", closefd=False) as file:
            cloudpickle.dump((fn, arguments), file)
        while self._take_code(0.0):  # a nursery whose reports nobody takes would wait for room before it forks
            pass
        self._forked += 1
        with theirs, contextlib.suppress(OSError):  # a nursery that is gone is found by the silence of its children
            socket.send_fds(self._line, [str(self._forked).encode()], [theirs.fileno(), memory])
        return Child(ours, memory, partial(self._exit_code, self._forked))

    def _exit_code(self, number: int, seconds: float) -> int | None:
        """Exit code of the child that was forked as the ``number``-th, negative for a signal; None where nobody says.

        A child may end before it has said its process's number, so they are counted here.
        """
        until = time.monotonic() + (seconds if number > self._before else 0.0)
        while number not in self._codes and self._take_code(max(until - time.monotonic(), 0.0)):
            pass
        return self._codes.pop(number, None)

    def _take_code(self, seconds: float) -> bool:
        """Take one report of the nursery; says if there was one."""
        if not _readable(self._line, seconds):
            return False
        try:
            said = self._line.recv(1 << 12)
        except OSError:
            said = b""
        if said:
            number, code = json.loads(said)
            self._codes[number] = code
        return bool(said)

    def close(self) -> None:
        """End the nursery and every process that was forked from it, stopped ones too."""
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self._process.wait()
        self._line.close()


def _readable(line: socket.socket, seconds: float) -> bool:
    poll = select.poll()  # select() knows 1,024 descriptors
    poll.register(line, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


# ------------------------------------------------------------------------------------------------ in the nursery


class Line:
    """What a child says to the process that started it."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def beat(self) -> None:
        """Say that this process lives."""
        self._say(_BEAT)

    def ready(self) -> None:
        """Say that what was to be prepared is done."""
        self._say(_READY)

    def beat_from_a_thread(self) -> None:
        """Beat for as long as the interpreter runs; for a function that has no loop to do it from."""

        def run() -> None:
            """Beat until the process ends."""
            while True:
                self.beat()
                time.sleep(BEAT_S)

        threading.Thread(target=run, daemon=True).start()

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # full of beats that nobody has taken yet, or nobody listens any more
            self._line.send(word, socket.MSG_DONTWAIT)


def main() -> None:
    """Import what workers need, then fork at every request until the other end of the line is closed."""
    line = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in filter(None, sys.argv[2].split(",")):
        importlib.import_module(name)
    if len(os.listdir("/proc/self/task")) > 1:  # a library started a thread, and no fork survives that
        os.execv(sys.executable, [*sys.orig_argv[:-1], ""])
    gc.freeze()  # a collection in a child would copy all that is shared
    _serve(line)
    os.killpg(0, signal.SIGKILL)  # children that are stopped could not notice


def _serve(line: socket.socket) -> None:
    told, bell = socket.socketpair()
    bell.setblocking(False)
    signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    numbers: dict[int, int] = {}
    while True:
        ready = select.select([line, told], [], [])[0]
        if told in ready:
            told.recv(1 << 12)
            _bury(line, numbers)
        if line in ready:
            words, descriptors, _, _ = socket.recv_fds(line, 16, 2)
            if not words:
                return
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for mine in (line, told, bell):
                    mine.close()
                _live(socket.socket(fileno=descriptors[0]), descriptors[1])
            numbers[pid] = int(words)  # its end is read above, after this
            for descriptor in descriptors:
                os.close(descriptor)


def _bury(line: socket.socket, numbers: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with contextlib.suppress(OSError):
                line.send(json.dumps([numbers.pop(pid), os.waitstatus_to_exitcode(status)]).encode())


def _live(own: socket.socket, memory: int) -> None:
    """A child's life; does not return."""
    own.send(os.getpid().to_bytes(4, "little"))
    code = 1
    try:
        threading.Thread(target=_end_with, args=(own,), daemon=True).start()
        with open(memory, "r+b", buffering=0) as file:
            file.seek(0)
            fn, arguments = cloudpickle.load(file)
            result = fn(Line(own), *arguments)
            file.seek(0)
            file.truncate()
            cloudpickle.dump(result, file)
        own.send(_DONE)
        code = 0
    finally:
        os._exit(code)  # without a traceback: what is to be told is a result


def _end_with(own: socket.socket) -> None:
    """End this process when the one that started it is gone."""
    with contextlib.suppress(OSError):
        own.recv(1)
    os._exit(1)


if __name__ == "__main__":
    main()
