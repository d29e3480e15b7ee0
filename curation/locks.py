"""One process at a time in a folder; whoever comes second is told who holds it."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from curation.errors import InputError


@contextmanager
def hold(folder: Path, option: str = "--out", name: str = ".lock") -> Iterator[None]:
    """Hold ``folder``, made if absent, for this process; the system frees it when the process dies, however it dies.

    Args:
        folder: what is written to.
        option: the option that named it, for the messages.
        name: the lock's file name.

    Raises:
        InputError: another process holds it, or it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / name).open("a+")
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{option} {folder}: is a file, or lies below one; give a folder") from None
    except OSError as error:
        raise InputError(f"{option} {folder}: cannot be written ({error.strerror}); give another {option}") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise InputError(f"{option} {folder}: in use by another run ({holder}); wait for it or stop it") from None
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        handle.flush()
        yield
