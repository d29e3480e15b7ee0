"""Files that are whole or absent, and digests of what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".part"
"""End of the names of files that are being written; one without a living writer is waste."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` that becomes ``path`` when the block ends without an error.

    File and folder are on disk before this returns: after a power cut a name stands for its whole content or is absent.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Drawn, not the process id: containers that share a file system share process ids.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}")
    try:
        yield aside
        sync(aside)
        os.replace(aside, path)
        sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Put what was made, renamed and removed in a folder on disk, where its file system can."""
    with suppress(OSError):
        sync(folder)


def sync(path: Path) -> None:
    """Put a file or folder on disk: a rename must not outlive the content that it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_whole(path: Path) -> bool:
    """Whether a stage's Parquet file is there and was written to its end; one that a power cut left is made again."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 8, 0))
            end = file.read(8)
    except FileNotFoundError:
        return False
    # Magic, footer, length of the footer, magic.
    return size >= 12 and end[4:] == b"PAR1" and int.from_bytes(end[:4], "little") + 12 <= size


def digest(value: object, size: int = 16) -> str:
    """Hex digest of ``size`` bytes of a value, written as canonical JSON."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place(made: Path, name: Path) -> None:
    """Give a finished file another name: as a link, which takes no space, where links can be made."""
    if name.exists() and name.samefile(made):
        return
    with atomic(name) as aside:
        try:
            os.link(made, aside)
        except OSError:  # another file system, or one without links
            shutil.copyfile(made, aside)


def copy_changed(made: Path, name: Path) -> None:
    """Copy a finished file; equal files are left alone so that their time says when they changed."""
    if name.exists() and name.stat().st_size == made.stat().st_size and file_digest(name) == file_digest(made):
        return
    with atomic(name) as aside:
        shutil.copyfile(made, aside)
