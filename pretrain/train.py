"""Pretraining: what a run is made of, from its configuration to the first step of :mod:`pretrain.loop`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curation.base.locks import hold
from curation.base.progress import Observer
from pretrain import checkpoint, distributed
from pretrain.config import TrainConfig
from pretrain.data.augment import flip, turn
from pretrain.data.corpus import Corpus, content_fingerprint
from pretrain.data.noise import Purpose, torch_uniform
from pretrain.data.places import absolute, access_of
from pretrain.data.reader import Batch
from pretrain.data.stream import StreamPlan, batches
from pretrain.data.supply import ShardCounts
from pretrain.data.unpack import refuse_decoder
from pretrain.device import Mover, computing, mover, settled
from pretrain.distributed import Team
from pretrain.errors import InputError
from pretrain.health import Nonfinite, Unreadable, way_back
from pretrain.layout import announce, check_machine, check_sizes, corpus_of, crop_rule, stream_plan
from pretrain.log import Log
from pretrain.loop import Losses, Pace, Training, TrainResult, Worth, go_on, restore
from pretrain.models import Objective, build_objective
from pretrain.official import start_from
from pretrain.run import RunFolder, begin
from pretrain.schedule import build_optimizer, decay_begins, learning_rate
from pretrain.sheet import Column, sheet
from pretrain.signals import WaitGivenUp
from pretrain.trackers import Tracked, open_trackers
from pretrain.visualise import draw_columns, write_picture

_PICTURED = 8
"""Images of a picture, at equal distances in a step's."""

Feed = Callable[..., Iterator[Batch]]
"""What makes the batches: :func:`pretrain.data.stream.batches`, or what takes the same arguments."""

Mark = Callable[[str], None]
"""Told the name of each part of a step when it ends: between, data, copy, forward, backward, optimiser."""

Watch = Callable[[Objective, Team, int], dict[str, Any]]
"""Asked on every process, after so many steps; what it answers on the first is written down."""
Valuer = Callable[[Objective, TrainConfig, torch.device], Worth | None]
"""What a training's speed is compared with, where that is known."""


