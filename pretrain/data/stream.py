"""Batches from shards: index and order live here, in each rank's main process; workers only read what they are told.

``requests`` is pure bookkeeping (which rows, where, with which noise); ``batches`` has workers serve the requests in
order. A stream can start at any step and gives what an uninterrupted one would have given from there.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from pretrain.data.augment import NOISE_SIZE, CropRule
from pretrain.data.corpus import Corpus, SampleRows, join
from pretrain.data.noise import Purpose, uniform
from pretrain.data.order import ShardWindow, epoch_order, group_rows, rank_rows, steps_per_epoch
from pretrain.data.reader import Batch, Request, ShardReader
from pretrain.patience import patiently
from pretrain.signals import ignore_in_worker, kill_left_at_exit


@dataclass(frozen=True)
class StreamPlan:
    """All that decides which rank sees which samples when."""

    seed: int
    global_batch: int
    micro_batch: int
    """Greatest number of samples that a rank takes at once."""
    window: int = 8
    groups: int = 1
    rank: int = 0
    world: int = 1

    @property
    def rows(self) -> range:
        """This rank's rows of each global batch."""
        return rank_rows(self.global_batch, self.rank, self.world)

    @property
    def micro_batches(self) -> int:
        """Micro-batches per step on this rank."""
        return -(-len(self.rows) // self.micro_batch)

    def steps_per_epoch(self, corpus: Corpus) -> int:
        """Steps that one epoch of this corpus has."""
        return steps_per_epoch(corpus.sizes, self.global_batch)


class _Feed:
    """One group's rows of an epoch, taken in ascending order; holds the rows of one window at a time."""

    def __init__(self, corpus: Corpus, plan: StreamPlan, epoch: int, group: int, retry_seconds: float) -> None:
        self.corpus, self.retry_seconds = corpus, retry_seconds
        self.windows = epoch_order(corpus.sizes, plan.seed, epoch, plan.window, plan.groups, group)
        self.window: ShardWindow | None = None
        self.held: SampleRows | None = None
        self.start = self.stop = 0

    def take(self, start: int, stop: int) -> SampleRows:
        """Rows ``start`` to ``stop`` of the group's order, not before those of an earlier call."""
        parts = []
        while start < stop:
            while start >= self.stop:
                self._advance()
            end = min(stop, self.stop)
            parts.append(self._rows().at(slice(start - self.start, end - self.start)))
            start = end
        return join(parts)

    def _advance(self) -> None:
        """Go to the next window; its index is read only when rows of it are taken."""
        self.window, self.held = next(self.windows), None
        self.start, self.stop = self.stop, self.stop + len(self.window.permutation)

    def _rows(self) -> SampleRows:
        assert self.window is not None
        if self.held is None:
            shards = [patiently(partial(self.corpus.rows, int(s)), self.retry_seconds) for s in self.window.shards]
            self.held = join(shards).at(self.window.permutation)
        return self.held


def requests(corpus: Corpus, plan: StreamPlan, start: int, stop: int, retry_seconds: float = 0) -> Iterator[Request]:
    """Yield this rank's micro-batches of the steps ``start`` to ``stop``, counted over all epochs."""
    per_epoch = plan.steps_per_epoch(corpus)
    cut = group_rows(plan.rows, plan.global_batch, plan.groups)
    part = plan.global_batch // plan.groups
    epoch, feeds = -1, list[_Feed]()
    for step in range(start, stop):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            feeds = [_Feed(corpus, plan, epoch, group, retry_seconds) for group, _ in cut]
        base = step % per_epoch
        taken = [
            feed.take(base * part + rows.start, base * part + rows.stop)
            for feed, (_, rows) in zip(feeds, cut, strict=True)
        ]
        yield from _micro(join(taken), plan, epoch, base * plan.global_batch)


def _micro(rows: SampleRows, plan: StreamPlan, epoch: int, first: int) -> Iterator[Request]:
    total, count = len(rows.sample_id), plan.micro_batches
    for number in range(count):
        part = rows.at(slice(number * total // count, (number + 1) * total // count))
        noise = uniform(plan.seed, Purpose.CROP, epoch, part.sample_id, NOISE_SIZE)
        yield Request(epoch, first, part, noise)


def batches(
    corpus: Corpus,
    plan: StreamPlan,
    rule: CropRule,
    start: int,
    stop: int,
    workers: int = 0,
    prefetch: int = 2,
    pin: bool = False,
    retry_seconds: float = 0,
) -> Iterator[Batch]:
    """Yield this rank's micro-batches of the steps ``start`` to ``stop``, in order.

    Args:
        corpus: opened shards.
        plan: see :class:`StreamPlan`.
        rule: the random crop.
        start: first step, counted over all epochs.
        stop: step after the last.
        workers: processes that read and decode; 0 does it in this one.
        prefetch: micro-batches that each worker prepares ahead.
        pin: put batches into pinned memory, for a GPU.
        retry_seconds: how long to wait for a shard or index that cannot be read.

    Raises:
        WorkError: a shard or an index could not be read for so long.
    """
    options = loader_options(workers) | {"pin_memory": pin, "collate_fn": _as_is}
    if workers:
        options["prefetch_factor"] = prefetch
    feed: Any = _Sampler(corpus, plan, start, stop, retry_seconds)
    reader: Any = ShardReader(corpus.paths, rule)
    for served in DataLoader(reader, batch_sampler=feed, **options):
        yield patiently(partial(reader.serve, served), retry_seconds) if isinstance(served, Request) else served


class _Sampler:
    """Requests, in the place where torch's loader expects lists of indices."""

    def __init__(self, corpus: Corpus, plan: StreamPlan, start: int, stop: int, retry_seconds: float) -> None:
        self.corpus, self.plan, self.start, self.stop = corpus, plan, start, stop
        self.retry_seconds = retry_seconds

    def __iter__(self) -> Iterator[Request]:
        return requests(self.corpus, self.plan, self.start, self.stop, self.retry_seconds)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.plan.micro_batches


def _as_is(served: Batch | Request) -> Batch | Request:
    return served


def loader_options(workers: int) -> dict[str, Any]:
    """What every loader of torch is given here."""
    # The loader draws a number when it starts. From torch's own generator that would change a resumed run's dropout.
    options: dict[str, Any] = {"num_workers": workers, "generator": torch.Generator()}
    if workers:
        kill_left_at_exit()
        options["worker_init_fn"] = _start_worker
    return options


def _start_worker(_: int) -> None:
    ignore_in_worker()
    gc.enable()
    torch.set_num_threads(1)  # workers are the parallelism; threads inside them would fight for the same cores
