"""A scheduler and workers that a user started, and what the death of one of them costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from textures import texture

from curation.cli import main

SOURCES = 10


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Ten sources, so that the scan has ten parts."""
    for source in range(SOURCES):
        folder = tmp_path / "data" / f"s{source}"
        folder.mkdir(parents=True)
        for number in range(6):
            texture(10 * source + number, 400).save(folder / f"{number}.png")
    sources = ", ".join(f"{{id: s{source}, path: s{source}}}" for source in range(SOURCES))
    (tmp_path / "recipe.yaml").write_text(f"name: mine\nsources: [{sources}]\nslice: {{mode: grid, tile: 128}}\n")
    return tmp_path


def command(tree: Path, out: str, *more: str) -> list[str]:
    return ["run", str(tree / "recipe.yaml"), "--data", str(tree / "data"), "--out", str(tree / out), *more]


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, dict[str, subprocess.Popen[bytes]]]]:
    """Address, and the processes: a scheduler and two workers, as ``dask scheduler`` and ``dask worker`` start them."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)

    def dask(*words: str) -> subprocess.Popen[bytes]:
        given = [sys.executable, "-m", "dask", *words, "--scheduler-file", str(file), "--no-dashboard"]
        process = subprocess.Popen(given, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        return process

    with ExitStack() as stack:
        running = {"scheduler": dask("scheduler", "--host", "127.0.0.1", "--port", "0")}
        deadline = time.monotonic() + 30
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        options = ("--nthreads", "1", "--no-nanny", "--death-timeout", "20", "--local-directory", str(folder))
        running |= {name: dask("worker", *options) for name in ("worker", "another")}
        yield json.loads(file.read_text())["address"], running


@pytest.mark.parametrize("victim", ["scheduler", "worker"])
def test_kill_9_on_a_cluster_and_the_same_command_again(tree: Path, victim: str) -> None:
    assert main(command(tree, "whole", "--workers", "1")) == 0
    with cluster(tree) as (address, running):
        started = [sys.executable, "-m", "curation", *command(tree, "out", "--scheduler", address)]
        run = subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + 60
        while len(list((tree / "out/.stages").glob("scan*/*.parquet"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        running[victim].kill()
        said, _ = run.communicate(timeout=60)
    scanned = list((tree / "out/.stages").glob("scan*/*.parquet"))
    if victim == "scheduler":
        assert run.returncode == 1 and len(scanned) < SOURCES
        assert said.strip().splitlines()[-1].startswith("rs-curate: the Dask scheduler is gone")
        assert "Traceback" not in said
        with cluster(tree) as (address, _):
            assert main(command(tree, "out", "--scheduler", address)) == 0
    assert victim == "scheduler" or run.returncode == 0
    assert (tree / "out/catalogue.parquet").read_bytes() == (tree / "whole/catalogue.parquet").read_bytes()
    for path in sorted((tree / "whole/shards").iterdir()):
        assert (tree / "out/shards" / path.name).read_bytes() == path.read_bytes()
