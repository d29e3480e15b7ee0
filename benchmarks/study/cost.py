"""What a step of each arm costs, measured side by side: the budget of equal seconds is spent in whole epochs by it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from pretrain.config import TrainConfig
from pretrain.data.corpus import open_corpus
from pretrain.data.stream import StreamPlan, batches
from pretrain.layout import crop_rule, sample_rule
from pretrain.models import build_objective
from pretrain.schedule import build_optimizer
from pretrain.train import Feed, mask_noise

ROUNDS = 30
STAGES = {0.5: 0.9, 0.99: 0.1}
"""Share of training done at which steps are timed, and how much each counts: only the last tenth may cost otherwise."""


def seconds_per_image(configs: dict[str, TrainConfig], feed: Feed = batches) -> dict[str, float]:
    """CPU seconds per image of whole steps, reading included; on a GPU seconds on the wall.

    It is the least of all rounds, in each of which every arm has its turn: other work on the machine only adds to it.
    """
    steps = {name: _step(config, feed) for name, config in configs.items()}
    clocks = {name: _clock(config.device) for name, config in configs.items()}
    least = {(name, stage): float("inf") for name in steps for stage in STAGES}
    for turn in range(ROUNDS + 1):
        for name, stage in least:
            start = clocks[name]()
            steps[name](stage)
            if turn:  # the first compiles and allocates
                least[name, stage] = min(least[name, stage], clocks[name]() - start)
    return {
        name: sum(share * least[name, stage] for stage, share in STAGES.items()) / config.global_batch
        for name, config in configs.items()
    }


def _clock(device: str) -> Callable[[], float]:
    """CPU seconds, or on a GPU those on the wall, with everything done."""
    if device == "cpu":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


def _step(config: TrainConfig, feed: Feed) -> Callable[[float], None]:
    device = torch.device("cpu" if config.device == "auto" else config.device)
    model = build_objective(config.objective, config.encoder).to(device)
    optimizer = build_optimizer(model, config.optim)
    corpus = open_corpus(config.data.folders, sample_rule(config, model))
    size, data = config.global_batch, config.data
    plan = StreamPlan(config.seed, size, size, data.window, data.groups, rank=0, world=1)
    steps = len(STAGES) * (ROUNDS + 1)
    stream = feed(corpus, plan, crop_rule(config, model), 0, steps, data.workers or 0)

    def step(progress: float) -> None:
        model.enter(progress)
        batch = next(stream).to(device)
        noise = mask_noise(config.seed, model, batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            output = model(batch.images, batch.gsd, noise, torch.tensor(progress, device=device))
        output.loss_per_sample.mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
