"""benchmarks/gpu.sh: what one cell does to another, going on, time that is up, and a path from shell to table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.gpu.ledger import BROKEN, LEFT, Cell, Ledger
from benchmarks.gpu.size import GPU, TINY
from benchmarks.gpu.step import cells
from benchmarks.gpu.tables import page


def told(path):
    return {name: cell["state"] for name, cell in json.loads(path.read_text())["cells"].items()}


def fail():
    raise ValueError("no such kernel")


def exhaust():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")


def test_a_failed_cell_costs_itself_alone_and_is_not_tried_again(tmp_path):
    path, calls = tmp_path / "step.json", []
    several = [Cell("bad", fail), Cell("large", exhaust), Cell("good", lambda: calls.append(1) or {"images": 3})]
    for _ in range(2):
        assert Ledger(path, {}).run(several, time.time() + 100, lambda: None) == 0
    assert told(path) == {"bad": "failed", "large": "out of memory", "good": "done"} and len(calls) == 1
    assert "no such kernel" in Ledger(path, {}).cells["bad"]["error"] and Ledger(path, {}).result("good") == {
        "images": 3
    }
    text = page("step", Ledger(path, {"device": "x"}), TINY)
    assert "- bad: failed (ValueError: no such kernel)" in text and "9 GiB" in text
    assert "bad" not in Ledger(path, {}, again=True).cells


def test_a_cell_whose_process_died_is_told_and_passed_over(tmp_path):
    path = tmp_path / "step.json"
    path.write_text(json.dumps({"environment": {}, "cells": {"deadly": {"state": "begun"}}}))
    ledger = Ledger(path, {})
    assert ledger.run([Cell("deadly", fail)], time.time() + 100, lambda: None) == 0
    assert ledger.cells["deadly"]["state"] == "failed" and "process ended" in ledger.cells["deadly"]["error"]


def test_a_cell_that_the_end_of_the_call_cut_off_is_measured_by_the_next(tmp_path):
    """Beside one that died a little before that time, of its own fault."""
    path, now = tmp_path / "step.json", time.time()
    begun = {"late": {"state": "begun", "until": now - 1}, "deadly": {"state": "begun", "until": now + 60}}
    path.write_text(json.dumps({"environment": {}, "cells": begun}))
    several = [Cell("late", lambda: {"images": 3}), Cell("deadly", dict)]
    assert Ledger(path, {}).run(several, now + 100, lambda: None) == 0
    assert told(path) == {"late": "done", "deadly": "failed"}


def test_a_cell_is_told_until_when_it_may_take(tmp_path):
    path = tmp_path / "step.json"

    def held():
        return {"until": json.loads(path.read_text())["cells"]["short"].get("until")}

    for until, limit, expected in ((100, 300, 100), (100, 50, None)):
        path.unlink(missing_ok=True)
        end = time.time() + until
        Ledger(path, {}).run([Cell("short", held, 1, limit)], end, lambda: None)
        found = Ledger(path, {}).result("short")["until"]
        assert found is None if expected is None else found == pytest.approx(end, abs=0.1)


def test_no_cell_is_begun_for_which_time_does_not_last(tmp_path, capsys):
    ledger = Ledger(tmp_path / "step.json", {})
    several = [Cell("long", fail, expected=50), Cell("short", dict, expected=1)]
    assert ledger.run(several, time.time() + 20, lambda: None) == LEFT
    assert list(ledger.cells) == ["short"] and "left for the next call: long" in capsys.readouterr().out


def test_a_device_that_is_broken_ends_the_process(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    ledger = Ledger(tmp_path / "step.json", {})
    assert ledger.run([Cell("one", dict), Cell("other", dict)], time.time() + 100, lambda: None) == BROKEN
    assert list(ledger.cells) == ["one"]


def test_names_of_cells_are_their_own(tmp_path):
    for size in (GPU, TINY):
        names = [cell.name for cell in cells(size, Ledger(tmp_path / "none.json", {}))]
        assert len(names) == len(set(names))


def test_seconds_are_told_as_milliseconds_and_nothing_else_is(tmp_path):
    found = {"operations": 0.25, "compiled": 0.125, "images": 64, "greatest_difference_from_cpu": 0.5}
    ledger = Ledger(tmp_path / "step.json", {})
    ledger.run([Cell("hog", lambda: found)], time.time() + 100, lambda: None)
    lines = page("step", ledger, TINY).splitlines()
    assert "| operations | 250.000 |" in lines and "| compiled | 125.000 |" in lines
    assert "| hog (images 64, greatest difference from cpu 0.5) | ms |" in lines
    assert not [line for line in lines if "500" in line]


@pytest.mark.soak
def test_from_the_shell_to_the_table(tmp_path, repository):
    command = ["bash", "benchmarks/gpu.sh", "data", "--device", "cpu", "--only", "1 workers", "--out", str(tmp_path)]
    command += ["--work", str(tmp_path / "work")]
    for expected in ("1 workers: done", ""):
        given = os.environ | {"PYTHON": sys.executable}
        done = subprocess.run(command, cwd=repository, env=given, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(expected) and (expected or not done.stdout)
    text = (tmp_path / "data.md").read_text()
    for name in ("1 workers", "1 workers, decode gpu"):
        assert f"| {name} | " in text and told(tmp_path / "data.json")[name] == "done"


def test_missing_packages_are_named_in_a_line(tmp_path, repository):
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    bare.chmod(0o755)
    command, given = ["bash", "benchmarks/gpu.sh", "smoke"], os.environ | {"PYTHON": str(bare)}
    done = subprocess.run(command, cwd=repository, env=given, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "lacks: torch timm" in done.stderr and "pip install '.[pretrain]'" in done.stderr


def test_what_pydantic_needs_is_named_as_well(tmp_path, repository):
    (tmp_path / "annotated_types.py").write_text("raise ModuleNotFoundError('gone', name='annotated_types')\n")
    command, given = ["bash", "benchmarks/gpu.sh", "smoke"], {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=repository, env=os.environ | given, capture_output=True, text=True)
    assert done.returncode == 2 and "lacks: annotated_types;" in done.stderr
