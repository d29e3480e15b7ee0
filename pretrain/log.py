"""The training log: one JSON object per line, cut back when a run goes on from an earlier step; and what is logged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from curation.base.files import atomic
from pretrain import distributed
from pretrain.distributed import Team


class Log:
    """Appends records to ``log.jsonl``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; a reader never waits for a buffer to fill."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> Iterator[dict[str, Any]]:
        """All whole records; a line that a killed process left unfinished is passed over."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue

    def cut(self, step: int) -> None:
        """Drop what was logged after ``step``: a resumed run logs those steps again."""
        kept = [record for record in self.records() if record["step"] <= step]
        with atomic(self.path) as aside:
            aside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


class Reading(NamedTuple):
    """What was measured since the reading before."""

    loss: float | None
    """Mean over the team; None where no step was finite."""
    samples: float
    """Of the team, unreadable ones left out."""
    seconds: float
    waited: float
    """Seconds that this process waited for samples."""


class Meter:
    """Sums of weighted losses between two lines of the log, kept on the device: adding never waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2, device=device, dtype=torch.float64)
        self.since = time.monotonic()
        self.waited = 0.0
        """Seconds that were waited for samples; the loop adds to it."""

    def add(self, sums: Tensor, faulty: Tensor) -> None:
        """Count a step: its sums of weighted losses and of weights, (2,), unless ``faulty`` (0-d, 0 or 1) is 1."""
        self.sums += torch.where(faulty > 0, 0.0, sums)

    def read(self, team: Team) -> Reading:
        """What was measured since the last reading; waits for the device."""
        loss, weight = distributed.summed(self.sums, team).tolist()
        now = time.monotonic()
        reading = Reading(loss / weight if weight else None, weight, now - self.since, self.waited)
        self.since, self.waited = now, 0.0
        self.sums.zero_()
        return reading
