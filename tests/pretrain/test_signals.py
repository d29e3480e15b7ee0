"""A process ends although its reading processes ignore the signal that would end them."""

from __future__ import annotations

import subprocess
import sys

LEFT = """
import torch
from torch.utils.data import DataLoader
from pretrain.data.stream import loader_options

left = iter(DataLoader(torch.zeros(99, 3), 4, **loader_options(1)))
next(left)
"""


def test_reading_processes_that_are_left_do_not_hold_the_end_up() -> None:
    subprocess.run([sys.executable, "-c", LEFT], timeout=120, check=True)
