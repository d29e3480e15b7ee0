"""A run from shards, timed: the loop itself (:func:`pretrain.train.train`), and the loader alone."""

from __future__ import annotations

import io
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from curation.base.progress import Progress
from pretrain import distributed
from pretrain.bench.arithmetic import multiply_adds, peak_operations
from pretrain.bench.clock import PartsClock
from pretrain.config import TrainConfig
from pretrain.data.jpeg_part import part_decoder
from pretrain.data.reader import Batch, Spent
from pretrain.data.stream import StreamPlan, batches
from pretrain.data.supply import ShardCounts
from pretrain.data.unpack import refuse_decoder
from pretrain.device import mover, settled
from pretrain.distributed import Team
from pretrain.errors import InputError
from pretrain.layout import check_machine, check_sizes, corpus_of, crop_rule, stream_plan
from pretrain.models import Objective, build_objective
from pretrain.train import train

PARTS = ("data", "copy", "forward", "backward", "optimiser", "between")
"""Of a step: waiting for a batch, moving and flipping it, the model twice, AdamW, and log and drawing of numbers."""

_SPENT = (*Spent._fields, "transfer")
"""Of a loader: what workers do, and the copy to the device."""

WARM_UP = 5
"""Steps before those that count."""


class _Enough(Exception):
    """What ends a run that was long enough."""


@dataclass
class _Timed:
    """A feed that ends after ``steps`` steps or ``seconds``, and the clock that the loop calls."""

    clock: PartsClock
    steps: int
    seconds: float
    micro_batches: int
    done: int = 0
    images: int = 0
    since: float = 0.0
    took: list[tuple[str, float]] = field(default_factory=list)
    elapsed: float = 0.0

    def feed(self, *arguments: Any, **named: Any) -> Iterator[Batch]:
        """As :func:`pretrain.data.stream.batches`, until it is enough."""
        for number, batch in enumerate(batches(*arguments, **named)):
            if number == WARM_UP * self.micro_batches:
                self._begin()
            self.done = number // self.micro_batches
            whole = number % self.micro_batches == 0
            if whole and self._enough():
                self.took = self.clock.read()
                self.elapsed = time.perf_counter() - self.since
                raise _Enough
            if self.done >= WARM_UP:
                self.images += len(batch.images)
            yield batch

    def _begin(self) -> None:
        self.clock.read()
        self.clock("begin")
        self.since = time.perf_counter()

    def _enough(self) -> bool:
        late = self.done > WARM_UP and time.perf_counter() - self.since > self.seconds
        return self.done >= WARM_UP + self.steps or late


def train_bench(config: TrainConfig, steps: int = 60, seconds: float = 120) -> dict[str, Any]:
    """Train for a while, in a folder that is thrown away, and say where the time went.

    Args:
        config: of the run; its epochs are repeated as often as it takes, pictures and checkpoints are left out.
        steps: optimiser steps that count, after five that do not.
        seconds: after which fewer have to do.

    Returns:
        ``images_per_second``, ``seconds`` of a step, the share of each of :data:`PARTS` (on a GPU by its own clock, so
        ``data`` is the time for which it lacked a batch), ``mfu`` against ``peak_tflops`` (a large product on this
        device in the same precision), ``gflop`` of one image, ``peak_mib``, ``loader_images_per_second``.

    Raises:
        InputError: the config does not fit the data.
        WorkError: the run failed.
    """
    with distributed.joined(config.device) as team:
        if team.world > 1:
            raise InputError("rs-pretrain bench train: measures one process; start it without torchrun")
        return _train_bench(config, team, steps, seconds)


