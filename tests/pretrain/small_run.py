"""The smallest run that trains."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from curation.base.progress import Progress
from curation.base.settings import validate
from pretrain.config import TrainConfig

ENCODER = {
    "name": "vit_tiny_patch16_224",
    "args": {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2},
}
SMALL = {"decoder_depth": 1, "decoder_dim": 16, "decoder_heads": 2}


class Quiet:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, description: str, total: int, unit: str) -> Progress:
        return Progress(description, total, unit, stream=io.StringIO())


def settings(shards: Path, **changes: Any) -> dict[str, Any]:
    data = {"shards": str(shards), "workers": 0, "window": 2} | changes.pop("data", {})
    return {
        "encoder": ENCODER, "objective": {"name": "selective_mae", "mask_ratio": 0.75, **SMALL}, "data": data,
        "seed": 3,
        "optim": {"base_lr": 0.01, "warmup_epochs": 1, "clip_grad": 1.0}, "epochs": 3, "global_batch": 4,
        "log_every": 2, "save_every": 3, "picture_every": 0, "device": "cpu",
    } | changes  # fmt: skip


def config(shards: Path, **changes: Any) -> TrainConfig:
    return validate(TrainConfig, settings(shards, **changes), "test")


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Weights and moments of the newest checkpoint."""
    newest = sorted((out / "checkpoints").glob("step-*"))[-1]
    return {f"{name}:{key}": value for name in ("model", "optimizer")
            for key, value in load_file(newest / f"{name}.safetensors").items()}  # fmt: skip


def assert_equal(one: Path, other: Path) -> None:
    """Two runs ended with the same bits."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    apart = {key: float((first[key] - second[key]).abs().max()) for key in first}
    assert not any(apart.values()), {key: value for key, value in apart.items() if value}
