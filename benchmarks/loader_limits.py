"""What a run waits for beside decoding: its start, switches of windows, shards from elsewhere; and a worker's memory.

    python benchmarks/loader_limits.py --folder /dev/shm/bench [--samples 13200000] [--rounds 3] [--out limits.json]

*Start*: an index of so many samples, whose shards are links to one file of twenty images of 256, 512 and 1024 px. From
its opening to the first batch of a new worker, by the clock. *Switches*: the processor's time that a process spends on
choosing rows where it enters a window, over what 80,000 samples last GPUs that take 11,000 a second each. *Memory*: a
worker's private memory in the course of 80 batches, less that of a forked process that does nothing. *Elsewhere*: from
S3 (moto's server on this machine, which waits 20 ms before every answer) and an empty cache against the same folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from loader import BATCH, RULE, encoded, make

from curation.shards.format import CHECKSUMS, FORMAT_VERSION, INDEX, INDEX_FILE, index_schema
from pretrain.data.cache import ShardCache
from pretrain.data.corpus import Corpus, SampleRule, content_fingerprint, open_corpus
from pretrain.data.places import Access
from pretrain.data.stream import StreamPlan, batches, requests
from pretrain.data.supply import ShardCounts

PER_SHARD, GPU = 10_000, 11_000
"""Samples of a shard, and images a second of ViT-B on an H200."""
LATENCY_S = 0.02


class Figure(NamedTuple):
    """A line of the table."""

    what: str
    measured: str
    aim: str
    number: float


# ---------------------------------------------------------------------------------------------------- a large index


def generate(folder: Path, samples: int) -> None:
    """Shards that are all one file, and the index of so many samples in them."""
    folder.mkdir(parents=True)
    images = [encoded(seed, (256, 512, 1024)[seed % 3]) for seed in range(20)]
    (folder / "images").write_bytes(b"".join(images))
    which = np.arange(PER_SHARD) % len(images)
    sizes = np.array([len(data) for data in images])
    sides = np.array([(256, 512, 1024)[seed % 3] for seed in range(20)])[which]
    files = [f"b-{number:06d}.tar" for number in range(samples // PER_SHARD)]
    rng, schema = np.random.default_rng(0), index_schema(files)
    words = {"image_format": "jpg", "source": "bench", "licence": "CC0-1.0"}
    columns: dict[str, Any] = {
        "key": [f"{row:011d}-{row:020x}" for row in range(PER_SHARD)],
        "image_offset": (sizes.cumsum() - sizes)[which], "image_size": sizes[which], "width": sides, "height": sides,
        "json_offset": which, "json_size": which, "gsd_m": rng.random(PER_SHARD),
        "image_sha256": [rng.bytes(32) for _ in which], **{name: [word] * PER_SHARD for name, word in words.items()},
    }  # fmt: skip
    with pq.ParquetWriter(folder / INDEX_FILE, schema, compression="zstd") as writer:
        for number, file in enumerate(files):
            columns["shard"] = np.full(PER_SHARD, number)
            table = pa.table([pa.array(columns[field.name]).cast(field.type) for field in INDEX], schema=schema)
            writer.write_table(table, PER_SHARD)
            os.link(folder / "images", folder / file)
    shards = [{"file": f, "sha256": f"{n:064x}", "samples": PER_SHARD, "bytes": 10**9} for n, f in enumerate(files)]
    told = {"format_version": FORMAT_VERSION, "key": "bench", "index": "", "shards": shards}
    (folder / CHECKSUMS).write_text(json.dumps(told))


def start(folder: Path, samples: int) -> list[Figure]:
    before, clock, spent = private("self"), time.perf_counter(), time.process_time()
    content_fingerprint([folder])
    corpus = open_corpus([folder], SampleRule(56))
    opened = time.process_time() - spent
    plan = StreamPlan(0, BATCH, BATCH)
    stream = batches(corpus, plan, RULE, 0, 10**6, workers=1)
    next(stream)
    first = time.perf_counter() - clock
    stream.close()
    spent = time.process_time()
    end = plan.steps_per_epoch(corpus)
    next(requests(corpus, plan, end - 1, end))
    ended, held = time.process_time() - spent, private("self") - before
    return [
        Figure(f"opening {samples:,} samples to the first batch, one worker", f"{first:.2f} s", "< 2 s", first),
        Figure("of which the index opened and counted, of the processor", f"{opened:.2f} s", "", opened),
        Figure("first rows at an epoch's end, of the processor", f"{ended:.3f} s", "", ended),
        Figure("memory of the process for index and order", f"{held:.0f} MB", "", held),
        *switches(corpus),
        memory(corpus),
    ]


def switches(corpus: Corpus) -> list[Figure]:
    """Over three windows of eight shards, in the steps of a rank that takes an eighth of 2,048 images."""
    plan, took = StreamPlan(0, 2048, 256, world=8), []
    stream = requests(corpus, plan, 0, 3 * 8 * PER_SHARD // 2048)
    while True:
        begin = time.process_time()
        if next(stream, None) is None:
            break
        took.append(time.process_time() - begin)
    stalls = [each for each in took[1:] if each > 20 * statistics.median(took)]
    told = f"{len(stalls)} of {1e3 * max(stalls):.0f} ms at most"
    shares = {gpus: sum(stalls) / (len(took) * plan.global_batch / GPU / gpus) for gpus in (1, 8)}
    return [
        Figure(f"switches of windows, share of the time, {gpus} GPU", f"{share:.2%} ({told})", "< 1 %", share)
        for gpus, share in shares.items()
    ]


def memory(corpus: Corpus) -> Figure:
    idle = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    stream = batches(corpus, StreamPlan(0, BATCH, BATCH), RULE, 0, 10**6, workers=1)
    most = 0.0
    for _ in range(80):
        next(stream)
        most = max(most, *(private(str(child.pid)) for child in multiprocessing.active_children()))
    stream.close()
    idle.start()
    time.sleep(1)
    above = most - private(str(idle.pid))
    idle.kill()
    return Figure(
        "a worker's private memory above an idle process, 256 to 1024 px", f"{above:.0f} MB", "< 300 MB", above
    )


def private(pid: str) -> float:
    """Megabytes of a process that it shares with none."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kilobytes) for kilobytes in re.findall(r"Private_\w+:\s+(\d+)", text)) / 1e3


