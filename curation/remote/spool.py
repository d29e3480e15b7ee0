"""Bytes that were read from elsewhere, kept on disk between scan and write, each with its SHA-256.

A name stands for a whole file: it is written aside and renamed. What a power cut spoilt has another SHA-256 and counts
as absent, so nothing is synced.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from curation.base.errors import NO_ROOM
from curation.base.files import UNFINISHED

SPARED = 0.02
"""Share of the disk that stays free for what is no spool; of a disk with less free than twice that, half stays free."""
LOOKS = 500
"""Files that a process adds between two looks at what all processes have added."""


@dataclass
class Spool:
    """A folder of bytes by key, up to about ``limit`` bytes of them."""

    folder: Path
    limit: int
    _used: int = field(default=0, init=False)
    _most: int = field(default=0, init=False)
    _added: int = field(default=LOOKS, init=False)

    def get(self, key: str) -> bytes | None:
        """What is kept under a key; null where nothing is, or it is spoilt."""
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        kept = data[32:]
        return kept if hashlib.sha256(kept).digest() == data[:32] else None

    def put(self, key: str, data: bytes) -> bool:
        """Keep bytes, where there is room."""
        if self._added >= LOOKS:
            self._used, self._added = self.bytes(), 0
            self._most = min(self.limit, self._used + self._free())
        if self._used + len(data) > self._most:
            return False
        path = self._path(key)
        aside = path.with_name(f".{key}.{secrets.token_hex(4)}{UNFINISHED}")
        try:
            self._write(aside, data)
            os.replace(aside, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            if error.errno in NO_ROOM:
                return False
            raise
        self._used, self._added = self._used + len(data), self._added + 1
        return True

    def _write(self, path: Path, data: builtins.bytes) -> None:
        for attempt in range(2):
            try:
                with path.open("wb", buffering=0) as file:
                    file.write(hashlib.sha256(data).digest())
                    file.write(data)
                return
            except FileNotFoundError:
                if attempt:
                    raise
                path.parent.mkdir(parents=True, exist_ok=True)

    def bytes(self) -> int:
        """What all files take."""
        return sum(path.stat().st_size for path in self.folder.glob("*/*")) if self.folder.is_dir() else 0

    def _free(self) -> int:
        """What the disk still takes."""
        there = next(folder for folder in (self.folder, *self.folder.parents) if folder.is_dir())
        disk = shutil.disk_usage(there)
        return disk.free - min(int(SPARED * disk.total), disk.free // 2)

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key
