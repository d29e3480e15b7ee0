"""Time and memory of the whole select stage: Parquet in, Parquet out; then of asking ``rs-curate why``.

    python benchmarks/select_stage.py --folder /some/disk [--rows 13.2e6] [--threads 2] [--out select.json]
        [exclude.max_flat=0.3 ...]

Tiles are made once and kept in the folder (about 360 bytes each): codes as in ``benchmarks/neighbours.py`` with all
eight orientations; planted near duplicates share their original's picture in a random orientation, with noise; of every
crowd around a centre half show its picture and half one of their own, all of little texture; 1 % equal pixels; six
tiles per raw image, each image with a row of its own and measurements that the default thresholds accept but for one
image in some thousands. A benchmark of 10,000 images is guarded, 9 % of which show tiles of the corpus.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))
from neighbours import flipped, orientations_of

from curation.base.settings import override
from curation.catalogue import schema_of, write_table
from curation.select import second_opinion
from curation.sources.recipe import Recipe, resolve

PART = 96_000
PER_IMAGE = 6
SOURCES = 20


def pictures(numbers: np.ndarray) -> np.ndarray:
    """(N, 256) int8: the block of picture ``numbers``, with the falling spectrum of imagery."""
    slope = 1.0 / np.maximum(np.hypot(*np.mgrid[:16, :16]), 0.5).reshape(-1)
    blocks = np.empty((len(numbers), 256), np.float32)
    for low in range(0, len(numbers), 10_000):
        chosen = numbers[low : low + 10_000].astype(np.uint64)
        counter = chosen[:, None] * np.uint64(256) + np.arange(256, dtype=np.uint64)
        mixed = (counter ^ (counter >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        blocks[low : low + 10_000] = ((mixed >> np.uint64(40)).astype(np.float32) / 2**23 - 1) * slope
    blocks[:, 0] = 0
    return np.rint(blocks / np.abs(blocks).max(axis=1, keepdims=True) * 120).astype(np.int8)


def oriented(blocks: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Blocks of the pictures in their orientation (numbered as in curation.select.views)."""
    odd = np.where(np.arange(16) % 2, -1, 1).astype(np.int8)
    signs = [
        (1, 1),
        (odd[:, None], 1),
        (odd[:, None], odd),
        (1, odd),
        (1, odd),
        (1, 1),
        (odd[:, None], 1),
        (odd[:, None], odd),
    ]
    result = blocks.reshape(-1, 16, 16).copy()
    for number, (rows, columns) in enumerate(signs):
        chosen = orientation == number
        part = result[chosen].transpose(0, 2, 1) if number % 2 else result[chosen]
        result[chosen] = part * rows * columns
    return result.reshape(-1, 256)


def make_part(job: tuple[Path, int, int]) -> None:
    """Tiles ``number * PART`` and on, of ``count`` in all; what each is a copy of follows from its number alone."""
    path, number, count = job
    first = number * PART
    tiles = np.arange(first, min(count, first + PART))
    rng = np.random.default_rng([7, number])
    role = rng.random(len(tiles))
    picture, orientation = tiles.copy(), np.zeros(len(tiles), np.int64)
    copies = role < 0.09
    picture[copies] = rng.integers(0, count, copies.sum())
    orientation[copies & (role < 0.08)] = rng.integers(0, 8, (copies & (role < 0.08)).sum())
    crowd = (role >= 0.09) & (role < 0.14)
    centre = count + rng.integers(0, 10, len(tiles))
    picture = np.where(crowd & (rng.random(len(tiles)) < 0.5), centre, picture)
    base = np.where(crowd, centre, picture).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    codes = (base ^ (base >> np.uint64(31))) * np.uint64(0xD6E8FEB86659FD93)
    codes = orientations_of(codes ^ (codes >> np.uint64(32)))
    codes = codes[np.arange(len(tiles)), orientation]
    near = copies & (role < 0.08)
    codes[near] = flipped(codes[near], 4, rng)
    codes[crowd] = flipped(codes[crowd], 6, rng)
    blocks = oriented(pictures(picture), orientation)
    noise = rng.integers(-1, 2, blocks.shape).astype(np.int8)
    blocks = np.where((near | crowd)[:, None], blocks + noise, blocks)
    content = np.stack([np.where(copies & ~near, picture, tiles), np.full(len(tiles), 5)], axis=1).astype(np.uint64)
    energy = np.where(crowd, rng.uniform(0.2, 4, len(tiles)), rng.lognormal(3, 0.8, len(tiles)))
    write_table(_table(tiles, codes, blocks, content, energy, rng), path, "tiles")


