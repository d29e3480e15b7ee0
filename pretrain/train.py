"""The training loop: steps are counted over the whole run, and everything in a step is a function of its number.

``train`` is the whole story from top to bottom; what it calls lies in rooms of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from curation.base.locks import hold
from curation.base.progress import Observer, Progress
from pretrain import checkpoint, distributed
from pretrain.config import TrainConfig
from pretrain.data.augment import CropRule, flip
from pretrain.data.corpus import Corpus, SampleRule, content_fingerprint, describe, open_corpus
from pretrain.data.noise import Purpose, bits, torch_uniform
from pretrain.data.reader import Batch
from pretrain.data.stream import StreamPlan, batches
from pretrain.device import Mover, computing, mover, settled
from pretrain.distributed import Team
from pretrain.errors import InputError
from pretrain.health import Unreadable, refuse_infinite_loss, refuse_to_save
from pretrain.log import Log, Meter
from pretrain.models import Objective, build_objective
from pretrain.official import start_from
from pretrain.run import RunFolder, begin
from pretrain.schedule import build_optimizer, learning_rate, set_rate
from pretrain.signals import asked_to_stop
from pretrain.visualise import draw, write_picture

_PICTURED = 8
FEW = 1_000
"""Samples below which a run shows that everything works, and no more."""


Feed = Callable[..., Iterator[Batch]]
"""What makes the batches: :func:`pretrain.data.stream.batches`, or what takes the same arguments."""

Mark = Callable[[str], None]
"""Told the name of each part of a step when it ends: between, data, copy, forward, backward, optimiser."""


def unmarked(part: str) -> None:
    """Nobody measures the parts of a step."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    step: int
    total_steps: int
    worked: bool
    """False when the run had been finished before."""

    @property
    def finished(self) -> bool:
        """Whether all steps are done; False when a signal stopped the run."""
        return self.step == self.total_steps


@dataclass
class _Run:
    """What the loop holds."""

    config: TrainConfig
    team: Team
    folder: RunFolder
    corpus: Corpus
    plan: StreamPlan
    model: Objective
    stepped: nn.Module
    """The model as the loop calls it: compiled, wrapped, or itself."""
    optimizer: torch.optim.Optimizer
    data: str
    observer: Observer
    unreadable: Unreadable
    feed: Feed
    move: Mover
    mark: Mark

    @property
    def per_epoch(self) -> int:
        return self.plan.steps_per_epoch(self.corpus)

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.per_epoch


def train(
    config: TrainConfig,
    out: Path,
    observer: Observer,
    *,
    resume: bool = False,
    feed: Feed = batches,
    mark: Mark = unmarked,
) -> TrainResult:
    """Train, or go on training, in the folder ``out``.

    Args:
        config: everything that defines the run.
        out: its folder.
        observer: who is told.
        resume: whether to go on with a run that is not finished.
        feed: what makes the batches, where images do not come from tars.
        mark: who measures the parts of a step.

    Raises:
        InputError: the config does not fit the data or the model; ``out`` holds an unfinished run and ``resume`` is
            not set, or a run with other settings.
        WorkError: a loss, weight or moment is no longer finite, a shard cannot be read for ``data.retry_seconds``, or
            too many samples are unreadable.
    """
    folder = RunFolder(out)
    with ExitStack() as stack:
        team = stack.enter_context(distributed.joined(config.device))
        config = settled(config, team.device)
        stack.enter_context(computing(config, team.device))
        data = content_fingerprint(config.data.folders)
        if team.leads:
            stack.enter_context(hold(folder.path))
        latest = _standing(folder, config, data, resume)
        if latest is not None and latest[1].step == latest[1].total_steps:
            return TrainResult(latest[1].step, latest[1].total_steps, worked=False)
        distributed.wait(team)  # nobody writes before everybody has read
        run = _prepare(config, team, folder, data, observer, feed, mark)
        start = _restore(run, latest[0] if latest else None)
        return _steps(run, start)


def _standing(
    folder: RunFolder, config: TrainConfig, data: str, resume: bool
) -> tuple[Path, checkpoint.TrainState] | None:
    """The checkpoint to go on from, after checking that going on is what was asked for."""
    if not folder.config.exists():
        return None
    latest = folder.latest()
    step = f"step {latest[1].step} of {latest[1].total_steps}" if latest else "before its first checkpoint"
    if latest is not None:
        checkpoint.refuse_changes(latest[1], config, data, folder.path)
    if not resume and not (latest and latest[1].step == latest[1].total_steps):
        raise InputError(
            f"{folder.path}: holds an unfinished run ({step}); add --resume to go on, or give another --out"
        )
    return latest


