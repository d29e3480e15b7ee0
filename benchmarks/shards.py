"""Writing shards against ``webdataset.ShardWriter``, and verifying them, per core.

    python benchmarks/shards.py --folder /some/disk [--samples 10000] [--kilobytes 23] [--rounds 5] [--out F.json]

Image bytes lie in memory. Both writers are given the same samples and leave the same behind: a tar, the SHA-256 of the
tar and of every image, and an index beside it; ``ShardWriter`` is given ``mtime=0``, and hashes and index by the
shortest code that does it. Re-encoding is compared with the encoder alone on the same tiles. Rounds are interleaved
and the median of processor time per round is printed, so that other load falls on all alike. ``verify``
reads what lies in the page cache; with two workers, wall time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
import webdataset

from curation.catalogue import Window, tile_id
from curation.executor.executor import on_processes
from curation.shards.format import Sample, write_checksums, write_index, write_shard
from curation.shards.verify import verify
from curation.shards.write import encode
from curation.sources.recipe import ShardRules

FORK = multiprocessing.get_context("fork")


def samples(count: int, size: int, shard: int = 0) -> list[Sample]:
    """Samples with bytes of a JPEG's length and the metadata of a tile with a place."""
    rng = np.random.default_rng(shard)
    made = []
    for position in range(count):
        window = Window(512 * position, 0, 512, 512)
        meta = {
            "source": "fmow_rgb", "image": f"train/airport/airport_{shard}/scene.tif", "window": list(window),
            "width": 512, "height": 512, "gsd_m": 0.5, "crs": "EPSG:32631", "bounds": [2.1, 41.3, 2.2, 41.4],
            "licence": "CC-BY-4.0", "phash": "00ff00ff00ff00ff",
        }  # fmt: skip
        key = f"{shard:06d}{position:05d}-{tile_id(meta['source'], meta['image'], window)}"
        made.append(Sample(key, rng.bytes(size), "jpg", meta))
    return made


def ours(given: list[Sample], folder: Path) -> None:
    infos = [write_shard(given, folder / "x-000000.tar")]
    write_index(infos, folder)
    write_checksums(infos, folder, "key")


def theirs(given: list[Sample], folder: Path) -> None:
    """``ShardWriter`` with the same hashes and an index of keys, sizes and hashes beside it."""
    path, rows = folder / "x-000000.tar", []
    with webdataset.ShardWriter(
        str(folder / "x-%06d.tar"), maxcount=1 << 30, maxsize=1 << 60, verbose=0, mtime=0
    ) as writer:
        for each in given:
            writer.write({"__key__": each.key, "jpg": each.image, "json": each.meta})
            rows.append((each.key, len(each.image), hashlib.sha256(each.image).digest()))
    with path.open("rb") as file:
        tar = hashlib.file_digest(file, "sha256").hexdigest()
    columns = dict(zip(("key", "image_size", "image_sha256"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "index.parquet")
    (folder / "checksums.json").write_text(json.dumps({"sha256": tar, "bytes": path.stat().st_size}))


def bare(given: list[Sample], folder: Path) -> None:
    """``ShardWriter`` alone, without a hash and an index."""
    with webdataset.ShardWriter(
        str(folder / "x-%06d.tar"), maxcount=1 << 30, maxsize=1 << 60, verbose=0, mtime=0
    ) as writer:
        for each in given:
            writer.write({"__key__": each.key, "jpg": each.image, "json": each.meta})


def timed(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def interleaved(works: dict[str, Callable[[Path], Any]], folder: Path, rounds: int) -> dict[str, float]:
    """Median processor seconds of each; every round runs all of them, each into an empty folder."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            seconds = timed(lambda work=work: work(folder))
            if number:  # the first warms caches
                found[name].append(seconds)
    shutil.rmtree(folder)
    return {name: statistics.median(each) for name, each in found.items()}


def encoding(folder: Path, rounds: int, tiles: int = 400, side: int = 512) -> dict[str, float]:
    """Tiles in memory to a shard, against the encoder alone on the same tiles."""
    rng, rules = np.random.default_rng(5), ShardRules()
    noise = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    tile = np.clip(noise + rng.normal(0, 6, noise.shape), 0, 255).astype(np.uint8)
    given = samples(tiles, 1)

    def encoded() -> Iterator[Sample]:
        for each in given:
            yield Sample(each.key, encode(tile, rules), "jpg", each.meta)

    def alone(_: Path) -> None:
        for _ in given:
            simplejpeg.encode_jpeg(tile, quality=rules.quality, colorsubsampling="420")

    works = {"encoder": alone, "encoder and shard": lambda path: write_shard(encoded(), path / "x.tar")}
    return {name: tiles / seconds for name, seconds in interleaved(works, folder, rounds).items()}


def together(given: list[Sample], folder: Path, rounds: int, shards: int = 8) -> dict[str, float]:
    """Samples/s of one process and of two, wall time; both have the samples in memory before they start."""
    found: dict[str, list[float]] = {"one process, wall": [], "two processes, wall": []}
    folder.mkdir(parents=True)
    for number in range(rounds + 1):
        for name, workers in zip(found, (1, 2), strict=True):
            share = shards // workers
            processes = [FORK.Process(target=_several, args=(given, folder, share, each)) for each in range(workers)]
            start = time.perf_counter()
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            if number:
                found[name].append(len(given) * shards / (time.perf_counter() - start))
    shutil.rmtree(folder)
    return {name: statistics.median(each) for name, each in found.items()}


def _several(given: list[Sample], folder: Path, shards: int, process: int) -> None:
    for _ in range(shards):
        write_shard(given, folder / f"{process}.tar")


def verifying(folder: Path, given: list[Sample], rounds: int) -> dict[str, float]:
    """GB/s of verify over four shards: one worker, processor time; one and two workers, wall time."""
    infos = [
        write_shard(samples(len(given), len(given[0].image), shard), folder / f"x-{shard:06d}.tar")
        for shard in range(4)
    ]
    write_index(infos, folder)
    write_checksums(infos, folder, "key")
    size = sum(info.bytes for info in infos) / 1e9
    found: dict[str, list[float]] = {"one worker, processor": [], "one worker, wall": [], "two workers, wall": []}
    with on_processes(2) as two:
        for number in range(rounds + 1):
            cpu, wall = time.process_time(), time.perf_counter()
            assert verify(folder) == []
            alone = time.process_time() - cpu, time.perf_counter() - wall
            wall = time.perf_counter()
            assert verify(folder, map_parts=two) == []
            if number:
                for name, seconds in zip(found, (*alone, time.perf_counter() - wall), strict=True):
                    found[name].append(seconds)
    shutil.rmtree(folder)
    return {name: size / statistics.median(each) for name, each in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where shards are written; removed in the end")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--kilobytes", type=float, default=23.0, help="of an image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON of the figures")
    options = parser.parse_args()
    given, folder = samples(options.samples, int(options.kilobytes * 1000)), options.folder / "shards"
    writers = {"rscorpus": ours, "ShardWriter, same hashes and index": theirs, "ShardWriter, bare": bare}
    seconds = interleaved(
        {name: lambda path, work=work: work(given, path) for name, work in writers.items()}, folder, options.rounds
    )
    figures = {
        "samples/s written": {name: len(given) / each for name, each in seconds.items()},
        "samples/s, processes": together(given, folder, options.rounds),
        "tiles/s encoded": encoding(folder, options.rounds),
        "GB/s verified": verifying(folder, given, options.rounds),
    }
    for what, found in figures.items():
        for name, value in found.items():
            print(f"{what:20} {name:36} {value:10,.2f}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
