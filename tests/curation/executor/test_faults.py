"""A run never waits for ever: workers, nurseries and schedulers that die or stop at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import faults
import pytest
from test_cluster import cluster, command, tree  # noqa: F401 (a fixture)
from test_executor import Words, double, spell

from curation.base.errors import InputError, WorkError
from curation.cli import main
from curation.executor.executor import Executor
from curation.executor.workers import Patience

SOON = Patience(start=60.0, silence=15.0, elsewhere=12.0, rounds=5)


def slow(part: Words) -> int:
    time.sleep(0.15)
    return spell(part)


def naps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def words(folder: Path, count: int) -> list[Words]:
    return [Words((f"a{number}", f"b{number}"), folder / f"{number:03d}") for number in range(count)]


def spelled(parts: list[Words]) -> list[str]:
    """What each part's file must hold: every word, none given up."""
    return ["\n".join(part.words) + "\n" for part in parts]


def test_kills_and_a_stop_cost_nothing(tmp_path: Path) -> None:
    parts = words(tmp_path, 40)
    strikes = {
        4: lambda: faults.send(signal.SIGKILL, faults.forked()),
        12: lambda: faults.send(signal.SIGSTOP, faults.forked()[:1]),
        20: lambda: faults.send(signal.SIGKILL, faults.nurseries() + faults.forked()),
    }
    with Executor(2, None, tmp_path / "workers", patience=SOON) as executor:
        for number, _ in enumerate(executor.map_parts(slow, parts)):
            if strike := strikes.get(number):
                assert strike() > 0
    assert [part.out.read_text() for part in parts] == spelled(parts)


def test_workers_that_end_again_and_again_end_the_run(tmp_path: Path) -> None:
    patience = Patience(start=60.0, silence=30.0, rounds=2)
    with (
        Executor(1, None, tmp_path, patience=patience) as executor,
        faults.again_and_again(signal.SIGKILL, 0.02),
        pytest.raises(WorkError, match=r"3 workers ended in a row.*signal 9.*same command goes on"),
    ):
        list(executor.map_parts(naps, [600.0]))


def test_all_processes_end_with_the_executor_stopped_ones_too(tmp_path: Path) -> None:
    with Executor(2, None, tmp_path) as executor:
        list(executor.map_parts(double, range(4)))
        processes = faults.nurseries() + faults.forked()
        assert len(processes) == 3
        assert faults.nurseries()[0].num_threads() == 1  # or no fork would be safe
        faults.send(signal.SIGSTOP, processes)
    assert faults.gone(processes)


@pytest.mark.soak
def test_a_scheduler_that_is_paused_ends_the_run_with_what_to_look_at(tmp_path: Path) -> None:
    with cluster(tmp_path) as (address, running):
        with (
            pytest.raises(WorkError, match=f"{address}: the scheduler has not answered for .* stopped.*goes on"),
            Executor(None, address, tmp_path, patience=SOON) as executor,
        ):
            assert dict(executor.map_parts(abs, [-4, 5])) == {-4: 4, 5: 5}  # what those workers can import
            running["scheduler"].send_signal(signal.SIGSTOP)
            list(executor.map_parts(abs, range(20)))
        with pytest.raises(InputError, match="no Dask scheduler answers"), Executor(None, address, tmp_path):
            pass


def test_a_scheduler_without_workers_ends_the_run_with_what_to_look_at(tmp_path: Path) -> None:
    with cluster(tmp_path) as (address, running):
        for name in ("worker", "another"):
            running[name].kill()
        with (
            pytest.raises(WorkError, match=f"{address}: none of its .* workers has answered.*dask worker.*goes on"),
            Executor(None, address, tmp_path, patience=SOON) as executor,
        ):
            list(executor.map_parts(abs, range(20)))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(20))
def test_soak_faults_at_random_moments_on_a_loaded_machine(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    parts = words(tmp_path, 60)
    struck = 0
    with faults.busy(2 * (os.cpu_count() or 1)), Executor(3, None, tmp_path / "workers", patience=SOON) as executor:
        at = rng.sample(range(60), 3)
        for number, _ in enumerate(executor.map_parts(slow, parts)):
            if number in at:
                time.sleep(rng.random())
                struck += faults.strike(rng)
    assert struck > 0
    assert [part.out.read_text() for part in parts] == spelled(parts)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_soak_a_command_whose_processes_are_killed_twenty_times(tree: Path) -> None:  # noqa: F811
    """It ends well, or, where no worker lives long enough to finish a part, with the line to type; which then works."""
    rng = random.Random(0)
    assert main(command(tree, "whole", "--workers", "2")) == 0
    struck = number = 0
    with faults.busy(2 * (os.cpu_count() or 1)):
        while struck < 20:
            started = [sys.executable, "-m", "curation", *command(tree, f"out{number}", "--workers", "2")]
            run = subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            while run.poll() is None and struck < 20:
                time.sleep(rng.uniform(0.2, 3.0))
                if run.poll() is None:
                    struck += bool(faults.send(signal.SIGKILL, faults.forked(run.pid) + faults.nurseries(run.pid)))
            _, said = run.communicate(timeout=1800)
            if run.returncode:
                assert "ended in a row and no part was done" in said and "the same command goes on from here" in said
                assert "Traceback" not in said
                subprocess.run(started, check=True, capture_output=True, timeout=1800)
            made = tree / f"out{number}/catalogue.parquet"
            assert made.read_bytes() == (tree / "whole/catalogue.parquet").read_bytes()
            number += 1
