"""The commands of "From shards to batches", typed in their order; S3 and the Hub stand on loopback."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub
from imagery import MakeShards
from small_run import settings

from pretrain.cli import main

PAGE = (Path(__file__).parents[2] / "docs/loading.md").read_text(encoding="utf-8")
LINES = [shlex.split(line) for line in re.findall(r"^    ((?:rs-pretrain|torchrun) .*)$", PAGE, re.MULTILINE)]


@pytest.fixture
def desk(make_shards: MakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of shards and a brief run of the first."""
    for name in ("aerial/shards", "satellite/shards"):
        make_shards([4, 4], name=name)
    brief = settings(Path("aerial/shards"), epochs=1, optim={"warmup_epochs": 0})
    (tmp_path / "mine.yaml").write_text(json.dumps(brief))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_works(desk: Path, hub: Hub, s3: tuple[Any, Any], capsys: pytest.CaptureFixture[str]) -> None:
    hub.exists = True
    for path in (desk / "aerial/shards").iterdir():
        hub.files[f"shards/{path.name}"] = path.read_bytes()
        s3[1].upload_file(str(path), "bucket", f"corpus/shards/{path.name}")
    typed = [line[1:] for line in LINES if line[0] == "rs-pretrain"]
    assert len(typed) == 6
    for number, words in enumerate(typed):
        brief = ["--seconds", "1"] if words[0] == "bench" else []
        assert main([f"run{number}" if word == "run" else word for word in [*words, *brief]]) == 0, words
    told = capsys.readouterr().out
    assert "mix:  75.0% from aerial/shards: 1.50 passes over 8 samples" in told.replace(f"{desk}/", "")
    assert len(list((desk / "cache").glob("*.tar"))) == 2  # of both places


@pytest.mark.soak
def test_two_processes_go_on_with_the_run(desk: Path) -> None:
    (words,) = [line for line in LINES if line[0] == "torchrun"]
    assert main(["train", "mine.yaml", "--out", "run"]) == 0
    (newest,) = (desk / "run/checkpoints").iterdir()
    newest.rename(desk / "elsewhere")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert list((desk / "run/checkpoints").iterdir())
