"""The one room where Dask lives: map a function over parts on local processes or on a running cluster.

A part is one task and one file, never one image. A bounded window of tasks is in flight. A part whose process dies or
hangs is run again in throw-away processes, halved until the image at fault is alone and gives its reason; a part is
never lost whole.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

from curation import watchdog
from curation.errors import InputError, OpticalrsError, WorkError

P = TypeVar("P")
R = TypeVar("R")

IN_FLIGHT = 3
"""Tasks sent ahead, per worker."""
RETRIES = 1
"""Times a part whose worker died is given to another worker before it is taken apart."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28), "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
}  # fmt: skip
"""One thread a process; and glibc keeps up to 256 MB that are freed, since getting every image's pages anew from the
kernel takes a tenth of the scan (Dask's own setting gives all back at once)."""


@contextmanager
def environment_kept() -> Iterator[None]:
    """Undo what Dask does to ``os.environ``: starting workers leaves ``OMP_NUM_THREADS=1`` and more behind."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@runtime_checkable
class Divisible(Protocol):
    """A part that can be taken apart when it brings its process down."""

    def split(self) -> Sequence[Divisible]:
        """Two smaller parts; the part itself when it is one image."""
        ...

    def without(self, what: str) -> Divisible:
        """The part with its images given up, ``what`` being what happened."""
        ...

    def join(self, pieces: Sequence[Divisible]) -> None:
        """Make this part's result from those of its pieces."""
        ...


