"""Small shards with real images, real ids and metadata that fit them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from curation.catalogue import Window, tile_id
from curation.shards.format import Sample, write_checksums, write_index, write_shard

KINDS = ("jpg", "png", "webp", "jpg")


def encode(rgb: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, {"jpg": "JPEG"}.get(kind, kind.upper()))
    return buffer.getvalue()


def sample(shard: int, position: int, kind: str = "jpg", gsd: float | None = 0.3) -> Sample:
    rng = np.random.default_rng([shard, position])
    rgb = rng.integers(0, 256, (20 + position, 30, 3), dtype=np.uint8)
    meta = {
        "source": f"s{position % 2}", "image": f"ä/{shard}.tif", "window": [0, 0, 30, 20 + position], "width": 30,
        "height": 20 + position, "gsd_m": gsd, "crs": None, "bounds": None, "licence": "CC0-1.0",
        "phash": "00ff00ff00ff00ff",
    }  # fmt: skip
    own = tile_id(meta["source"], meta["image"], Window(*meta["window"]))
    return Sample(f"{shard:06d}{position:05d}-{own}", encode(rgb, kind), kind, meta)


def shard_samples(shard: int) -> list[Sample]:
    return [sample(shard, i, kind, None if i == 2 else 0.3) for i, kind in enumerate(KINDS)]


def write_folder(folder: Path, shards: int = 3, key: str = "abc") -> Path:
    """A finished folder of shards with four samples each."""
    infos = [write_shard(shard_samples(n), folder / f"x-{n:06d}.tar") for n in range(shards)]
    write_index(infos, folder)
    write_checksums(infos, folder, key)
    return folder
