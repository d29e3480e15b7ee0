"""What a GPU does; ``benchmarks/gpu.sh`` calls this, and calls it again where its process died.

benchmarks/gpu.sh smoke|step|data|train [--out DIR] [--seconds 520] [--again] [--device cpu]
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from functools import partial
from pathlib import Path

import timm
import torch

from benchmarks.gpu import feeding, smoke, step
from benchmarks.gpu.ledger import Ledger, Result
from benchmarks.gpu.size import GPU, TINY, Size
from benchmarks.gpu.tables import page

REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> int:
    """Measure what is not there yet; returns the exit status."""
    options = _options()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU; --device cpu tries the commands in miniature", file=sys.stderr)
        return 2
    size = GPU if options.device == "cuda" else TINY
    if size is TINY:  # kernels for a CPU take minutes to compile; that everything is traced is what counts here
        torch.compile = partial(torch.compile, backend="eager")
    options.out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(options.out / f"{options.what}.json", _environment(size), options.again)
    cells = {
        "smoke": lambda: smoke.cells(size, options.work),
        "step": lambda: step.cells(size, ledger),
        "data": lambda: feeding.data_cells(size, options.work),
        "train": lambda: feeding.train_cells(size, options.work),
    }[options.what]()
    if options.only:
        cells = [cell for cell in cells if options.only in cell.name]
    until = options.until or time.time() + options.seconds

    def write_page() -> None:
        text = page(options.what, ledger, size)
        (options.out / f"{options.what}.md").write_text(text, encoding="utf-8")

    write_page()
    return ledger.run(cells, until, write_page)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("smoke", "step", "data", "train"))
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "benchmarks" / "gpu", help="of results")
    parser.add_argument("--work", type=Path, default=REPOSITORY / ".shards", help="folder for generated shards")
    parser.add_argument("--seconds", type=float, default=520, help="after which no cell is begun (default 520)")
    parser.add_argument(
        "--until", type=float, help="the same as seconds since 1970, for a process that follows another"
    )
    parser.add_argument("--only", help="cells whose name holds this text")
    parser.add_argument("--again", action="store_true", help="measure the cells that failed once more")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: everything in miniature")
    return parser.parse_args()


def _environment(size: Size) -> Result:
    gpu = size.device == "cuda"
    return {
        "device": torch.cuda.get_device_name(0) if gpu else platform.processor() or platform.machine(),
        "memory": f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB" if gpu else "-",
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda or "-",
        "timm": timm.__version__,
        "Python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