@dataclass
class Pretraining(Training[Batch]):
    """A run: crops from shards, an objective that masks them."""

    model: Objective
    config: TrainConfig
    corpus: Corpus
    plan: StreamPlan
    data: str
    """Fingerprint of the shards' content."""
    observer: Observer
    unreadable: Unreadable
    source: Feed
    move: Mover
    told: Mark
    value: Worth | None
    ask: Watch | None = None
    tracked: Tracked = field(default_factory=Tracked)
    counts: ShardCounts = field(default_factory=ShardCounts)
    taken: int = 0
    """Images of this process in the micro-batches of a step so far."""
    pictured: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    """Image, GSD and noise of what this process has of a picture, by the place in it."""

    def mark(self, part: str) -> None:
        """Passed on."""
        self.told(part)

    def feed(self, start: int) -> Iterator[Batch]:
        """Micro-batches on the device, flipped there."""
        config, team = self.config, self.team
        workers = team.workers if config.data.workers is None else config.data.workers
        stream = self.source(
            self.corpus, self.plan, crop_rule(config, self.model), start, self.pace.total_steps,
            workers, config.data.prefetch, device=team.device, counts=self.counts,
        )  # fmt: skip
        try:
            for batch in stream:
                self.mark("data")
                self.unreadable.note(batch.unreadable)
                moved = self._on_device(batch)
                self.mark("copy")
                yield moved
        except WaitGivenUp:
            if team.world == 1:
                raise
            self.given_up = True
            yield from self._blanks()

    def _blanks(self) -> Iterator[Batch]:
        """Batches of weight 0, with which this process ends the steps that the others have begun."""
        plan, size, device = self.plan, self.model.crop_size, self.team.device
        count = -(-len(plan.rows) // plan.micro_batches) * plan.crops
        images = torch.zeros(count, 3, size, size, dtype=torch.uint8, device=device)
        numbers, weight = torch.zeros(count, dtype=torch.int64, device=device), torch.zeros(count, device=device)
        yield from repeat(Batch(images, torch.ones_like(weight), numbers, numbers, weight, numbers, (0, 0), []))

    def ready(self) -> None:
        """A pass that weighs nothing, by whose order of gradients DistributedDataParallel lays out what it exchanges.

        Of three processes and more the last bits of a sum depend on that. Laid out by the first step, it would be
        another in the first step after ``--resume`` than in an unbroken run.
        """
        if self.team.world > 1:
            torch.autograd.backward(self.losses(next(self._blanks()), 0).weighted.sum())
            self.optimizer.zero_grad(set_to_none=True)

    def _on_device(self, batch: Batch) -> Batch:
        images, gsd, sample_id, epoch, weight, crop = self.move(batch[:6])
        noise, shares = torch_uniform(self.seed, Purpose.FLIP, epoch, sample_id, 3, crop), self.config.data.augment
        images = turn(flip(images, noise, shares.hflip, shares.vflip), noise[:, 2], shares.quarter_turns)
        return Batch(images, gsd, sample_id, epoch, weight, crop, batch.position, batch.unreadable)

    def losses(self, batch: Batch, step: int) -> Losses:
        """Of the patches that the objective asks for."""
        noise = mask_noise(self.seed, self.model, batch)
        with torch.autocast(self.team.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            output = self.stepped(batch.images, batch.gsd, noise, self._progress(step))
        if self._draws(step + 1):
            self._keep_pictured(batch, noise)
        weighted = torch.where(batch.weight > 0, batch.weight * output.loss_per_sample, 0.0)
        return Losses(weighted, batch.weight, batch.sample_id)

    def _progress(self, step: int) -> Tensor:
        return torch.full((), step / self.pace.total_steps, device=self.team.device)  # filled there: no copy waits

    def rate(self, step: int) -> float:
        """Warm-up, then a cosine or a constant rate."""
        config = self.config
        return learning_rate(config.optim, config.global_batch, step, self.pace.per_epoch, config.epochs)

    def state(self, done: int) -> checkpoint.TrainState:
        """With the fingerprint of the data and the whole configuration."""
        return checkpoint.TrainState(done, self.pace.total_steps, self.data, self.config.model_dump(mode="json"))

    def enter(self, step: int) -> None:
        """The number of tokens may follow from the share that is done."""
        self.model.enter(step / self.pace.total_steps)
        self.taken = 0
        self.pictured.clear()

    def facts(self) -> dict[str, Any]:
        """How many samples could not be read, and how many shards from elsewhere had come before they were needed."""
        told: dict[str, Any] = {"unreadable": self.unreadable.count(self.team)}
        return told | ({"cache_hits": round(self.counts.hits, 4)} if self.counts.entered else {})

    def worth(self) -> Worth | None:
        """What the speed is compared with."""
        return self.value

    def watch(self, done: int) -> None:
        """Reconstructions and nearest neighbours, where they are due."""
        if self._draws(done):
            self._picture(done)
        if self.ask is None or self.config.knn is None:
            return
        if done % self.config.knn.every == 0 or done == self.pace.total_steps:
            record = {"step": done, **self.ask(self.model, self.team, done)}
            self.stepped.train()
            if self.team.leads:
                Log(self.folder.neighbours).write(record)
                self.tracked.record(done, record)

    def logged(self, record: dict[str, Any]) -> None:
        """Passed on to the trackers."""
        self.tracked.record(record["step"], record)

    def _draws(self, done: int) -> bool:
        every = self.config.picture_every
        return every > 0 and (done % every == 0 or done == self.pace.total_steps)

    def _keep_pictured(self, batch: Batch, noise: Tensor) -> None:
        """Keep the first crops of the images that the step's picture shows."""
        images, crops, first = self.plan.images, self.plan.crops, self.plan.rows.start + self.taken
        here = range(first, first + len(batch.images) // crops)
        self.taken += len(here)
        for place in range(min(_PICTURED, images)):
            if (row := place * images // min(_PICTURED, images)) in here:
                crop = slice((row - first) * crops, (row - first) * crops + 1)
                self.pictured[place] = batch.images[crop], batch.gsd[crop], noise[crop]

    def _picture(self, done: int) -> None:
        """Every process draws what it has of a picture, the first puts it together."""
        drawn, columns = dict[str, Tensor](), list[Column]()
        if self.pictured:
            images, gsd, noise = (torch.cat(rows) for rows in zip(*self.pictured.values(), strict=True))
            with torch.compiler.set_stance("force_eager"):  # eight images are not worth kernels of their own
                columns = draw_columns(self.model, images, gsd, noise, self._progress(done - 1))
            rows = torch.stack([torch.from_numpy(column.pixels) for column in columns], 1)
            drawn = dict(zip(map(str, self.pictured), rows, strict=True))
        names = [str(place) for place in range(min(_PICTURED, self.plan.images))]
        blank = next(iter(drawn.values()), torch.empty(0))  # the first process has the first image
        drawn = distributed.gathered(drawn, dict.fromkeys(names, blank), self.team)
        if self.team.leads:
            whole = torch.stack([drawn[name] for name in names], 1).numpy()
            merged = [column._replace(pixels=pixels) for column, pixels in zip(columns, whole, strict=True)]
            write_picture(sheet(merged), self.folder.picture(done))
            self.tracked.picture(done, self.folder.picture(done))


def train(
    config: TrainConfig,
    out: Path,
    observer: Observer,
    *,
    resume: bool = False,
    feed: Feed = batches,
    mark: Mark = lambda _: None,
    worth: Valuer = lambda *_: None,
    watch: Watch | None = None,
) -> TrainResult:
    """Train, or go on training, in the folder ``out``.

    Args:
        config: everything that defines the run.
        out: its folder.
        observer: who is told.
        resume: whether to go on with a run that is not finished.
        feed: what makes the batches, where images do not come from tars.
        worth: what the log's ``mfu`` compares with; it is null without.
        watch: what is asked every ``knn.every`` steps.
        mark: who measures the parts of a step.

    Raises:
        InputError: the config does not fit the data or the model; ``out`` holds an unfinished run and ``resume`` is
            not set, or a run with other settings.
        WorkError: a weight or moment is no longer finite, too many steps were not, a shard cannot be read for
            ``data.retry_seconds``, or too many samples are unreadable.
    """
    folder = RunFolder(out)
    with ExitStack() as stack:
        team = stack.enter_context(distributed.joined(config.device, config.timeout_minutes))
        config = settled(config, team.device)
        refuse_decoder(config.data.decode, team.device)
        stack.enter_context(computing(config, team.device))
        data = content_fingerprint(config.data.folders, access_of(config.data))
        if team.leads:
            stack.enter_context(hold(folder.path))
        latest = _standing(folder, config, data, resume)
        if latest is not None and latest[1].step == latest[1].total_steps:
            return TrainResult(latest[1].step, latest[1].total_steps, worked=False)
        distributed.wait(team)  # nobody writes before everybody has read
        run = _prepare(config, team, folder, data, observer, feed, mark, worth)
        run.ask = watch
        start = _restore(run, latest[0] if latest else None)
        if team.leads:
            run.tracked = open_trackers(config.track, folder, config.model_dump(mode="json"), start)
            stack.callback(run.tracked.close)
        return go_on(run, start, observer)


def _standing(
    folder: RunFolder, config: TrainConfig, data: str, resume: bool
) -> tuple[Path, checkpoint.TrainState] | None:
    """The checkpoint to go on from, after checking that going on is what was asked for."""
    if not folder.config.exists():
        return None
    latest = folder.latest()
    if latest is None:
        step = "before its first checkpoint"
    else:
        checkpoint.refuse_changes(latest[1], config, data, folder.path)
        latest = latest[0], _lengthened(latest[1], config)
        step = f"step {latest[1].step} of {latest[1].total_steps}"
    if not resume and not (latest and latest[1].step == latest[1].total_steps):
        raise InputError(
            f"{folder.path}: holds an unfinished run ({step}); add --resume to go on, or give another --out"
        )
    return latest if latest is None or latest[1].total_steps == latest[1].step else _before_decay(folder, *latest)


def _lengthened(state: checkpoint.TrainState, config: TrainConfig) -> checkpoint.TrainState:
    """The state in a run of as many epochs as are asked for now."""
    return replace(state, total_steps=state.total_steps // state.config["epochs"] * config.epochs)


def _before_decay(folder: RunFolder, path: Path, state: checkpoint.TrainState) -> tuple[Path, checkpoint.TrainState]:
    """The checkpoint to go on from: of a run that is made longer, that before its constant rate began to fall."""
    before = checkpoint.read_state(path)
    config = TrainConfig.model_validate(before.config)
    begun = decay_begins(config.optim, before.total_steps // config.epochs, config.epochs)
    kept = folder.checkpoints / checkpoint.name_of(begun or 0)
    if begun is None or state.total_steps == before.total_steps or begun > state.step or not kept.is_dir():
        return path, state
    return kept, replace(state, step=begun)


def _prepare(
    config: TrainConfig,
    team: Team,
    folder: RunFolder,
    data: str,
    observer: Observer,
    feed: Feed,
    mark: Mark,
    worth: Valuer,
) -> Pretraining:
    torch.manual_seed(config.seed)  # of the weights' start
    model = build_objective(config.objective, config.encoder).to(team.device)
    model.set_grad_checkpointing(config.grad_checkpointing)
    corpus = corpus_of(config, model)
    plan = stream_plan(config, team.rank, team.world)
    check_sizes(config, corpus, plan)
    workers = team.workers if config.data.workers is None else config.data.workers
    check_machine(config, corpus, plan, model.crop_size, workers, team.local_world)
    stepped = model.compiled(config.compile)
    optimizer = build_optimizer(model, config.optim, team if config.shard_optimizer else None)
    unreadable = Unreadable(config.data.max_unreadable, corpus.samples, observer.say)
    nonfinite = Nonfinite(config.max_nonfinite, corpus.place, folder, observer.say, lambda: way_back(folder))
    stepped = distributed.wrap(stepped, team)
    run = Pretraining(
        folder, team, model, stepped, optimizer, _pace(config, corpus, plan), config.seed, nonfinite,
        config, corpus, plan, data, observer, unreadable, feed, mover(team.device), mark,
        worth(model, config, team.device),
    )  # fmt: skip
    if team.leads:
        announce(config, corpus, model, team.device, observer.say)
    return run


def _pace(config: TrainConfig, corpus: Corpus, plan: StreamPlan) -> Pace:
    per_epoch = plan.steps_per_epoch(corpus)
    return Pace(
        config.epochs * per_epoch, per_epoch, config.global_batch, config.log_every, config.save_every,
        plan.micro_batches, config.keep_checkpoints, decay_begins(config.optim, per_epoch, config.epochs),
        config.optim.clip_grad,
    )  # fmt: skip


def _restore(run: Pretraining, path: Path | None) -> int:
    """Load the checkpoint, if there is one, and make the folder agree with it; returns the first step to do."""
    if path is None and run.config.init_from is not None:
        begun = start_from(run.model.encoder, run.config.init_from)
        if run.team.leads:
            run.observer.say(f"encoder: starts from {begun.path}, {len(begun.weights)} tensors")
    if run.team.leads:
        data = run.config.data
        where = {"shards": [absolute(place) for place in data.folders], "cache": data.cache and data.cache.resolve()}
        changed: dict[str, object] = {"data": data.model_copy(update=where)}
        if run.config.init_from is not None:
            changed["init_from"] = run.config.init_from.resolve()
        if run.config.knn is not None:
            changed["knn"] = run.config.knn.model_copy(update={"data": run.config.knn.data.resolve()})
        kept = run.config.model_copy(update=changed)
        begin(run.folder, kept)
    step = restore(run, path)
    if run.team.leads and run.folder.neighbours.exists():
        Log(run.folder.neighbours).cut(step)
    if step and run.team.leads:
        run.observer.say(f"going on from step {step:,}")
    return step


def mask_noise(seed: int, model: Objective, batch: Batch) -> Tensor:
    """The uniform numbers of a batch's masks, (B, ``noise_size``)."""
    return torch_uniform(seed, Purpose.MASK, batch.epoch, batch.sample_id, model.noise_size, batch.crop)
