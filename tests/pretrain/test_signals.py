"""A process ends although its reading processes ignore the signal that would end them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from torch.utils.data import DataLoader

from pretrain.data.stream import loader_options
from pretrain.errors import WorkError
from pretrain.signals import telling_of_killed_readers

LEFT = """
import torch
from torch.utils.data import DataLoader
from pretrain.data.stream import loader_options

left = iter(DataLoader(torch.zeros(99, 3), 4, **loader_options(1)))
next(left)
"""


def test_reading_processes_that_are_left_do_not_hold_the_end_up() -> None:
    """And are not taken for ones that something else ended."""
    done = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, timeout=120, check=True)
    assert "Traceback" not in done.stderr


def cut_off() -> None:
    """What multiprocessing says of a peer that is gone before it has handed its memory over."""
    raise EOFError


class HalfSent:
    """A batch of a reader that is killed while it hands it over."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return cut_off, ()


def test_a_reader_that_is_gone_amid_a_batch_is_told_of_in_a_line() -> None:
    told = pytest.raises(
        WorkError, match=r"a reading process was ended from outside \(amid a batch\).*--resume goes on"
    )
    with told, telling_of_killed_readers():
        next(iter(DataLoader([HalfSent()], batch_size=None, **loader_options(1))))


class NoRoom:
    """Samples whose reader finds no shared memory."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, row: int) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")


def test_the_error_of_a_reader_is_told_with_its_own_words() -> None:
    told = pytest.raises(
        WorkError, match=r"process failed \(RuntimeError: unable to .*: No space left on device \(28\)\); where memory"
    )
    with told, telling_of_killed_readers():
        next(iter(DataLoader(NoRoom(), batch_size=None, **loader_options(1))))  # type: ignore[arg-type]
