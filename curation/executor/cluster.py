"""Dask's side of the executor: a scheduler here with workers of ours, or a scheduler that someone else runs.

No other room imports Dask, and here functions do: a run that finds everything made never waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from curation.base.errors import InputError, WorkError
from curation.executor.nursery import BEAT_S, Child, Line, Nursery
from curation.executor.workers import AGAIN

RETRIES = 1
"""Times a part whose worker died is given to another worker before it is taken apart."""
CONNECT_S = 30.0
"""How long a scheduler is waited for at the start."""
ASK_S = 5.0
"""How often a scheduler is asked for its workers, and how long it is waited for its answer."""


def settings(profile: bool) -> dict[str, Any]:
    """Dask's configuration, of the scheduler here and of our workers."""
    return {
        "distributed.scheduler.allowed-failures": RETRIES,
        "distributed.scheduler.worker-saturation": 1.0,  # a task queued on a worker that dies would be blamed for it
        "distributed.scheduler.worker-ttl": None,  # we look after our workers, and know when we stood still ourselves
        "distributed.admin.tick.interval": "500ms",  # 20 ms would cost an idle worker a tenth of a slow core
        "distributed.admin.tick.limit": "30s",
        "distributed.admin.system-monitor.interval": "2s",
        "distributed.admin.system-monitor.disk": False,
        "distributed.worker.http.routes": [],
        "distributed.worker.profile.enabled": profile,
        "distributed.comm.timeouts.connect": "20s",
    }


def quiet() -> None:
    """Let Dask and its web server log nothing: what fails is raised, once, and a closed browser tab is no failure."""
    import distributed  # sets the levels of its loggers when it is imported

    for name in (distributed.__name__, "distributed.client", "bokeh", "tornado", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def scheduler_here(stack: ExitStack, dashboard: tuple[str, int] | None = None) -> tuple[Any, str]:
    """Client and address of a new scheduler, without workers, that ends with ``stack``.

    Args:
        stack: what ends it.
        dashboard: host and port; by default a free port that only this machine reaches.

    Raises:
        InputError: the dashboard cannot have its port.
    """
    from distributed import Client, LocalCluster

    host, port = dashboard or ("127.0.0.1", 0)
    if port:
        _check_free(host, port)
    cluster = stack.enter_context(
        LocalCluster(n_workers=0, processes=True, host="127.0.0.1", dashboard_address=f"{host}:{port}", silence_logs=50)
    )
    return stack.enter_context(Client(cluster)), cluster.scheduler_address


def _check_free(host: str, port: int) -> None:
    """Check that a port can be had; Dask would take another one instead.

    Raises:
        InputError: it cannot.
    """
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise InputError(
            f"--dashboard {host}:{port}: cannot be had ({error.strerror}); give another port, or 0 for any"
        ) from None


def link_to(link: str, host: str) -> str:
    """A link to the dashboard by the ``host`` that it was given, where Dask's has the scheduler's."""
    parts = urlsplit(link)
    name = socket.gethostname() if host == "0.0.0.0" else host
    return parts._replace(netloc=f"{name}:{parts.port}").geturl()


def worker(nursery: Nursery, address: str, folder: Path, profile: bool) -> Callable[[str], Child]:
    """What forks a worker of a name."""
    return lambda name: nursery.fork(_serve, address, name, str(folder), settings(profile))


def _serve(line: Line, address: str, name: str, folder: str, config: dict[str, Any]) -> OSError | None:
    """A worker's life; what the system refused it, such as room on the disk."""
    import dask

    try:
        with dask.config.set(config):
            asyncio.run(_serve_loop(line, address, name, folder))
    except OSError as error:
        return error
    return None


async def _serve_loop(line: Line, address: str, name: str, folder: str) -> None:
    from distributed import Worker

    worker = Worker(
        address, nthreads=1, name=name, memory_limit=0, local_directory=folder, host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    )  # fmt: skip
    async with worker:
        line.ready()
        while True:  # from the worker's loop: one that is stuck there is silent
            line.beat()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(worker.finished(), BEAT_S)
                return


def scheduler_elsewhere(stack: ExitStack, address: str) -> Any:
    """Client of a scheduler that runs already.

    Raises:
        InputError: it does not answer.
    """
    from distributed import Client

    made: Future[Any] = Future()

    def connect() -> None:
        """Hand over a client, or why there is none."""
        try:
            made.set_result(Client(address, timeout="10s"))
        except (OSError, ValueError) as error:
            made.set_exception(error)

    # The kernel accepts for a process that is stopped, and Dask then waits for its first word without a limit.
    threading.Thread(target=connect, name="connect", daemon=True).start()
    try:
        client = made.result(timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        told = str(error) or f"nothing came in {CONNECT_S:.0f} s; is it stopped?"
        raise InputError(f"--scheduler {address}: no Dask scheduler answers there ({told})") from None
    stack.callback(client.close, timeout=ASK_S)
    return client


class Elsewhere:
    """Whether a scheduler that someone else runs, and any of its workers, answers.

    Attributes:
        workers: how many there were when it was last asked.
    """

    def __init__(self, client: Any, address: str, patience: float) -> None:
        self._client, self._address, self._patience = client, address, patience
        self._asked = self._answered = self._alive = time.monotonic()
        self._newest = 0.0
        self.workers = 1

    def look(self) -> None:
        """Ask, unless that was done just now.

        Raises:
            WorkError: for too long nobody has answered.
        """
        now = time.monotonic()
        if now - self._asked < ASK_S:
            return
        if now - self._asked > self._patience / 2:  # this process was stopped, or worked elsewhere
            self._answered = self._alive = now
        workers = self._ask()
        self._asked = now = time.monotonic()
        if workers is None:
            if now - self._answered > self._patience:
                raise WorkError(
                    f"--scheduler {self._address}: the scheduler has not answered for {now - self._answered:.0f} s; "
                    f"look whether its process is stopped and its machine reachable; {AGAIN}"
                )
            return
        self._answered, self.workers = now, len(workers)
        newest = max((worker["last_seen"] for worker in workers.values()), default=0.0)
        if newest > self._newest:
            self._newest, self._alive = newest, now
        if now - self._alive > self._patience:
            raise WorkError(
                f"--scheduler {self._address}: none of its {len(workers)} workers has answered for "
                f"{now - self._alive:.0f} s; look at the logs of `dask worker`, start workers; {AGAIN}"
            )

    def _ask(self) -> dict[str, Any] | None:
        client = self._client
        full = {"n_workers": -1} if "n_workers" in inspect.signature(client.scheduler_info).parameters else {}

        async def identity() -> dict[str, Any]:
            return await client.scheduler.identity(**full)

        with contextlib.suppress(OSError, TimeoutError):
            return client.sync(identity, callback_timeout=ASK_S)["workers"]
        return None


@contextlib.contextmanager
def scheduler_answers() -> Iterator[None]:
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
