"""Batches travel from workers to their process through shared memory, of which containers are given little."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from pretrain.data.ring import parts_of
from pretrain.data.stream import StreamPlan
from pretrain.errors import InputError

_FOLDER = Path("/dev/shm")
"""The kernel's own, in which torch makes files without a name."""
_MEGABYTE = 1 << 20


def refuse_little_shared_memory(
    plan: StreamPlan, size: int, workers: int, prefetch: int, image_bytes: float = 0, processes: int = 1
) -> None:
    """Check that what all workers of the machine may have ready fits into its shared memory.

    Args:
        plan: gives the greatest batch of a worker.
        size: side of a crop, pixels.
        workers: of each process of this machine.
        prefetch: batches that each prepares ahead.
        image_bytes: of a file, where they travel as they are.
        processes: of this machine.

    Raises:
        InputError: it does not.
    """
    batch = plan.largest * max(plan.crops * 3 * size**2, image_bytes)
    need = int(processes * parts_of(workers, prefetch) * batch)
    with suppress(OSError):
        there = shutil.disk_usage(_FOLDER)
        if need > there.free:
            raise InputError(
                f"{_FOLDER}: has {there.free // _MEGABYTE} MB free, and {workers * processes} workers may have "
                f"{-(-need // _MEGABYTE)} MB of images ready; start the container with "
                f"`docker run --shm-size={2 * need // _MEGABYTE + 64}m` (or --ipc=host), or set data.workers and "
                "data.prefetch lower, or max_batch_per_gpu"
            )
