"""Map a function over parts, on processes of this machine or on a running cluster (:mod:`curation.executor.cluster`).

A part is one task and one file, never one image. A bounded window of tasks is in flight. A part whose process dies or
hangs is run again in throw-away processes, halved until the image at fault is alone and gives its reason; a part is
never lost whole. Nothing is waited for without a limit: local workers that do not answer are replaced, and a scheduler
that does not answer ends the run.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from curation.base import watchdog
from curation.base.errors import RscorpusError, WorkError
from curation.executor import cluster
from curation.executor.isolate import answer, isolate, told_apart
from curation.executor.nursery import Line, Nursery
from curation.executor.workers import AGAIN, Patience, Workers

P = TypeVar("P")
R = TypeVar("R")

IN_FLIGHT = 3
"""Tasks sent ahead, per worker."""
POLL_S = 0.2
"""How often is looked after workers: one that eats memory must be found before it has eaten all."""
GATHER_S = 30.0
"""For the result of a finished part, some hundred bytes, to come from its worker."""

_AGAIN: Any = object()
"""Result of a part whose result was lost with its worker."""


class Executor:
    """Workers: processes of one thread each on this machine, or those of a running scheduler.

    Args:
        workers: number of local processes; null: one per core this process may use.
        scheduler: address of a running Dask scheduler instead; its workers must see the same files.
        folder: where local workers keep their scratch files.
        report: write Dask's performance report (HTML) there. Only then are the workers profiled, which costs each of
            them a second thread.
        patience: how long is waited for workers.
        dashboard: host and port of the dashboard; by default a free port that only this machine reaches.

    Raises:
        InputError: the scheduler does not answer, or the dashboard's port cannot be had.
    """

    def __init__(
        self,
        workers: int | None,
        scheduler: str | None,
        folder: Path,
        report: Path | None = None,
        patience: Patience | None = None,
        dashboard: tuple[str, int] | None = None,
    ) -> None:
        self._count = workers or len(os.sched_getaffinity(0))
        self._scheduler = scheduler
        self._folder = folder.absolute()
        self._report = report
        self._patience = patience or Patience()
        self._dashboard = dashboard
        self._stack = ExitStack()
        self._client: Any = None
        self._performance: Any = None
        self._nursery: Nursery | None = None
        self._local: Workers | None = None
        self._elsewhere: cluster.Elsewhere | None = None
        self._looked = 0.0

    def __enter__(self) -> Executor:
        with ExitStack() as stack:  # closed here, unless all goes well
            stack.callback(self._end_processes)
            if self._scheduler is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._forking()  # it imports while the scheduler starts
            import dask
            from distributed import performance_report

            cluster.quiet()
            profile = self._report is not None
            stack.enter_context(dask.config.set(cluster.settings(profile)))
            if self._scheduler is None:
                self._client, address = cluster.scheduler_here(stack, self._dashboard)
                start = cluster.worker(self._forking(), address, self._folder, profile)
                memory = int(_memory() / self._count)
                self._local = Workers(self._forking(), self._count, memory, start, self._patience)
            else:
                self._client = cluster.scheduler_elsewhere(stack, self._scheduler)
                self._elsewhere = cluster.Elsewhere(self._client, self._scheduler, self._patience.elsewhere)
            if self._report is not None:
                self._performance = performance_report(filename=str(self._report))
                self._performance.__enter__()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._performance is not None and kind is None:
            self._performance.__exit__(None, None, None)
        self._end_processes()  # first: with them ends what the scheduler would wait for
        self._stack.close()
        self._client = self._local = self._elsewhere = None

    def _end_processes(self) -> None:
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None
            shutil.rmtree(self._folder / "dask-scratch-space", ignore_errors=True)

    def _forking(self) -> Nursery:
        """The nursery, started when it is first needed."""
        if self._nursery is None:
            self._nursery = Nursery()
        return self._nursery

    @property
    def dashboard(self) -> str | None:
        """Address of the dashboard."""
        if self._client is None:
            return None
        link = str(self._client.dashboard_link)
        return link if self._dashboard is None else cluster.link_to(link, self._dashboard[0])

    def map_parts(self, fn: Callable[[P], R], parts: Sequence[P]) -> Iterator[tuple[P, R]]:
        """Run ``fn`` over parts, yielding each part with its result as they come.

        Args:
            fn: picklable; makes one part's file and is safe to run twice.
            parts: picklable; a part that is :class:`curation.executor.isolate.Divisible` survives the death of its
                process.

        Raises:
            WorkError: a part that is not divisible brought its process down, workers end again and again, or the
                scheduler or its workers are gone or silent.
        """
        flying: dict[Any, P] = {}
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        waiting, lost = iter(parts), 0
        try:
            while True:
                while len(flying) < self._ahead() and (part := next(waiting, _AGAIN)) is not _AGAIN:
                    self._send(fn, part, flying, done)
                if not flying:
                    return
                future = self._next(done)
                part = flying.pop(future)
                result = self._result(fn, part, future)
                future.release()
                if result is not _AGAIN:
                    lost = 0
                    self._worked()
                    yield part, result
                    continue
                lost += 1
                if lost > self._patience.rounds * self._ahead():
                    raise WorkError(f"{lost:,} results did not arrive from their workers; {AGAIN}")
                self._send(fn, part, flying, done)
        finally:
            for future in flying:
                future.release()

    def _send(self, fn: Callable[[P], R], part: P, flying: dict[Any, P], done: queue.SimpleQueue[Any]) -> None:
        with cluster.scheduler_answers():
            future = self._client.submit(_work, fn, part, pure=False, retries=cluster.RETRIES)
        flying[future] = part
        future.add_done_callback(done.put)

    def _worked(self) -> None:
        if self._local is not None:
            self._local.worked()

    def _ahead(self) -> int:
        return IN_FLIGHT * max(self._elsewhere.workers if self._elsewhere is not None else self._count, 1)

    def _next(self, done: queue.SimpleQueue[Any]) -> Any:
        """The next future that is done; looks after the workers while there is none."""
        while True:
            self._look()
            with contextlib.suppress(queue.Empty):
                return done.get(timeout=POLL_S)

    def _look(self) -> None:
        if time.monotonic() - self._looked < POLL_S:
            return
        self._looked = time.monotonic()
        if self._local is not None:
            self._local.tend()
        if self._elsewhere is not None:
            self._elsewhere.look()

    def _result(self, fn: Callable[[P], R], part: P, future: Any) -> Any:
        """Result of a future that is done; ``_AGAIN`` where it was lost with its worker and must be made again."""
        from distributed import KilledWorker

        try:
            with cluster.scheduler_answers():
                return future.result(timeout=GATHER_S)
        except TimeoutError:
            if future.status == "error":  # the part's own
                raise
            return _AGAIN
        except KilledWorker:
            pass
        except (RscorpusError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 (what one image brings about must not end the run)
            told_apart(part, None, error)
        return isolate(fn, part, partial(self._alone, fn))

    def _alone(self, fn: Callable[[Any], Any], part: Any) -> tuple[Any, str | None]:
        """Result of ``fn(part)`` in a process of its own, or what became of the process."""
        child = self._forking().fork(_answer, fn, part)
        limit, all_memory = self._patience, _memory()
        try:
            while not child.ended and not child.done:
                child.listen(POLL_S)
                self._look()
                silent = time.monotonic() - child.heard
                if silent > (limit.silence if child.pid is not None else limit.start):
                    if child.pid is None:
                        self._forking().replace()
                    return None, f"process silent for {silent:.0f} s"
                if child.resident > all_memory:
                    return None, f"took more than {all_memory / 1e9:.1f} GB of memory"
            if not child.done:
                return None, child.became()
            return told_apart(part, *child.result)
        finally:
            child.end()


@contextlib.contextmanager
def on_processes(workers: int | None) -> Iterator[Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]]:
    """``map_parts`` of an executor with its scratch files in a temporary folder; of one worker, in this process.

    Args:
        workers: number of processes; null: one per core this process may use.
    """
    if (workers or len(os.sched_getaffinity(0))) == 1:
        yield lambda work, parts: ((part, work(part)) for part in parts)
        return
    with tempfile.TemporaryDirectory() as folder, Executor(workers, None, Path(folder)) as executor:
        yield executor.map_parts


def _memory() -> float:
    """Bytes that all workers together may hold."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(limit.read_text()))
    return total * 0.8


# ------------------------------------------------------------------------------------------------ in the processes


def _work(fn: Callable[[P], R], part: P) -> R:
    """What a worker runs: the function, with images that hang ending the process."""
    watchdog.arm()
    return fn(part)


def _answer(line: Line, fn: Callable[[Any], Any], part: Any) -> tuple[Any, Exception | None]:
    line.beat_from_a_thread()
    return answer(partial(_work, fn), part)