class Executor:
    """Workers: spawned processes of one thread each on this machine, or those of a running scheduler.

    Args:
        workers: number of local processes; null: one per core this process may use.
        scheduler: address of a running Dask scheduler instead; its workers must see the same files.
        folder: where local workers keep their scratch files.
        report: write Dask's performance report (HTML) there. Only then are the workers profiled, which costs each of
            them a second thread.

    Raises:
        InputError: the scheduler does not answer.
    """

    def __init__(self, workers: int | None, scheduler: str | None, folder: Path, report: Path | None = None) -> None:
        self._workers = workers or len(os.sched_getaffinity(0))
        self._scheduler = scheduler
        self._folder = folder
        self._report = report
        self._stack = ExitStack()
        self._client: Any = None

    def __enter__(self) -> Executor:
        import dask
        from distributed import Client, performance_report

        for name in ("distributed", "distributed.client"):  # what fails is raised, once
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._stack.enter_context(environment_kept())
        self._stack.enter_context(dask.config.set(_settings(profile=self._report is not None)))
        try:
            self._client = self._stack.enter_context(
                Client(self._scheduler, timeout="10s") if self._scheduler else Client(self._cluster())
            )
        except OSError as error:
            self._stack.close()
            raise InputError(f"--scheduler {self._scheduler}: no Dask scheduler answers there ({error})") from None
        if self._report is not None:
            self._stack.enter_context(performance_report(filename=str(self._report)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._client = None
        if not self._scheduler:
            shutil.rmtree(self._folder / "dask-scratch-space", ignore_errors=True)

    def _cluster(self) -> Any:
        from distributed import LocalCluster

        self._folder.mkdir(parents=True, exist_ok=True)
        return self._stack.enter_context(
            LocalCluster(
                n_workers=self._workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=_memory_per_worker(self._workers),
                local_directory=str(self._folder),
                dashboard_address="127.0.0.1:0",
                host="127.0.0.1",
                env=ENVIRONMENT
                | {"DASK_LOGGING__DISTRIBUTED": "critical"},  # what fails is raised, once, by the caller
                silence_logs=40,
            )
        )

    @property
    def dashboard(self) -> str | None:
        """Address of the dashboard."""
        return str(self._client.dashboard_link) if self._client is not None else None

    def map_parts(self, fn: Callable[[P], R], parts: Sequence[P]) -> Iterator[tuple[P, R]]:
        """Run ``fn`` over parts, yielding each part with its result as they come.

        Args:
            fn: picklable; makes one part's file and is safe to run twice.
            parts: picklable; a part that is :class:`Divisible` survives the death of its process.

        Raises:
            WorkError: a part that is not divisible brought its process down, or the scheduler is gone.
        """
        from distributed import KilledWorker, as_completed

        waiting = iter(parts)
        flying: dict[Any, P] = {}
        pool = as_completed(loop=self._client.loop)

        def send() -> None:
            for part in waiting:
                with _scheduler_answers():
                    future = self._client.submit(_work, fn, part, pure=False, retries=RETRIES)
                flying[future] = part
                pool.add(future)
                return

        for _ in range(max(self._ahead(), 1)):
            send()
        while flying:
            future = next(pool)
            part = flying.pop(future)
            try:
                with _scheduler_answers():
                    result = future.result()
            except KilledWorker:
                result = _isolate(fn, part)
            except (OpticalrsError, OSError):
                raise
            except Exception:
                if not isinstance(part, Divisible):
                    raise
                result = _isolate(fn, part)  # what one image brings about must not end the run
            finally:
                future.release()
            send()
            yield part, result

    def _ahead(self) -> int:
        return IN_FLIGHT * max(len(self._client.scheduler_info(n_workers=-1)["workers"]), 1)


@contextmanager
def _scheduler_answers() -> Iterator[None]:
    """Say what to do when the scheduler dies; Dask has three exceptions for it."""
    from distributed.client import ClosedClientError, FutureCancelledError
    from distributed.comm import CommClosedError

    try:
        yield
    except (ClosedClientError, FutureCancelledError, CommClosedError) as error:
        raise WorkError(
            f"the Dask scheduler is gone ({type(error).__name__}); the same command, with a scheduler that runs, goes "
            "on from here"
        ) from error


def _settings(profile: bool) -> dict[str, Any]:
    return {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.scheduler.allowed-failures": RETRIES,
        "distributed.scheduler.worker-saturation": 1.0,  # a task queued on a worker that dies would be blamed for it
        "distributed.worker.memory.target": False,  # results are tiny; there is nothing to spill
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
        "distributed.admin.tick.limit": "30s",
        "distributed.worker.profile.enabled": profile,
        "distributed.comm.timeouts.connect": "20s",
    }


def _memory_per_worker(workers: int) -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(limit.read_text()))
    return int(total * 0.8) // workers


# ------------------------------------------------------------------------------------------------ taking apart


def _isolate(fn: Callable[[Any], R], part: Any) -> R:
    """Run a part that killed workers: in a process of its own, halved until one image is alone.

    Raises:
        WorkError: the part cannot be taken apart.
    """
    result, what = _alone(fn, part)
    if what is None:
        return result
    if not isinstance(part, Divisible):
        raise WorkError(f"{part}: brought its process down ({what})")
    pieces = part.split()
    if len(pieces) < 2:
        result, again = _alone(fn, part.without(what))
        if again is not None:
            raise WorkError(f"{part}: brought its process down without being opened ({again})")
        return result
    for piece in pieces:
        _isolate(fn, piece)
    part.join(pieces)
    return fn(part)


def _alone(fn: Callable[[Any], Any], part: Any) -> tuple[Any, str | None]:
    """Result of ``fn(part)`` in a process of its own, or what became of the process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(fn, part, send), daemon=True)
    process.start()
    send.close()
    try:
        answer = receive.recv()
    except EOFError:
        answer = None
    process.join()
    if answer is None:
        return None, _end(process.exitcode)
    result, error = answer
    if error is not None and (isinstance(error, OpticalrsError | OSError) or not isinstance(part, Divisible)):
        raise error
    return result, None if error is None else f"{type(error).__name__}: {error}"


def _answer(fn: Callable[[Any], Any], part: Any, send: Any) -> None:
    os.environ |= ENVIRONMENT
    try:
        answer: Any = (_work(fn, part), None)
    except Exception as error:  # noqa: BLE001 (handed to the parent, which raises it)
        answer = (None, error)
    send.send(answer)


def _work(fn: Callable[[P], R], part: P) -> R:
    """What a worker runs: the function, with images that hang ending the process."""
    watchdog.arm()
    return fn(part)


def _end(code: int | None) -> str:
    if code == -signal.SIGALRM:
        return "took longer than its deadline"
    return f"process killed by signal {-code}" if code is not None and code < 0 else f"process ended with code {code}"
