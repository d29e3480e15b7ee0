"""Environments that pip makes anew: timm alone, and libraries that take our encoders (make soak; gigabytes)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from exported_demo import TIMM_ALONE, demo_run, same_features
from imagery import MakeShards

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]


def environment(folder: Path, *packages: str) -> Path:
    """A new virtual environment with these packages and what they need; its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *packages], check=True)
    return folder / "bin" / "python"


def test_timm_alone_in_an_environment_of_its_own(make_shards: MakeShards, tmp_path: Path) -> None:
    run = demo_run(make_shards([6], side=(80, 90)), tmp_path)
    python = str(environment(tmp_path / "environment", "timm"))
    absent = subprocess.run([python, "-I", "-c", "import pretrain"], capture_output=True, text=True, check=False)
    assert "No module named 'pretrain'" in absent.stderr
    subprocess.run([python, "-I", "-c", TIMM_ALONE], cwd=tmp_path, check=True)
    same_features(run, tmp_path)


def test_libraries_that_take_our_encoders(repository: Path, tmp_path: Path) -> None:
    libraries = ["torchgeo", "terratorch", "mmpretrain", "mmcv-lite"]
    python = environment(tmp_path, f"{repository}[pretrain]", "pytest", "pytest-timeout", *libraries)
    command = [str(python), "-m", "pytest", "tests/pretrain/test_conversions.py", "-p", "no:cacheprovider"]
    chosen = [*command, "-k", " or ".join(libraries[:3])]
    done = subprocess.run(chosen, cwd=repository, capture_output=True, text=True, check=False)
    assert "= 3 passed, 2 deselected" in done.stdout, done.stdout + done.stderr