# ---------------------------------------------------------------------------------------------------- from elsewhere

SERVER = """
import sys, time
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
moto = DomainDispatcherApplication(create_backend_app)
def slow(environ, start_response):
    time.sleep(float(sys.argv[1]))
    return moto(environ, start_response)
server = make_server("127.0.0.1", 0, slow, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


def elsewhere(folder: Path, rounds: int) -> list[Figure]:
    import boto3

    command = [sys.executable, "-c", SERVER, str(LATENCY_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        told = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}", "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
        try:
            with patch.dict(os.environ, told):
                client = boto3.client("s3")
                client.create_bucket(Bucket="bench")
                for path in folder.iterdir():
                    if path.is_file():
                        client.upload_file(str(path), "bench", path.name)
                return compared(folder, rounds)
        finally:
            server.kill()


def compared(folder: Path, rounds: int) -> list[Figure]:
    """Two epochs from the folder and from the bucket, a shard a window."""
    ratios, fetching, waits, late, entered = [], [], [], 0, 0
    for number in range(rounds):
        took = {}
        for place in (str(folder), "s3://bench")[:: 1 if number % 2 else -1]:
            shutil.rmtree(folder / "cache", ignore_errors=True)
            access = Access(ShardCache(folder / "cache", 10**9), 60) if place.startswith("s3") else Access()
            counts, first = ShardCounts(), None
            corpus = open_corpus([place], SampleRule(56), access)
            steps = 2 * corpus.samples // BATCH
            spent, others = time.process_time(), by_children()
            for _ in batches(corpus, StreamPlan(0, BATCH, BATCH, window=1), RULE, 0, steps, counts=counts):
                first = first or (counts.waited, counts.entered - counts.at_hand)
            took[place] = time.process_time() - spent
            if first is not None and place.startswith("s3"):
                fetching.append((by_children() - others) / (steps * BATCH))
                waits.append(counts.waited - first[0])
                late, entered = late + counts.entered - counts.at_hand - first[1], entered + counts.entered - 1
        ratios.append(took["s3://bench"] / took[str(folder)])
    ratio, waited = statistics.median(ratios), statistics.median(waits)
    more = 1e6 * statistics.median(fetching)
    return [
        Figure("processor time per image from S3 over that from the folder", f"{ratio:.3f}", "<= 1.05", ratio),
        Figure("the prefetcher's beside it, its start with it, per image", f"{more:.0f} us", "", more),
        Figure(
            f"waited after the first window; {late} of {entered} shards were late", f"{waited:.2f} s", "none", waited
        ),
    ]


def by_children() -> float:
    """Seconds of the processor of processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=13_200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generate(options.folder / "index", options.samples)
    figures = start(options.folder / "index", options.samples)
    make(options.folder / "elsewhere", [256], shards=8, per_shard=640)
    figures += elsewhere(options.folder / "elsewhere", options.rounds)
    print("| | measured | aim |\n|---|---|---|")
    for figure in figures:
        print(f"| {figure.what} | {figure.measured} | {figure.aim} |")
    if options.out:
        options.out.write_text(json.dumps([figure._asdict() for figure in figures], indent=1) + "\n")


if __name__ == "__main__":
    main()
