"""Processes of a run, seen from outside, and what can be done to them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


def nurseries(pid: int | None = None) -> list[psutil.Process]:
    """The processes that a command (this process: None) forks its workers from."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):
            if "curation.executor.nursery" in child.cmdline():
                found.append(child)
    return found


def forked(pid: int | None = None) -> list[psutil.Process]:
    """Workers and throw-away processes of a command."""
    found: list[psutil.Process] = []
    for nursery in nurseries(pid):
        with contextlib.suppress(psutil.Error):
            found += nursery.children()
    return found


def send(number: int, processes: list[psutil.Process]) -> int:
    """Signal processes; how many there were to get it."""
    sent = 0
    for process in processes:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            os.kill(process.pid, number)
            sent += 1
    return sent


def strike(rng: random.Random, pid: int | None = None) -> int:
    """Kill or stop some or all of a command's processes; 0 where there was none."""
    workers = forked(pid)
    kind = rng.choice(("all", "all", "one", "stop", "nursery", "stop nursery"))
    if kind == "all":
        return send(signal.SIGKILL, workers + nurseries(pid))
    if "nursery" in kind:
        return send(signal.SIGSTOP if "stop" in kind else signal.SIGKILL, nurseries(pid))
    return send(signal.SIGSTOP if kind == "stop" else signal.SIGKILL, rng.sample(workers, min(1, len(workers))))


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other work on the machine."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@contextmanager
def again_and_again(number: int, every: float) -> Iterator[None]:
    """Signal every worker of this process as soon as it is seen."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every):
            send(number, forked())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def gone(processes: list[psutil.Process], seconds: float = 30.0) -> bool:
    """Whether processes have ended, within some time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
            return True
        time.sleep(0.05)
    return False
