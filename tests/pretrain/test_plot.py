"""Loss curves: what lies on the axis, by hand, and a picture of several runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import yaml

from curation.base.errors import InputError
from pretrain.plot import Against, _done, plot_runs

RECORDS = [
    {"step": 10, "epoch": 0.5, "loss": 2.0, "lr": 0.1, "samples_per_s": 8.0, "time": 1000.0},
    {"step": 20, "epoch": 1.0, "loss": None, "lr": 0.2, "samples_per_s": 4.0, "time": 9000.0},  # it stood still
    {"step": 25, "epoch": 1.25, "loss": 1.0, "lr": 0.2, "samples_per_s": 2.0, "time": 9020.0},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    config = {"objective": {"name": "mae"}, "data": {"shards": "s"}, "global_batch": 16}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "run" / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return tmp_path / "run"


def test_what_lies_on_the_axis(run: Path) -> None:
    assert _done(run, "epochs").tolist() == [0.5, 1.0, 1.25]
    assert _done(run, "steps").tolist() == [10, 20, 25]
    assert _done(run, "images").tolist() == [160, 320, 400]
    assert (3600 * _done(run, "hours")).tolist() == pytest.approx([20, 60, 100])  # 160 / 8, 160 / 4, 80 / 2 seconds


@pytest.mark.parametrize("against", get_args(Against))
def test_several_runs_in_one_picture(run: Path, tmp_path: Path, against: Against) -> None:
    other = run.rename(tmp_path / "first")
    plot_runs([other, other], tmp_path / "loss.svg", against)
    assert (tmp_path / "loss.svg").read_text().count("<!-- first -->") == 2  # in the legend


def test_a_folder_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no log.jsonl with records"):
        plot_runs([tmp_path], tmp_path / "loss.svg")
