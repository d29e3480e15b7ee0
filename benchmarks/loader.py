"""From shards to batches of 224 px against the released path and other loaders, per processor second.

    python benchmarks/loader.py --folder /dev/shm/bench [--rounds 5] [--batches 12] [--workers 0 1 2] [--out F.json]
    python benchmarks/loader.py --folder /dev/shm/bench --workers 1 2 --only "ours, exact" "ours, without a loader"

Images are textures of 256, 512 and 1024 px whose JPEGs have about 24, 71 and 380 KB, and a mixture of four of 256 px to
one of 512. Every contender gives batches of 64 crops. The released path is that of MAE and SelectiveMAE: files, Pillow,
torchvision's RandomResizedCrop, flip, tensor, normalise. Ours leaves flip and normalising to the device, on uint8.
Rounds are interleaved. Without workers the processor time of the process counts, which other load disturbs least;
with workers, wall time after the first batches. What has no workers then runs in as many processes at once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import simplejpeg
import torch
from other_loaders import AREA, BATCH, RATIO, SIDE, Loader, installed
from PIL import Image

from curation.shards.format import (
    Sample,
    write_checksums,
    write_index,
    write_shard,
)
from pretrain.data import reader
from pretrain.data.augment import CropRule
from pretrain.data.corpus import SampleRule, open_corpus
from pretrain.data.stream import StreamPlan, batches, requests

KINDS = {"256 px": [256], "512 px": [512], "80/20 mix": [256] * 4 + [512], "1024 px": [1024]}
KILOBYTES = {256: 23, 512: 88, 1024: 330}
WARM = 8
"""Batches of a process before those that count."""
LEAST_S = 1.0
"""That a contender is measured."""
RULE = CropRule(SIDE, AREA, RATIO, 4.0)


def texture(seed: int, side: int) -> np.ndarray:
    """Noise at several scales, which compresses as imagery does."""
    rng, image = np.random.default_rng(seed), np.zeros((side, side, 3), np.float32)
    for octave in range(3, int(np.log2(side)) + 1):
        small = Image.fromarray(rng.integers(0, 256, (2**octave, 2**octave, 3), dtype=np.uint8))
        image += np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), np.float32) * 0.72**octave
    image -= image.min()
    return (image * 255 / image.max()).astype(np.uint8)


def encoded(seed: int, side: int) -> bytes:
    """A JPEG of about as many bytes as such images have."""
    rgb = texture(seed, side)
    tried = [simplejpeg.encode_jpeg(rgb, quality, "RGB", "420") for quality in (60, 70, 75, 80, 85, 90, 95)]
    return min(tried, key=lambda data: abs(len(data) - 1000 * KILOBYTES[side]))


def make(folder: Path, sides: list[int], shards: int = 4, per_shard: int = 160) -> None:
    """Shards, and the same images as files."""
    pool = {side: [encoded(seed, side) for seed in range(20)] for side in set(sides)}
    infos = []
    for shard in range(shards):
        samples = []
        for position in range(per_shard):
            side = sides[position % len(sides)]
            data = pool[side][(position + shard) % 20]
            meta = {"source": "bench", "width": side, "height": side, "gsd_m": 0.5}
            samples.append(Sample(f"{shard:06d}{position:05d}-{0:020x}", data, "jpg", meta))
            (folder / "files").mkdir(parents=True, exist_ok=True)
            (folder / f"files/{shard}-{position}.jpg").write_bytes(data)
        infos.append(write_shard(samples, folder / f"b-{shard:06d}.tar"))
    write_index(infos, folder)
    write_checksums(infos, folder)


# ---------------------------------------------------------------------------------------------------- contenders


def ours(crops: int = 1, fast: bool = False) -> Loader:
    def load(folder: Path, workers: int) -> Iterator[Any]:
        corpus = open_corpus([folder], SampleRule(56))
        plan = StreamPlan(0, BATCH, BATCH, window=2, crops=crops)
        return batches(corpus, plan, RULE._replace(fast=fast), 0, 10**6, workers)

    return load


def whole(folder: Path, _: int) -> Iterator[Any]:
    """Ours where no part of a JPEG can be decoded; in this process alone."""
    stream = ours()(folder, 0)
    while True:
        with patch.object(reader, "PART", 0.0):
            batch = next(stream)
        yield batch


def bare(folder: Path, _: int) -> Iterator[Any]:
    """Our own reader without anything around it."""
    corpus = open_corpus([folder], SampleRule(56))
    alone = reader.ShardReader(corpus.paths, RULE)
    for request in requests(corpus, StreamPlan(0, BATCH, BATCH, window=2), 0, 10**6):
        yield alone.serve(request)


OURS: dict[str, Loader] = {
    "ours, exact": ours(),
    "ours, exact, JPEGs whole": whole,
    "ours, without a loader": bare,
    "ours, two crops a decode": ours(crops=2),
    "ours, fast": ours(fast=True),
    "ours, fast, two crops a decode": ours(crops=2, fast=True),
}
IN_THIS_PROCESS = ("ours, without a loader", "ours, exact, JPEGs whole")


def rates(folder: Path, workers: int, rounds: int, count: int, only: list[str]) -> dict[str, list[float]]:
    """Images per second of each contender and round: of the processor without workers, else of the clock."""
    names = [name for name in installed()[0] | OURS if not only or name in only]
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            found[name].append(measured(name, folder, workers, count))
    return found


def measured(name: str, folder: Path, workers: int, count: int) -> float:
    """One contender, in a process of its own: threads of some go on when nobody asks for batches any more."""
    running = []
    for _ in range(max(workers, 1) if name in IN_THIS_PROCESS else 1):
        answer, say = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=rate, args=(name, folder, workers, count, say))
        process.start()
        say.close()
        running.append((process, answer))
    found = sum(answer.recv() for _, answer in running)
    for process, _ in running:
        process.join()
    return found


def rate(name: str, folder: Path, workers: int, count: int, say: Connection) -> None:
    clock = time.process_time if workers == 0 else time.perf_counter
    stream = (installed()[0] | OURS)[name](folder, workers)
    for _ in range(WARM * max(workers, 1)):  # weights of resizing, and what was prepared while the workers started
        next(stream)
    start, done = clock(), 0
    while done < count or clock() - start < LEAST_S or done % max(workers, 1):  # workers come in step
        next(stream)
        done += 1
    say.send(done * BATCH / (clock() - start))
    del stream
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--only", nargs="+", default=[], choices=[*installed()[0], *OURS])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if absent := installed()[1]:
        print(f"not installed, and left out: {', '.join(absent)}; benchmarks/other_loaders.py says what to type")
    result: dict[str, Any] = {}
    for kind in options.kinds:
        folder = options.folder / kind.replace(" ", "-").replace("/", "-")
        make(folder, KINDS[kind])
        for workers in options.workers:
            found = rates(folder, workers, options.rounds, options.batches, options.only)
            base = next(iter(found.values()))
            for name, each in found.items():
                ratio = statistics.median(own / other for own, other in zip(each, base, strict=True))
                print(f"| {kind} | {workers} | {name} | {statistics.median(each):,.0f} | {ratio:.2f} |", flush=True)
            result[f"{kind}, {workers} workers"] = found
    if options.out:
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
