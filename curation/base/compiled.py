"""How numba compiles this package's inner loops: without the interpreter lock, and kept for the next process.

Numba keeps compiled code for as long as the file that defines it stays as it is, though code of other files may be
compiled into it. Hence one folder for each state of all files with compiled loops: after an upgrade none of it is old.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import types

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("curation", "pretrain")
_NAME = "kernels-"
_TRUSTED = (0,)
"""Users whose folders hold no traps: root could put them elsewhere, too."""
_KEPT = 3
"""States whose compiled code is kept, so that going back and forth between two compiles nothing."""


def compiled(*signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` with the lock released and numba's cache used where there is a place for it.

    A cluster's containers often have neither a writable installation nor a home; numba alone then refuses to import.
    """

    def compile_one(function: Callable[..., Any]) -> Any:
        """Compile with the cache; without, where there is no place for it."""
        folder = kept_in()
        if folder is None:
            return numba.njit(*signature, nogil=True, **options)(function)
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
        try:
            return numba.njit(*signature, nogil=True, cache=True, **options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return compile_one


def named(cls: type[tuple[Any, ...]], *fields: types.Type) -> types.Type:
    """Numba's type of a ``NamedTuple`` class whose fields have these types, for explicit signatures."""
    return types.BaseTuple.from_types(fields, cls)


def given(kind: types.Type, dimensions: int) -> types.Type:
    """Numba's type of a contiguous array that a loop only reads, for explicit signatures."""
    return types.Array(kind, dimensions, "C", readonly=True)


@cache
def kept_in() -> Path | None:
    """Folder of compiled code: below ``NUMBA_CACHE_DIR``, beside the source, or in the user's cache; null: nowhere.

    Never one that others may write to: what lies there is run.
    """
    name = f"{_NAME}{_state()}"
    for root in _roots():
        try:
            root.mkdir(parents=True, exist_ok=True)
            (root / name).mkdir(mode=0o700, exist_ok=True)
            if not _is_ours(root / name):
                logger.warning("%s can be written by others, so compiled code is not kept there", root / name)
                continue
            with tempfile.TemporaryFile(dir=root / name):
                _forget_old(root)
                return root / name
        except OSError:
            continue
    logger.warning("there is no folder to keep compiled code in: every process compiles anew; set NUMBA_CACHE_DIR")
    return None


def _is_ours(folder: Path) -> bool:
    """Whether only this user, or root, can put anything there."""
    told = folder.lstat()
    return stat.S_ISDIR(told.st_mode) and told.st_uid in (*_TRUSTED, os.geteuid()) and not told.st_mode & 0o022


def _forget_old(root: Path) -> None:
    """Remove all but the newest states; a process that runs one of them has it in memory."""
    with suppress(OSError):  # another process may be removing them
        found = sorted(root.glob(_NAME + 16 * "[0-9a-f]"), key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
        for folder in found[_KEPT:]:
            shutil.rmtree(folder, ignore_errors=True)


def _roots() -> Iterator[Path]:
    if asked := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(asked)
    yield _ROOT / "curation" / "__pycache__"
    try:
        yield Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rscorpus"
    except RuntimeError:
        return


def _state() -> str:
    """Digest of all files that have compiled loops."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            text = path.read_bytes()
            if b"base.compiled" in text:
                digest.update(hashlib.sha256(text).digest())
    return digest.hexdigest()[:16]
