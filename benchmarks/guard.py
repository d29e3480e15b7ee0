"""What the leak guard finds of copies of an evaluation set's images, and what it costs at full size.

    python benchmarks/guard.py --data ../shared/data [--tiles 13.2e6 --prints 200000] [--out guard.json]

1. *Copies*: each transformation is made of 200 chips (RSSCN7 and UC Merced), stored as JPEG of quality 90 and once more
   of quality 40, and asked for in the whole of both sets. Found: the guard names the chip that the copy was made of.
2. *Strangers*: chips of UC Merced, and windows of rasters that no chip was cut from, against RSSCN7: nothing is a leak.
   What the guard names all the same is listed, to be looked at. (Thresholds were chosen with RSSCN7 against UC Merced
   and other windows.)
3. *Time* (``--tiles``): random codes of that many tiles, in all orientations, against the parts of so many images.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from dedup_quality import read
from PIL import Image

from curation.scan.parts import ScanJob, plan_parts
from curation.scan.scan import scan_part
from curation.select import neighbours
from curation.select.benchmark_fingerprints import fingerprint_benchmark
from curation.select.crops import BOXES, RADIUS
from curation.select.select import select
from curation.sources.recipe import Recipe, resolve
from curation.sources.source import Benchmark

COPIES = 200
STRANGERS = 10_000
SIDE = 256
Turn = Callable[[Image.Image, np.random.Generator], Image.Image]


def cut(share: float, anywhere: bool, turned: bool = False) -> Turn:
    """A crop that keeps ``share`` of each side, from the middle or anywhere, in any orientation if asked."""

    def make(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        top, left = rng.uniform(0, 1 - share, 2) if anywhere else ((1 - share) / 2,) * 2
        wide, high = picture.size
        box = (round(left * wide), round(top * high), round((left + share) * wide), round((top + share) * high))
        part = picture.crop(box)
        return part.transpose(Image.Transpose(int(rng.integers(7)))) if turned else part

    return make


def around(share: float) -> Turn:
    """The chip lies in the middle of a larger picture: the mirror case; what is around it is mirrored."""

    def make(picture: Image.Image, _rng: np.random.Generator) -> Image.Image:
        rim = round(picture.width * (1 / share - 1) / 2)
        return Image.fromarray(np.pad(np.asarray(picture), ((rim, rim), (rim, rim), (0, 0)), mode="reflect"))

    return make


def rotated(degrees: float) -> Turn:
    """Turned by a few degrees, and cut so that no corner is empty."""

    def make(picture: Image.Image, _rng: np.random.Generator) -> Image.Image:
        whole = picture.rotate(degrees, Image.Resampling.BICUBIC)
        rim = int(np.ceil(picture.width * np.tan(np.radians(degrees)) / 2))
        return whole.crop((rim, rim, picture.width - rim, picture.height - rim))

    return make


def scaled(factor: float) -> Turn:
    return lambda picture, _: picture.resize((round(picture.width * factor),) * 2, Image.Resampling.BICUBIC)


TRANSFORMATIONS: dict[str, Turn] = {
    "as it is": lambda picture, _: picture,
    "turned or mirrored": lambda picture, rng: picture.transpose(Image.Transpose(int(rng.integers(7)))),
    "resized to 0.6": scaled(0.6),
    **{f"middle {share}": cut(share, False) for share in (0.97, 0.95, 0.925, 0.9, 0.875, 0.85, 0.8)},
    **{f"middle {share}, turned or mirrored": cut(share, False, True) for share in (0.95, 0.9, 0.85)},
    **{f"anywhere {share}": cut(share, True) for share in (0.97, 0.95, 0.925, 0.9, 0.875, 0.85, 0.8)},
    **{f"anywhere {share}, turned or mirrored": cut(share, True, True) for share in (0.95, 0.9, 0.85)},
    **{f"around it, {share}": around(share) for share in (0.95, 0.9, 0.85)},
    **{f"by {degrees} degrees": rotated(degrees) for degrees in (1, 2, 4)},
}


def guarded(folder: Path, corpus: Path, prints: Path) -> dict[str, dict[str, Any]]:
    """Catalogue rows of a corpus's tiles after the guard, by path; nothing else may take a tile out."""
    from curation.catalogue import read_table
    from curation.sources.inventory import write_inventory

    given = {
        "name": "bench", "sources": [{"id": "corpus", "path": str(corpus)}], "deduplicate": "off",
        "guard": {"benchmarks": ["chips"]},
    }  # fmt: skip
    recipe = Recipe.model_validate(given)
    sources = resolve(recipe, None)
    write_inventory(sources, folder / "images.parquet")
    parts = plan_parts(folder / "images.parquet", folder / "scan", ScanJob.of(sources[0], recipe))
    for part in parts:
        scan_part(part)
    select([part.out for part in parts], recipe, sources, folder / "c.parquet", benchmarks={"chips": prints})
    rows = read_table(folder / "c.parquet", "catalogue").to_pylist()
    return {row["image"]: row for row in rows if row["kind"] == "tile"}


