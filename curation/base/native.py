"""C of these packages, compiled by the machine's own compiler where there is one, and kept for the next process."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy.typing as npt

from curation.base.compiled import kept_in
from curation.base.files import sync

logger = logging.getLogger(__name__)

PATIENCE_S = 120.0
"""What a compiler is given for a file."""


def function(source: Path, name: str, arguments: Sequence[Any], *links: str, can: str | None = None) -> Any | None:
    """One of a source file's functions; null where there is none that this processor can run.

    Args:
        source: as in :func:`library`.
        name: of the function.
        arguments: ctypes' types of its arguments.
        links: as in :func:`library`.
        can: name of a function that says whether the processor has what it takes.
    """
    compiled = library(source, *links)
    try:
        if compiled is None or (can is not None and not compiled[can]()):
            return None
        found = compiled[name]
    except AttributeError:  # whatever the compiler made of the file
        return None
    found.argtypes = list(arguments)
    return found


def library(source: Path, *links: str) -> ctypes.CDLL | None:
    """A source file's functions, which run without the interpreter lock; null where it cannot be compiled.

    Args:
        source: a file of C; compiled once for a state of it, and kept beside numba's code.
        links: libraries that it needs, as the compiler is told of them.
    """
    folder = kept_in()
    if folder is None:
        return None
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    built = folder / f"{source.stem}-{digest}-{sysconfig.get_platform()}.so"
    with suppress(OSError):  # not there yet, cut short in its header, or of a machine with other libraries
        return ctypes.CDLL(str(built))
    with suppress(OSError):
        _compile(source, links, built)
        return ctypes.CDLL(str(built))
    return None


def address(array: npt.NDArray[Any]) -> int:
    """Where the values of a contiguous, writable array lie; numpy itself takes four times as long to say it."""
    return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]


def _compile(source: Path, links: tuple[str, ...], built: Path) -> None:
    """Have the compiler, where there is one, write a library, which is seen whole or not at all.

    Raises:
        OSError: the compiler cannot be run or leaves nothing, or there is no room for what it makes.
    """
    compiler: list[str] = []
    with suppress(ValueError):  # a quotation mark without its other
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if not compiler or shutil.which(compiler[0]) is None:
        return
    with tempfile.TemporaryDirectory(dir=built.parent) as aside:
        made = Path(aside) / built.name
        line = [*compiler, "-O3", "-shared", "-fPIC", "-o", str(made), str(source), *links]
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S)
            if done.returncode == 0:
                sync(made)  # one that a power cut shortened would end whoever loads it
                os.replace(made, built)
            else:
                logger.info("%s cannot be compiled: %s", source.name, done.stderr.decode("utf-8", "replace").strip())
