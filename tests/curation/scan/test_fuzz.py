"""Damaged files, and runs that are killed: nothing is lost, nothing stops, and a second run gives the same rows."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

RUN = """
import sys
from pathlib import Path
from curation import catalogue
from curation.scan import cutting
from curation.scan import scan
from curation.scan import parts as scan_parts
from curation.executor.executor import Executor
from curation.sources.recipe import Recipe, resolve

if __name__ == "__main__":
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    cutting.SHORTEST = cutting.LONGEST = 4 * cutting.IMAGE_SECONDS
    recipe = Recipe.model_validate({"name": "t", "sources": [{"id": "s", "path": str(root)}]})
    rows = [
        {"source": "s", "image": path.name, "file": path.name, "bytes": path.stat().st_size, "mtime_ns": 0}
        for path in sorted(root.iterdir())
    ]
    catalogue.write_table(catalogue.table_from_rows("images", rows), out / "images.parquet", "images")
    job = scan_parts.ScanJob.of(resolve(recipe, None)[0], recipe)
    parts = scan_parts.plan_parts(out / "images.parquet", out / "tiles", job)
    with Executor(2, None, out / "workers") as executor:
        for part, _ in executor.map_parts(scan.scan_part, [part for part in parts if not part.out.exists()]):
            print(part.out.name, flush=True)
"""


@pytest.fixture(scope="module")
def fuzz(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", repository / "benchmarks" / "fuzz.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
def test_every_mutant_ends_as_tiles_or_with_a_reason(fuzz: ModuleType, tmp_path: Path) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    rows = fuzz.write_mutants(root, 160, seed=1)
    verdicts = fuzz.balance(rows, fuzz.scan_rows(root, tmp_path / "out", rows, workers=0))
    assert sum(verdicts.values()) == 160 and verdicts["unreadable"] > 50


def test_the_originals_of_the_mutants_are_all_read(fuzz: ModuleType, tmp_path: Path) -> None:
    rows = []
    for name, data in fuzz.originals().items():
        (tmp_path / name).write_bytes(data)
        rows.append({"source": "f", "image": name, "file": name, "bytes": len(data), "mtime_ns": 0})
    assert fuzz.balance(rows, fuzz.scan_rows(tmp_path, tmp_path / "out", rows, workers=0)) == {"sliced": 10}


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    noise = np.random.default_rng(0)
    for number in range(60):
        grey = noise.integers(0, 200, (25, 25, 1)) + noise.integers(0, 40, (25, 25, 3))
        Image.fromarray(grey.astype(np.uint8)).resize((200, 200)).save(root / f"{number:03d}.png")
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(root)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)

    process = subprocess.Popen(
        [*command, str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    done = sorted((tmp_path / "killed" / "tiles").glob("part-*.parquet"))
    parts = sorted((tmp_path / "whole" / "tiles").glob("part-*.parquet"))
    assert 0 < len(done) < len(parts)
    again = subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True, text=True)
    assert len(again.stdout.splitlines()) == len(parts) - len(done)
    for path in parts:
        assert pq.read_table(path).equals(pq.read_table(tmp_path / "killed" / "tiles" / path.name))
