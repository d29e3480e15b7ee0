"""The loop of every training: steps are counted over all of it, and everything in a step is a function of its number.

What differs between pretraining (:mod:`pretrain.train`) and the tuning of an encoder for a task
(:mod:`pretrain.evaluate.tuning`) is a :class:`Training`. Accumulation, clipping, what is not finite, log, checkpoints,
stopping and going on are here, once.
"""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from curation.base.progress import Observer, Progress
from pretrain import checkpoint, distributed
from pretrain.data.noise import Purpose, bits
from pretrain.device import most_memory
from pretrain.distributed import Team, Vote
from pretrain.errors import WorkError
from pretrain.health import Nonfinite, refuse_to_save
from pretrain.log import Log, Meter
from pretrain.run import RunFolder
from pretrain.schedule import clip_gradient, set_rate, step_unless
from pretrain.signals import Stop, WaitGivenUp, asked_to_stop, telling_of_killed_readers

B = TypeVar("B")
"""A micro-batch on the device, as a training's feed gives it and its losses take it."""


@dataclass(frozen=True)
class TrainResult:
    """How a training ended."""

    step: int
    total_steps: int
    worked: bool
    """False when it had been finished before."""

    @property
    def finished(self) -> bool:
        """Whether all steps are done; False when a signal stopped it."""
        return self.step == self.total_steps


class Losses(NamedTuple):
    """Of a micro-batch."""

    weighted: Tensor
    """(B,) weight times loss, differentiable."""
    weight: Tensor
    """(B,) 0 for what could not be read."""
    sample_id: Tensor
    """(B,) integers, on any device: what a step that was not finite is told with."""


@dataclass(frozen=True)
class Pace:
    """How long a training is, and after how many steps it does what."""

    total_steps: int
    per_epoch: int
    batch: int
    """Samples of a step, over all processes."""
    log_every: int
    save_every: int
    """0: no checkpoints, not even at the end."""
    micro_batches: int = 1
    keep: int = 1
    """Checkpoints that are kept."""
    keep_step: int | None = None
    """A step after which a checkpoint is written, and kept always."""
    clip_grad: float | None = None


class Worth(NamedTuple):
    """What a training's speed is compared with."""

    operations: float
    """Floating-point operations of one image's forward and backward pass."""
    peak: float
    """Operations a second that one device can do."""


@dataclass
class Training(ABC, Generic[B]):
    """What differs from one training to another."""

    folder: RunFolder
    team: Team
    model: nn.Module
    """What is saved."""
    stepped: nn.Module
    """What is called: the model, compiled or wrapped, or what holds it."""
    optimizer: torch.optim.Optimizer
    pace: Pace
    seed: int
    nonfinite: Nonfinite
    given_up: bool = field(default=False, init=False)
    """Whether this process, among others, waits for its samples no more; its batches weigh nothing since."""

    @abstractmethod
    def feed(self, start: int) -> Iterator[B]:
        """The micro-batches of all steps from ``start`` on."""

    @abstractmethod
    def losses(self, batch: B, step: int) -> Losses:
        """Of a micro-batch; the mean over a step's samples is what is made less."""

    @abstractmethod
    def rate(self, step: int) -> float:
        """Learning rate."""

    @abstractmethod
    def state(self, done: int) -> checkpoint.TrainState:
        """What a checkpoint after so many steps says of itself."""

    def ready(self) -> None:
        """Told before the first step, when signals are heeded already."""
        return

    def enter(self, step: int) -> None:
        """Told before each step."""
        return

    def facts(self) -> dict[str, Any]:
        """More fields of a line of the log; asked on every process."""
        return {}

    def watch(self, done: int) -> None:
        """Told after each step, on every process."""
        return

    def worth(self) -> Worth | None:
        """What the speed is compared with, where that is known."""
        return None

    def logged(self, record: dict[str, Any]) -> None:
        """Told each line of the log, on the process that writes files."""
        return

    def mark(self, part: str) -> None:
        """Told the name of each part of a step when it ends: between, forward, backward, optimiser."""
        return


def restore(training: Training[B], path: Path | None) -> int:
    """Load a checkpoint, if there is one, and cut the logs back to it; returns the first step to do."""
    step = 0
    if path is not None:
        checkpoint.load_model(path, training.model)
        checkpoint.load_optimizer(path, training.model, training.optimizer)
        checkpoint.refuse_nonfinite(path, training.model, training.optimizer)
        step = checkpoint.read_state(path).step
    training.nonfinite.restart(step, training.team)
    if training.team.leads:
        Log(training.folder.log).cut(step)
        checkpoint.drop_after(training.folder.checkpoints, step)
    return step


def go_on(training: Training[B], start: int, observer: Observer | None = None) -> TrainResult:
    """Do the steps from ``start`` to the last, or until a signal asks to stop.

    Raises:
        WorkError: a weight or moment is no longer finite, too many steps were not, or a checkpoint cannot be written.
    """
    pace, team = training.pace, training.team
    stream, meter, vote = training.feed(start), Meter(team.device), Vote(team)
    training.stepped.train()
    due, done, saved = False, start, start
    with ExitStack() as stack:
        writer = stack.enter_context(checkpoint.Writer(training.folder.checkpoints, pace.keep, pace.keep_step))
        stack.enter_context(telling_of_killed_readers())
        stop = stack.enter_context(asked_to_stop())
        stack.enter_context(_collecting_garbage_at_log_steps())
        display = stack.enter_context(_display(training, start, observer))
        training.ready()
        for step in range(start, pace.total_steps):
            try:
                norm = _step(training, stream, step, meter)
            except WaitGivenUp:  # no weight has changed since the step before
                break
            done = step + 1
            last = done == pace.total_steps
            wish = vote.cast(_wish(training, writer, stop))
            given_up = _given_up(vote, wish, step, last)
            if given_up is not None:
                done = given_up
                if team.leads:
                    Log(training.folder.log).cut(done)
                break
            if done % pace.log_every == 0 or last or wish == _STOP:
                _write_log(training, meter, done, norm, display)
                gc.collect()
                gc.freeze()  # what compiling the first steps left is not looked at again either
            training.watch(done)
            due = due or (pace.save_every > 0 and (done % pace.save_every == 0 or done == pace.keep_step))
            # Weights that give no finite gradient are not to push out the checkpoint before them.
            if pace.save_every > 0 and (wish != _GO_ON or last or (due and not training.nonfinite.last())):
                _save(training, done, writer)
                due, saved = False, done
            if display is not None:
                display.advance(1)
            if wish == _STOP:
                break
        vote.settle()
        if pace.save_every > 0 and done > saved:
            _save(training, done, writer)
        _written(training, writer)
    return TrainResult(done, pace.total_steps, worked=True)


