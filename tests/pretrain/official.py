"""Reading of the official implementations' numbers, and tiny models that hold the official weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pretrain.config import EncoderConfig


def load(shared: Path, name: str) -> dict[str, torch.Tensor]:
    with np.load(shared / "reference" / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}


def weights(arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")}


def tiny_encoder(side: int) -> EncoderConfig:
    args = {"img_size": side, "embed_dim": 48, "depth": 2, "num_heads": 3}
    return EncoderConfig(name="vit_tiny_patch16_224", args=args)


def encoder_part(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
    return {f"encoder.{key}": value for key, value in state.items() if key.startswith(names)}


def channels_first(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).contiguous()
