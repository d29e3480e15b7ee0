"""What a config makes of its data: which samples can be used, their crops, who sees which when, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pretrain.config import TrainConfig
from pretrain.data.augment import CropRule
from pretrain.data.corpus import Corpus, SampleRule, describe, describe_mix, open_corpus, refuse_twice
from pretrain.data.places import access_of
from pretrain.data.shared_memory import refuse_little_shared_memory
from pretrain.data.stream import StreamPlan
from pretrain.data.supply import refuse_small_cache
from pretrain.errors import InputError
from pretrain.models import Objective

FEW = 1_000
"""Samples below which a run shows that everything works, and no more."""


def corpus_of(config: TrainConfig, model: Objective) -> Corpus:
    """The shards of a run, opened.

    Raises:
        InputError: see :func:`pretrain.data.corpus.open_corpus`.
    """
    return open_corpus(config.data.folders, sample_rule(config, model), access_of(config.data))


def stream_plan(config: TrainConfig, rank: int = 0, world: int = 1) -> StreamPlan:
    """Which samples one of so many processes sees when."""
    data = config.data
    return StreamPlan(
        config.seed, config.global_batch, config.max_batch_per_gpu, data.window, data.groups, rank, world,
        data.crops_per_image, tuple(data.mix),
    )  # fmt: skip


def sample_rule(config: TrainConfig, model: Objective) -> SampleRule:
    """Which samples a run can use."""
    data, least = config.data, crop_rule(config, model).min_side
    return SampleRule(least, model.uses_gsd, data.gsd_missing, digests=data.decode == "gpu")


def crop_rule(config: TrainConfig, model: Objective) -> CropRule:
    """The random crop of a run."""
    data = config.data
    how = {"fast": data.decode == "fast", "packed": data.decode == "gpu"}
    return CropRule(model.crop_size, data.crop_scale, model.crop_ratio, data.max_upsample, **how)


def check_sizes(config: TrainConfig, corpus: Corpus, plan: StreamPlan) -> None:
    """Refuse a config that does not fit the data.

    Raises:
        InputError: names the field.
    """
    if plan.images < plan.world:
        raise InputError(
            f"global_batch: {plan.images} is less than one image for each of {plan.world} processes; start "
            f"{plan.images} at most"
        )
    if plan.world > 1 and config.data.retry_seconds >= 60 * config.timeout_minutes:
        raise InputError(
            f"data.retry_seconds: {config.data.retry_seconds:g} is not less than timeout_minutes="
            f"{config.timeout_minutes:g}, after which the other processes give this one up; raise timeout_minutes"
        )
    refuse_twice(corpus, bool(plan.mix))
    for name, shards_of in corpus.folders.items() if plan.mix else ():
        if sum(corpus.sizes[shards_of.start : shards_of.stop]) < plan.groups:
            raise InputError(f"data.mix: {name} has no sample for each group; leave it out of data.shards and data.mix")
    shards = min(map(len, corpus.folders.values())) if plan.mix else len(corpus.paths)
    if config.data.groups > shards:
        raise InputError(f"data.groups: {config.data.groups} groups cannot share {shards} shards")
    if plan.steps_per_epoch(corpus) == 0:
        raise InputError(
            f"global_batch: {config.global_batch} is more than the {corpus.samples} samples of the data; set it lower"
        )


def check_machine(
    config: TrainConfig, corpus: Corpus, plan: StreamPlan, size: int, workers: int, processes: int = 1
) -> None:
    """Refuse a config whose shards or batches do not fit the machine.

    Args:
        config: of the run.
        corpus: its shards.
        plan: of one of its processes.
        size: side of a crop, pixels.
        workers: of each process.
        processes: of this machine.

    Raises:
        InputError: names the field.
    """
    refuse_small_cache(corpus, plan.window, plan.groups_of(processes) * max(len(plan.mix), 1))
    image_bytes = corpus.image_bytes() if config.data.decode == "gpu" else 0
    refuse_little_shared_memory(plan, size, workers, config.data.prefetch, image_bytes, processes)


def announce(
    config: TrainConfig, corpus: Corpus, model: Objective, device: torch.device, say: Callable[[str], None]
) -> None:
    """Tell what data, model and steps a run has."""
    describe(corpus, say)
    if corpus.samples < FEW:
        say(
            f"warning: {corpus.samples:,} samples are too few to learn features that serve elsewhere; "
            "docs/benchmarks/learning.md: 1,400 in 60 epochs were enough for a very small encoder"
        )
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    say(f"model: {config.objective.name} on {config.encoder.name}, {millions:.1f} M parameters, {device}")
    plan = stream_plan(config)
    per_epoch, dropped = divmod(corpus.samples, plan.images)
    if plan.mix:
        describe_mix(corpus, plan.mix, config.epochs * per_epoch * plan.images, say)
        dropped = 0
    say(
        f"steps: {config.epochs * per_epoch:,} = {config.epochs} epochs of {per_epoch:,}; "
        f"last batch of each epoch: {config.last_batch} ({dropped:,} samples)"
    )
