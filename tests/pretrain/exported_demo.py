"""The demo's encoder after three steps, exported, and what timm alone is to make of it."""

from __future__ import annotations

from pathlib import Path

import torch
from small_run import Quiet

import pretrain
from curation.base import settings
from pretrain.config import TrainConfig
from pretrain.export import export
from pretrain.run import load_run
from pretrain.train import train

TIMM_ALONE = """
import timm, torch
model = timm.create_model("local-dir:encoder", pretrained=True).eval()
data = timm.data.resolve_model_data_config(model)
assert (data["input_size"], data["interpolation"], data["crop_pct"]) == ((3, 64, 64), "bicubic", 1.0), data
assert tuple(data["mean"]) == (0.485, 0.456, 0.406), data
torch.save(model(torch.load("images.pt")), "features.pt")
larger = timm.create_model("local-dir:encoder", pretrained=True, img_size=96)
assert larger.pos_embed.shape[1] == 1 + 12 * 12
"""
"""Run where ``encoder`` and ``images.pt`` lie; writes ``features.pt``."""


def demo_run(shards: Path, folder: Path) -> Path:
    """Train by ``pretrain/configs/demo.yaml`` for a few steps, export to ``encoder``, draw ``images.pt``."""
    demo = Path(pretrain.__file__).parent / "configs" / "demo.yaml"
    short = [f"data.shards={shards}", "global_batch=2", "epochs=1", "optim.warmup_epochs=0", "device=cpu"]
    train(settings.load(TrainConfig, demo, short), folder / "run", Quiet())
    export(folder / "run", folder / "encoder")
    torch.save(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), folder / "images.pt")
    return folder / "run"


def same_features(run: Path, folder: Path) -> None:
    """What timm wrote is what the trained encoder gives, to 1e-6."""
    expected = load_run(run)[0].encoder(torch.load(folder / "images.pt"))
    torch.testing.assert_close(torch.load(folder / "features.pt"), expected, atol=1e-6, rtol=0)
