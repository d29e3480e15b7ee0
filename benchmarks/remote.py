"""Windows of remote COGs a second, over a server on loopback that takes its time, and the bytes that they cost.

    python benchmarks/remote.py [--windows 192] [--rounds 3] [--latency 0.05] [--scenes FOLDER] [--out docs/benchmarks]

Two scenes of 8192 px, JPEG and deflate in blocks of 512; drawn windows of 512 px, each read once by one process: by our
reader, by our reader with one request at a time, and by GDAL's own /vsicurl in as many threads. The server is a process
of its own that waits before each answer. Rounds are interleaved and begin without a spool; medians of the rounds. Bytes
are those that the server sent, beside those of the blocks that the windows touch, as the file's index tells them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window as RasterWindow

from curation.catalogue import Window
from curation.remote.access import MOST_REQUESTS, RemoteImagery
from curation.remote.reader import Member, Reader, ahead
from curation.remote.remote_file import Ranges, RemoteFile
from curation.remote.scenes import draw, driver_of, opened
from curation.remote.spool import Spool
from curation.remote.transport import Transport

SIDE, TILE = 8192, 512
AIM_WINDOWS, AIM_BYTES = 60, 1.3
OURS, SERIAL, GDAL = "this reader", "one request at a time", "GDAL /vsicurl, 16 threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before an answer")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--scenes", type=Path, help="folder of jpeg.tif and deflate.tif, made where they are absent")
    parser.add_argument("--out", type=Path, help="folder for remote.json and the table remote.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        scenes = options.scenes or Path(scratch)
        for kind in ("jpeg", "deflate"):
            if not (scenes / f"{kind}.tif").exists():
                make(scenes / f"{kind}.tif", kind)
        figures = measure(scenes, Path(scratch), options.windows, options.rounds, options.latency)
    print(table(figures))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "remote.json").write_text(json.dumps(figures, indent=1) + "\n")
        write_page(options.out / "remote.md", table(figures))


def make(path: Path, compress: str) -> None:
    """Ground with detail at all scales, as a COG."""
    rng = np.random.default_rng(0)
    light = np.zeros((SIDE, SIDE), np.float32)
    for cell, weight in ((512, 50.0), (64, 40.0), (8, 25.0), (1, 30.0)):
        layer = rng.random((SIDE // cell, SIDE // cell), np.float32).repeat(cell, 0).repeat(cell, 1)
        light += weight * layer
    colour = rng.integers(0, 60, (3, SIDE // 256, SIDE // 256), np.uint8).repeat(256, 1).repeat(256, 2)
    pixels = (light + 30).astype(np.uint8)[None] // 2 + colour + 20
    place = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 4_500_000)
    with rasterio.open(
        path, "w", driver="COG", width=SIDE, height=SIDE, count=3, dtype="uint8", compress=compress, blocksize=TILE,
        crs="EPSG:32631", transform=place,
    ) as file:  # fmt: skip
        file.write(pixels)


# ------------------------------------------------------------------------------------------------ the server


def serve(folder: Path, latency: float, line: Connection) -> None:
    """Give ranges of the files in a folder; tell the port, then for each word the bytes and answers since the last."""
    sent = [0, 0]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            method, name, _ = head.split(b" ", 2)
            with (folder / name.decode().strip("/")).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                asked = re.search(rb"[Rr]ange: bytes=(\d+)-(\d+)", head)
                first, last = (int(asked[1]), min(int(asked[2]), size - 1)) if asked else (0, size - 1)
                body = os.pread(file.fileno(), last - first + 1, first) if method == b"GET" else b""
            status = b"206 Partial Content" if asked else b"200 OK"
            told = f"Content-Range: bytes {first}-{last}/{size}\r\n" if asked else "Accept-Ranges: bytes\r\n"
            told += f'ETag: "{size}"\r\nContent-Length: {last - first + 1}\r\n\r\n'
            await asyncio.sleep(latency)
            sent[:] = sent[0] + len(body), sent[1] + 1
            writer.write(b"HTTP/1.1 " + status + b"\r\n" + told.encode() + body)
            await writer.drain()

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(quietly, "127.0.0.1", 0)
        line.send(server.sockets[0].getsockname()[1])
        while True:
            if await asyncio.to_thread(line.recv) is None:
                return
            line.send(tuple(sent))
            sent[:] = 0, 0

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------ measuring


def measure(folder: Path, scratch: Path, count: int, rounds: int, latency: float) -> dict[str, Any]:
    """Figures for each kind of scene and way of reading."""
    line, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, latency, theirs), daemon=True)
    server.start()
    port = line.recv()
    taken: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for turn in range(rounds):
        for kind in ("jpeg", "deflate"):
            url = f"http://127.0.0.1:{port}/{kind}.tif"
            windows = drawn(url, scratch, count)
            blocks = block_bytes(folder / f"{kind}.tif", windows)
            ways: dict[str, Callable[[], Any]] = {
                OURS: lambda: ours(url, windows, scratch / f"spool-{turn}-{kind}", MOST_REQUESTS),  # noqa: B023
                GDAL: lambda: gdal(url, windows),  # noqa: B023
                SERIAL: lambda: ours(url, windows[:32], scratch / f"one-{turn}-{kind}", 1),  # noqa: B023
            }
            for way, run in ways.items():
                line.send("count")
                line.recv()
                start, used = time.perf_counter(), time.process_time()
                read = run()
                seconds, used = time.perf_counter() - start, time.process_time() - used
                line.send("count")
                sent, _ = line.recv()
                ratio = sent / (blocks if read == len(windows) else block_bytes(folder / f"{kind}.tif", windows[:read]))
                taken.setdefault((kind, way), []).append((read / seconds, ratio, 1e3 * used / read))
    line.send(None)
    rows = {
        f"{kind}, {way}": [statistics.median(each) for each in zip(*runs, strict=True)]
        for (kind, way), runs in taken.items()
    }
    return {"windows": count, "rounds": rounds, "latency_s": latency, "load": os.getloadavg()[0], "rows": rows}


def drawn(url: str, folder: Path, count: int) -> Sequence[Window]:
    """Windows as a listing draws them."""
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        ranges = ranges_of(url, Path(aside), MOST_REQUESTS)
        pin, head = ranges.first_page(url)
        with opened(RemoteFile(pin, ranges), driver_of(head) or "") as data:
            return draw(data, TILE, count, "0", None).windows


def ranges_of(url: str, folder: Path, connections: int) -> Ranges:
    access = RemoteImagery(urls=(url,), connections=connections)
    return Ranges(Transport(access, folder / "requests"), Spool(folder / "spool", 1 << 34))


def ours(url: str, windows: Sequence[Window], folder: Path, connections: int) -> int:
    """Read as the scan does: members a few ahead."""
    reads = Reader.of(ranges_of(url, folder, connections))
    pin, _ = reads.ranges.first_page(url)
    members = [Member(w.col_off, w.row_off, pin, "window", f"{w.width}x{w.height}").written() for w in windows]
    for member in ahead(members, lambda member: (reads, url, member), 1 << 30):
        reads.read(url, member, 1 << 30)
    return len(members)


def gdal(url: str, windows: Sequence[Window]) -> int:
    """GDAL's own client in as many threads, a dataset each."""
    options = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "CPL_VSIL_CURL_NON_CACHED": "", "VSI_CACHE": "FALSE"}

    def one(window: Window) -> None:
        with rasterio.Env(**options), rasterio.open(f"/vsicurl/{url}") as data:
            data.read(window=RasterWindow(*window))

    with ThreadPoolExecutor(MOST_REQUESTS) as pool:
        list(pool.map(one, windows))
    return len(windows)


def block_bytes(path: Path, windows: Sequence[Window]) -> int:
    """Bytes of the blocks that windows touch."""
    with rasterio.open(path) as data:
        touched = {(w.col_off // TILE, w.row_off // TILE) for w in windows}
        return sum(int(data.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=1)) for x, y in touched)


# ------------------------------------------------------------------------------------------------ telling


def table(figures: dict[str, Any]) -> str:
    """Rows as Markdown."""
    lines = [
        "| scene, reader | windows/s | windows a CPU second | bytes sent / bytes of the blocks |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {row[0]:.0f} | {1e3 / row[2]:.0f} | {row[1]:.2f} |" for name, row in figures["rows"].items()]
    return "\n".join(lines)


def write_page(path: Path, told: str) -> None:
    """Put the table into the page, between its text."""
    text = path.read_text(encoding="utf-8") if path.exists() else f"{told}\n"
    before, rest = text.partition("| scene, reader |")[0], text.rpartition("|\n")[2]
    path.write_text(f"{before}{told}\n{rest}", encoding="utf-8")


if __name__ == "__main__":
    main()
