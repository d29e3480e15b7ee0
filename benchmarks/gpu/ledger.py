"""What was measured, in one JSON file for each subcommand, written anew after every cell.

A cell that is there is not measured again, so a command that was stopped, or whose process died, goes on where it was.
A cell that failed costs itself alone and leaves its traceback; one that the end of the call cut off is begun again.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from curation.base.files import atomic

Result = dict[str, Any]
BROKEN = 75
"""Exit status: the device answers no more in this process; another goes on."""
LEFT = 3
"""Exit status: time was up before all cells were measured."""


@dataclass(frozen=True)
class Cell:
    """One thing to measure."""

    name: str
    measure: Callable[[], Result]
    expected: float = 30
    """Seconds that it takes about: it is not begun when fewer are left."""
    limit: float = 180
    """Seconds after which its process is ended."""


class Ledger:
    """The cells of one subcommand."""

    def __init__(self, path: Path, environment: Result, again: bool = False) -> None:
        self.path = path
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.environment: Result = held.get("environment") or environment
        self.cells: dict[str, Result] = held.get("cells", {})
        for name, cell in list(self.cells.items()):
            if cell["state"] == "begun" and time.time() >= cell.get("until", math.inf):
                del self.cells[name]  # the end of the call ended it, not a fault of its own
            elif cell["state"] == "begun":
                self.cells[name] = cell | {"state": "failed", "error": "its process ended; see standard error"}
            if again and self.cells.get(name, {}).get("state") == "failed":
                del self.cells[name]

    def result(self, name: str) -> Result:
        """What a cell found; empty where it found nothing."""
        return self.cells.get(name, {}).get("result", {})

    def write(self) -> None:
        """Keep what there is."""
        with atomic(self.path) as aside:
            found = {"environment": self.environment, "cells": self.cells}
            aside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    def run(self, cells: Sequence[Cell], until: float, after: Callable[[], None]) -> int:
        """Measure what is not there yet, until the time (of the epoch, seconds) is up; ``after`` each is called.

        Returns:
            An exit status.
        """
        left = [cell.name for cell in cells if cell.name not in self.cells]
        for cell in cells:
            if cell.name in self.cells:
                continue
            if time.time() + cell.expected > until:
                continue
            self._measure(cell, until)
            left.remove(cell.name)
            after()
            if not _clean():
                return BROKEN
        if left:
            print(f"time is up; left for the next call: {', '.join(left)}")
        return LEFT if left else 0

    def _measure(self, cell: Cell, until: float) -> None:
        started = time.time()
        limit = max(5.0, min(cell.limit, until - started))
        self.cells[cell.name] = {"state": "begun"} | ({"until": started + limit} if limit < cell.limit else {})
        self.write()
        faulthandler.dump_traceback_later(limit, exit=True, file=sys.__stderr__)
        try:
            found: Result = {"state": "done", "result": cell.measure()}
        except torch.OutOfMemoryError as error:
            found = {"state": "out of memory", "error": str(error).splitlines()[0]}
        except Exception:  # noqa: BLE001 - whatever it is, the other cells are to be measured
            found = {"state": "failed", "error": traceback.format_exc()}
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.cells[cell.name] = found | {"seconds": round(time.time() - started, 2)}
        self.write()
        last = "" if found["state"] == "done" else ": " + found["error"].strip().splitlines()[-1]
        print(f"{cell.name}: {found['state']} in {time.time() - started:.1f} s{last}", flush=True)


def _clean() -> bool:
    """Give memory and compiled graphs back; False where the device is broken for this process."""
    gc.collect()
    torch._dynamo.reset()
    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        print(f"the device answers no more: {error}", file=sys.stderr)
        return False
    return True
