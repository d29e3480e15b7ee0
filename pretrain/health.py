"""Whether a run may go on: what it computes is finite, and most of its samples can be read. All processes agree."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from pretrain import checkpoint, distributed
from pretrain.distributed import Team
from pretrain.errors import WorkError
from pretrain.log import Meter
from pretrain.run import RunFolder

_NAMED = 10


class Unreadable:
    """Samples that turned out unreadable, at first this process's own; those of all processes once counted."""

    def __init__(self, limit: float, samples: int, say: Callable[[str], None]) -> None:
        """Start with none.

        Args:
            limit: share of samples that may be unreadable, ``data.max_unreadable``.
            samples: of the data.
            say: is told of the first ten.
        """
        self.limit, self.samples, self.say = limit, samples, say
        self.ids: set[int] = set()
        self.named = 0

    def note(self, found: list[tuple[int, str]]) -> None:
        """Take note of the unreadable samples of a batch: (sample id, reason).

        Raises:
            WorkError: too many.
        """
        for sample_id, reason in found:
            if sample_id not in self.ids and self.named < _NAMED:
                self.say(f"unreadable: sample {sample_id}, {reason}")
                self.named += 1
            self.ids.add(sample_id)
        self._refuse_too_many()

    def count(self, team: Team) -> int:
        """Unreadable samples that any process has met.

        Raises:
            WorkError: too many, on every process.
        """
        self.ids = distributed.united(self.ids, team)
        self._refuse_too_many()
        return len(self.ids)

    def _refuse_too_many(self) -> None:
        if len(self.ids) > self.limit * self.samples:
            raise WorkError(
                f"{len(self.ids)} of {self.samples} samples are unreadable, more than data.max_unreadable="
                f"{self.limit:g} allows; check the shards with rs-curate verify; then --resume goes on, with a greater "
                "data.max_unreadable where they are to be borne"
            )


def refuse_infinite_loss(loss: float, done: int, way_out: Callable[[], str]) -> None:
    """Stop when the mean loss of the last steps, over all processes, is not finite.

    Raises:
        WorkError: it is not.
    """
    if not math.isfinite(loss):
        raise WorkError(f"the loss became {loss} before step {done}; {way_out()}")


def refuse_to_save(
    model: nn.Module, optimizer: torch.optim.Optimizer, meter: Meter, done: int, way_out: Callable[[], str], team: Team
) -> None:
    """Stop before a checkpoint from which no run could go on.

    Losses are looked at since the last line of the log, of every micro-batch and process. A gradient that was not
    finite, of this or an earlier step, has left its mark in the optimiser's moments.

    Raises:
        WorkError: a loss, weight or moment of any process is not finite; raised on every process.
    """
    sound = bool(meter.sums.isfinite().all()) and checkpoint.finite(model, optimizer)
    if not distributed.agreed(sound, team):
        raise WorkError(
            f"losses, weights or moments are no longer finite at step {done}, of which no checkpoint is written; "
            + way_out()
        )


def way_back(folder: RunFolder) -> str:
    """What the user of a run can do whose numbers are no longer finite."""
    latest = folder.latest()
    back = f"--resume goes back to step {latest[1].step}" if latest else "there is no earlier checkpoint"
    return f"{back}; should it come again, lower optim.base_lr or set optim.clip_grad, and start in another --out"
