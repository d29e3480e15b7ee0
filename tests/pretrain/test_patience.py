"""Shards that go away while a run trains: waited for, read again, or named."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
from imagery import MakeShards
from small_run import Quiet, assert_equal, config, settings

from curation.base.terminal import Terminal
from pretrain.cli import main
from pretrain.data.augment import CropRule
from pretrain.data.order import epoch_order
from pretrain.data.reader import Batch, ShardReader
from pretrain.data.stream import batches
from pretrain.patience import patiently
from pretrain.train import train


class Unplugged(Quiet, logging.Handler):
    """Takes a file or folder away once the run has opened its data, and brings it back once the run waits for it."""

    def __init__(self, path: Path, seconds: float = 0.5) -> None:
        Quiet.__init__(self)
        logging.Handler.__init__(self, logging.WARNING)
        self.path, self.away = path, path.with_name("away")
        self.waits: list[str] = []
        self.seconds = seconds

    def say(self, text: str) -> None:
        super().say(text)
        if text.startswith("steps:"):
            self.path.rename(self.away)

    def emit(self, record: logging.LogRecord) -> None:
        self.waits.append(record.getMessage())
        Timer(self.seconds, self.away.rename, [self.path]).start()


@pytest.mark.slow
def test_a_shard_that_is_away_for_ten_seconds(make_shards: MakeShards, tmp_path: Path) -> None:
    test_a_shard_that_comes_back_gives_the_same_samples(make_shards, tmp_path, "t-000001.tar", 2, 10)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("lost", ["t-000001.tar", "index.parquet", "."])
def test_a_shard_that_comes_back_gives_the_same_samples(
    make_shards: MakeShards, tmp_path: Path, lost: str, workers: int, seconds: float = 0.5
) -> None:
    shards = make_shards([6, 6])
    asked = config(shards, data={"workers": workers, "retry_seconds": 600, "max_unreadable": 0})
    observer = Unplugged(Path(os.path.normpath(shards / lost)), seconds)
    logger = logging.getLogger("pretrain.patience")
    logger.addHandler(observer)
    try:
        train(asked, tmp_path / "torn", observer)
    finally:
        logger.removeHandler(observer)
    (wait,) = observer.waits
    assert wait.endswith(": No such file or directory; trying again for 600 s")
    train(asked, tmp_path / "whole", Quiet())
    assert_equal(tmp_path / "whole", tmp_path / "torn")


def test_a_shard_that_stays_away_is_named_in_one_line(
    make_shards: MakeShards, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second shard of the first epoch is gone when it is reached; the run goes on from the last checkpoint."""
    shards = make_shards([8, 8])
    second = [int(window.shards[0]) for window in epoch_order([8, 8], seed=3, epoch=0, window=1)][1]
    lost, away = shards / f"t-{second:06d}.tar", shards / "away"
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(settings(shards, save_every=1, data={"workers": 1, "window": 1})))

    def say(_: Terminal, text: str) -> None:
        if text.startswith("steps:"):
            lost.rename(away)

    command = ["train", str(path), "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "say", say)
        assert main([*command, "data.retry_seconds=0.3"]) == 1
    told = capsys.readouterr().err
    assert "Traceback" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("rs-pretrain: ")]
    assert f"{lost}: could not be read for 0.3 s (No such file or directory); bring it back, and --resume" in line
    away.rename(lost)
    assert main([*command, "data.retry_seconds=60", "--resume"]) == 0
    assert "going on from step 2" in capsys.readouterr().out
    assert main(["train", str(path), "--out", str(tmp_path / "whole")]) == 0
    assert_equal(tmp_path / "whole", tmp_path / "run")


def test_a_descriptor_that_fails_is_opened_anew(tmp_path: Path) -> None:
    """A folder in the shard's place can be opened, and fails when it is read, as a stale handle does."""
    path = tmp_path / "t-000000.tar"
    path.mkdir()
    reader = ShardReader([path], CropRule(8, (1.0, 1.0), (1.0, 1.0), 4.0))
    with pytest.raises(IsADirectoryError) as error:
        reader.read(0, 2, 3)
    assert error.value.filename == str(path)
    path.rmdir()
    path.write_bytes(np.arange(9, dtype=np.uint8).tobytes())
    assert reader.read(0, 2, 3) == b"\2\3\4"


@pytest.mark.parametrize("save_every", [100, 2])
def test_a_signal_ends_the_wait_for_a_file_and_the_run_goes_on_later(
    make_shards: MakeShards, tmp_path: Path, save_every: int
) -> None:
    """A scheduler kills what has not ended half a minute after its signal, and the file stays away for longer."""
    given = config(make_shards([12, 12]), epochs=3, save_every=save_every, data={"retry_seconds": 10_000.0})

    def away(*args: Any, **kwargs: Any) -> Iterator[Batch]:
        for number, batch in enumerate(batches(*args, **kwargs)):
            if number == 4 * (given.global_batch // 2):
                Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
                patiently(lambda: (tmp_path / "gone").stat(), 10_000.0)
            yield batch

    result = train(given, tmp_path / "run", Quiet(), feed=away)
    assert not result.finished and result.step > 0
    kept = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert kept[-1] == f"step-{result.step:08d}" and all(name.startswith("step-") for name in kept)
    assert train(given, tmp_path / "run", Quiet(), resume=True).finished
    train(given, tmp_path / "whole", Quiet())
    assert_equal(tmp_path / "whole", tmp_path / "run")
