"""End a worker process that hangs in a decoder.

A decoder that loops inside C code cannot be interrupted from Python, so the process ends itself; the executor then
finds the image at fault. Outside of the executor's processes nothing is watched.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 10.0
"""What every image is given."""
PER_SECOND = 20_000_000
"""Pixels, and bytes of the file, that every further second is given for."""
SLOW = 4.0
"""Factor for what is not 8-bit (more bytes, a pass of its own for the limits) and for JPEG 2000."""

_SWITCH = "OPTICALRS_WATCHDOG"


def arm() -> None:
    """Let :func:`deadline` end this process from now on."""
    os.environ[_SWITCH] = "1"


def seconds(pixels: int, file_bytes: int, slow: bool) -> float:
    """Time that one image may take."""
    return (SECONDS + (pixels + file_bytes) / PER_SECOND) * (SLOW if slow else 1.0)


@contextmanager
def deadline(limit: float) -> Iterator[None]:
    """End this process, if it is armed, when the block takes longer than ``limit`` seconds."""
    if os.environ.get(_SWITCH) != "1":
        yield
        return
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.dump_traceback_later(limit, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
