"""Learning rate and the optimiser: pure functions of the step, and AdamW with weight decay where it belongs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pretrain import distributed
from pretrain.config import OptimConfig
from pretrain.distributed import Team

_TOKENS = ("pos_embed", "cls_token", "reg_token", "mask_token")


def peak_rate(config: OptimConfig, global_batch: int) -> float:
    """Learning rate after the warm-up: ``base_lr * global_batch / 256 * lr_scale``."""
    return config.base_lr * global_batch / 256 * config.lr_scale


def learning_rate(config: OptimConfig, global_batch: int, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Rate of a step, changing every step: linear warm-up, then half a cosine down to ``min_lr`` (MAE, appendix A.1).

    With ``decay_epochs`` it is constant after the warm-up and falls linearly at the end (Hägele et al. 2024).

    Args:
        config: rates and warm-up.
        global_batch: images per step.
        step: number of the step, from 0, over all epochs.
        steps_per_epoch: steps in an epoch.
        epochs: length of the run.
    """
    peak, epoch = peak_rate(config, global_batch), step / steps_per_epoch
    if epoch < config.warmup_epochs:
        return peak * epoch / config.warmup_epochs
    if config.decay_epochs is not None:
        left = (epochs - epoch) / config.decay_epochs
        return config.min_lr + (peak - config.min_lr) * min(left, 1.0)
    share = (epoch - config.warmup_epochs) / max(epochs - config.warmup_epochs, 1e-9)
    return config.min_lr + (peak - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def decay_begins(config: OptimConfig, steps_per_epoch: int, epochs: int) -> int | None:
    """Steps done when a constant rate begins to fall; None where it falls all the time."""
    return None if config.decay_epochs is None else int((epochs - config.decay_epochs) * steps_per_epoch)


def build_optimizer(model: nn.Module, config: OptimConfig, team: Team | None = None) -> torch.optim.Optimizer:
    """AdamW, fused, in two groups: biases, norms, tokens and position tables are not decayed.

    Args:
        model: whose parameters are trained.
        config: its decay and moments.
        team: the processes among which the moments are divided; None: each holds all.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for name, p in named if _decays(name, p)], "weight_decay": config.weight_decay},
        {"params": [p for name, p in named if not _decays(name, p)], "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {"lr": 0.0, "betas": config.betas, "fused": True}
    return distributed.divided_adamw(groups, team, **options) if team else torch.optim.AdamW(groups, **options)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and name.rpartition(".")[2] not in _TOKENS


def clip_gradient(model: nn.Module, most: float | None) -> Tensor:
    """Scale the gradient down to a norm of ``most``, if that is set; returns its norm before, 0-d, without waiting."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if most is not None:
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


def step_unless(faulty: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Step, unless ``faulty`` (0-d float on the device, 0 or 1) is 1: then no parameter, moment or count changes.

    The kernel of fused AdamW decides, as it does for torch's GradScaler, so nothing waits for the device.
    """
    distributed.own_part(optimizer).found_inf = faulty  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all groups a learning rate, times their ``lr_scale`` where timm's layer decay gave them one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
