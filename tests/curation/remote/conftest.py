"""A server on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from range_server import RangeServer, range_server


@pytest.fixture
def server() -> Iterator[RangeServer]:
    """A server that gives ranges."""
    with range_server() as told:
        yield told


@pytest.fixture(scope="session")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One worker for all runs."""
    from distributed import LocalCluster

    folder, before = str(tmp_path_factory.mktemp("workers")), dict(os.environ)
    try:
        with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, local_directory=folder) as cluster:
            yield cluster.scheduler_address
    finally:  # Dask leaves its thread counts behind
        os.environ.clear()
        os.environ.update(before)
