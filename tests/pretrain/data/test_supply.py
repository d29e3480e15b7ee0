"""Shards of this machine are read ahead where memory holds them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pretrain.data import supply


def test_the_kernel_is_told_of_the_next_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{number}.tar" for number in range(3)]
    for path in paths[:2]:
        path.write_bytes(bytes(1000))
    told: list[str] = []

    def advise(handle: int, start: int, size: int, how: int) -> None:
        assert (start, size, how) == (0, 0, os.POSIX_FADV_WILLNEED)
        told.append(str(Path(f"/proc/self/fd/{handle}").readlink()))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    supply._read_ahead(paths)  # the third is away, which is told when it is read
    assert told == [str(path) for path in paths[:2]]
    monkeypatch.setattr(supply, "_free_memory", lambda: 3999)
    supply._read_ahead(paths)
    assert len(told) == 2  # two thousand bytes are more than half of that
