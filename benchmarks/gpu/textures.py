"""Shards of generated ground: structure at all scales, all different, no download."""

from __future__ import annotations

import io
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.size import Size
from curation.shards.format import Sample, ShardInfo, read_checksums, write_checksums, write_index, write_shard


def texture(seed: int, side: int) -> np.ndarray:
    """(side, side, 3) uint8: noise at several scales, with detail that the channels share, as in daylight."""
    rng = np.random.default_rng(seed)

    def layer(cells: int, channels: int) -> np.ndarray:
        noise = rng.integers(0, 256, (cells, cells, channels), dtype=np.uint8)
        picture = Image.fromarray(noise if channels == 3 else noise[..., 0]).resize((side, side), 3)
        return np.asarray(picture, dtype=np.float32).reshape(side, side, channels)

    mixed = 0.4 * layer(4, 1) + 0.25 * layer(12, 1) + 0.2 * layer(side // 4, 1) + 0.15 * layer(3, 3)
    return mixed.astype(np.uint8)


def textures(count: int, side: int) -> torch.Tensor:
    """(count, 3, side, side) uint8."""
    return torch.from_numpy(np.stack([texture(number, side) for number in range(count)])).permute(0, 3, 1, 2)


def shards(folder: Path, size: Size) -> Path:
    """Write the shards, as many at once as there are cores, unless they are there."""
    target = folder / f"{size.shards}x{size.per_shard}-{size.side}px"
    if target.is_dir() and read_checksums(target, missing_ok=True) is not None:
        return target
    target.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        infos = list(pool.map(partial(_shard, target, size), range(size.shards)))
    write_index(infos, target)
    write_checksums(infos, target, "generated")
    return target


def _shard(folder: Path, size: Size, number: int) -> ShardInfo:
    return write_shard((_sample(number, each, size) for each in range(size.per_shard)), folder / f"t-{number:06d}.tar")


def _sample(shard: int, position: int, size: Size) -> Sample:
    buffer = io.BytesIO()
    Image.fromarray(texture(shard * size.per_shard + position, size.side)).save(buffer, "JPEG", quality=90)
    meta = {
        "source": "generated",
        "image": f"{position}.tif",
        "window": [0, 0, size.side, size.side],
        "width": size.side,
        "height": size.side,
        "gsd_m": 0.5,
        "crs": None,
        "bounds": None,
        "licence": "CC0-1.0",
        "phash": "0" * 16,
    }
    return Sample(f"{shard:06d}{position:05d}-{position:020x}", buffer.getvalue(), "jpg", meta)
