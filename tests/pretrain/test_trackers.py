"""Trackers are told what the log says, offline, and the same run of theirs goes on after a stop."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from imagery import MakeShards
from small_run import Quiet, config

from curation.base.errors import InputError
from pretrain.bench.arithmetic import multiply_adds
from pretrain.bench.utilisation import worth
from pretrain.models import build_objective
from pretrain.train import train


def torn_run(shards: Path, out: Path, **changes: Any) -> list[dict[str, Any]]:
    """A run that ended, lost its last checkpoint, and was taken up again; returns its log."""
    asked = config(shards, picture_every=4, epochs=2, save_every=2, **changes)
    train(asked, out, Quiet(), worth=worth)
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    assert train(asked, out, Quiet(), resume=True, worth=worth).worked
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_tensorboard_reads_what_the_log_says(make_shards: MakeShards, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    records = torn_run(make_shards([12]), tmp_path / "run", track=["tensorboard"], peak_tflops=0.5)
    found = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for name in ("loss", "lr", "grad_norm", "samples_per_s", "data_wait", "mfu", "memory_mib", "skipped", "unreadable"):
        told = [(event.step, event.value) for event in found.Scalars(name)]
        assert told == [(record["step"], pytest.approx(record[name])) for record in records], name
    assert [picture.step for picture in found.Images("reconstructions")] == [4, 6]


def test_mfu_is_operations_over_the_stated_peak(make_shards: MakeShards, tmp_path: Path) -> None:
    asked = config(make_shards([12]), epochs=1, log_every=3, peak_tflops=2.0)
    train(asked, tmp_path / "run", Quiet(), worth=worth)
    (record,) = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    count = multiply_adds(build_objective(asked.objective, asked.encoder))
    operations = 6 * count.trained + 2 * count.untrained
    assert record["mfu"] == pytest.approx(record["samples_per_s"] * operations / 2e12, abs=1e-4)


def test_wandb_offline(make_shards: MakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    torn_run(make_shards([12]), tmp_path / "run", track=["wandb"])
    name = (tmp_path / "run" / "wandb-run.txt").read_text().strip()
    kept = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert kept
    assert all(folder.name.endswith(name) for folder in kept)
    for folder in kept:
        file, deadline = folder / f"run-{name}.wandb", time.monotonic() + 60
        while b"samples_per_s" not in file.read_bytes():  # a process of W&B writes it
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_mlflow_below_a_folder(make_shards: MakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    records = torn_run(make_shards([12]), tmp_path / "run", track=["mlflow"])
    client = mlflow.MlflowClient()
    name = (tmp_path / "run" / "mlflow-run.txt").read_text().strip()
    told = {metric.step: metric.value for metric in client.get_metric_history(name, "loss")}
    assert told == {record["step"]: pytest.approx(record["loss"]) for record in records}
    assert client.get_run(name).data.params["objective.name"] == "selective_mae"
    assert client.list_artifacts(name, "pictures")


def test_a_library_that_is_absent_is_named(
    make_shards: MakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"track: wandb needs wandb; .*pip install '.\[wandb\]'"):
        train(config(make_shards([12]), track=["wandb"]), tmp_path / "run", Quiet())
