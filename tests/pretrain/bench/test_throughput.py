"""Runs and loaders that are timed: what is counted adds up, and nothing is left behind. No time is asserted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from small_run import config, settings

from pretrain.bench.arithmetic import multiply_adds
from pretrain.bench.throughput import PARTS, data_bench, format_data, format_train, train_bench
from pretrain.cli import main
from pretrain.data.ring import Ring
from pretrain.errors import InputError
from pretrain.models import build_objective


def test_a_run_says_where_its_time_went(make_shards, tmp_path):
    given = config(make_shards([9, 7]), max_batch_per_gpu=2, epochs=1, log_every=1)
    row = train_bench(given, steps=4, seconds=5)
    assert sum(row[part] for part in PARTS) == pytest.approx(1)
    assert all(row[part] >= 0 for part in PARTS) and row["forward"] > 0 and row["backward"] > 0
    assert row["steps"] == 4 and (row["global_batch"], row["micro_batch"]) == (4, 2)
    assert row["images_per_second"] * row["seconds"] == pytest.approx(4)
    operations = multiply_adds(build_objective(given.objective, given.encoder)).training_operations
    assert row["mfu"] == pytest.approx(operations * row["images_per_second"] / (row["peak_tflops"] * 1e12))
    assert (row["precision"], row["compile"], row["workers"]) == ("fp32", False, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    assert len(format_train(row).splitlines()) == 2 + len(row)


def test_a_run_that_is_slow_ends_by_the_clock(make_shards):
    assert train_bench(config(make_shards([9, 7])), steps=10**6, seconds=1)["steps"] < 10**6


def test_the_loader_alone(make_shards):
    rows = data_bench(config(make_shards([9, 7])), [0, 1], seconds=0.2)
    assert [row["workers"] for row in rows] == [0, 1]
    for row in rows:
        assert row["read"] + row["decode"] + row["crop"] + row["transfer"] == pytest.approx(1)
        assert row["decode"] > 0 and row["transfer"] < 0.1  # nothing moves on a CPU
        assert (row["cache_hits"], row["waited"]) == (1, 0)
        assert row["images"] % 4 == 0 and row["images_per_second"] == pytest.approx(row["images"] / row["seconds"])
    told = format_data(row | {"parts": True} for row in rows)
    assert len(told.splitlines()) == 4
    assert format_data(row | {"parts": False} for row in rows).startswith(f"{told}\n\nJPEGs are decoded whole")


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="only Linux tells what a process has mapped")
def test_the_memory_of_one_number_of_workers_is_given_back_before_the_next(make_shards, monkeypatch):
    shared = []

    def told(parts, size):
        shared.append(Path("/proc/self/maps").read_text().count("/torch_"))
        return Ring(parts, size)

    monkeypatch.setattr("pretrain.data.stream.Ring", told)
    data_bench(config(make_shards([9, 7])), [1, 1], seconds=0.05)
    assert shared[1] <= shared[0]


def test_what_a_run_would_refuse_is_refused_here(make_shards, monkeypatch):
    few = make_shards([3], name="few")
    with pytest.raises(InputError, match="global_batch: 4 is more than the 3 samples of the data"):
        data_bench(config(few), [1], 0.1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="has 0 MB free, and 3 workers may have"):
        data_bench(config(make_shards([9, 7])), [1, 3], 0.1)


def test_from_the_command_line(make_shards, tmp_path, capsys):
    path, found = tmp_path / "run.yaml", tmp_path / "found.json"
    path.write_text(yaml.safe_dump(settings(make_shards([9, 7]))))
    assert (
        main(["bench", "train", str(path), "global_batch=2", "--steps", "2", "--seconds", "2", "--json", str(found)])
        == 0
    )
    assert json.loads(found.read_text())["global_batch"] == 2 and "| data |" in capsys.readouterr().out
    assert main(["bench", "data", str(path), "--workers", "1", "--seconds", "1", "--json", str(found)]) == 0
    assert json.loads(found.read_text())[0]["workers"] == 1
    assert main(["bench", "train", "no_such_config"]) == 2