def _table(
    tiles: np.ndarray,
    codes: np.ndarray,
    blocks: np.ndarray,
    content: np.ndarray,
    energy: np.ndarray,
    rng: np.random.Generator,
) -> pa.Table:
    count = len(tiles)
    image = tiles // PER_IMAGE
    is_tile = np.concatenate([np.ones(count, bool), np.zeros(len(np.unique(image)), bool)])
    image = np.concatenate([image, np.unique(image)])
    place = np.where(is_tile, np.concatenate([tiles % PER_IMAGE, np.full(len(image) - count, -1)]), -1)
    order = np.lexsort((place, image))
    ids = (image.astype(np.uint64) * np.uint64(8) + (place + 1).astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    tile_ids = [f"{value:016x}0000" for value in ids[order].tolist()]
    where = np.concatenate([np.arange(count), np.full(len(image) - count, -1)])[order]
    null = where < 0
    source = image[order] * 0 + (image[order] // 20_000) % SOURCES
    words = pa.array([f"s{number:02d}" for number in range(SOURCES)])

    def nullable(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=null)

    def fixed(values: np.ndarray, width: int) -> pa.Array:
        data = np.ascontiguousarray(values[where]).view(np.uint8).reshape(-1)
        bits = pa.array(~null).buffers()[1]
        return pa.Array.from_buffers(pa.binary(width), len(where), [bits, pa.py_buffer(data)])

    eight = orientations_of(codes[where])
    given: dict[str, Any] = {
        "kind": pa.DictionaryArray.from_arrays(pa.array(null.astype(np.int32)), pa.array(["tile", "image"])),
        "tile_id": pa.array(tile_ids),
        "source": pa.DictionaryArray.from_arrays(pa.array(source.astype(np.int32)), words),
        "image": pa.array([f"images/{n // 1000:05d}/scene_{n:09d}.tif" for n in image[order].tolist()]),
        "col_off": nullable(place[order] % 3 * 512, pa.int32()),
        "row_off": nullable(place[order] // 3 * 512, pa.int32()),
        "width": nullable(np.full(len(where), 512), pa.int32()),
        "height": nullable(np.full(len(where), 512), pa.int32()),
        "image_width": pa.array(np.full(len(where), 1536), pa.int32()),
        "image_height": pa.array(np.full(len(where), 1024), pa.int32()),
        "file_bytes": pa.array(np.full(len(where), 900_000), pa.int64()),
        "pass_through": pa.array(np.zeros(len(where), bool)),
        "gsd_m": pa.array(rng.choice([0.3, 0.5, 1.0], len(where)), pa.float32()),
        "content_hash": fixed(content, 16),
        "phash": nullable(eight[:, 0], pa.uint64()),
        "ac_energy": nullable(energy[where], pa.float32()),
        "valid_share": nullable(np.ones(len(where)), pa.float32()),
        "dct16": fixed(blocks, 256),
        "dct_scale": nullable(np.ones(len(where)), pa.float32()),
        "orientations": pa.FixedSizeListArray.from_arrays(pa.array(eight.reshape(-1)), 8),
        "mean": pa.array(rng.uniform(60, 160, len(where)), pa.float32()),
        "std": pa.array(rng.uniform(4, 60, len(where)), pa.float32()),
        **_measured(len(where), ~null, rng),
    }
    schema = schema_of("tiles")
    return pa.table([given.get(f.name, pa.nulls(len(where), f.type)) for f in schema], schema=schema)


def _measured(count: int, is_tile: np.ndarray, rng: np.random.Generator) -> dict[str, pa.Array]:
    """What the exclusion rules look at, of images alone; ``flat`` exceeds 0.3 in one of seventeen."""
    values = {
        "short_side": np.full(count, 1024), "elongation": np.full(count, 1.5), "soft_alpha": np.zeros(count),
        "sampled": np.full(count, 60_000), "fill": rng.beta(1, 30, count), "flat": rng.beta(1, 8, count),
        "gentle": rng.uniform(0, 0.4, count), "coloured": rng.uniform(0.2, 1, count),
        "colour_spread": rng.uniform(10, 50, count), "edge": rng.uniform(5, 20, count),
        "agreement": rng.uniform(0.6, 1, count),
    }  # fmt: skip
    schema = schema_of("tiles")
    return {name: pa.array(each, schema.field(name).type, mask=is_tile) for name, each in values.items()}


def _measure(folder: Path, parts: list[Path], threads: int, assignments: list[str]) -> dict[str, Any]:
    import resource

    from curation.select.select import select

    sources = [{"id": f"s{number:02d}", "path": "/nowhere"} for number in range(SOURCES)]
    given = {"name": "bench", "sources": sources, "guard": {"benchmarks": ["bench"]}}
    recipe = Recipe.model_validate(override(given, assignments))
    wall, cpu = time.perf_counter(), time.process_time()
    summary = select(
        parts, recipe, resolve(recipe, None), folder / "catalogue.parquet",
        benchmarks={"bench": folder / "bench.prints"}, threads=threads,
    )  # fmt: skip
    seconds = {"wall_s": round(time.perf_counter() - wall, 1), "cpu_s": round(time.process_time() - cpu, 1)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    size = sum(part.stat().st_size for part in parts) >> 20
    told = {"peak_mib": peak, "summary": str(summary), "input_mib": size, "threads": threads, "set": assignments}
    return seconds | told | _asked(folder)


def _asked(folder: Path) -> dict[str, float]:
    """Seconds that ``why`` takes for an image, for a copy by its id, and to suggest a name."""
    import pyarrow.parquet as pq

    from curation.base.errors import InputError
    from curation.report.why import why

    with pq.ParquetFile(folder / "catalogue.parquet") as file:
        rows = file.read_row_group(file.num_row_groups // 2, columns=["tile_id", "image", "verdict"]).to_pylist()
    copy = next(row for row in rows if row["verdict"] == "duplicate")
    seconds = {}
    for name, wanted in (("image", rows[-1]["image"]), ("id", copy["tile_id"]), ("wrong", rows[-1]["image"] + "f")):
        start = time.perf_counter()
        try:
            why(folder, wanted)
        except InputError as error:
            assert "did you mean" in str(error)
        seconds[f"why_{name}_s"] = round(time.perf_counter() - start, 2)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=float, default=13.2e6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("assignments", nargs="*", metavar="key=value", help="fields of the recipe to set")
    options = parser.parse_args()
    count = int(options.rows)
    folder = options.folder / f"select-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = [folder / f"part-{number:06d}.parquet" for number in range(-(-count // PART))]
    jobs = [(path, number, count) for number, path in enumerate(parts) if not path.exists()]
    with ProcessPoolExecutor(options.threads) as pool:
        list(pool.map(make_part, jobs))
    if not (folder / "bench.prints").exists():
        make_part((folder / "bench.prints", len(parts) + 1, (len(parts) + 1) * PART + 10_000))
    second_opinion.thumbnails(np.ones((1, 256), np.int8))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        result = {"rows": count} | pool.submit(_measure, folder, parts, options.threads, options.assignments).result()
    print(json.dumps(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
