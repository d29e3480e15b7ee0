"""One process at a time in a folder; whoever comes second is told who holds it.

The system's lock (flock) is freed however its holder dies. Where a file system has none, as Lustre mounted without
``-o flock``, the lock is a file that only one process can make. It names its holder, and is taken over when that is
known to be dead: same machine, same start of it, no such process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from curation.base.errors import InputError

NO_FLOCK = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})
"""What file systems without flock answer."""


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
    with handle, contextlib.ExitStack() as stack:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(option, folder, _read(handle)) from None
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            stack.enter_context(_held_by_a_file(folder / f"{name}.held", option))
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        handle.flush()
        yield


def _in_use(option: str, folder: Path, holder: str, more: str = "") -> InputError:
    return InputError(f"{option} {folder}: in use by another run ({holder or 'unknown'}); wait for it or stop it{more}")


def _read(handle: TextIO) -> str:
    handle.seek(0)
    return handle.read().strip()


@contextmanager
def _held_by_a_file(path: Path, option: str) -> Iterator[None]:
    mine = f"process {os.getpid()} on {socket.gethostname()} ({_birth(os.getpid())}, {_machine()})"
    while not _made(path, mine):
        holder = _holder(path)
        if holder is None:
            continue  # freed just now
        if not _dead(holder):
            more = f". This file system has no flock: where that process is known to be gone, remove {path}"
            raise _in_use(option, path.parent, holder, more)
        _take_away(path, holder)
    try:
        yield
    finally:
        if _holder(path) == mine:
            path.unlink(missing_ok=True)


def _made(path: Path, mine: str) -> bool:
    """Whether this process made the lock file, whole: written aside, then linked, which only one process can."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    aside.write_text(mine)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True


def _holder(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _dead(holder: str) -> bool:
    """Whether a holder is surely gone: of this machine since its last start, and no such process of that age runs."""
    words = holder.split()
    if not holder.endswith(f", {_machine()})") or not words[1].isdigit():
        return False
    return f"({_birth(int(words[1]))}," not in holder


def _take_away(path: Path, holder: str) -> None:
    """Remove a dead holder's lock file; one that another process made since then is put back."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if aside.read_text() != holder:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _birth(pid: int) -> str | None:
    """When a process started, in ticks since the machine did; None where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _machine() -> str:
    """What tells apart machines, their starts, and containers, which number their processes anew."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
