"""Masked autoencoder (He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022)."""

from __future__ import annotations

import torch
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pretrain.config import EncoderConfig, MaeObjective
from pretrain.errors import InputError
from pretrain.models.encoder import encode, initialise, run_blocks
from pretrain.models.objective import Objective, share_of
from pretrain.models.output import Output
from pretrain.models.positions import sincos_2d


class MAE(Objective):
    """Random masking per sample, a self-attention decoder over all positions, loss on the masked patches."""

    parts = ("embed", "decoder_input", "predict", "pixel_loss", "hog_loss")
    decoder_pos: Tensor

    def __init__(self, config: MaeObjective, encoder: EncoderConfig) -> None:
        super().__init__(encoder, norm_pix=config.norm_pix, hog_weight=config.hog_weight)
        self.visible = visible_count(self.num_patches, config.mask_ratio)
        width = config.decoder_dim
        self.decoder_embed = nn.Linear(self.encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_blocks = self_attention_blocks(config.decoder_depth, width, config.decoder_heads)
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, self.outputs)
        if self.patch_size % 2 and config.hog_weight:
            raise InputError(
                f"encoder: HOG cells are half a patch, so {self.patch_size} px patches have none; "
                "set objective.hog_weight to 0"
            )
        self.register_buffer("decoder_pos", sincos_2d(self.grid, width), persistent=False)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            initialise(part)
        nn.init.normal_(self.mask_token, std=0.02)

    def blocks(self) -> list[nn.Module]:
        """Of the encoder and the decoder."""
        return [*self.encoder.blocks, *self.decoder_blocks]

    def forward(self, images: Tensor, gsd: Tensor, noise: Tensor, progress: Tensor) -> Output:
        """One pass over uint8 images (B, 3, H, W).

        Args:
            images: uint8 (B, 3, H, W) of the encoder's size.
            gsd: unused; part of the common interface.
            noise: (B, N) uniform; the patches with the least noise stay visible.
            progress: unused; part of the common interface.
        """
        order = noise.argsort(dim=1)
        visible, masked = order[:, : self.visible], order[:, self.visible :]
        patches = self.patchify(images)
        latent = encode(self.encoder, self.embed(patches, visible))
        prediction, loss = self.judged(self.decode(latent, visible, masked), images, patches, masked)
        return Output(loss, prediction, visible, masked)

    def decode(self, latent: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Predict the masked patches: (B, M, p*p*3), or with their gradients behind, rows as in ``masked``.

        Attention does not depend on the order of tokens, so visible and mask tokens are joined as they come instead of
        being put back into raster order; the prediction then needs no gather either.
        """
        x = self.decoder_input(latent, visible, masked)
        x = run_blocks(self.decoder_blocks, x, recompute=self.grad_checkpointing)
        return self.predict(x, masked.shape[1])

    def decoder_input(self, latent: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Encoded tokens, then mask tokens, with their positions: (B, P + N, W)."""
        seen = self.decoder_embed(latent)
        prefix = seen.shape[1] - visible.shape[1]
        queries = self.mask_token + self.decoder_pos[masked]
        return torch.cat([seen[:, :prefix], seen[:, prefix:] + self.decoder_pos[visible], queries], dim=1)

    def predict(self, x: Tensor, count: int) -> Tensor:
        """What the last ``count`` tokens come to: (B, count, p*p*3), or with gradients behind."""
        prediction: Tensor = self.decoder_pred(self.decoder_norm(x[:, -count:]))
        return prediction


def self_attention_blocks(depth: int, width: int, heads: int) -> nn.ModuleList:
    """``depth`` of timm's transformer blocks."""
    return nn.ModuleList(Block(width, heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth))


def visible_count(patches: int, mask_ratio: float) -> int:
    """Patches that stay visible.

    Raises:
        InputError: none or all of them would.
    """
    visible = share_of(patches, 1 - mask_ratio)
    if not 0 < visible < patches:
        raise InputError(f"objective.mask_ratio: {mask_ratio} leaves {visible} of {patches} patches visible")
    return visible
