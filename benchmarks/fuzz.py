"""Mutated files through the scan: every one must end as tiles or with a reason, and nothing may stop the run.

    python benchmarks/fuzz.py [--files 2000] [--workers 2] [--seed 0]

Ten formats are cut, flipped bit by bit, overwritten with noise, padded, renamed, given giant declared sizes, or stacked
behind each other; zip bombs are members of archives. Prints how many files had which verdict, time and peak memory.
"""

from __future__ import annotations

import argparse
import io
import resource
import struct
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import rasterio
from PIL import Image

from curation import catalogue
from curation.executor.executor import Executor
from curation.scan import parts as scan_parts
from curation.scan import scan
from curation.sources.recipe import Recipe, resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "raw", Path(folder) / "out"
        root.mkdir()
        rows = write_mutants(root, options.files, options.seed)
        start = time.perf_counter()
        table = scan_rows(root, out, rows, options.workers)
        seconds = time.perf_counter() - start
    verdicts = balance(rows, table)
    print(f"{len(rows)} files, {seconds:.0f} s, {options.workers} workers, peak memory of a process {peak():.0f} MB")
    print("| verdict of the image | files |\n|---|---|")
    for verdict, count in verdicts.most_common():
        print(f"| {verdict} | {count} |")


def peak() -> float:
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(own, children) / 1024


def balance(rows: list[dict[str, Any]], table: list[dict[str, Any]]) -> Counter[str]:
    """Verdicts of the images.

    Raises:
        AssertionError: an image has no row or two, or a row that is left out says no reason.
    """
    images = [row for row in table if row["kind"] == "image"]
    assert sorted(row["image"] for row in images) == sorted(row["image"] for row in rows)
    assert all(row["detail"] for row in table if row["verdict"])
    sliced = {row["image"] for row in table if row["kind"] == "tile"}
    assert all((row["verdict"] is None) == (row["image"] in sliced) for row in images)
    return Counter(row["verdict"] or "sliced" for row in images)


# ------------------------------------------------------------------------------------------------ mutants


def originals() -> dict[str, bytes]:
    """One small, valid file of each format."""
    noise = np.random.default_rng(0)
    grey = noise.integers(40, 200, (12, 14, 1)) + noise.integers(-12, 12, (12, 14, 3))
    small = Image.fromarray(grey.astype(np.uint8))
    picture = small.resize((140, 120), Image.Resampling.BICUBIC)
    made: dict[str, bytes] = {}
    for name, image_format, options in (
        ("a.jpg", "JPEG", {}), ("b.jpg", "JPEG", {"progressive": True}), ("c.png", "PNG", {}), ("d.bmp", "BMP", {}),
        ("e.webp", "WEBP", {}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        picture.save(buffer, image_format, **options)
        made[name] = buffer.getvalue()
    buffer = io.BytesIO()
    picture.quantize(64).save(buffer, "PNG")
    made["f.png"] = buffer.getvalue()
    bands = np.moveaxis(np.asarray(picture), -1, 0)
    for name, driver, values, options in (
        ("g.tif", "GTiff", bands, {"compress": "lzw"}),
        ("h.tif", "GTiff", bands.astype(np.uint16) * 40, {"tiled": True, "blockxsize": 64, "blockysize": 64,
                                                           "compress": "deflate"}),
        ("i.tif", "GTiff", bands, {"compress": "jpeg", "photometric": "YCBCR", "interleave": "pixel"}),
        ("j.jp2", "JP2OpenJPEG", bands, {}),
    ):  # fmt: skip
        with rasterio.MemoryFile() as memory:
            profile = {"driver": driver, "width": 140, "height": 120, "count": 3, "dtype": values.dtype, **options}
            with memory.open(**profile) as data:
                data.write(values)
            made[name] = memory.read()
    return made


def mutate(data: bytes, noise: np.random.Generator) -> bytes:
    """One random kind of damage."""
    values = bytearray(data)
    kind = int(noise.integers(0, 8))
    if kind == 0:
        return bytes(values[: int(noise.integers(0, len(values)))])
    if kind in (1, 2):
        for at in noise.integers(0, len(values) if kind == 1 else min(len(values), 200), int(noise.integers(1, 30))):
            values[at] ^= 1 << int(noise.integers(0, 8))
    elif kind == 3:
        start = int(noise.integers(0, len(values)))
        values[start : start + int(noise.integers(1, 400))] = noise.bytes(64)
    elif kind == 4:
        values += noise.bytes(int(noise.integers(1, 5000)))
    elif kind == 5:
        start, stop = sorted(int(value) for value in noise.integers(0, len(values), 2))
        del values[start:stop]
    elif kind == 6:
        values = bytearray(giant(bytes(values), noise))
    else:
        values = values[: len(values) // 2] + values
    return bytes(values)


def giant(data: bytes, noise: np.random.Generator) -> bytes:
    """The file with a giant declared size."""
    side = int(noise.choice([30_000, 65_000, 2**31 - 1]))
    if data.startswith(b"\x89PNG"):
        header = struct.pack(">II", side, side) + data[24:29]
        return data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]
    if data.startswith(b"\xff\xd8"):
        frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        return data[: frame + 5] + b"\xff\xff\xff\xff" + data[frame + 9 :]
    if data.startswith(b"BM"):
        return data[:18] + struct.pack("<ii", side, side) + data[26:]
    if data.startswith(b"II"):
        return data.replace(struct.pack("<H", 140), struct.pack("<H", 60_000)).replace(
            struct.pack("<H", 120), struct.pack("<H", 60_000)
        )
    return data.replace(struct.pack(">I", 140), struct.pack(">I", side))


def write_mutants(root: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Write mutants and list them; every twentieth is a member of an archive, some archives are bombs."""
    noise = np.random.default_rng(seed)
    made = originals()
    names = sorted(made)
    rows = []
    for number in range(count):
        name = names[number % len(names)]
        suffix = Path(names[int(noise.integers(0, len(names)))]).suffix if noise.random() < 0.1 else Path(name).suffix
        data = mutate(made[name], noise)
        file = f"{number:05d}{suffix}"
        if number % 20 == 7:
            file, member = f"{number:05d}.zip", f"m{suffix}"
            with zipfile.ZipFile(root / file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(member, bytes(64 << 20) if number % 100 == 7 else data)
            image = f"{file}/{member}"
        else:
            (root / file).write_bytes(data)
            image, member = file, None
        size = (root / file).stat().st_size
        rows.append({"source": "f", "image": image, "file": file, "member": member, "bytes": size, "mtime_ns": 0})
    return rows


def scan_rows(root: Path, out: Path, rows: list[dict[str, Any]], workers: int) -> list[dict[str, Any]]:
    """Scan the listed files through the executor; in this process with no workers."""
    recipe = Recipe.model_validate({"name": "fuzz", "sources": [{"id": "f", "path": str(root)}]})
    listing = out / "images.parquet"
    catalogue.write_table(catalogue.table_from_rows("images", rows), listing, "images")
    parts = scan_parts.plan_parts(listing, out / "tiles", scan_parts.ScanJob.of(resolve(recipe, None)[0], recipe))
    if workers:
        with Executor(workers, None, out / "workers") as executor:
            for _ in executor.map_parts(scan.scan_part, parts):
                pass
    else:
        for part in parts:
            scan.scan_part(part)
    columns = ["kind", "image", "verdict", "detail"]
    return [row for part in parts for row in pq.read_table(part.out, columns=columns).to_pylist()]


if __name__ == "__main__":
    main()
