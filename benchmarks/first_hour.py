"""A newcomer's first hour, timed: a clone of this repository, its demo, and six kinds of folders from init to verify.

    python benchmarks/first_hour.py [--parts demo folders many] [--count 60] [--data DIR] [--files 1e6] [--json FILE]

The clone runs with the libraries of this Python. Each folder is made of generated ground, or with ``--data`` of real
imagery below DIR; nothing is told to the commands but the folder. ``many`` has ``init`` look at a million files, links
to a few dozen images in the folder for temporary files. A step that fails ends the script with what it printed.
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
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow.parquet as pq
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from scan import ground

SIDE = 192
REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=60, help="images in each folder that is made")
    parser.add_argument("--data", type=Path, help="real imagery: folders named as in REAL")
    parser.add_argument("--files", type=float, default=1e6, help="of the folder with many")
    parser.add_argument("--parts", nargs="+", default=["demo", "folders"], choices=["demo", "folders", "many"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        first = fresh_clone(Path(scratch), "demo" in options.parts)
        kinds = {name: partial(make, count=options.count) for name, make in KINDS.items()}
        if options.data:
            kinds = {name: partial(make, options.data.resolve() / below) for name, (make, below) in REAL.items()}
        rows = []
        if "folders" in options.parts:
            rows = [{"folder": name, **hour(Path(scratch) / name, make)} for name, make in kinds.items()]
        if "many" in options.parts:
            first["init of many"] = look_at_many(Path(scratch) / "many", int(options.files))
    for step, seconds in first.items():
        print(f"{step}: {seconds:.1f} s")
    if rows:
        show(rows)
    if options.json:
        options.json.write_text(json.dumps({"first": first, "folders": rows}, indent=1))


def show(rows: list[dict[str, float]]) -> None:
    steps = [key for key in rows[0] if key not in ("folder", "kept", "listed")]
    heads = " | ".join(f"{step}, s" for step in steps)
    print(f"\n| folder | listed | kept | {heads} |\n|" + "---|" * (len(steps) + 3))
    for row in rows:
        times = " | ".join(f"{row[step]:.1f}" for step in steps)
        print(f"| {row['folder']} | {row['listed']:,} | {row['kept']:,} | {times} |")


def timed(root: Path, *words: str) -> float:
    """Seconds of a command in a folder."""
    start = time.perf_counter()
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{root.name}: {' '.join(words)}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def fresh_clone(scratch: Path, demo: bool) -> dict[str, float]:
    """Seconds of the clone and of its demo, first and again; from then on the clone's code is what runs."""
    clone = scratch / "rscorpus"
    taken = {"git clone": timed(scratch, "git", "clone", "--quiet", str(REPOSITORY), str(clone))}
    os.environ["PYTHONPATH"] = str(clone)
    commands = scratch / "bin"
    commands.mkdir()
    for name, module in (("rs-curate", "curation"), ("rs-pretrain", "pretrain")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (commands / name).chmod(0o755)
    (commands / "python").symlink_to(sys.executable)
    os.environ["PATH"] = f"{commands}:{os.environ['PATH']}"
    for step in ("demo", "demo again") if demo else ():
        taken[step] = timed(clone, "bash", "docs/demo.sh", "demo")
    return taken


def look_at_many(root: Path, files: int) -> float:
    """Seconds of ``init`` on hard links to 48 images, a thousand in a folder."""
    images = root / "images"
    images.mkdir(parents=True)
    for number in range(48):
        Image.fromarray(ground(SIDE, number)).save(images / f"{number}.{('jpg', 'png', 'tif')[number % 3]}")
    chosen = sorted(images.iterdir())
    for number in range(files):
        folder, name = divmod(number, 1000)
        if name == 0:
            place = root / f"raw/region_{folder // 50:03d}/batch_{folder:04d}"
            place.mkdir(parents=True)
        source = chosen[number % 48]
        os.link(source, place / f"tile_{number:07d}{source.suffix}")
    return timed(root, "rs-curate", "init", "raw")


def hour(root: Path, make: Callable[[Path], Path | None]) -> dict[str, float]:
    """Seconds of each command on a folder, and what came out."""
    root.mkdir()
    raw = str(make(root / "raw") or "raw")
    steps = {
        "init": ["init", raw],
        "dry run": ["run", "recipe.yaml", "--out", "corpus", "--dry-run"],
        "run": ["run", "recipe.yaml", "--out", "corpus"],
        "again": ["run", "recipe.yaml", "--out", "corpus"],
        "trial": ["run", "recipe.yaml", "exclude.min_std=12", "--out", "corpus", "--until", "select"],
        "groups": ["groups", "corpus", "--csv"],
        "verify": ["verify", "corpus/shards"],
    }
    taken = {step: timed(root, "rs-curate", *words) for step, words in steps.items()}
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


def in_place(source: Path, folder: Path) -> Path:
    """The folder as it lies there."""
    return source


def as_zip(source: Path, folder: Path) -> None:
    """Its files in one zip."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(source).as_posix())


def as_links(source: Path, folder: Path) -> None:
    """Its files behind links, as a snapshot of the Hub has them."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        link = folder / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)


REAL: dict[str, tuple[Callable[[Path, Path], Path | None], str]] = {
    "chips": (in_place, "classification/RSSCN7_256"), "16-bit stacks": (in_place, "rasters/landsat8"),
    "zip": (as_zip, "classification/UCMerced_256"), "masks beside": (in_place, "segmentation/LEVIR_CD_samples"),
    "links": (as_links, "duplicates/generated_RSSCN7"), "series": (in_place, "rasters/landsat_timeseries"),
}  # fmt: skip
"""Kinds of ``--data``: how the folder is made, and of what below DIR."""


if __name__ == "__main__":
    main()