def copies(data: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Share of the copies that are found, by transformation and quality of the second encoding."""
    chips = data / "classification"
    names = sorted(
        path.relative_to(chips).as_posix()
        for pattern in ("RSSCN7_256/*/*", "UCMerced_256/*/*")
        for path in chips.glob(pattern)
    )
    rng = np.random.default_rng(0)
    chosen = [names[place] for place in np.sort(rng.permutation(len(names))[:COPIES])]
    for way, turn in enumerate(TRANSFORMATIONS.values()):
        for place, name in enumerate(chosen):
            picture = turn(Image.open(chips / name).convert("RGB"), rng)
            for quality in (90, 40):
                path = folder / f"corpus/{way}/{quality}/{place}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path, quality=quality)
    prints = folder / "chips.parquet"
    benchmark = Benchmark.model_validate({"id": "chips", "images": ["RSSCN7_256/*/*", "UCMerced_256/*/*"]})
    print(fingerprint_benchmark(benchmark, chips, prints))
    rows = guarded(folder, folder / "corpus", prints)
    found: dict[str, dict[str, float]] = {}
    for way, title in enumerate(TRANSFORMATIONS):
        for quality in (90, 40):
            hits = [named(rows[f"{way}/{quality}/{place}.jpg"]) == name for place, name in enumerate(chosen)]
            found.setdefault(title, {})[f"q{quality}"] = float(np.mean(hits))
    return found


def named(row: dict[str, Any]) -> str | None:
    """The benchmark's image that a row is said to show."""
    return row["detail"].partition("/")[2].partition(": ")[0] if row["verdict"] == "leak" else None


def strangers(data: Path, folder: Path) -> dict[str, Any]:
    """Tiles that show none of RSSCN7's images, and those of them that the guard names."""
    chips = data / "classification"
    prints = folder / "chips.parquet"
    fingerprint_benchmark(Benchmark.model_validate({"id": "chips", "images": ["RSSCN7_256/*/*"]}), chips, prints)
    for number, pixels in enumerate(windows(data)):
        path = folder / f"strangers/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
    rows = guarded(folder, folder / "strangers", prints)
    asked = [row for row in rows.values() if row["verdict"] in ("kept", "leak")]
    return {"tiles": len(asked), "leaks": [row["detail"] for row in asked if row["verdict"] == "leak"]}


def windows(data: Path) -> Iterator[np.ndarray]:
    """UC Merced, then windows at random places and scales of rasters."""
    paths = sorted(path for path in (data / "classification/UCMerced_256").glob("*/*"))
    yield from (read(path) for path in paths)
    rasters = [data / "rasters/blue_marble_4096x2048.jpg", *sorted((data / "rasters/drone_brighton").glob("*.JPG"))]
    scenes = [read(path) for path in [*rasters, *sorted((data / "rasters/sentinel2").glob("*rgb*.tif"))]]
    rng = np.random.default_rng(3)
    for _ in range(STRANGERS - len(paths)):
        scene = scenes[rng.integers(len(scenes))]
        side = int(rng.integers(128, min(768, *scene.shape[:2])))
        top, left = (int(rng.integers(size - side + 1)) for size in scene.shape[:2])
        part = np.ascontiguousarray(scene[top : top + side, left : left + side])
        yield np.asarray(Image.fromarray(part).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def cost(tiles: int, prints: int, threads: int) -> dict[str, float]:
    """Seconds and memory of looking up every tile in eight orientations among the parts of all images."""
    rng = np.random.default_rng(2)
    wanted = rng.integers(0, 1 << 64, prints * len(BOXES), np.uint64)
    start, pairs = time.perf_counter(), 0
    for _view in range(8):
        pairs += len(neighbours.pairs_between(rng.integers(0, 1 << 64, tiles, np.uint64), wanted, RADIUS, threads))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "pairs": pairs, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Print tables, and write figures where ``--out`` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of labelled chips and rasters; without, only the time")
    parser.add_argument("--tiles", type=float, default=0)
    parser.add_argument("--prints", type=float, default=200_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    if options.data:
        with tempfile.TemporaryDirectory() as scratch:
            figures["copies"] = copies(options.data, Path(scratch) / "a")
            print("| copy | found, quality 90 | quality 40 |\n|---|---|---|")
            for title, shares in figures["copies"].items():
                print(f"| {title} | {100 * shares['q90']:.1f} % | {100 * shares['q40']:.1f} % |", flush=True)
            figures["strangers"] = strangers(options.data, Path(scratch) / "b")
            print(f"{figures['strangers']['tiles']:,} strangers, leaks: {figures['strangers']['leaks'] or 'none'}")
    if options.tiles:
        figures["cost"] = cost(int(options.tiles), int(options.prints), options.threads)
        print("{seconds:.0f} s, {pairs:,} candidates, {peak_mib:,.0f} MiB".format(**figures["cost"]))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
