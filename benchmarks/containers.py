"""How fast images are listed in and read from containers, in the order they lie in and at random.

    python benchmarks/containers.py [--images 10000] [--rounds 5] [--folder FOLDER] [--json FILE]

The same 256 px JPEGs in a zip, a tar and Parquet of 100, 1,000 and 10,000 rows a group, compressed (snappy, Arrow's
default) and not; as arrays in HDF5. CPU seconds of one process, system time included; contenders are interleaved,
medians of the rounds. Files lie in the page cache: this measures the readers, not the disk.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics as stats
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scan import jpegs

from curation.containers import list_members, read_member

LIMIT = 1 << 30
IN_ORDER, AT_RANDOM = 2_000, 200
"""Images that are read in a round."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="folder of real images to cut from; default: generated ground")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="folder for the containers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        figures = measure(make(Path(scratch), options.folder, options.images), options.rounds)
    print("| container | listed, images/s | read in order, images/s | read at random, images/s |\n|---|---|---|---|")
    for name, row in figures.items():
        print(f"| {name} | {row['list']:,.0f} | {row['in_order']:,.0f} | {row['at_random']:,.0f} |")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def make(folder: Path, real: Path | None, count: int) -> dict[str, Path]:
    """The containers, each with the same images (of HDF5 300 arrays)."""
    files = jpegs(real, 256, min(count, 300))
    images = [files[number % len(files)] for number in range(count)]
    made = {"zip": folder / "x.zip", "tar": folder / "x.tar"}
    with zipfile.ZipFile(made["zip"], "w") as archive, tarfile.open(made["tar"], "w") as tar:
        for number, data in enumerate(images):
            archive.writestr(f"{number:06d}.jpg", data)
            info = tarfile.TarInfo(f"{number:06d}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    table = pa.table({"image": [{"bytes": data, "path": None} for data in images]})
    for group in (100, 1_000, 10_000):
        for compression in ("none", "snappy"):
            name = f"Parquet, {group:,} rows a group{', snappy' if compression != 'none' else ''}"
            made[name] = folder / f"{group}-{compression}.parquet"
            pq.write_table(table, made[name], row_group_size=group, compression=compression)
    try:
        import h5py
    except ImportError:
        return made
    made["HDF5 (arrays)"] = folder / "x.h5"
    with h5py.File(made["HDF5 (arrays)"], "w") as file:
        file["images"] = np.random.default_rng(0).integers(0, 255, (300, 256, 256, 3), "uint8")
    return made


def measure(made: dict[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Images per CPU second for each container and way of reading."""
    members = {name: [member.locator for member in list_members(path)] for name, path in made.items()}
    taken: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds):
        for name, path in made.items():
            some = random.Random(turn).sample(members[name], min(AT_RANDOM, len(members[name])))
            first = members[name][:IN_ORDER]
            ways: dict[str, tuple[int, Callable[[], Any]]] = {
                "list": (len(members[name]), lambda: sum(1 for _ in list_members(path))),  # noqa: B023
                "in_order": (len(first), lambda: read(path, first)),  # noqa: B023
                "at_random": (len(some), lambda: read(path, some)),  # noqa: B023
            }
            for way, (count, run) in ways.items():
                start = time.process_time()
                run()
                taken.setdefault((name, way), []).append(count / (time.process_time() - start))
    return {name: {way: stats.median(taken[name, way]) for way in ("list", "in_order", "at_random")} for name in made}


def read(path: Path, locators: list[str]) -> None:
    for locator in locators:
        read_member(path.parent, path.name, locator, LIMIT)


if __name__ == "__main__":
    main()
