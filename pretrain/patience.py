"""Waiting for files that went away: a network file system loses them for seconds, and they come back as they were."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from pretrain.errors import WorkError
from pretrain.signals import heed_stop

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_log = logging.getLogger(__name__)


def patiently(read: Callable[[], T], seconds: float) -> T:
    """Call ``read`` again and again until the files that it needs can be read.

    Args:
        read: raises an ``OSError`` that names the file while it cannot be read.
        seconds: for how long to try, counted from the first failure.

    Raises:
        WorkError: the file could not be read in this time.
        WaitGivenUp: the run was asked to stop.
    """
    deadline, pause = None, _FIRST_PAUSE
    while True:
        try:
            return read()
        except OSError as error:
            if deadline is None:
                deadline = time.monotonic() + seconds
                _log.warning("%s: %s; trying again for %g s", error.filename, error.strerror, seconds)
            left = deadline - time.monotonic()
            if left <= 0:
                raise WorkError(
                    f"{error.filename}: could not be read for {seconds:g} s ({error.strerror}); bring it back, and "
                    "--resume goes on from the last checkpoint (data.retry_seconds is the time that is waited)"
                ) from None
        heed_stop()
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
