"""How fast the scan is, against reading and hashing alone. One core a process; contenders are interleaved.

    python benchmarks/scan.py chips [--images FOLDER]     # decode + checks + hashes against Pillow + imagehash
    python benchmarks/scan.py files [--images FOLDER]     # the scan stage of files on disk against Pillow + imagehash
    python benchmarks/scan.py scaling                     # two processes against one
    python benchmarks/scan.py raster [--side 30000]       # windows and scan of a striped GeoTIFF against reading it
    python benchmarks/scan.py overhead                    # scheduler and bookkeeping against the work

Every command prints a table and, with ``--json FILE``, writes its figures. Times are CPU seconds of the working thread
where the contenders run in one process, else wall seconds; medians of the rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import statistics as stats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402 (after the thread counts)
from PIL import Image  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["chips", "files", "scaling", "raster", "overhead", "_raster"])
    parser.add_argument("--images", type=Path, help="folder of real images to cut from; default: generated ground")
    parser.add_argument("--side", type=int, default=30_000)
    parser.add_argument("--sides", type=int, nargs="+", default=[150, 256, 512], help="of the files' images")
    parser.add_argument("--count", type=int, help="files of each side; default: four seconds of Pillow + imagehash")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scratch", type=Path, help="folder for large files")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", nargs=2)
    options = parser.parse_args()
    if options.what == "_raster":
        print(json.dumps(raster_step(options.step[0], Path(options.step[1]))))
        return
    modes = {"chips": chips, "files": files, "scaling": scaling, "raster": raster, "overhead": overhead}
    figures = modes[options.what](options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


# ------------------------------------------------------------------------------------------------ chips


def chips(options: argparse.Namespace) -> dict[str, Any]:
    """JPEGs in memory: all that the scan does to a chip, against opening it and ``imagehash.phash`` alone."""
    import imagehash

    from curation.imagery import decode
    from curation.imagery.image import Image as Raw
    from curation.scan import fingerprint, measurements
    from curation.sources.recipe import ExcludeRules
    from curation.sources.source import Source

    rules, source = ExcludeRules(), Source(id="bench")

    def theirs(files: list[bytes]) -> None:
        for data in files:
            imagehash.phash(Image.open(io.BytesIO(data)))

    def ours(files: list[bytes]) -> None:
        reduced, found = [], []
        for data in files:
            digest = hashlib.sha256(data).digest()
            image = Raw(decode.decode(data, "JPEG", rules.max_pixels), source, len(data), digest)
            rgb, valid = image.read(image.area)
            found.append(measurements.measure(rgb, valid).without_cells())
            reduced.append(fingerprint.reduce(rgb, valid))
        fingerprint.finish(reduced)
        measurements.columns(found)

    figures: dict[str, Any] = {}
    print("| JPEG | Pillow + imagehash.phash, images/s | scan, images/s | ratio |\n|---|---|---|---|")
    for side in (256, 512):
        files = jpegs(options.images, side, 300)
        theirs(files[:20]), ours(files[:20])
        taken = interleaved({"theirs": lambda: theirs(files), "ours": lambda: ours(files)}, options.rounds)  # noqa: B023
        rates = {name: len(files) / seconds for name, seconds in taken.items()}
        figures[f"jpeg_{side}"] = {**rates, "ratio": rates["ours"] / rates["theirs"], "images": len(files)}
        print(f"| {side} px | {rates['theirs']:.0f} | {rates['ours']:.0f} | {rates['ours'] / rates['theirs']:.2f} |")
    return figures


def interleaved(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each contender, run in turns so that a disturbance meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.thread_time()
            run()
            taken[name].append(time.thread_time() - start)
    return {name: stats.median(seconds) for name, seconds in taken.items()}


def jpegs(folder: Path | None, side: int, count: int) -> list[bytes]:
    """``count`` JPEGs of quality 90, cut from real images, or of generated ground."""
    noise = np.random.default_rng(0)
    pictures = []
    if folder is not None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
        for path in paths:
            with Image.open(path) as picture:
                if min(picture.size) >= side and picture.mode == "RGB":
                    pictures.append(np.asarray(picture))
    files = []
    for number in range(count):
        pixels = ground(side, number) if not pictures else pictures[number % len(pictures)]
        top = int(noise.integers(0, pixels.shape[0] - side + 1))
        left = int(noise.integers(0, pixels.shape[1] - side + 1))
        buffer = io.BytesIO()
        Image.fromarray(pixels[top : top + side, left : left + side]).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def ground(side: int, seed: int) -> np.ndarray:
    """Shapes at several scales with noise that the channels share."""
    noise = np.random.default_rng(seed)
    total = np.full((side, side, 3), (120.0, 115.0, 100.0))
    for cells, strength in ((4, 40), (16, 30), (64, 20), (side, 9)):
        grey = noise.normal(0, strength, (cells, cells, 1)) + noise.normal(0, strength / 6, (cells, cells, 3))
        for band in range(3):
            layer = Image.fromarray(grey[..., band].astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
            total[..., band] += np.asarray(layer)
    return np.clip(total, 0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------ files


def files(options: argparse.Namespace) -> dict[str, Any]:
    """The scan stage as ``rs-curate run`` runs it on JPEG files, one worker, against opening and hashing each.

    Marginal: a folder and a quarter of it in turns, images by wall seconds of the difference: no start counts.
    Both in a worker, which keeps freed memory: where glibc does not, which is chance, Pillow takes a third longer.
    """
    figures: dict[str, Any] = {}
    print("| JPEG | Pillow + imagehash.phash, images/s | scan stage, images/s | ratio |\n|---|---|---|---|")
    for side in options.sides:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            folder = Path(scratch)
            count = options.count or 4_000 * 150 // side
            roots = [folder_of_chips(folder / f"raw{size}", options.images, size, side) for size in (count, count // 4)]
            rates: dict[str, list[float]] = {"theirs": [], "ours": []}
            for turn in range(options.rounds):
                ours = [scan_folder(root, folder / f"out-{turn}-{root.name}", 1) for root in roots]
                theirs = [in_workers(hash_folder, [root], folder / f"{turn}-{root.name}", 1) for root in roots]
                for name, (whole, quarter) in {"ours": ours, "theirs": theirs}.items():
                    rates[name].append((count - count // 4) / (whole - quarter))
        median = {name: stats.median(values) for name, values in rates.items()}
        ratio = stats.median(mine / other for mine, other in zip(rates["ours"], rates["theirs"], strict=True))
        figures[f"jpeg_{side}"] = {**median, "ratio": ratio, "images": count, "rounds": rates}
        print(f"| {side} px | {median['theirs']:.0f} | {median['ours']:.0f} | {ratio:.2f} |", flush=True)
    return figures


# ------------------------------------------------------------------------------------------------ scaling


def scaling(options: argparse.Namespace) -> dict[str, Any]:
    """A folder of 256 px JPEGs through the executor, with one and with two processes, cluster start left aside."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch)
        plan = folder_of_chips(folder / "raw", options.images, 12_000)
        taken: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(max(options.rounds // 2, 1)):
            for workers in (1, 2):
                taken[workers].append(scan_folder(plan, folder / f"out-{turn}-{workers}", workers))
    seconds = {workers: stats.median(values) for workers, values in taken.items()}
    figures = {"images": 12_000, "seconds": seconds, "speedup": seconds[1] / seconds[2]}
    print("| processes | seconds | images/s |\n|---|---|---|")
    for workers, value in seconds.items():
        print(f"| {workers} | {value:.2f} | {12_000 / value:.0f} |")
    print(f"speed-up {figures['speedup']:.2f}")
    return figures


def folder_of_chips(root: Path, images: Path | None, count: int, side: int = 256) -> Path:
    """A folder that lists ``count`` images; files repeat by hard links."""
    root.mkdir(parents=True)
    files = jpegs(images, side, 400)
    for number, data in enumerate(files[:count]):
        (root / f"{number:07d}.jpg").write_bytes(data)
    for number in range(len(files), count):
        os.link(root / f"{number % len(files):07d}.jpg", root / f"{number:07d}.jpg")
    return root


def scan_folder(root: Path, out: Path, workers: int) -> float:
    """Wall seconds of the scan of a folder, cluster start and listing left aside."""
    from curation.scan import scan

    return in_workers(scan.scan_part, parts_of(root, out), out, workers)


def in_workers(work: Callable[[Any], Any], parts: list[Any], out: Path, workers: int) -> float:
    """Wall seconds of some parts of work, once the workers are there."""
    from curation.executor.executor import Executor

    with Executor(workers, None, out / "workers") as executor:
        list(executor.map_parts(warm, list(range(4 * workers))))
        start = time.perf_counter()
        for _ in executor.map_parts(work, parts):
            pass
        return time.perf_counter() - start


def hash_folder(root: Path) -> None:
    """Open and hash every image of a folder."""
    import imagehash

    for path in sorted(root.iterdir()):
        imagehash.phash(Image.open(path))


def warm(number: int) -> int:
    """Load what a worker loads for its first image: decoders and kernels."""
    from curation.imagery import decode
    from curation.scan import fingerprint, measurements, scan  # noqa: F401

    rgb = decode.decode(jpegs(None, 64, 1)[0], "JPEG", 1 << 20).rgb
    measurements.measure(rgb), measurements.fill(rgb), fingerprint.fingerprint([rgb])
    time.sleep(0.2)
    return number


def parts_of(root: Path, out: Path, slicing: dict[str, Any] | None = None) -> list[Any]:
    from curation import catalogue
    from curation.scan import parts as scan_parts
    from curation.sources.recipe import Recipe, resolve

    recipe = Recipe.model_validate(
        {"name": "bench", "sources": [{"id": "bench", "path": str(root)}], "slice": slicing or {}}
    )
    rows = [
        {"source": "bench", "image": entry.name, "file": entry.name, "bytes": entry.stat().st_size, "mtime_ns": 0}
        for entry in sorted(os.scandir(root), key=lambda entry: entry.name)
    ]
    listing = out / "images.parquet"
    catalogue.write_table(catalogue.table_from_rows("images", rows), listing, "images")
    return scan_parts.plan_parts(listing, out / "tiles", scan_parts.ScanJob.of(resolve(recipe, None)[0], recipe))


# ------------------------------------------------------------------------------------------------ raster


def raster(options: argparse.Namespace) -> dict[str, Any]:
    """A striped GeoTIFF larger than memory allows: its windows and its whole scan against reading it once.

    Each in a process with the environment of a worker.
    """
    from curation.executor.nursery import ENVIRONMENT

    figures: dict[str, Any] = {}
    print("| raster | reading once, s | windows | scan | peak memory of the scan, MB |\n|---|---|---|---|---|")
    for dtype in ("uint8", "uint16"):
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            path = Path(scratch) / "raw" / "large.tif"
            write_raster(path, options.side, dtype)
            taken: dict[str, list[dict[str, float]]] = {"read": [], "windows": [], "scan": []}
            for _ in range(max(options.rounds // 2, 1)):
                for step in taken:
                    command = [sys.executable, __file__, "_raster", "--step", step, str(path)]
                    done = subprocess.run(command, check=True, capture_output=True, env=os.environ | ENVIRONMENT)
                    taken[step].append(json.loads(done.stdout))
        seconds = {step: stats.median(value["seconds"] for value in values) for step, values in taken.items()}
        memory = max(value["peak_mb"] for value in taken["scan"])
        figures[dtype] = {"side": options.side, "seconds": seconds, "peak_mb": memory}
        ratios = {step: seconds[step] / seconds["read"] for step in ("windows", "scan")}
        print(
            f"| {options.side} x {options.side} x 3 {dtype} | {seconds['read']:.1f} | {ratios['windows']:.2f} x "
            f"| {ratios['scan']:.2f} x | {memory:.0f} |"
        )
    return figures


def write_raster(path: Path, side: int, dtype: str) -> None:
    import rasterio
    from rasterio.windows import Window

    path.parent.mkdir(parents=True)
    block = np.concatenate([np.concatenate([ground(1000, 10 * row + at) for at in range(3)], 1) for row in range(2)])
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": dtype, "interleave": "pixel",
               "compress": "deflate", "zlevel": 1, "predictor": 2, "blockysize": 8,
               "photometric": "RGB", "crs": "EPSG:32631", "bigtiff": "yes",
               "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)}  # fmt: skip
    factor = 37 if dtype == "uint16" else 1
    noise = np.random.default_rng(0)
    with rasterio.open(path, "w", **profile) as out:
        for top in range(0, side, 2000):
            rows = min(2000, side - top)
            strip = np.tile(np.roll(block, top // 7, axis=1), (1, -(-side // block.shape[1]), 1))[:rows, :side]
            grain = noise.integers(0, 8, (rows, side, 1), np.uint8)  # or deflate would find the tile again
            values = (strip.astype(np.uint16) * 31 // 32 + grain).astype(dtype) * factor
            out.write(np.moveaxis(values, -1, 0), window=Window(0, top, side, rows))


def raster_step(step: str, path: Path) -> dict[str, float]:
    """One contender in a process of its own."""
    import rasterio

    from curation.catalogue import Window
    from curation.imagery.gdal_windows import GDAL_OPTIONS
    from curation.imagery.image import open_image
    from curation.imagery.location import Location
    from curation.scan import block_walk, scan, slicing
    from curation.sources.recipe import ExcludeRules, SliceRules
    from curation.sources.source import Source

    warm(0)
    start = time.perf_counter()
    if step == "read":
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path) as data:
            for top in range(0, data.height, 512):
                data.read(window=rasterio.windows.Window(0, top, data.width, min(512, data.height - top)))
    elif step == "windows":
        rules = SliceRules(mode="grid", tile=512)
        with open_image(Location(path.parent, path.name), Source(id="bench"), ExcludeRules()) as image:
            windows = slicing.windows(Window(0, 0, image.width, image.height), rules, 0, "bench", path.name)
            count = sum(1 for _ in block_walk.BlockWalk(image, windows, None, fingerprinted=False))
            assert count == len(windows)
    else:
        with tempfile.TemporaryDirectory() as out:
            (part,) = parts_of(path.parent, Path(out), {"mode": "grid", "tile": 512})
            scan.scan_part(part)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": peak_memory()}


def peak_memory() -> float:
    """Megabytes; from the kernel's record of this program, since ``getrusage`` keeps the parent's across exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# ------------------------------------------------------------------------------------------------ overhead


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """Listing rows to parts, tasks and their scheduling, against the seconds that workers spend on them.

    Parts are planned for a listing of a million images; 40,000 tiny images (64 px) are then scanned for real.
    """
    from curation import catalogue
    from curation.executor.executor import Executor
    from curation.scan import parts as scan_parts
    from curation.scan import scan
    from curation.sources.recipe import Recipe, resolve

    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        out = Path(scratch)
        root = folder_of_chips(out / "raw", options.images, 40_000, side=64)
        million = [
            {"source": "b", "image": f"{n:07d}", "file": "x", "bytes": 2_000, "mtime_ns": 0} for n in range(1_000_000)
        ]
        listing = out / "million.parquet"
        catalogue.write_table(catalogue.table_from_rows("images", million), listing, "images")
        recipe = Recipe.model_validate({"name": "bench", "sources": [{"id": "b", "path": str(root)}]})
        start = time.perf_counter()
        planned = scan_parts.plan_parts(listing, out, scan_parts.ScanJob.of(resolve(recipe, None)[0], recipe))
        planning = time.perf_counter() - start
        parts = parts_of(root, out / "real")
        with Executor(1, None, out / "workers") as executor:
            list(executor.map_parts(warm, list(range(4))))
            start = time.perf_counter()
            working = sum(summary.seconds for _, summary in executor.map_parts(scan.scan_part, parts))
            wall = time.perf_counter() - start
    share = (wall - working) / wall + planning / (wall * 1_000_000 / 40_000)
    figures = {
        "planning_a_million_s": planning,
        "parts": len(planned),
        "wall_s": wall,
        "working_s": working,
        "share": share,
    }
    print("| planning 1,000,000 rows, s | parts | scanning 40,000 images, s | of it in workers, s | overhead |")
    print("|---|---|---|---|---|")
    print(f"| {planning:.2f} | {len(planned)} | {wall:.2f} | {working:.2f} | {share:.1%} |")
    return figures


if __name__ == "__main__":
    main()
