"""Time and memory of the driver between select and write: the shard plan, and the index of finished shards.

    python benchmarks/shard_plan.py --folder /some/disk [--rows 1e6 13.2e6] [--out shard_plan.json]

A catalogue and its listings are made of each size (about 50 bytes a row) and removed in the end: six tiles to an image,
twenty sources, every eleventh tile left out, every thousandth image with a CRS of its own in 600 characters. Kept tiles
are dealt to shards of 10,000 at random, which is the worst order. For the index, rows of eight shards stand for all.
Each step runs in a process of its own; its peak includes the interpreter and the libraries (about 150 MiB).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.catalogue import schema_of
from curation.shards import format as shard_format
from curation.sources.recipe import ShardRules

ROW_GROUP, PER_IMAGE, SOURCES, PER_SHARD, INFOS = 65_536, 6, 20, 10_000, 8


def names(numbers: np.ndarray) -> pa.Array:
    """Paths of images, in the order of their numbers."""
    folder = pc.utf8_lpad(pa.array(numbers // 1000).cast(pa.string()), 7, "0")
    scene = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0")
    return pc.binary_join_element_wise("images/", folder, "/scene_", scene, ".tif", "")


def hexes(rng: np.random.Generator, count: int) -> pa.Array:
    """Random tile ids."""
    text = pa.py_buffer(rng.bytes(10 * count).hex().encode())
    offsets = pa.py_buffer(np.arange(0, 20 * count + 1, 20, dtype=np.int32))
    return pa.StringArray.from_buffers(count, offsets, text)


def words(numbers: np.ndarray, of: Callable[[int], str | None]) -> pa.DictionaryArray:
    """A dictionary column."""
    used, codes = np.unique(numbers, return_inverse=True)
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array([of(int(each)) for each in used]))


def source_of(images: np.ndarray, count: int) -> np.ndarray:
    return images * SOURCES // (count // PER_IMAGE + 1)


def make_catalogue(count: int, out: Path) -> None:
    """A catalogue of ``count`` tiles; shards and positions are a random permutation of the kept ones."""
    rng = np.random.default_rng(3)
    kept = np.arange(count) % 11 != 5
    places = np.full(count, -1, np.int64)
    places[kept] = rng.permutation(int(kept.sum()))
    schema = schema_of("catalogue")
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for low in range(0, count, ROW_GROUP):
            tiles = np.arange(low, min(low + ROW_GROUP, count))
            writer.write_table(_rows(tiles, count, places[tiles], rng, schema), row_group_size=ROW_GROUP)


def _rows(tiles: np.ndarray, count: int, places: np.ndarray, rng: np.random.Generator, schema: pa.Schema) -> pa.Table:
    images, size = tiles // PER_IMAGE, len(tiles)
    gone = places < 0
    given: dict[str, Any] = {
        "kind": words(np.zeros(size, int), lambda _: "tile"),
        "tile_id": hexes(rng, size),
        "source": words(source_of(images, count), lambda number: f"s{number:02d}"),
        "image": names(images),
        "col_off": pa.array(tiles % 3 * 512, pa.int32()),
        "row_off": pa.array(tiles // 3 % 2 * 512, pa.int32()),
        "width": pa.array(np.full(size, 512), pa.int32()),
        "height": pa.array(np.full(size, 512), pa.int32()),
        "file_bytes": pa.array(np.full(size, 900_000), pa.int64()),
        "pass_through": pa.array(np.zeros(size, bool)),
        "crs": words(np.where(images % 1000, -1, images), lambda n: "EPSG:32631" if n < 0 else f"{n:0600d}"),
        "gsd_m": pa.array(np.full(size, 0.3), pa.float32()),
        "content_hash": pa.Array.from_buffers(pa.binary(16), size, [None, pa.py_buffer(rng.bytes(16 * size))]),
        "phash": pa.array(rng.integers(0, 2**63, size), pa.uint64()),
        "verdict": words(gone.astype(int), lambda number: "duplicate" if number else "kept"),
        "shard": pa.array(places // PER_SHARD, pa.int32(), mask=gone),
        "position": pa.array(places % PER_SHARD, pa.int32(), mask=gone),
    }
    return pa.table([given.get(each.name, pa.nulls(size, each.type)).cast(each.type) for each in schema], schema=schema)


def make_listings(count: int, folder: Path) -> dict[str, Path]:
    """The ``images`` table of every source."""
    images = np.arange(-(-count // PER_IMAGE))
    owner, schema = source_of(images, count), schema_of("images")
    paths = {}
    for number in range(SOURCES):
        path = paths[f"s{number:02d}"] = folder / f"s{number:02d}.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            mine = images[owner == number]
            for low in range(0, len(mine), ROW_GROUP):
                some = mine[low : low + ROW_GROUP]
                given = {
                    "source": words(some * 0, lambda _, number=number: f"s{number:02d}"),
                    "image": names(some),
                    "file": names(some),
                    "bytes": pa.array(np.full(len(some), 900_000)),
                    "mtime_ns": pa.array(some),
                }
                columns = [given.get(each.name, pa.nulls(len(some), each.type)).cast(each.type) for each in schema]
                writer.write_table(pa.table(columns, schema=schema))
    return paths


def make_infos(folder: Path) -> list[Path]:
    """Index rows of some shards."""
    rng, paths = np.random.default_rng(5), []
    for number in range(INFOS):
        rows = [
            {
                "key": f"{number:06d}{position:05d}-{rng.bytes(10).hex()}", "image_offset": position << 16,
                "image_size": 60_000, "image_format": "jpg", "json_offset": (position << 16) + 60_512, "json_size": 300,
                "width": 512, "height": 512, "gsd_m": 0.3, "source": f"s{position % SOURCES:02d}",
                "licence": "CC-BY-4.0", "image_sha256": rng.bytes(32),
            }
            for position in range(PER_SHARD)
        ]  # fmt: skip
        paths.append(folder / f"info-{number}.parquet")
        info = shard_format.ShardInfo(
            f"x-{number:06d}.tar", PER_SHARD, 1 << 30, "0" * 64, shard_format.index_rows(rows)
        )
        shard_format.write_info(info, paths[-1])
    return paths


def plan(folder: Path, listings: dict[str, Path]) -> int:
    """The measured step: rows sorted into shards."""
    from curation.shards.shard_plan import plan_shards

    return len(plan_shards(folder / "catalogue.parquet", listings, folder / "plan", ShardRules()))


def index(folder: Path, infos: list[Path], count: int) -> int:
    """The measured step: the index of so many shards."""
    known = [shard_format.read_info(path) for path in infos]
    shard_format.write_index([known[number % INFOS] for number in range(count)], folder)
    return (folder / shard_format.INDEX_FILE).stat().st_size >> 20


def measured(step: Callable[..., int], *arguments: Any) -> dict[str, Any]:
    """Run a step; seconds, peak memory, result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = step(*arguments)
    spent = {"wall_s": round(time.perf_counter() - wall, 1), "cpu_s": round(time.process_time() - cpu, 1)}
    return spent | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, "result": result}


