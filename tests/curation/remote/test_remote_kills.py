"""A run over remote scenes that is killed at any time goes on to the same shards."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from range_server import RangeServer
from remote_scenes import picture, scene


def shards(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((out / "shards").glob("*.tar"))}


@pytest.mark.soak
def test_a_run_that_is_killed_goes_on_to_the_same_shards(server: RangeServer, tmp_path: Path, repository: Path) -> None:
    names = [f"/{number}.tif" for number in range(6)]
    server.files |= {name: scene(tmp_path, picture(ord(name[1]), 512)) for name in names}
    remote = {"urls": [server.url(name) for name in names], "side": 128, "per_file": 8}
    told = {"name": "far", "sources": [{"id": "far", "container": "remote", "remote": remote}]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(told))
    server.latency = 0.05

    def begin(out: str) -> subprocess.Popen[bytes]:
        line = ["run", str(tmp_path / "r.yaml"), "--data", str(tmp_path / out), "--out", str(tmp_path / out / "out")]
        return subprocess.Popen(
            [sys.executable, "-m", "curation", *line, "--workers", "1", "--pictures", "0"], cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(repository)}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    for asked in (4, 14, 40):  # while it lists, while it lists the last, while it scans
        before, process = len(server.asked), begin("a")
        while len(server.asked) < before + asked and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert begin("a").wait() == 0
    assert begin("b").wait() == 0
    assert shards(tmp_path / "a/out") == shards(tmp_path / "b/out")
    assert len(shards(tmp_path / "a/out")) == 1
