"""End a worker process that hangs in a decoder.

A decoder that loops inside C code cannot be interrupted from Python, nor by a thread that waits for the interpreter's
lock, so the kernel is asked for a SIGALRM, which ends the process; the executor then finds the image at fault. That
costs two system calls an image. Outside of the executor's processes nothing is watched.
"""

from __future__ import annotations

import signal

SECONDS = 10.0
"""What every image is given."""
PER_SECOND = 20_000_000
"""Pixels, and bytes of the file, that every further second is given for."""
SLOW = 4.0
"""Factor for what is not 8-bit (more bytes, a pass of its own for the limits) and for JPEG 2000."""

_armed = False


def arm() -> None:
    """Let :func:`deadline` end this process from now on."""
    global _armed
    _armed = True


def seconds(pixels: int, file_bytes: int, slow: bool) -> float:
    """Time that one image may take."""
    return (SECONDS + (pixels + file_bytes) / PER_SECOND) * (SLOW if slow else 1.0)


class deadline:
    """End this process, if it is armed, when the block takes longer than ``limit`` seconds."""

    def __init__(self, limit: float) -> None:
        self._limit = limit if _armed else 0.0

    def __enter__(self) -> None:
        if self._limit:
            signal.setitimer(signal.ITIMER_REAL, self._limit)

    def __exit__(self, *_: object) -> None:
        if self._limit:
            signal.setitimer(signal.ITIMER_REAL, 0)
