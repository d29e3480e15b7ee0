"""From shards to batches of 224 px against the released path and other loaders, per processor second.

    python benchmarks/loader.py --folder /some/disk [--rounds 5] [--batches 12] [--workers 0 1 2] [--out F.json]
    python benchmarks/loader.py --folder /some/disk --start 13200000
    python benchmarks/loader.py --folder /some/disk --remote

Images are textures of 256, 512 and 1024 px whose JPEGs have about 23, 88 and 330 KB, and a mixture of four of 256 px to
one of 512. Every contender gives batches of 64 crops. The released path is that of MAE and SelectiveMAE: files, Pillow,
torchvision's RandomResizedCrop, flip, tensor, normalise. Ours leaves flip and normalising to the device, on uint8.
Rounds are interleaved. Without workers the processor time of this process counts, which other load disturbs least;
with workers, wall time after the first batch.

``--start`` times opening so many samples and drawing the first requests at an epoch's beginning and end. ``--remote``
reads shards from a web server on this machine that takes 20 ms to answer, against the folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from curation.shards.format import (
    CHECKSUMS,
    FORMAT_VERSION,
    INDEX,
    INDEX_FILE,
    Sample,
    index_schema,
    write_checksums,
    write_index,
    write_shard,
)
from pretrain.data import reader
from pretrain.data.augment import CropRule
from pretrain.data.cache import ShardCache
from pretrain.data.corpus import SampleRule, content_fingerprint, open_corpus
from pretrain.data.places import Access
from pretrain.data.stream import StreamPlan, batches, requests
from pretrain.data.supply import ShardCounts

KINDS = {"256 px": [256], "512 px": [512], "80/20 mix": [256] * 4 + [512], "1024 px": [1024]}
KILOBYTES = {256: 23, 512: 88, 1024: 330}
RULE = CropRule(224, (0.2, 1.0), (3 / 4, 4 / 3), 4.0)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH, SHARDS, PER_SHARD = 64, 4, 160

Loader = Callable[[Path, int], Iterator[Any]]


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


def make(folder: Path, sides: list[int]) -> None:
    """Shards, and the same images as files."""
    pool = {side: [encoded(seed, side) for seed in range(20)] for side in set(sides)}
    infos = []
    for shard in range(SHARDS):
        samples = []
        for position in range(PER_SHARD):
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


class Files(Dataset[torch.Tensor]):
    """A folder of files, as ImageFolder reads it."""

    def __init__(self, folder: Path, read: Callable[[Path], Any], transform: Callable[[Any], torch.Tensor]) -> None:
        self.paths, self.read, self.transform = sorted((folder / "files").iterdir()), read, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(self.read(self.paths[index]))


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def pillow(path: Path) -> Image.Image:
    with path.open("rb") as file:
        return Image.open(file).convert("RGB")


def turbo(path: Path) -> torch.Tensor:
    return torch.from_numpy(simplejpeg.decode_jpeg(path.read_bytes(), "RGB")).permute(2, 0, 1)


RELEASED = v1.Compose([
    v1.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=v1.InterpolationMode.BICUBIC), v1.RandomHorizontalFlip(),
    v1.ToTensor(), v1.Normalize(MEAN, DEVIATION),
])  # fmt: skip
TENSORS = v2.Compose([
    v2.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
    v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, DEVIATION),
])  # fmt: skip


def from_files(read: Callable[[Path], Any], transform: Any) -> Loader:
    def load(folder: Path, workers: int) -> Iterator[Any]:
        files = Files(folder, read, transform)
        return endless(DataLoader(files, BATCH, shuffle=True, num_workers=workers, drop_last=True, worker_init_fn=_one))

    return load


def _one(_: int) -> None:
    torch.set_num_threads(1)


def from_webdataset(folder: Path, workers: int) -> Iterator[Any]:
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = (
        webdataset.WebDataset(urls, shardshuffle=SHARDS).shuffle(100).decode("pil").to_tuple("jpg").map_tuple(RELEASED)
    )
    return endless(DataLoader(samples.batched(BATCH, partial=False), None, num_workers=workers, worker_init_fn=_one))


CONTENDERS: dict[str, Loader] = {
    "released: files, Pillow, torchvision": from_files(pillow, RELEASED),
    "files, simplejpeg, torchvision v2": from_files(turbo, TENSORS),
    "webdataset, Pillow, torchvision": from_webdataset,
    "ours, exact": ours(),
    "ours, exact, JPEGs whole": whole,
    "ours, without a loader": bare,
    "ours, two crops a decode": ours(crops=2),
    "ours, fast": ours(fast=True),
    "ours, fast, two crops a decode": ours(crops=2, fast=True),
}


IN_THIS_PROCESS = ("ours, without a loader", "ours, exact, JPEGs whole")


def rates(folder: Path, workers: int, rounds: int, count: int) -> dict[str, list[float]]:
    """Images per second of each contender and round: of the processor without workers, else of the clock."""
    clock = time.process_time if workers == 0 else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in CONTENDERS if workers == 0 or name not in IN_THIS_PROCESS}
    for _ in range(rounds):
        for name in found:
            stream = CONTENDERS[name](folder, workers)
            for _ in range(1 + 4 * workers):  # what was prepared while the workers started
                next(stream)
            start = clock()
            for _ in range(count):
                next(stream)
            found[name].append(count * BATCH / (clock() - start))
            del stream
    return found


# ---------------------------------------------------------------------------------------------------- a large index


def generate_index(folder: Path, samples: int) -> None:
    """An index of so many samples, 10,000 a shard, of empty tars."""
    per, files = 10_000, [f"b-{number:06d}.tar" for number in range(samples // 10_000)]
    rng, offset = np.random.default_rng(0), np.arange(per) * 100_000
    schema = index_schema(files)
    words = {"image_format": "jpg", "source": "bench", "licence": "CC0-1.0"}
    columns: dict[str, Any] = {
        "key": [f"{row:011d}-{row:020x}" for row in range(per)], "image_offset": offset, "json_offset": offset,
        "image_size": rng.integers(10_000, 90_000, per), "json_size": rng.integers(100, 300, per),
        "width": rng.integers(200, 600, per), "height": rng.integers(200, 600, per), "gsd_m": rng.random(per),
        "image_sha256": [rng.bytes(32) for _ in range(per)], **{name: [word] * per for name, word in words.items()},
    }  # fmt: skip
    with pq.ParquetWriter(folder / INDEX_FILE, schema, compression="zstd") as writer:
        for number, file in enumerate(files):
            columns["shard"] = np.full(per, number)
            writer.write_table(pa.table([pa.array(columns[f.name]).cast(f.type) for f in INDEX], schema=schema), per)
            (folder / file).touch()
    shards = [{"file": f, "sha256": f"{n:064x}", "samples": per, "bytes": 10**9} for n, f in enumerate(files)]
    told = {"format_version": FORMAT_VERSION, "key": "bench", "index": "", "shards": shards}
    (folder / CHECKSUMS).write_text(json.dumps(told))


def start_times(folder: Path, samples: int) -> dict[str, float]:
    """Seconds of the processor until a process knows its data and has its first request; MB that it takes."""
    folder.mkdir(parents=True)
    generate_index(folder, samples)
    before, begin = resident(), time.process_time()
    content_fingerprint([folder])
    corpus = open_corpus([folder], SampleRule(56))
    opened = time.process_time()
    plan = StreamPlan(0, 2048, 256)
    next(requests(corpus, plan, 0, 1))
    first = time.process_time()
    last = plan.steps_per_epoch(corpus) - 1
    next(requests(corpus, plan, last, last + 1))
    return {
        "samples": corpus.samples, "open": opened - begin, "first request": first - opened,
        "request at the epoch's end": time.process_time() - first, "MB": (resident() - before) / 1e6,
    }  # fmt: skip


def resident() -> int:
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


# ---------------------------------------------------------------------------------------------------- from elsewhere

SERVER = """
import re, sys, time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
class Slow(SimpleHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        time.sleep(0.02)
        super().do_GET()
server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Slow, directory=sys.argv[1]))
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def remote(folder: Path, rounds: int) -> dict[str, float]:
    """Processor time per image of this process from elsewhere over that from the folder, and what was waited for."""
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    place = f"http://127.0.0.1:{int(server.stdout.readline())}"
    ratios, counts = [], ShardCounts()
    try:
        for _ in range(rounds):
            shutil.rmtree(folder / "cache", ignore_errors=True)
            access = Access(ShardCache(folder / "cache", 10**9), 60)
            took, counts = [], ShardCounts()
            for where, how in ((str(folder), Access()), (place, access)):
                corpus = open_corpus([where], SampleRule(56), how)
                begin = time.process_time()
                steps = 2 * SHARDS * PER_SHARD // BATCH
                for _ in batches(corpus, StreamPlan(0, BATCH, BATCH, window=1), RULE, 0, steps, counts=counts):
                    pass
                took.append(time.process_time() - begin)
            ratios.append(took[1] / took[0])
    finally:
        server.kill()
    late = counts.entered - counts.at_hand
    return {
        "CPU over local": statistics.median(ratios),
        "shards": counts.entered,
        "late": late,
        "waited": counts.waited,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--start", type=int)
    parser.add_argument("--remote", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    if options.start:
        result = start_times(options.folder / "index", options.start)
        print(json.dumps(result, indent=1))
    elif options.remote:
        make(options.folder / "remote", KINDS["256 px"])
        result = remote(options.folder / "remote", options.rounds)
        print(json.dumps(result, indent=1))
    for kind in () if result else options.kinds:
        folder = options.folder / kind.replace(" ", "-").replace("/", "-")
        make(folder, KINDS[kind])
        for workers in options.workers:
            found = rates(folder, workers, options.rounds, options.batches)
            base = next(iter(found.values()))
            for name, each in found.items():
                ratio = statistics.median(own / other for own, other in zip(each, base, strict=True))
                print(f"| {kind} | {workers} | {name} | {statistics.median(each):,.0f} | {ratio:.2f} |", flush=True)
            result[f"{kind}, {workers} workers"] = found
    if options.out:
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