def _prepare(
    config: TrainConfig, team: Team, folder: RunFolder, data: str, observer: Observer, feed: Feed, mark: Mark
) -> _Run:
    torch.manual_seed(config.seed)  # of the weights' start
    model = build_objective(config.objective, config.encoder).to(team.device)
    model.set_grad_checkpointing(config.grad_checkpointing)
    corpus = open_corpus(config.data.folders, sample_rule(config, model))
    plan = StreamPlan(
        config.seed, config.global_batch, config.max_batch_per_gpu, config.data.window, config.data.groups,
        team.rank, team.world,
    )  # fmt: skip
    _check_sizes(config, corpus, plan)
    stepped = model.compiled(config.compile)
    optimizer = build_optimizer(model, config.optim)
    unreadable = Unreadable(config.data.max_unreadable, corpus.samples, observer.say)
    stepped = distributed.wrap(stepped, team)
    run = _Run(
        config, team, folder, corpus, plan, model, stepped, optimizer, data, observer, unreadable, feed,
        mover(team.device), mark,
    )  # fmt: skip
    if team.leads:
        _announce(run)
    return run


def sample_rule(config: TrainConfig, model: Objective) -> SampleRule:
    """Which samples a run can use."""
    return SampleRule(crop_rule(config, model).min_side, model.uses_gsd, config.data.gsd_missing)


def crop_rule(config: TrainConfig, model: Objective) -> CropRule:
    """The random crop of a run."""
    return CropRule(model.crop_size, config.data.crop_scale, model.crop_ratio, config.data.max_upsample)


def _check_sizes(config: TrainConfig, corpus: Corpus, plan: StreamPlan) -> None:
    if config.global_batch < plan.world:
        raise InputError(
            f"global_batch: {config.global_batch} is less than one image for each of {plan.world} processes; start "
            f"{config.global_batch} at most"
        )
    if config.data.groups > len(corpus.paths):
        raise InputError(f"data.groups: {config.data.groups} groups cannot share {len(corpus.paths)} shards")
    if plan.steps_per_epoch(corpus) == 0:
        raise InputError(
            f"global_batch: {config.global_batch} is more than the {corpus.samples} samples of the data; set it lower"
        )


def _announce(run: _Run) -> None:
    describe(run.corpus, run.observer.say)
    if run.corpus.samples < FEW:
        run.observer.say(
            f"warning: {run.corpus.samples:,} samples are too few to learn features that serve elsewhere; "
            "docs/benchmarks/learning.md: 1,400 in 60 epochs were enough for a very small encoder"
        )
    millions = sum(parameter.numel() for parameter in run.model.parameters()) / 1e6
    dropped = run.corpus.samples - run.per_epoch * run.config.global_batch
    run.observer.say(
        f"model: {run.config.objective.name} on {run.config.encoder.name}, {millions:.1f} M parameters, "
        f"{run.team.device}"
    )
    run.observer.say(
        f"steps: {run.total_steps:,} = {run.config.epochs} epochs of {run.per_epoch:,}; "
        f"last batch of each epoch: {run.config.last_batch} ({dropped:,} samples)"
    )


def _restore(run: _Run, path: Path | None) -> int:
    """Load the checkpoint, if there is one, and make the folder agree with it; returns the first step to do."""
    step = 0
    if path is not None:
        checkpoint.load_model(path, run.model)
        checkpoint.load_optimizer(path, run.model, run.optimizer)
        step = checkpoint.read_state(path).step
    elif run.config.init_from is not None:
        begun = start_from(run.model.encoder, run.config.init_from)
        if run.team.leads:
            run.observer.say(f"encoder: starts from {begun.path}, {len(begun.weights)} tensors")
    if run.team.leads:
        absolute = [folder.resolve() for folder in run.config.data.folders]
        changed: dict[str, object] = {"data": run.config.data.model_copy(update={"shards": absolute})}
        if run.config.init_from is not None:
            changed["init_from"] = run.config.init_from.resolve()
        kept = run.config.model_copy(update=changed)
        begin(run.folder, kept)
        Log(run.folder.log).cut(step)
        if step:
            run.observer.say(f"going on from step {step:,}")
    return step


def _steps(run: _Run, start: int) -> TrainResult:
    config, team = run.config, run.team
    workers = team.workers if config.data.workers is None else config.data.workers
    stream = run.feed(
        run.corpus, run.plan, crop_rule(config, run.model), start, run.total_steps,
        workers, config.data.prefetch, pin=team.device.type == "cuda", retry_seconds=config.data.retry_seconds,
    )  # fmt: skip
    meter = Meter(team.device)
    run.stepped.train()
    with asked_to_stop() as stop, _display(run, start) as display:
        for step in range(start, run.total_steps):
            batch, norm = _step(run, stream, step, meter)
            done = step + 1
            last = done == run.total_steps
            if done % config.log_every == 0 or last:
                _write_log(run, meter, done, norm, display)
                stopping = bool(distributed.summed(torch.tensor(float(stop.asked), device=team.device), team))
            else:
                stopping = stop.asked and team.world == 1
            if team.leads and config.picture_every and (done % config.picture_every == 0 or last):
                _write_picture(run, batch, step)
            if done % config.save_every == 0 or last or stopping:
                _save(run, done, meter)
            if display is not None:
                display.advance(1)
            if stopping:
                return TrainResult(done, run.total_steps, worked=True)
    return TrainResult(run.total_steps, run.total_steps, worked=True)


