"""What a step of each arm costs, measured side by side: the budget of equal seconds is spent in whole epochs by it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from pretrain.config import TrainConfig
from pretrain.data.corpus import open_corpus
from pretrain.data.reader import Batch
from pretrain.data.stream import Plan, batches
from pretrain.models import build_objective
from pretrain.schedule import build_optimizer
from pretrain.train import crop_rule, mask_noise, sample_rule

ROUNDS = 10
HALFWAY = 0.5
"""Share of training done; what an arm does then costs what it does at any time."""


def seconds_per_image(configs: dict[str, TrainConfig]) -> dict[str, float]:
    """CPU seconds per image of whole steps, reading included; on a GPU seconds on the wall.

    It is the least of ten rounds, in each of which every arm has its turn: other work on the machine only adds to it.
    """
    steps = {name: _step(config) for name, config in configs.items()}
    clocks = {name: _clock(config.device) for name, config in configs.items()}
    for step in steps.values():
        step()  # compiles, allocates
    least = dict.fromkeys(steps, float("inf"))
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start = clocks[name]()
            step()
            least[name] = min(least[name], clocks[name]() - start)
    return {name: seconds / configs[name].global_batch for name, seconds in least.items()}


def _clock(device: str) -> Callable[[], float]:
    """CPU seconds, or on a GPU those on the wall, with everything done."""
    if device == "cpu":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


def _step(config: TrainConfig) -> Callable[[], None]:
    device = torch.device("cpu" if config.device == "auto" else config.device)
    model = build_objective(config.objective, config.encoder).to(device)
    optimizer = build_optimizer(model, config.optim)
    corpus = open_corpus(config.data.folders, sample_rule(config, model))
    plan = Plan(config.seed, config.global_batch, config.global_batch, config.data.window, config.data.groups, 0, 1)
    stream = batches(corpus, plan, crop_rule(config, model), 0, ROUNDS + 1, config.data.workers or 0)

    def step() -> None:
        batch = next(stream)
        moved = Batch(*(value.to(device) for value in batch[:5]), batch.position, batch.unreadable)
        noise = mask_noise(config.seed, model, moved)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            output = model(moved.images, moved.gsd, noise, torch.tensor(HALFWAY, device=device))
        output.loss_per_sample.mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
