"""What a newcomer's folders become, and how long each step takes: six kinds of folders, from ``init`` to ``verify``.

    python benchmarks/first_hour.py [--count 60] [--json FILE]

Each folder is made of generated ground; nothing is told to the commands but the folder. A step that fails ends the
script with what it printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow.parquet as pq
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from scan import ground

SIDE = 192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=60, help="images in each folder")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, make in KINDS.items():
            root = Path(scratch) / name
            root.mkdir()
            make(root / "raw", options.count)
            rows.append({"folder": name, **hour(root)})
    steps = [key for key in rows[0] if key not in ("folder", "kept", "listed")]
    print(
        "| folder | listed | kept | " + " | ".join(f"{step}, s" for step in steps) + " |\n|" + "---|" * (len(steps) + 3)
    )
    for row in rows:
        times = " | ".join(f"{row[step]:.1f}" for step in steps)
        print(f"| {row['folder']} | {row['listed']} | {row['kept']} | {times} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def hour(root: Path) -> dict[str, float]:
    """Seconds of each command on ``root/raw``, and what came out."""
    steps = {
        "init": ["init", "raw"],
        "dry run": ["run", "recipe.yaml", "--out", "corpus", "--dry-run"],
        "run": ["run", "recipe.yaml", "--out", "corpus"],
        "again": ["run", "recipe.yaml", "--out", "corpus"],
        "trial": ["run", "recipe.yaml", "exclude.min_std=12", "--out", "corpus", "--until", "select"],
        "groups": ["groups", "corpus", "--csv"],
        "verify": ["verify", "corpus/shards"],
    }
    taken = {}
    for step, words in steps.items():
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "curation", *words], cwd=root, capture_output=True, text=True, check=False
        )
        taken[step] = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"{root.name}: rs-curate {' '.join(words)}\n{done.stdout}{done.stderr}")
    rows = pq.read_table(root / "corpus/catalogue.parquet", columns=["kind", "verdict"]).to_pylist()
    found = {
        "listed": sum(row["kind"] == "image" for row in rows),
        "kept": sum(row["verdict"] == "kept" for row in rows),
    }
    return found | taken


def chips(folder: Path, count: int) -> None:
    """JPEG chips, a folder a class."""
    for number in range(count):
        path = folder / f"class_{number % 4}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ground(SIDE, number)).save(path, quality=90)


def stacks(folder: Path, count: int) -> None:
    """16-bit GeoTIFFs of four bands, named blue, green, red and nir, 10 m a pixel."""
    folder.mkdir()
    for number in range(count):
        rgb = ground(SIDE, number).astype(np.uint16) * 12
        bands = np.stack([rgb[..., 2], rgb[..., 1], rgb[..., 0], rgb[..., 1] + 400])
        place = from_origin(500_000 + 2_000 * number, 5_000_000, 10, 10)
        profile = {"driver": "GTiff", "dtype": "uint16", "count": 4, "crs": "EPSG:32632", "transform": place}
        with rasterio.open(folder / f"S2_{number:04d}.tif", "w", width=SIDE, height=SIDE, **profile) as file:
            file.write(bands)
            file.descriptions = ("blue", "green", "red", "nir")


def zipped(folder: Path, count: int) -> None:
    """PNGs in a zip."""
    folder.mkdir()
    chips(folder / "aside", count)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for path in sorted((folder / "aside").rglob("*.jpg")):
            archive.write(path, path.relative_to(folder / "aside").as_posix())
    shutil.rmtree(folder / "aside")


def masked(folder: Path, count: int) -> None:
    """Images with label masks in a folder beside."""
    for number in range(count):
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        rgb = ground(SIDE, number)
        Image.fromarray(rgb).save(folder / f"images/{number:04d}.png")
        Image.fromarray((rgb[..., 0] // 64).astype(np.uint8)).save(folder / f"masks/{number:04d}.png")


def linked(folder: Path, count: int) -> None:
    """A snapshot of the Hugging Face Hub: names that are links into a folder of blobs."""
    blobs, snapshot = folder.parent / "blobs", folder
    chips(folder.parent / "aside", count)
    blobs.mkdir()
    snapshot.mkdir()
    for number, path in enumerate(sorted((folder.parent / "aside").rglob("*.jpg"))):
        shutil.move(path, blobs / f"{number:040x}")
        (snapshot / f"{number:04d}.jpg").symlink_to(Path("..") / "blobs" / f"{number:040x}")


def repeated(folder: Path, count: int) -> None:
    """A time series: each place four times, the last one a copy under another name."""
    folder.mkdir()
    for number in range(count):
        place, date = divmod(number, 4)
        rgb = ground(SIDE, place).astype(np.int16) + (0, 25, -25, 0)[date]
        Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8)).save(folder / f"place{place:03d}_{date}.jpg", quality=90)


KINDS: dict[str, Callable[[Path, int], None]] = {
    "chips": chips, "16-bit stacks": stacks, "zip": zipped, "masks beside": masked, "links": linked, "series": repeated,
}  # fmt: skip


if __name__ == "__main__":
    main()
