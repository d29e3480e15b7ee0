"""How long the parts of a step take, by the clock of the device that does them."""

from __future__ import annotations

import time
from typing import Any

import torch


class PartsClock:
    """Called with a part's name when the part ends. On a GPU it leaves events in the stream, and nothing waits.

    The first call says when the measurement begins; its name is of no account. Seconds on a GPU are those between two
    places in its stream, so what the stream lacks (data, say) is counted as well. ``alone``: of one thread of a CPU,
    process time, which other jobs disturb least.
    """

    def __init__(self, device: torch.device, alone: bool = False) -> None:
        self.on_gpu, self.alone = device.type == "cuda", alone
        self.ends: list[tuple[str, Any]] = []

    def __call__(self, part: str) -> None:
        """A part has ended."""
        self.ends.append((part, self._now()))

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.process_time() if self.alone else time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def read(self) -> list[tuple[str, float]]:
        """Parts and their seconds since the last reading; waits for the GPU."""
        if self.on_gpu and self.ends:
            self.ends[-1][1].synchronize()
        pairs = zip(self.ends, self.ends[1:], strict=False)
        took = [(part, self._between(before, after)) for (_, before), (part, after) in pairs]
        self.ends = []
        return took

    def _between(self, before: Any, after: Any) -> float:
        return float(before.elapsed_time(after)) / 1e3 if self.on_gpu else after - before
