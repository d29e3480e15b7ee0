"""How a command ends that is not let finish: one polite line, the right exit code, no process left behind."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faults
import pytest
from test_cluster import command, tree  # noqa: F401 (a fixture)

from curation.cli import main


def start(words: list[str], **more: object) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a shell starts it; the tests may run where Ctrl-C is ignored."""
    given = [sys.executable, "-m", "curation", *words]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True, "preexec_fn": _heed_ctrl_c}
    return subprocess.Popen(given, text=True, **{**how, **more})


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_workers(run: subprocess.Popen[str], count: int = 1) -> None:
    deadline = time.monotonic() + 120
    while len(faults.forked(run.pid)) < count and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("signals", "code"),
    [((signal.SIGINT,), 130), ((signal.SIGINT, signal.SIGINT, signal.SIGINT), 130), ((signal.SIGTERM,), 143)],
    ids=["Ctrl-C", "Ctrl-C again and again", "SIGTERM"],
)
def test_a_stopped_run_says_so_in_one_line(tree: Path, signals: tuple[int, ...], code: int) -> None:  # noqa: F811
    run = start(command(tree, "out", "--workers", "2"))
    wait_for_workers(run)
    processes = faults.nurseries(run.pid) + faults.forked(run.pid)
    for number in signals:
        os.killpg(run.pid, number)
        time.sleep(0.1)
    _, said = run.communicate(timeout=120)
    assert run.returncode == code, said
    told = [line for line in said.splitlines() if not line.startswith("scan: ")]
    assert told == ["rs-curate: stopped; the same command goes on from here"]
    assert processes and faults.gone(processes)


def test_a_run_goes_on_when_nobody_reads_what_it_says(tree: Path) -> None:  # noqa: F811
    run = start(command(tree, "out", "--workers", "1"))
    assert run.stdout is not None and run.stderr is not None
    assert run.stdout.readline() == "s0: 6 images listed\n"
    run.stdout.close()
    said = run.stderr.read()
    assert run.wait(timeout=120) == 0, said
    assert "nobody reads standard output any more; the work goes on" in said
    assert "Traceback" not in said and "Broken" not in said
    assert (tree / "out/shards/checksums.json").exists()


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    run = start(["sources", "--json"])
    assert run.stdout is not None and run.stderr is not None
    run.stdout.readline()
    run.stdout.close()
    said = run.stderr.read()
    assert (run.wait(timeout=60), said) == (0, "")


@contextmanager
def full_disk(folder: Path) -> Iterator[dict[str, object]]:
    """A file system with little room where one can be mounted; else a process whose files may not grow."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            yield {}
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    else:
        yield {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))}


def test_a_full_disk_is_named_and_room_lets_the_same_command_go_on(tree: Path) -> None:  # noqa: F811
    with full_disk(tree / "out") as limits:
        run = start(command(tree, "out", "--workers", "2"), **limits)
        _, said = run.communicate(timeout=200)
        assert run.returncode == 1, said
        told = [line for line in said.splitlines() if not line.startswith("scan: ")]
        assert len(told) == 1 and "the disk is full" in told[0] and "same command goes on" in told[0], said
    assert main(command(tree, "out", "--workers", "2")) == 0


def _websocket(url: str) -> socket.socket:
    """A browser's tab on Dask's status page: the page's session, and its web socket (RFC 6455, by hand)."""
    page = urllib.request.urlopen(f"{url}", timeout=30).read().decode()
    found = re.search(r'"token":"([^"]+)"', page)
    assert found is not None
    address = re.match(r"http://([\d.]+):(\d+)(/.*)", url)
    assert address is not None
    host, port, path = address[1], int(address[2]), address[3]
    tab = socket.create_connection((host, port), timeout=30)
    tab.sendall(
        f"GET {path}/ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Origin: http://{host}:{port}\r\nSec-WebSocket-Protocol: bokeh, {found[1]}\r\n\r\n".encode()
    )
    assert tab.recv(1 << 16).startswith(b"HTTP/1.1 101")
    return tab


def test_a_closed_dashboard_tab_is_nobodys_business(tree: Path) -> None:  # noqa: F811
    run = start(command(tree, "out", "--workers", "1"))
    assert run.stdout is not None and run.stderr is not None
    for line in run.stdout:
        if line.startswith("dashboard: "):
            break
    for _ in range(3):
        tab = _websocket(line.removeprefix("dashboard: ").partition(" ")[0].strip())
        tab.recv(1 << 16)
        tab.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # as a browser that is killed
        tab.close()
    run.stdout.read()
    said = run.stderr.read()
    assert run.wait(timeout=120) == 0, said
    assert [line for line in said.splitlines() if not re.match(r"(scan|write|report): ", line)] == []


@pytest.mark.parametrize("option", ["--out", "--data"])
def test_a_url_where_a_folder_is_needed_is_refused(
    tree: Path, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.chdir(tree)
    words = command(tree, "out")
    words[words.index(option) + 1] = "s3://bucket/x"
    before = sorted(path.name for path in tree.iterdir())
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "s3://bucket/x: is a URL" in said[0] and "aws s3 sync" in said[0]
    assert sorted(path.name for path in tree.iterdir()) == before


def test_relative_folders_are_found_by_workers_elsewhere(tree: Path, tmp_path: Path) -> None:  # noqa: F811
    """Workers of a scheduler run in other folders than the command does."""
    from test_cluster import cluster

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with cluster(elsewhere) as (address, _):
        words = ["run", "recipe.yaml", "--data", "data", "--out", "out", "--scheduler", address]
        run = start(words, cwd=tree)
        told, said = run.communicate(timeout=200)
    assert run.returncode == 0, said
    assert "\n  out/shards\n" in told
    assert json.loads((tree / "out/shards/checksums.json").read_text())
