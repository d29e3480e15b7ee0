"""Batches from shards: index and order live here, in each rank's main process; workers only read what they are told.

``requests`` is pure bookkeeping (which rows, where, with which noise); ``batches`` has workers serve the requests in
order. A stream can start at any step and gives what an uninterrupted one would have given from there.
"""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from pretrain.data.augment import NOISE_SIZE, CropRule
from pretrain.data.corpus import MISSING, Corpus, SampleRows, join
from pretrain.data.noise import Purpose, uniform
from pretrain.data.order import (
    ShardWindow,
    epoch_order,
    group_rows,
    mixed_counts,
    mixed_rows,
    rank_rows,
    steps_per_epoch,
)
from pretrain.data.places import Access
from pretrain.data.reader import Batch, Request, ShardReader
from pretrain.data.ring import Ring, parts_of
from pretrain.data.supply import ShardCounts, Supply, supplied
from pretrain.data.unpack import Unpacker
from pretrain.errors import WorkError
from pretrain.patience import patiently
from pretrain.signals import ignore_in_worker, kill_left_at_exit, telling_of_killed_readers

CPU = torch.device("cpu")


@dataclass(frozen=True)
class StreamPlan:
    """All that decides which rank sees which samples when."""

    seed: int
    global_batch: int
    micro_batch: int
    """Greatest number of crops that a rank takes at once."""
    window: int = 8
    groups: int = 1
    rank: int = 0
    world: int = 1
    crops: int = 1
    """Of each image, one after the other in the batch."""
    mix: tuple[int, ...] = ()
    """Weights of the corpus's folders; none: all samples of all folders once in each epoch."""

    @property
    def images(self) -> int:
        """Images of a global batch."""
        return self.global_batch // self.crops

    @property
    def part(self) -> int:
        """Images that each group gives to a global batch."""
        return self.images // self.groups

    @property
    def rows(self) -> range:
        """This rank's images of each global batch."""
        return rank_rows(self.images, self.rank, self.world)

    @property
    def micro_batches(self) -> int:
        """Micro-batches per step on this rank."""
        return -(-len(self.rows) // max(self.micro_batch // self.crops, 1))

    @property
    def largest(self) -> int:
        """Images of the greatest micro-batch of this rank."""
        return -(-len(self.rows) // max(self.micro_batches, 1))

    def groups_of(self, local_world: int) -> int:
        """How many groups the processes of this rank's machine read."""
        first = self.rank // local_world * local_world
        ranks = [rank_rows(self.images, rank, self.world) for rank in range(first, first + local_world)]
        return len({group for rows in ranks for group, _ in group_rows(rows, self.images, self.groups)})

    def steps_per_epoch(self, corpus: Corpus) -> int:
        """Steps that one epoch of this corpus has."""
        return steps_per_epoch(corpus.sizes, self.images)


class _Feed:
    """One group's rows of a folder, or of all, taken in ascending order; holds the rows of one window at a time.

    Rows are counted over all passes, each of which has ``length``.
    """

    def __init__(self, corpus: Corpus, plan: StreamPlan, group: int, shards: range, supply: Supply) -> None:
        self.corpus, self.plan, self.group, self.shards, self.supply = corpus, plan, group, shards, supply
        self.name = group, shards.start
        total = sum(corpus.sizes[shards.start : shards.stop])
        self.length = total * (group + 1) // plan.groups - total * group // plan.groups
        self.coming: Iterator[tuple[int, ShardWindow]] = iter(())
        self.next: tuple[int, ShardWindow] | None = None
        self.epoch, self.window = 0, ShardWindow(np.zeros(0, np.int64), range(0), (0, 0, 0, 0))
        self.held: SampleRows | None = None
        self.start = self.stop = -1

    def take(self, start: int, stop: int, end: int) -> SampleRows:
        """Rows ``start`` to ``stop``, not before those of an earlier call; none from ``end`` on will be asked for."""
        if self.stop < 0:
            self._begin(start // self.length)
        parts = []
        while start < stop:
            while start >= self.stop:
                self._advance()
            last = min(stop, self.stop)
            parts.append(self._rows(end).at(slice(start - self.start, last - self.start)))
            start = last
        return join(parts)

    def _begin(self, epoch: int) -> None:
        self.coming = self._windows(epoch)
        self.next, self.stop = next(self.coming), epoch * self.length

    def _windows(self, first: int) -> Iterator[tuple[int, ShardWindow]]:
        plan, sizes = self.plan, self.corpus.sizes[self.shards.start : self.shards.stop]
        for epoch in count(first):
            for window in epoch_order(sizes, plan.seed, epoch, plan.window, plan.groups, self.group):
                yield epoch, window

    def _advance(self) -> None:
        """Go to the next window; its index is read only when rows of it are taken."""
        assert self.next is not None
        (self.epoch, self.window), self.held, self.next = self.next, None, next(self.coming)
        self.start, self.stop = self.stop, self.stop + len(self.window.rows)

    def _rows(self, end: int) -> SampleRows:
        if self.held is None:
            assert self.next is not None
            here, soon = ((self.shards.start + window.shards).tolist() for window in (self.window, self.next[1]))
            self.supply.enter(self.name, here, soon if self.stop < end else [])
            seconds = self.corpus.access.retry_seconds
            shards = [patiently(partial(self._shard, shard), seconds) for shard in here]
            self.held = join(shards).at(self.window.permutation)
        self.supply.took(self.name)
        return self.held

    def _shard(self, shard: int) -> SampleRows:
        rows = self.corpus.rows(shard, self.epoch)
        return rows._replace(size=np.full_like(rows.size, MISSING)) if shard in self.supply.missing else rows


class _Group:
    """What one group gives to each global batch."""

    def __init__(self, corpus: Corpus, plan: StreamPlan, group: int, stop: int, supply: Supply) -> None:
        self.plan, self.per_epoch, self.last = plan, plan.steps_per_epoch(corpus), stop - 1
        folders = corpus.folders.values() if plan.mix else [range(len(corpus.sizes))]
        self.feeds = [_Feed(corpus, plan, group, shards, supply) for shards in folders]

    def take(self, step: int, rows: range) -> SampleRows:
        """Of a step's part of this group the given rows."""
        return self._mixed(step, rows) if self.plan.mix else self._plain(step, rows)

    def _plain(self, step: int, rows: range) -> SampleRows:
        first = self._first(step)
        end = self._first(self.last) + self.plan.part
        return self.feeds[0].take(first + rows.start, first + rows.stop, end)

    def _first(self, step: int) -> int:
        epoch, base = divmod(step, self.per_epoch)
        return epoch * self.feeds[0].length + base * self.plan.part

    def _mixed(self, step: int, rows: range) -> SampleRows:
        mix, part = self.plan.mix, self.plan.part
        ends = mixed_counts(mix, (self.last + 1) * part)
        folder, sample = (column[rows.start : rows.stop] for column in mixed_rows(mix, step * part, (step + 1) * part))
        taken = [
            self.feeds[number].take(int(mine[0]), int(mine[-1]) + 1, ends[number])
            for number in range(len(mix))
            if len(mine := sample[folder == number])
        ]
        back = np.argsort(np.argsort(folder, kind="stable"))
        return join(taken).at(back)


def requests(
    corpus: Corpus, plan: StreamPlan, start: int, stop: int, supply: Supply | None = None
) -> Iterator[Request]:
    """Yield this rank's micro-batches of the steps ``start`` to ``stop``, counted over all epochs.

    Args:
        corpus: opened shards.
        plan: see :class:`StreamPlan`.
        start: first step.
        stop: step after the last.
        supply: told what is about to be read, and of every request.
    """
    supply, per_epoch = supply or Supply(corpus, ShardCounts()), plan.steps_per_epoch(corpus)
    cut = group_rows(plan.rows, plan.images, plan.groups)
    groups = [(_Group(corpus, plan, group, stop, supply), rows) for group, rows in cut]
    for step in range(start, stop):
        epoch, base = divmod(step, per_epoch)
        taken = join([group.take(step, rows) for group, rows in groups])
        made = list(_micro(taken, plan, epoch, base * plan.images))
        for request in made:
            supply.sent(np.unique(request.rows.shard).tolist())
        yield from made


def _micro(rows: SampleRows, plan: StreamPlan, epoch: int, first: int) -> Iterator[Request]:
    total, number = len(rows.sample_id), plan.micro_batches
    for part in range(number):
        cut = rows.at(slice(part * total // number, (part + 1) * total // number))
        ids, crop = cut.sample_id[:, None], np.arange(plan.crops)
        noise = uniform(plan.seed, Purpose.CROP, cut.epoch[:, None], ids, NOISE_SIZE, crop)
        yield Request(epoch, first, cut, noise)


def batches(
    corpus: Corpus,
    plan: StreamPlan,
    rule: CropRule,
    start: int,
    stop: int,
    workers: int = 0,
    prefetch: int = 2,
    device: torch.device = CPU,
    counts: ShardCounts | None = None,
) -> Generator[Batch, None, None]:
    """Yield this rank's micro-batches of the steps ``start`` to ``stop``, in order.

    Args:
        corpus: opened shards.
        plan: see :class:`StreamPlan`.
        rule: the random crop.
        start: first step, counted over all epochs.
        stop: step after the last.
        workers: processes that read and decode; 0 does it in this one.
        prefetch: micro-batches that each worker prepares ahead.
        device: where batches will go. A GPU's lie in pinned memory; what the rule leaves packed is decoded there.
        counts: kept up to date with how shards from elsewhere were come by.

    Raises:
        WorkError: a shard or an index could not be had for so long as the corpus's access allows.
    """
    pin = device.type == "cuda"
    options = loader_options(workers) | {"pin_memory": pin, "collate_fn": _as_is}
    if workers:
        options["prefetch_factor"] = prefetch
    size = 3 * rule.size**2 * plan.crops * plan.largest
    ring = Ring(parts_of(workers, prefetch), size) if workers and not rule.packed else None
    reader: Any = ShardReader(corpus.paths, rule, corpus.names, ring)
    unpack = Unpacker(device)
    with telling_of_killed_readers(), supplied(corpus, counts) as supply:
        feed: Any = _Sampler(corpus, plan, start, stop, supply, ring)
        for served in DataLoader(reader, batch_sampler=feed, **options):
            whole = _patient(reader, served, corpus.access) if isinstance(served, Request) else served.received(pin)
            yield unpack(whole)
            supply.served()


def _patient(reader: ShardReader, request: Request, access: Access) -> Batch:
    """Serve a request whose shard went away; where shards may be missing, without it in the end."""
    if reader.ring is not None and request.part is not None:
        reader.ring.free.append(request.part)
        request = request._replace(part=None)
    while True:
        try:
            return patiently(partial(reader.serve, request), access.retry_seconds)
        except WorkError:
            if not access.skip_missing or reader.failed is None:
                raise
            reader.missing.add(reader.failed)


class _Sampler:
    """Requests, in the place where torch's loader expects lists of indices."""

    def __init__(
        self, corpus: Corpus, plan: StreamPlan, start: int, stop: int, supply: Supply, ring: Ring | None
    ) -> None:
        self.corpus, self.plan, self.start, self.stop, self.supply, self.ring = corpus, plan, start, stop, supply, ring

    def __iter__(self) -> Iterator[Request]:
        for request in requests(self.corpus, self.plan, self.start, self.stop, self.supply):
            yield request if self.ring is None else request._replace(part=self.ring.lend())

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
    gc.freeze()  # what the main process holds is not looked through, and so not copied
    gc.enable()
    torch.set_num_threads(1)  # workers are the parallelism; threads inside them would fight for the same cores
