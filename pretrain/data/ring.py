"""Shared memory in which workers' images travel, and that goes round: what nobody holds any more is filled again.

Fresh shared memory for every batch would be mapped, zeroed, and let go page by page in the worker and in the process
that trains, and each time a connection be opened for it.
"""

from __future__ import annotations

import itertools
import math
import weakref
from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.errors import WorkError

_IN_HAND = 2
"""Batches of the process: one that it still holds while it is given the next."""
_numbers = itertools.count()
_rings: weakref.WeakValueDictionary[int, Ring] = weakref.WeakValueDictionary()
"""Of this process. What unpickles a batch, torch's thread where memory is pinned, is told no more than a number."""


def parts_of(workers: int, prefetch: int) -> int:
    """Batches that are under way or in use: each worker's, and those of the process."""
    return workers * prefetch + _IN_HAND if workers else 0


class Ring:
    """Parts of one piece of shared memory, made before the workers that fill them."""

    def __init__(self, parts: int, size: int) -> None:
        """Take the memory.

        Args:
            parts: how many.
            size: bytes of each.

        Raises:
            WorkError: there is less shared memory.
        """
        try:
            storage = torch.UntypedStorage._new_shared(parts * size)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise WorkError(
                f"/dev/shm: has no room for {parts * size >> 20} MB of images ({str(error).splitlines()[0]}); start "
                "the container with more (`docker run --shm-size=...`), or set data.workers and data.prefetch lower"
            ) from None
        self.memory = torch.empty(0, dtype=torch.uint8).set_(storage).view(parts, size)
        self.number, self.free = next(_numbers), list(range(parts))
        _rings[self.number] = self

    def lend(self) -> int | None:
        """A part that nobody holds; the one that was given back last is still in the processor's cache."""
        return self.free.pop() if self.free else None

    def part(self, part: int, shape: tuple[int, ...]) -> Tensor:
        """The memory of a part, uint8, to be filled."""
        return self.memory[part, : math.prod(shape)].view(shape)

    def taken(self, part: int, shape: tuple[int, ...]) -> Tensor:
        """What a part holds; the part is free again when the last tensor is gone that shares its memory.

        Of this process, that is: for one that is forked meanwhile, this one holds it on, or hands over a clone.
        """
        held = self.part(part, shape).numpy()
        weakref.finalize(held, self.free.append, part).atexit = False
        return torch.from_numpy(held)


class Filled(NamedTuple):
    """A part on its way from a worker to the process, where it is unpickled as a tensor."""

    ring: int
    part: int
    shape: tuple[int, ...]

    def __reduce__(self) -> tuple[object, ...]:
        return _taken, tuple(self)


def _taken(ring: int, part: int, shape: tuple[int, ...]) -> Tensor:
    return _rings[ring].taken(part, shape)
