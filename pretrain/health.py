"""Whether a run may go on: what it computes is finite, and most of its samples can be read. All processes agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pretrain import checkpoint, distributed
from pretrain.distributed import Team
from pretrain.errors import WorkError
from pretrain.log import Log
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


@dataclass
class _Judged:
    """A step since the last line of the log."""

    done: int
    faulty: Tensor
    losses: Tensor
    sample_ids: Tensor


class Nonfinite:
    """Steps whose loss or gradient is not finite: they change nothing, and are told with the next line of the log."""

    def __init__(
        self, limit: int, place: Callable[[int], str], run: RunFolder, say: Callable[[str], None],
        way_out: Callable[[], str], ends: str = "",
    ) -> None:  # fmt: skip
        """Start with none.

        Args:
            limit: of such steps in the whole training, ``max_nonfinite``.
            place: where a sample lies, from its id.
            run: where they are written down.
            say: is told.
            way_out: what the user can do when there are too many.
            ends: why so many end a training; by default what ``max_nonfinite`` allows.
        """
        self.limit, self.place, self.run, self.say, self.way_out = limit, place, run, say, way_out
        self.ends = ends or f"more than max_nonfinite={limit} allows; their samples are in {run.nonfinite}"
        self.count = 0
        self.faulty: Tensor | None = None
        self.recent: list[_Judged] = []

    def restart(self, step: int, team: Team) -> None:
        """Forget what came after ``step``, from which a training goes on."""
        log = Log(self.run.nonfinite)
        self.count = sum(record["step"] <= step for record in log.records())
        if team.leads:
            log.cut(step)

    def judge(
        self, done: int, losses: Tensor, norm: Tensor, sample_ids: Tensor, team: Team, given_up: bool = False
    ) -> Tensor:
        """Whether the step that makes ``done`` steps must change nothing: 0-d float, 1 or 0, equal on all processes.

        Args:
            done: steps done after it.
            losses: (B,) weighted losses of this process's samples.
            norm: 0-d, of the gradient; infinite also where a square overflows, which would spoil the second moment.
            sample_ids: (B,), kept for the report.
            team: all processes.
            given_up: this process lacks the step's samples, for which nobody is told.
        """
        sound = losses.isfinite().all() & norm.isfinite()
        worst = distributed.greatest((~sound).to(torch.float32) + 2.0 * given_up, team)
        self.faulty = (worst > 0).to(torch.float32)
        self.recent.append(_Judged(done, worst == 1, losses, sample_ids))
        return self.faulty

    def last(self) -> bool:
        """Whether the last step was such a one; waits for the device."""
        return self.faulty is not None and bool(self.faulty)

    def report(self, team: Team) -> int:
        """Tell and write down such steps since the last report; waits for the device. Returns how many there were ever.

        Raises:
            WorkError: more than ``max_nonfinite``, on every process.
        """
        recent, self.recent = self.recent, []
        flags = torch.stack([step.faulty for step in recent]).tolist() if recent else []
        for step in (step for step, flag in zip(recent, flags, strict=True) if flag):
            self.count += 1
            self._tell(step, team)
        if self.count > self.limit:
            raise WorkError(f"{self.count} steps were not finite and changed nothing, {self.ends}; {self.way_out()}")
        return self.count

    def _tell(self, step: _Judged, team: Team) -> None:
        bad = distributed.united(set(step.sample_ids[~step.losses.isfinite().cpu()].tolist()), team)
        everyone = distributed.united(set(step.sample_ids.tolist()), team)
        if not team.leads:
            return
        culprits = [f"{sample_id} ({self.place(sample_id)})" for sample_id in sorted(bad)[:_NAMED]]
        whose = (
            f"the loss of sample {', '.join(culprits)}" if culprits else "the gradient, though all losses were finite"
        )
        self.say(f"not finite: step {step.done} changed nothing, for {whose}")
        Log(self.run.nonfinite).write(
            {"step": step.done, "losses": sorted(bad), "batch": [[i, self.place(i)] for i in sorted(everyone)]}
        )


def refuse_to_save(
    model: nn.Module, optimizer: torch.optim.Optimizer, done: int, way_out: Callable[[], str], team: Team
) -> None:
    """Stop before a checkpoint from which no run could go on.

    Raises:
        WorkError: a weight or moment of any process is not finite; raised on every process.
    """
    if not distributed.agreed(checkpoint.finite(model, optimizer), team):
        raise WorkError(
            f"weights or moments are no longer finite at step {done}, of which no checkpoint is written; {way_out()}"
        )


def way_back(folder: RunFolder) -> str:
    """What the user of a run can do whose numbers are no longer finite."""
    latest = folder.latest()
    back = f"--resume goes back to step {latest[1].step}" if latest else "there is no earlier checkpoint"
    return f"{back}; should it come again, lower optim.base_lr or set optim.clip_grad, and start in another --out"
