"""What a training would take, told without writing anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from imagery import MakeShards
from small_run import Quiet, config, settings

from pretrain.cli import main
from pretrain.rehearsal import Rehearsal, rehearse


def test_time_and_memory_by_hand() -> None:
    found = Rehearsal(
        total_steps=100, images_per_step=64, micro_batch=32, parameters=1_000, kept_bytes=500.0, peak_bytes=None,
        measured=8, compute_seconds=0.01, optimizer_seconds=0.06, read_seconds=0.02, workers=1,
    )  # fmt: skip
    assert found.memory_bytes == 16 * 1_000 + 32 * 500
    assert found.seconds == pytest.approx(100 * 1.28)  # one worker reads 64 images in 1.28 s, the step takes 0.7 s
    assert replace(found, workers=2).seconds == pytest.approx(100 * 0.7)
    assert replace(found, workers=0).seconds == pytest.approx(100 * 1.98)  # one after the other
    assert replace(found, peak_bytes=70_000).memory_bytes == 70_000


def test_divided_moments_are_counted_once_over_all_processes() -> None:
    """ZeRO, stage 1: of 16 bytes a parameter 8 are moments, of which each of four processes holds a quarter."""
    found = Rehearsal(
        total_steps=1, images_per_step=8, micro_batch=8, parameters=1_000, kept_bytes=0.0, peak_bytes=None,
        measured=8, compute_seconds=0.0, optimizer_seconds=0.0, read_seconds=0.0, workers=1, sharing=4,
    )  # fmt: skip
    assert found.memory_bytes == (8 + 8 / 4) * 1_000
    assert replace(found, peak_bytes=70_000).memory_bytes == 70_000 - 6_000


def test_recomputed_blocks_keep_less(make_shards: MakeShards) -> None:
    shards = make_shards([12])
    plain, frugal = (rehearse(config(shards, grad_checkpointing=how), Quiet()) for how in (False, True))
    assert 0 < frugal.kept_bytes < plain.kept_bytes
    assert (plain.total_steps, plain.images_per_step, plain.parameters) == (9, 4, frugal.parameters)
    both = rehearse(config(shards), Quiet(), processes=2)
    assert (both.images_per_step, both.state_bytes) == (2, 16)
    assert rehearse(config(shards, shard_optimizer=True), Quiet(), processes=2).state_bytes == 12


def test_the_command_writes_nothing(
    make_shards: MakeShards, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(settings(make_shards([12]))))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(path), "--dry-run", "4"]) == 0
    told = capsys.readouterr().out
    assert "data: 12 samples in 1 shards" in told
    assert "steps: 9 = 3 epochs of 3" in told
    assert "a process, counted: 16 bytes for each of" in told
    assert "with 4 processes like this one" in told
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["train", str(path)]) == 2
    assert "--out is missing" in capsys.readouterr().err