def alone(step: Callable[..., Any], *arguments: Any) -> Any:
    """Run something in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(step, *arguments).result()


def bench(count: int, folder: Path) -> list[dict[str, Any]]:
    """Both steps at one size."""
    folder.mkdir(parents=True)
    try:
        alone(make_catalogue, count, folder / "catalogue.parquet")
        listings, infos = alone(make_listings, count, folder), alone(make_infos, folder)
        planned = alone(measured, plan, folder, listings)
        sizes = {"catalogue_mib": (folder / "catalogue.parquet").stat().st_size >> 20}
        sizes["plan_mib"] = sum(path.stat().st_size for path in (folder / "plan").iterdir()) >> 20
        shutil.rmtree(folder / "plan")
        (folder / "catalogue.parquet").unlink()
        indexed = alone(measured, index, folder, infos, planned["result"])
    finally:
        shutil.rmtree(folder)
    sizes["index_mib"] = indexed.pop("result")
    return [{"step": "plan", "rows": count, **planned, **sizes}, {"step": "index", "rows": count, **indexed}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 13.2e6])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = []
    print("| step | rows | wall s | CPU s | peak MiB |\n|---|---|---|---|---|")
    for count in options.rows:
        for row in bench(int(count), options.folder / f"shard-plan-{int(count)}"):
            print(
                f"| {row['step']} | {row['rows']:,} | {row['wall_s']} | {row['cpu_s']} | {row['peak_mib']:,} |",
                flush=True,
            )
            found.append(row)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