_GO_ON, _STOP, _FAILED, _GIVEN_UP = range(4)
"""What a process may wish for; the greatest wins."""


def _wish(training: Training[B], writer: checkpoint.Writer, stop: Stop) -> int:
    if training.given_up:
        return _GIVEN_UP
    return _FAILED if writer.failed() else _STOP if stop.asked else _GO_ON


def _given_up(vote: Vote, wish: int, step: int, last: bool) -> int | None:
    """The step for which a process of several lacked samples: neither it nor one after it has changed anything."""
    if wish == _GIVEN_UP:
        return step - 1  # whose vote it is
    return step if (wish == _STOP or last) and vote.settle() == _GIVEN_UP else None


@contextmanager
def _collecting_garbage_at_log_steps() -> Iterator[None]:
    """Keep Python from pausing one process, and with it all, at a step of its own choice.

    What was there before, a million objects of the libraries, is not looked at again: half a second at each log step.
    """
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()


def _step(training: Training[B], stream: Iterator[B], step: int, meter: Meter) -> Tensor:
    """One optimiser step; returns the gradient's norm."""
    pace, team = training.pace, training.team
    set_rate(training.optimizer, training.rate(step))
    # Dropout in an encoder would otherwise draw from a generator whose state no checkpoint holds.
    torch.manual_seed(int(bits(training.seed, Purpose.STEP, step, team.rank, n=1)[0] >> 1))
    training.enter(step)
    training.mark("between")
    parts = list[Losses]()
    for number in range(pace.micro_batches):
        waited = time.monotonic()
        batch = next(stream)
        meter.waited += time.monotonic() - waited
        with distributed.accumulating(training.stepped, number == pace.micro_batches - 1):
            found = training.losses(batch, step)
            training.mark("forward")
            torch.autograd.backward(found.weighted.sum() * (team.world / pace.batch))
        training.mark("backward")
        parts.append(found._replace(weighted=found.weighted.detach()))
    weighted, weight, sample_id = (torch.cat(values) for values in zip(*parts, strict=True))
    norm = clip_gradient(training.model, pace.clip_grad)
    faulty = training.nonfinite.judge(step + 1, weighted, norm, sample_id, team, training.given_up)
    step_unless(faulty, training.optimizer)
    meter.add(torch.stack([weighted.sum().double(), weight.sum().double()]), faulty)
    training.mark("optimiser")
    return norm


def _write_log(training: Training[B], meter: Meter, done: int, norm: Tensor, display: Progress | None) -> None:
    reading, team = meter.read(training.team), training.team
    skipped, facts, worth = training.nonfinite.report(team), training.facts(), training.worth()
    if not team.leads:
        return
    rate = reading.samples / max(reading.seconds, 1e-9)
    record = {
        "step": done, "epoch": round(done / training.pace.per_epoch, 4), "loss": reading.loss,
        "lr": training.rate(done - 1), "grad_norm": float(norm) if norm.isfinite() else None,
        "samples_per_s": round(rate, 2), "data_wait": round(reading.waited / max(reading.seconds, 1e-9), 4),
        "mfu": round(rate * worth.operations / (worth.peak * team.world), 4) if worth else None,
        "memory_mib": most_memory(team.device), "time": round(time.time(), 3), "skipped": skipped, **facts,
    }  # fmt: skip
    Log(training.folder.log).write(record)
    training.logged(record)
    if display is not None and reading.loss is not None:
        display.advance(0, loss=reading.loss)


def _save(training: Training[B], done: int, writer: checkpoint.Writer) -> None:
    """Copy what a checkpoint holds, and have it written while training goes on."""
    model, optimizer = training.model, training.optimizer
    _written(training, writer)
    training.nonfinite.report(training.team)  # of steps that no resumed training will do again
    refuse_to_save(model, optimizer, done, training.nonfinite.way_out, training.team)
    moments = checkpoint.moments(model, optimizer, training.team)
    if training.team.leads:
        writer.start(checkpoint.snapshot(model, moments), training.state(done))


def _written(training: Training[B], writer: checkpoint.Writer) -> None:
    """Wait for the checkpoint that is being written.

    Raises:
        WorkError: it could not be; raised on every process.
    """
    error = writer.wait()
    agreed = distributed.agreed(error is None, training.team)
    if error is not None:
        raise error
    if not agreed:
        raise WorkError("the first process could not write a checkpoint; it says why")


@contextmanager
def _display(training: Training[B], start: int, observer: Observer | None) -> Iterator[Progress | None]:
    if observer is None or not training.team.leads:
        yield None
        return
    with observer.progress("train", training.pace.total_steps - start, "steps") as progress:
        yield progress
