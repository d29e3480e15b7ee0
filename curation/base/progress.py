"""Progress of long work: a bar with rate and time left on a terminal, otherwise a line at once and every 30 seconds.

Cluster logs and CI get lines that can be searched; a person gets a bar. Both go to standard error, so that what a
command prints as its result can be piped. Nothing is printed but here and in ``terminal``.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

FIRST_LINE_S = 1.0
LINE_EVERY_S = 30.0


class Progress:
    """Counts units of work done.

    Args:
        description: what is being done, as the user would say it.
        total: units in all, or None when unknown.
        unit: plural name of the unit: ``images``, ``MB``, ``steps``.
        stream: where it is shown; a terminal gets a bar.
    """

    def __init__(self, description: str, total: int | None, unit: str, stream: TextIO | None = None) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.stream = stream if stream is not None else sys.stderr
        self.done = 0
        self._told_at = -1
        self._ended = threading.Event()
        self._facts: dict[str, object] = {}
        self._start = time.monotonic()
        self._bar = self._new_bar() if self.stream.isatty() else None

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.description, total=self.total, rate="", facts="")
        else:
            threading.Thread(target=self._lines, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self._told_at != self.done:
            self._line()

    def _lines(self) -> None:
        """Lines at their time even where nothing gets done: a log that falls silent looks like a run that hangs."""
        wait = FIRST_LINE_S
        while not self._ended.wait(wait):
            self._line()
            wait = LINE_EVERY_S

    def advance(self, n: int = 1, **facts: object) -> None:
        """Count ``n`` more units; ``facts`` (loss, kept, ...) are shown beside the rate."""
        self.done += n
        self._facts.update(facts)
        if self._bar is not None:
            self._bar.update(self._task, advance=n, rate=self._rate(), facts=self._told())

    def _new_bar(self) -> Bar:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"),
        )
        return Bar(*columns, console=Console(file=self.stream), refresh_per_second=4)

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        return f"{self.done / seconds:,.1f} {self.unit}/s"

    def _told(self) -> str:
        return " ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self._facts.items()
        )

    def _line(self) -> None:
        self._told_at = self.done
        elapsed = time.monotonic() - self._start
        of = f" of {self.total:,}" if self.total is not None else ""
        left = ""
        if self.total and 0 < self.done < self.total:
            left = f", {elapsed / self.done * (self.total - self.done):,.0f} s left"
        parts = [
            f"{self.description}: {self.done:,}{of} {self.unit} in {elapsed:,.0f} s, {self._rate()}{left}",
            self._told(),
        ]
        with contextlib.suppress(OSError):  # nobody reads it any more; that is no reason to stop working
            print("  ".join(part for part in parts if part), file=self.stream, flush=True)


class FileProgress:
    """Bytes of several files at once: a bar per file on a terminal, otherwise a line when one is complete.

    Args:
        stream: where it is shown.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self._bars: dict[str, TaskID] = {}
        self._told: dict[str, float] = {}
        self._bar: Bar | None = None
        if self.stream.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                DownloadColumn(),
                TransferSpeedColumn(),
            )
            self._bar = Bar(*columns, TimeRemainingColumn(), console=Console(file=self.stream), refresh_per_second=4)

    def __enter__(self) -> FileProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, name: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` bytes of a file; ``name`` says which and what is done with it."""
        if self._bar is not None:
            if name not in self._bars:
                self._bars[name] = self._bar.add_task(name, total=total)
            self._bar.update(self._bars[name], completed=done, total=total)
            return
        now = time.monotonic()
        complete = total is not None and done >= total
        if complete or now - self._told.setdefault(name, now) >= LINE_EVERY_S:
            self._told[name] = now
            of = "" if total is None else f" of {total / 1e6:,.1f}"
            print(f"{name}: {done / 1e6:,.1f}{of} MB", file=self.stream, flush=True)


class Observer(Protocol):
    """Who is told what happens: a command line prints it, a test may drop it. A protocol, hence without bodies."""

    def say(self, text: str) -> None:
        """One line about what was done or found."""

    def progress(self, description: str, total: int, unit: str) -> Progress:
        """A display for long work."""
