"""The writer, the verifier and the publisher killed with -9 at twenty random moments each: nothing is lost."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from textures import texture

from curation.cli import main

pytestmark = pytest.mark.soak
KILLS = 20
SOURCE = "{id: mine, path: mine, licence: CC0-1.0, redistributable: yes}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred pictures in twenty shards, and a run that has selected and written nothing yet (``selected``)."""
    root = tmp_path_factory.mktemp("kills")
    (root / "mine").mkdir()
    for number in range(200):
        texture(number, 256).save(root / "mine" / f"{number}.{'jpg' if number % 2 else 'png'}")
    (root / "r.yaml").write_text(f"name: r\nsources: [{SOURCE}]\nshards: {{max_samples: 10}}\n")
    assert main([*run(root, "selected"), "--until", "select"]) == 0
    shutil.copytree(root / "selected", root / "out")
    assert main(run(root, "out")) == 0
    return root


def run(root: Path, out: str) -> list[str]:
    line = ["run", str(root / "r.yaml"), "--data", str(root), "--out", str(root / out)]
    return [*line, "--workers", "2", "--pictures", "0"]


def start(line: list[str]) -> subprocess.Popen[bytes]:
    """A command in a session of its own, with the libraries imported that it spends its first second on."""
    imports = "import boto3, distributed, pyarrow.parquet, pyproj, curation.release.publish, curation.executor.executor"
    code = f"import sys; {imports}; from curation.cli import main; print(flush=True); sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *line]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    assert running.stdout is not None and running.stdout.readline() == b"\n"
    return running


def lasts(line: list[str]) -> float:
    """Seconds that a command takes from its first line on."""
    with start(line) as running:
        begun = time.monotonic()
        running.communicate()
        return time.monotonic() - begun


def kill(line: list[str], delay: float) -> bool:
    """Kill a command and all its processes after so many seconds; whether it was still at work."""
    with start(line) as running:
        try:
            running.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            return True
    return False


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("shards/[!.]*"))}


def test_the_writer(root: Path, tmp_path: Path) -> None:
    expected = hashes(root / "out")
    shutil.copytree(root / "selected", tmp_path / "timed")
    line = run(root, str(tmp_path / "timed"))
    seconds, struck = lasts(line), 0
    out = tmp_path / "out"
    for delay in np.random.default_rng(1).uniform(0.02, 1.0, KILLS) * seconds:
        if not out.exists() or (out / "report.html").exists():
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(root / "selected", out)
        struck += kill(run(root, str(out)), delay)
        found = hashes(out)
        assert {name: found[name] for name in found} == {name: expected[name] for name in found}
        assert "checksums.json" not in found or found == expected
    assert struck >= KILLS // 2
    assert main(run(root, str(out))) == 0
    assert hashes(out) == expected
    assert main(["clean", str(out)]) == 0
    assert not list(out.rglob("*.part")) and hashes(out) == expected


def test_the_verifier(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "out", tmp_path / "out")
    tar = tmp_path / "out/shards/r-000013.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    before = hashes(tmp_path / "out")
    line = ["verify", str(tmp_path / "out"), "--workers", "1", "--decode"]
    seconds = lasts(line)
    struck = sum(kill(line, delay) for delay in np.random.default_rng(2).uniform(0.02, 1.0, KILLS) * seconds)
    assert struck >= KILLS // 2
    done = subprocess.run([sys.executable, "-m", "curation", *line], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: r-000013.tar: its bytes differ from checksums.json" in done.stdout
    assert hashes(tmp_path / "out") == before
    assert not (tmp_path / "out/.stages/verify.jsonl").exists()


def test_the_publisher_to_a_folder(root: Path, tmp_path: Path) -> None:
    expected = {f"shards/{path.name}": path.read_bytes() for path in (root / "out/shards").iterdir()}
    to = tmp_path / "to"
    line = ["publish", str(root / "out"), to.as_uri()]
    seconds, struck = lasts(line), 0
    shutil.rmtree(to)
    for delay in np.random.default_rng(3).uniform(0.02, 1.0, KILLS) * seconds:
        struck += kill(line, delay)
        for name, data in expected.items():
            assert not (to / name).exists() or (to / name).read_bytes() == data
        if (to / "SHA256SUMS").exists():
            subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=to, check=True)
            shutil.rmtree(to)
    assert struck >= KILLS // 2
    assert main(line) == 0
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=to, check=True)


def test_the_publisher_to_s3(root: Path, s3: tuple[ThreadedMotoServer, Any]) -> None:
    _, client = s3
    expected = {f"c/shards/{path.name}": path.read_bytes() for path in (root / "out/shards").iterdir()}
    line = ["publish", str(root / "out"), "s3://bucket/c"]

    def there() -> set[str]:
        return {item["Key"] for item in client.list_objects_v2(Bucket="bucket").get("Contents", [])}

    def start_anew() -> None:
        for name in there():
            client.delete_object(Bucket="bucket", Key=name)

    seconds, struck = lasts(line), 0
    start_anew()
    for delay in np.random.default_rng(4).uniform(0.02, 1.0, KILLS) * seconds:
        struck += kill(line, delay)
        names = there()
        for name in names & expected.keys():
            assert client.get_object(Bucket="bucket", Key=name)["Body"].read() == expected[name]
        if "c/SHA256SUMS" in names:
            assert expected.keys() <= names
            start_anew()
    assert struck >= KILLS // 2
    assert main(line) == 0
    assert expected.keys() | {"c/SHA256SUMS"} <= there() and "c/SHA256SUMS.unfinished" not in there()