def _train_bench(config: TrainConfig, team: Team, steps: int, seconds: float) -> dict[str, Any]:
    device, workers = team.device, team.workers if config.data.workers is None else config.data.workers
    config = settled(config, device)
    model, plan = model_and_plan(config)
    corpus = corpus_of(config, model)
    per_epoch = max(1, plan.steps_per_epoch(corpus))
    long = max(config.epochs, -(-(steps + WARM_UP + 2) // per_epoch))
    given = config.model_copy(update={"epochs": long, "picture_every": 0, "save_every": 10**9})
    timed = _Timed(PartsClock(device), steps, seconds, plan.micro_batches)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder, suppress(_Enough):
        train(given, Path(folder) / "run", _Silent(), feed=timed.feed, mark=timed.clock)
    operations, peak = multiply_adds(model).training_operations, peak_operations(device, config.precision)
    loader = data_bench(config, [workers], min(seconds, 10))
    rate = timed.images / timed.elapsed
    return {
        "device": device_name(device), "encoder": config.encoder.name, "objective": config.objective.name,
        "precision": config.precision, "compile": config.compile, "global_batch": config.global_batch,
        "micro_batch": -(-config.global_batch // plan.micro_batches), "steps": timed.done - WARM_UP,
        "seconds": timed.elapsed / (timed.done - WARM_UP), "images_per_second": rate, **_shares(timed.took),
        "gflop": operations / 1e9, "peak_tflops": peak / 1e12, "mfu": operations * rate / peak,
        "peak_mib": peak_memory(device), "workers": loader[0]["workers"],
        "loader_images_per_second": loader[0]["images_per_second"],
    }  # fmt: skip


def model_and_plan(config: TrainConfig) -> tuple[Objective, StreamPlan]:
    """A run's model without weights, and which samples its only process sees when."""
    with torch.device("meta"):
        model = build_objective(config.objective, config.encoder)
    return model, stream_plan(config)


def _shares(took: list[tuple[str, float]]) -> dict[str, float]:
    total = sum(seconds for _, seconds in took)
    return {part: sum(seconds for name, seconds in took if name == part) / total for part in PARTS}


def data_bench(
    config: TrainConfig, workers: Sequence[int], seconds: float = 20, device: torch.device | None = None
) -> list[dict[str, float]]:
    """Read, decode, crop and bring to the device as a run would, with nobody waiting for the images.

    Args:
        config: of the run.
        workers: numbers of reading processes to try, in turn.
        seconds: for each of them.
        device: where images go; by default the run's, which must be a GPU where ``data.decode`` is gpu.

    Returns:
        A row for each: ``workers``, ``images_per_second``, ``images``, ``seconds``; shares of the time of all
        processes: ``read``, ``decode``, ``crop``, ``transfer`` to a GPU; ``cache_hits``, the share of shards that
        were there before they were needed, and ``waited``, the seconds for the others; ``parts``, whether of a JPEG
        only the part with the crops is decoded.
        With ``data.decode: gpu`` images are complete on the device, and the time for which this process waits for
        its decoder counts as decoding.

    Raises:
        InputError: the config does not fit the data or the machine.
    """
    if device is None:
        device = distributed.device_of(config.device)
        refuse_decoder(config.data.decode, device)
    model, plan = model_and_plan(config)
    corpus = corpus_of(config, model)
    check_sizes(config, corpus, plan)
    check_machine(config, corpus, plan, model.crop_size, max(workers))
    rule = crop_rule(config, model)
    rows = []
    for count in workers:
        counts = ShardCounts()
        stream = batches(corpus, plan, rule, 0, 10**6, count, config.data.prefetch, device, counts)
        for _ in range(count * config.data.prefetch + 1):  # what was prepared while the processes started
            next(stream)
        images, spent, took = _drawn(stream, seconds, device)
        stream.close()
        row = {"workers": count, "images_per_second": images / took, "images": images, "seconds": took}
        shares = dict(zip(_SPENT, (spent / max(spent.sum(), 1e-9)).tolist(), strict=True))
        parts = config.data.decode != "gpu" and part_decoder() is not None
        rows.append(row | shares | {"cache_hits": counts.hits, "waited": counts.waited, "parts": parts})
    return rows


def _drawn(stream: Iterator[Batch], seconds: float, device: torch.device) -> tuple[int, npt.NDArray[np.float64], float]:
    """How many images came in about so many seconds, what they cost, and how long it took.

    No batch is left held: with it the memory of its stream would stay beside that of the next one.
    """
    start, images, spent, move = time.perf_counter(), 0, np.zeros(len(_SPENT)), mover(device)
    while time.perf_counter() - start < seconds:
        batch = next(stream)
        images += len(batch.images)
        began = time.perf_counter()
        move(batch[:6])
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent += (*batch.spent, time.perf_counter() - began)
    return images, spent, time.perf_counter() - start


def device_name(device: torch.device) -> str:
    """What a reader of the table needs to know of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def peak_memory(device: torch.device) -> float:
    """Most memory that this process held, MiB: on a GPU its tensors, else all of it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def format_train(row: dict[str, Any]) -> str:
    """A result of :func:`train_bench` as a Markdown table."""
    lines = ["| | |", "|---|---|"]
    for name, value in row.items():
        share = name in (*PARTS, "mfu")
        text = f"{100 * value:.1f} %" if share else f"{value:.4g}" if isinstance(value, float) else value
        lines.append(f"| {name.replace('_', ' ')} | {text} |")
    return "\n".join(lines)


def format_data(rows: Iterable[dict[str, float]]) -> str:
    """Rows of :func:`data_bench` as a Markdown table."""
    rows = list(rows)
    parts = " | ".join(_SPENT)
    lines = [f"| workers | images/s | images/s and worker | {parts} | cache hits |", "|---" * (4 + len(_SPENT)) + "|"]
    for row in rows:
        each = row["images_per_second"] / max(row["workers"], 1)
        shares = " | ".join(f"{row[name]:.1%}" for name in (*_SPENT, "cache_hits"))
        lines.append(f"| {row['workers']:.0f} | {row['images_per_second']:.0f} | {each:.0f} | {shares} |")
    if rows and not rows[0]["parts"]:
        lines += [
            "",
            "JPEGs are decoded whole: data.decode is gpu, or a C compiler or libjpeg-turbo's header is absent.",
        ]
    return "\n".join(lines)


class _Silent:
    """An observer that is told in vain."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def progress(self, description: str, total: int, unit: str) -> Progress:
        """A bar that nobody sees."""
        return Progress(description, total, unit, stream=io.StringIO())
