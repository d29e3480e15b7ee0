"""How much arithmetic a training step needs, counted from the model's sizes, and how much a device can do.

A multiply-add is two operations and a backward pass twice its forward pass. Matrix products, convolutions and attention
count; norms, activations, softmax and HOG do not. Recomputation is no use to anybody, so it does not count either.
"""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pretrain.bench.clock import PartsClock
from pretrain.models import MAE, Objective, ScaleMAE, SelectiveMAE
from pretrain.models.laplacian import LaplacianDecoder


class MultiplyAdds(NamedTuple):
    """Of one image's forward pass."""

    trained: float
    """Those that a backward pass follows."""
    untrained: float = 0.0
    """Those that only choose tokens."""

    @property
    def training_operations(self) -> float:
        """Floating-point operations of forward and backward pass."""
        return 6 * self.trained + 2 * self.untrained


def multiply_adds(model: Objective) -> MultiplyAdds:
    """Count one image's; the model may lie on the meta device."""
    vit = model.encoder
    width, patch = vit.embed_dim, 3 * model.patch_size**2
    if isinstance(model, SelectiveMAE):
        visible, targets = model.seeds + sum(model.added), model.target_count
        trained = _encoder(vit, visible, patch) + _cross_decoder(model, visible + vit.num_prefix_tokens, targets)
        looked_up = 0 if model.config.added == "uniform" else model.seeds + model.added[0]
        chosen = model.num_patches * width * (patch + looked_up) if looked_up else 0
        return MultiplyAdds(trained, chosen)
    if isinstance(model, MAE):
        seen, tokens = model.visible + vit.num_prefix_tokens, model.num_patches + vit.num_prefix_tokens
        inner = model.decoder_embed.out_features
        predicted = (model.num_patches - model.visible) * inner * patch
        blocks = _blocks(model.decoder_blocks, tokens, inner)
        return MultiplyAdds(_encoder(vit, model.visible, patch) + seen * width * inner + blocks + predicted)
    assert isinstance(model, ScaleMAE)
    seen, inner = model.visible + vit.num_prefix_tokens, model.decoder_embed.out_features
    decoder = seen * width * inner + _blocks(model.decoder_blocks, model.num_patches, inner)
    return MultiplyAdds(_encoder(vit, model.visible, patch) + decoder + _laplacian(model.laplacian, model.num_patches))


def _encoder(vit: VisionTransformer, visible: int, patch: int) -> float:
    embedding = visible * patch * vit.embed_dim
    return float(embedding + _blocks(vit.blocks, visible + vit.num_prefix_tokens, vit.embed_dim))


def _blocks(blocks: nn.ModuleList | nn.Sequential, tokens: int, width: int) -> float:
    """Self-attention: four products of the tokens, two between them, and the hidden layer's two."""
    hidden: int = blocks[0].mlp.fc1.out_features  # type: ignore[union-attr,assignment]
    return len(blocks) * tokens * width * (4 * width + 2 * tokens + 2 * hidden)


def _cross_decoder(model: SelectiveMAE, latent: int, targets: int) -> float:
    decoder = model.decoder
    width, depth = decoder.norm.normalized_shape[0], len(decoder.blocks)
    keys_values = latent * model.encoder.embed_dim * decoder.kv.out_features
    mixed = depth * (len(model.encoder.blocks) + 1) * latent * model.encoder.embed_dim if model.mixture else 0
    block = targets * width * (2 * width + 2 * latent + 8 * width)
    return float(keys_values + mixed + depth * block + targets * width * decoder.pred.out_features)


def _laplacian(decoder: LaplacianDecoder, patches: int) -> float:
    total = 0.0
    for band in ((decoder.pyramid_low, decoder.head_low), (decoder.pyramid_high, decoder.head_high)):
        pixels = patches
        for layer in (each for part in band for each in part.modules()):
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                total += pixels * layer.weight.numel()
            if isinstance(layer, nn.ConvTranspose2d):
                pixels *= layer.stride[0] ** 2
    return total


def peak_operations(device: torch.device, precision: str, seconds: float = 1.0) -> float:
    """Operations per second of a large matrix product on this device: what "peak" means in our tables.

    Args:
        device: where.
        precision: ``bf16`` or ``fp32``.
        seconds: about how long to measure; the median product counts.
    """
    side = 8192 if device.type == "cuda" else 1024
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    clock = PartsClock(device)
    started = time.monotonic()
    times: list[float] = []
    while len(times) < 12 or time.monotonic() - started < seconds:
        clock("wait")
        for _ in range(4):
            one @ other
            clock("product")
        times += [took for part, took in clock.read() if part == "product"]
    return 2 * side**3 / statistics.median(times[4:])
