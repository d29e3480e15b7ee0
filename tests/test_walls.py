"""The walls of the house: who may import whom. The list of walls is ``docs/house.py``."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def house(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", repository / "docs" / "house.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_import_stays_within_the_walls(house: ModuleType, repository: Path) -> None:
    assert house.violations(repository) == []


@pytest.mark.parametrize(
    ("file", "line", "why"),
    [
        ("curation/scan/scan.py", "import torch", "shards are built without torch"),
        (
            "curation/scan/scan.py",
            "    from pretrain.data import order",
            "the shards are all that the two packages share",
        ),
        ("curation/select/select.py", "from distributed import Client", "Dask lives in one room"),
        ("curation/scan/scan.py", "from curation.select import guard", "select is above scan"),
        ("curation/base/errors.py", "from curation.catalogue import Window", "catalogue is above base"),
        ("curation/stray.py", "from curation.base import errors", "stray is no room of the house"),
        ("pretrain/train.py", "from curation.catalogue import read_table", "pretrain uses only curation.base"),
        ("pretrain/data/stream.py", "from pretrain.models import Objective", "the stream sees no model"),
        ("pretrain/models/mae.py", "from curation.shards import format", "models see no file"),
        ("pretrain/models/mae.py", "import torch.distributed", "process groups live in one room"),
        ("pretrain/run.py", "from pretrain import evaluate", "evaluate is above run"),
    ],
)
def test_a_forbidden_import_is_found(
    house: ModuleType, repository: Path, tmp_path: Path, file: str, line: str, why: str
) -> None:
    for package in ("curation", "pretrain"):
        shutil.copytree(repository / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / file
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{old}\ndef _planted() -> None:\n    {line.strip()}\n", encoding="utf-8")
    (found,) = house.violations(tmp_path)
    assert found.startswith(f"{file}:") and why in found


def test_the_pictures_show_todays_house(house: ModuleType, repository: Path) -> None:
    for package in house.FLOORS:
        path = repository / "docs" / "assets" / f"house-{package}.svg"
        assert path.read_text(encoding="utf-8") == house.picture(repository, package), "run python docs/house.py"