def _step(run: _Run, stream: Iterator[Batch], step: int, meter: Meter) -> tuple[Batch, Tensor | None]:
    """One optimiser step; returns the last micro-batch, on the device, and the gradient's norm."""
    config, team = run.config, run.team
    set_rate(run.optimizer, learning_rate(config.optim, config.global_batch, step, run.per_epoch, config.epochs))
    # Dropout in an encoder would otherwise draw from a generator whose state no checkpoint holds.
    torch.manual_seed(int(bits(config.seed, Purpose.STEP, step, team.rank, n=1)[0] >> 1))
    run.model.enter(step / run.total_steps)
    run.mark("between")
    progress = torch.full((), step / run.total_steps, device=team.device)  # filled there: no copy waits
    for number in range(run.plan.micro_batches):
        batch = next(stream)
        run.mark("data")
        run.unreadable.note(batch.unreadable)
        batch = _on_device(batch, run)
        run.mark("copy")
        with distributed.accumulating(run.stepped, number == run.plan.micro_batches - 1):
            with torch.autocast(team.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                output = run.stepped(batch.images, batch.gsd, mask_noise(config.seed, run.model, batch), progress)
            run.mark("forward")
            losses = torch.where(batch.weight > 0, batch.weight * output.loss_per_sample, 0.0)
            torch.autograd.backward(losses.sum() * (team.world / config.global_batch))
        run.mark("backward")
        meter.add(losses, batch.weight)
    norm = None
    if config.optim.clip_grad is not None:
        norm = nn.utils.clip_grad_norm_(run.model.parameters(), config.optim.clip_grad)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.mark("optimiser")
    return batch, norm


def _on_device(batch: Batch, run: _Run) -> Batch:
    """Move a batch to the device and flip it there."""
    images, gsd, sample_id, epoch, weight = run.move(batch[:5])
    noise = torch_uniform(run.config.seed, Purpose.FLIP, epoch, sample_id, 2)
    images = flip(images, noise, run.config.data.hflip, run.config.data.vflip)
    return Batch(images, gsd, sample_id, epoch, weight, batch.position, batch.unreadable)


def mask_noise(seed: int, model: Objective, batch: Batch) -> Tensor:
    """The uniform numbers of a batch's masks, (B, ``noise_size``)."""
    return torch_uniform(seed, Purpose.MASK, batch.epoch, batch.sample_id, model.noise_size)


def _write_log(run: _Run, meter: Meter, done: int, norm: Tensor | None, display: Progress | None) -> None:
    loss, samples, seconds = meter.read(run.team)
    refuse_infinite_loss(loss, done, run.folder)
    unreadable = run.unreadable.count(run.team)
    if not run.team.leads:
        return
    rate = run.optimizer.param_groups[0]["lr"]
    record = {
        "step": done, "epoch": round(done / run.per_epoch, 4), "loss": loss, "lr": rate,
        "samples_per_s": round(samples / max(seconds, 1e-9), 2), "unreadable": unreadable,
    }  # fmt: skip
    if norm is not None:
        record["grad_norm"] = float(norm)
    Log(run.folder.log).write(record)
    if display is not None:
        display.advance(0, loss=loss)


def _write_picture(run: _Run, batch: Batch, step: int) -> None:
    noise = mask_noise(run.config.seed, run.model, batch)[:_PICTURED]
    progress = torch.full((), step / run.total_steps, device=run.team.device)
    with torch.compiler.set_stance("force_eager"):  # eight images are not worth kernels of their own
        picture = draw(run.model, batch.images[:_PICTURED], batch.gsd[:_PICTURED], noise, progress)
    write_picture(picture, run.folder.picture(step + 1))


def _save(run: _Run, done: int, meter: Meter) -> None:
    refuse_to_save(run.model, run.optimizer, meter, done, run.folder, run.team)
    if run.team.leads:
        state = checkpoint.TrainState(done, run.total_steps, run.data, run.config.model_dump(mode="json"))
        checkpoint.save(run.folder.checkpoints, run.model, run.optimizer, state, keep=run.config.keep_checkpoints)
    distributed.wait(run.team)


@contextmanager
def _display(run: _Run, start: int) -> Iterator[Progress | None]:
    if not run.team.leads:
        yield None
        return
    with run.observer.progress("train", run.total_steps - start, "steps") as progress:
        yield progress
