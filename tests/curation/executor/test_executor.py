"""Parts on real worker processes: order, death, hanging, memory, and restarts."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from curation.base import watchdog
from curation.base.errors import InputError, WorkError
from curation.executor.cluster import link_to
from curation.executor.executor import Executor
from curation.executor.isolate import Divisible
from curation.executor.nursery import Line, Nursery


@dataclass(frozen=True)
class Words:
    """A divisible part that writes words to a file; some words are deadly."""

    words: tuple[str, ...]
    out: Path
    lost: dict[str, str] = field(default_factory=dict)

    def split(self) -> list[Words]:
        if len(self.words) < 2:
            return [self]
        middle = len(self.words) // 2
        halves = (self.words[:middle], self.words[middle:])
        return [
            replace(self, words=half, out=self.out.with_suffix(f"{self.out.suffix}.{at}"))
            for at, half in enumerate(halves)
        ]

    def without(self, what: str) -> Words:
        return replace(self, lost=dict.fromkeys(self.words, what))

    def join(self, pieces: list[Words]) -> None:  # type: ignore[override]
        self.out.write_text("".join(piece.out.read_text() for piece in pieces))


def spell(part: Words) -> int:
    if part.out.exists():
        return len(part.words)
    lines = []
    for word in part.words:
        if word in part.lost:
            word = f"{word}: {part.lost[word]}"
        elif word == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "hangs":
            with watchdog.deadline(0.2):
                time.sleep(60)
        elif word == "raises":
            raise ArithmeticError("an unforeseen fault")
        lines.append(word + "\n")
    part.out.write_text("".join(lines))
    return len(part.words)


def double(number: int) -> int:
    return 2 * number


def dies(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def killed(line: Line) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuses(number: int) -> int:
    raise InputError("sources.0.path: no such folder")


def process(number: int) -> int:
    return os.getpid()


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    with Executor(2, None, tmp_path_factory.mktemp("workers")) as running:
        yield running


def test_every_part_comes_back_once_with_its_result(executor: Executor) -> None:
    pairs = list(executor.map_parts(double, range(40)))
    assert sorted(pairs) == [(number, 2 * number) for number in range(40)]
    assert list(executor.map_parts(double, [])) == []


def test_work_is_spread_over_processes_of_their_own(executor: Executor) -> None:
    pids = {pid for _, pid in executor.map_parts(process, range(20))}
    assert len(pids) == 2 and os.getpid() not in pids
    assert executor.dashboard is not None and executor.dashboard.startswith("http://127.0.0.1")


@pytest.mark.parametrize(
    ("word", "what"),
    [("killed", "process killed by signal 9"), ("hangs", "took longer than its deadline"),
     ("raises", "ArithmeticError: an unforeseen fault")],
)  # fmt: skip
def test_a_part_is_taken_apart_down_to_the_word_at_fault(
    executor: Executor, tmp_path: Path, word: str, what: str
) -> None:
    parts = [Words(("a", "b", word, "c"), tmp_path / "one"), Words(("d", "e"), tmp_path / "two")]
    assert all(isinstance(part, Divisible) for part in parts)
    results = dict((part.out.name, result) for part, result in executor.map_parts(spell, parts))
    assert results == {"one": 4, "two": 2}
    assert (tmp_path / "one").read_text() == f"a\nb\n{word}: {what}\nc\n"
    assert (tmp_path / "two").read_text() == "d\ne\n"


def test_a_part_that_cannot_be_taken_apart_stops_the_run(executor: Executor) -> None:
    with pytest.raises(WorkError, match="brought its process down"):
        list(executor.map_parts(dies, [1]))
    assert list(executor.map_parts(double, [3])) == [(3, 6)]  # the workers are there again


def test_what_the_user_can_mend_is_passed_on(executor: Executor) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list(executor.map_parts(refuses, [1]))


def test_a_worker_killed_from_outside_costs_nothing(executor: Executor, tmp_path: Path) -> None:
    parts = [Words((f"word{number}",), tmp_path / str(number)) for number in range(60)]
    victims = {pid for _, pid in executor.map_parts(process, range(8))}
    for number, _ in enumerate(executor.map_parts(spell, parts)):
        if number == 5:
            os.kill(victims.pop(), signal.SIGKILL)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(str(number) for number in range(60))


def test_ends_that_nobody_asks_about_hold_no_start_up() -> None:
    """More of them than a socket has room for; and a process that ended before it said its number is told of, too."""
    nursery = Nursery(preload=())
    try:
        for _ in range(400):
            child = nursery.fork(repr)  # which every process knows
            while not child.ended:
                child.listen(5.0)
            child.close()
        child = nursery.fork(killed)
        child.pid = None
        assert child.became() == "process killed by signal 9"
    finally:
        nursery.close()


def test_one_worker_starts_quickly_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Executor(1, None, tmp_path / "workers") as running:
        assert dict(running.map_parts(double, [1, 2])) == {1: 2, 2: 4}
    assert [path.name for path in tmp_path.iterdir()] == ["workers"]
    assert list((tmp_path / "workers").iterdir()) == []


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1"), Executor(None, "tcp://127.0.0.1:1", tmp_path):
        pass


def test_the_environment_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training run in the same process takes its number of threads from there."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with Executor(1, None, tmp_path) as running:
        assert dict(running.map_parts(double, [4])) == {4: 8}
    assert {name: value for name, value in os.environ.items() if before.get(name) != value} == {}


def test_nothing_is_watched_outside_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_armed", False)
    with watchdog.deadline(60):
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    watchdog.arm()
    with watchdog.deadline(60):
        assert 59 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert watchdog.seconds(40_000_000, 0, slow=False) == 12.0


def test_a_performance_report_is_written_on_request(tmp_path: Path) -> None:
    with Executor(1, None, tmp_path / "workers", tmp_path / "report.html") as running:
        assert dict(running.map_parts(double, [1])) == {1: 2}
    assert "<html" in (tmp_path / "report.html").read_text().lower()


def test_the_dashboard_is_where_it_was_asked_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            InputError, match=rf"--dashboard 127\.0\.0\.1:{port}: cannot be had \(.*; give another port"
        ):
            Executor(1, None, tmp_path, dashboard=("127.0.0.1", port)).__enter__()
    with Executor(1, None, tmp_path, dashboard=("127.0.0.1", port)) as executor:
        assert executor.dashboard == f"http://127.0.0.1:{port}/status"
        with urllib.request.urlopen(executor.dashboard, timeout=10) as page:
            assert b"Dask Diagnostic UI" in page.read()


def test_a_dashboard_for_all_names_this_machine() -> None:
    """Dask's link names the scheduler, which only this machine reaches."""
    assert link_to("http://127.0.0.1:8787/status", "10.0.0.7") == "http://10.0.0.7:8787/status"
    assert link_to("http://127.0.0.1:8787/status", "0.0.0.0") == f"http://{socket.gethostname()}:8787/status"
