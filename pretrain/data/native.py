"""C of this package, compiled by the machine's own compiler where there is one, and kept for the next process."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from curation.base.compiled import kept_in


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
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not built.exists() and compiler is not None:
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            made = Path(aside) / built.name
            line = [compiler, "-O3", "-shared", "-fPIC", "-o", str(made), str(source), *links]
            if subprocess.run(line, capture_output=True).returncode == 0:
                os.replace(made, built)
    try:
        return ctypes.CDLL(str(built)) if built.exists() else None
    except OSError:
        return None
