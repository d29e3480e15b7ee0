"""The encoder: a timm VisionTransformer whose blocks run on chosen patches only.

The model stays timm's own object, so its ``state_dict()`` is the export and loads strictly into a timm model of the
same name. Position tables are frozen sin-cos tables (MAE, He et al. 2022, appendix A.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pretrain.config import EncoderConfig
from pretrain.errors import InputError
from pretrain.models.positions import sincos_2d


def build_encoder(config: EncoderConfig) -> VisionTransformer:
    """Make the timm model with MAE's initialisation and the frozen sin-cos table in ``pos_embed``.

    Raises:
        InputError: timm does not know the name or an argument, or the model is not a plain ViT that can be pretrained
            by masking (attention pooling, RoPE, no absolute positions, hybrid or distilled models).
    """
    if not timm.is_model(config.name):
        raise InputError(f"encoder.name: timm has no model {config.name!r}; see timm.list_models('vit_*')")
    try:
        model = timm.create_model(config.name, pretrained=False, **timm_args(config))
    except (TypeError, AssertionError, ValueError) as error:
        _refuse_by_kind(config)
        hint = "only timm's VisionTransformer works here, for example 'vit_base_patch16_224'"
        raise InputError(f"encoder.args: timm cannot make {config.name!r} with them ({error}); {hint}") from None
    vit = _supported(config.name, model)
    initialise(vit)
    _set_positions(vit)
    return vit


def timm_args(config: EncoderConfig) -> dict[str, Any]:
    """All keyword arguments of ``timm.create_model`` that make the encoder, its name apart."""
    return {"num_classes": 0, "global_pool": "token", "fc_norm": False, **config.args}


def _refuse_by_kind(config: EncoderConfig) -> None:
    """Where timm refuses our arguments, the model as its author made it may show why it would not do at all."""
    try:
        with torch.device("meta"):
            model = timm.create_model(config.name, pretrained=False, num_classes=0)
    except (TypeError, AssertionError, ValueError):
        return
    _supported(config.name, model)


def _supported(name: str, model: nn.Module) -> VisionTransformer:
    if not isinstance(model, VisionTransformer) or type(model) is not VisionTransformer:
        kind = "uses rotary positions (RoPE)" if getattr(model, "rope", None) is not None else "is no plain ViT"
        raise InputError(
            f"encoder.name: {name!r} {kind} ({type(model).__name__}); only timm's VisionTransformer works here"
        )
    proj = getattr(model.patch_embed, "proj", None)
    problems = {
        "has no absolute position embedding": model.pos_embed is None,
        "pools by attention": model.attn_pool is not None,
        "has no class token": model.cls_token is None,
        "normalises after pooling (fc_norm)": not isinstance(model.fc_norm, nn.Identity),
        f"has width {model.embed_dim}, no multiple of 4 as sin-cos tables need": model.embed_dim % 4 > 0,
        "does not cut plain RGB patches": not isinstance(proj, nn.Conv2d)
        or tuple(proj.kernel_size) != tuple(proj.stride)
        or proj.in_channels != 3,
        "keeps a classifier (num_classes must be 0)": model.num_classes != 0,
        "drops patches or positions (pos_drop_rate, patch_drop_rate)": not isinstance(model.patch_drop, nn.Identity)
        or model.pos_drop.p > 0,
    }
    for problem, present in problems.items():
        if present:
            raise InputError(f"encoder.name: {name!r} {problem}; use for example 'vit_base_patch16_224'")
    return model


def initialise(module: nn.Module) -> None:
    """MAE's start: xavier-uniform linear layers, unit LayerNorms; for a ViT also patch kernel and tokens."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()
    if isinstance(module, VisionTransformer):
        nn.init.xavier_uniform_(module.patch_embed.proj.weight.flatten(1))
        for token in (module.cls_token, module.reg_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)


def _set_positions(vit: VisionTransformer) -> None:
    table = position_table(vit).requires_grad_(False)
    table.zero_()
    patch_positions(vit).copy_(sincos_2d(vit.patch_embed.grid_size, vit.embed_dim))


def position_table(vit: VisionTransformer) -> Tensor:
    """The frozen table (1, P + N, D) or (1, N, D)."""
    assert vit.pos_embed is not None, "build_encoder refuses models without positions"
    return vit.pos_embed


def patch_positions(vit: VisionTransformer) -> Tensor:
    """The patches' rows of the position table, (N, D), without the class and register tokens' rows."""
    return position_table(vit)[0, -vit.patch_embed.num_patches :]


def embed_patches(vit: VisionTransformer, patches: Tensor) -> Tensor:
    """The patch embedding as one matrix product: (B, n, 3*p*p) normalised patches, channel slowest, to (B, n, D).

    Equal to timm's convolution, but for any subset of the patches.
    """
    proj = vit.patch_embed.proj
    tokens: Tensor = vit.patch_embed.norm(F.linear(patches, proj.weight.flatten(1), proj.bias))
    return tokens


def encode(vit: VisionTransformer, tokens: Tensor) -> Tensor:
    """Run the blocks on tokens that carry their positions.

    Args:
        vit: the encoder; ``vit.grad_checkpointing`` recomputes each block in the backward pass.
        tokens: (B, n, D).

    Returns:
        (B, P + n, D) after the final norm; P class and register tokens come first.
    """
    x = run_blocks(vit.blocks, _with_prefix(vit, tokens), recompute=vit.grad_checkpointing)
    normed: Tensor = vit.norm(x)
    return normed


def encode_layers(vit: VisionTransformer, tokens: Tensor) -> list[Tensor]:
    """What goes into the first block and what comes out of each, as :func:`encode`; only the last is normed."""
    layers = [_with_prefix(vit, tokens)]
    for block in vit.blocks:
        layers.append(run_blocks([block], layers[-1], recompute=vit.grad_checkpointing))
    layers[-1] = vit.norm(layers[-1])
    return layers


def _with_prefix(vit: VisionTransformer, tokens: Tensor) -> Tensor:
    prefix = _prefix(vit).expand(tokens.shape[0], -1, -1)
    joined: Tensor = vit.norm_pre(torch.cat([prefix.to(tokens.dtype), tokens], dim=1))
    return joined


def _prefix(vit: VisionTransformer) -> Tensor:
    prefix = torch.cat([token for token in (vit.cls_token, vit.reg_token) if token is not None], dim=1)
    table = position_table(vit)
    if table.shape[1] > vit.patch_embed.num_patches:
        prefix = prefix + table[:, : prefix.shape[1]]
    return prefix


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, *, recompute: bool) -> Tensor:
    """Apply blocks in turn; with ``recompute`` keep only each block's input for the backward pass."""
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if recompute and torch.is_grad_enabled() else block(x)
    return x
