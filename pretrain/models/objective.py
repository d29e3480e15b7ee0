"""What the objectives share: the encoder, the images' statistics, patches, targets, pictures."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pretrain.config import EncoderConfig
from pretrain.errors import InputError
from pretrain.models.encoder import build_encoder, embed_patches, patch_positions
from pretrain.models.hog import GRADIENTS, hog_features
from pretrain.models.output import Output

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Objective(nn.Module):
    """Base of the objectives.

    Attributes:
        encoder: the timm VisionTransformer that is pretrained and exported.
        pixels: numbers that a predicted patch has.
        outputs: numbers that a decoder gives for a patch: its pixels and, with ``hog_weight``, its gradients.
        crop_size: side in pixels of the square uint8 images that ``forward`` takes.
        crop_ratio: least and greatest aspect ratio of the random crop.
        noise_size: columns of the uniform noise that ``forward`` takes.
        uses_gsd: whether ``forward`` reads ``gsd`` (then it must not be NaN).
        parts: methods that are compiled on their own, beside the blocks.
    """

    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    uses_gsd = False
    parts: tuple[str, ...] = ("embed", "pixel_loss")
    mean: Tensor
    std: Tensor

    def __init__(self, encoder: EncoderConfig, *, norm_pix: bool, hog_weight: float = 0.0) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder)
        patch = self.encoder.patch_embed
        if patch.patch_size[0] != patch.patch_size[1] or patch.img_size[0] != patch.img_size[1]:
            raise InputError(f"encoder: images and patches must be square, not {patch.img_size} and {patch.patch_size}")
        if patch.img_size[0] % patch.patch_size[0]:
            raise InputError(f"encoder.args.img_size: {patch.img_size[0]} is no multiple of {patch.patch_size[0]} px")
        self.patch_size: int = patch.patch_size[0]
        self.grid: tuple[int, int] = patch.grid_size
        self.num_patches: int = patch.num_patches
        self.crop_size: int = patch.img_size[0]
        self.pixels: int = 3 * self.patch_size**2
        self.noise_size: int = self.num_patches
        self.norm_pix = norm_pix
        self.hog_weight = hog_weight
        self.outputs = self.pixels + (GRADIENTS if hog_weight else 0)
        self.grad_checkpointing = False
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN))
        self.register_buffer("std", torch.tensor(IMAGENET_STD))

    def enter(self, progress: float) -> None:
        """Told before each step which share of training is done; the number of tokens may follow from it."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the blocks' inputs for the backward pass, in the encoder and the decoder."""
        self.encoder.set_grad_checkpointing(enable)
        self.grad_checkpointing = enable

    def blocks(self) -> list[nn.Module]:
        """Modules that are compiled one by one; alike ones share their kernels."""
        return list(self.encoder.blocks)

    def compiled(self, how: bool | Literal["auto", "model"]) -> nn.Module:
        """What a training loop calls: this, with its blocks and ``parts`` compiled in place, or the whole as one graph.

        Blocks compile within seconds, whatever the depth, and gradients are exchanged while others are computed.
        """
        if how == "model":
            whole: nn.Module = torch.compile(self, dynamic=False)  # type: ignore[assignment]
            return whole
        if how is True:
            for block in self.blocks():
                block.compile(dynamic=False, fullgraph=True)
            for name in self.parts:
                setattr(self, name, torch.compile(getattr(self, name), dynamic=False, fullgraph=True))
        return self

    def patchify(self, images: Tensor) -> Tensor:
        """Cut (B, 3, H, W) into (B, N, 3*p*p), channel slowest (the order of the patch kernel), dtype kept.

        Raises:
            ValueError: the images have another size than the encoder.
        """
        if images.shape[2] != self.grid[0] * self.patch_size or images.shape[3] != self.grid[1] * self.patch_size:
            raise ValueError(f"images are {tuple(images.shape)}, the encoder takes {self.encoder.patch_embed.img_size}")
        p = self.patch_size
        blocks = images.reshape(-1, 3, self.grid[0], p, self.grid[1], p)
        return blocks.permute(0, 2, 4, 1, 3, 5).reshape(images.shape[0], self.num_patches, 3 * p * p)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Inverse of :meth:`patchify`."""
        p = self.patch_size
        blocks = patches.reshape(-1, *self.grid, 3, p, p).permute(0, 3, 1, 4, 2, 5)
        return blocks.reshape(patches.shape[0], 3, self.grid[0] * p, self.grid[1] * p)

    def normalise(self, patches: Tensor) -> Tensor:
        """Patches of 0..255, channel slowest, to float32 with the ImageNet statistics."""
        area = self.patch_size**2
        scale = (1 / (255 * self.std)).repeat_interleave(area)
        shift = (self.mean / self.std).repeat_interleave(area)
        return patches.float() * scale - shift

    def embed(self, patches: Tensor, ids: Tensor) -> Tensor:
        """Embed the chosen patches of (B, N, 3*p*p) uint8 and add their positions: (B, n, D)."""
        tokens = embed_patches(self.encoder, self.normalise(gather_rows(patches, ids)))
        return tokens + patch_positions(self.encoder)[ids]

    def targets(self, patches: Tensor, ids: Tensor) -> Tensor:
        """What the loss compares with: (B, T, p*p*3) float32, channel fastest, per-patch normalised if ``norm_pix``."""
        values = swap_channels(self.normalise(gather_rows(patches, ids)), 3, self.patch_size**2)
        if not self.norm_pix:
            return values
        mean, deviation = patch_statistics(values)
        return (values - mean) / deviation

    def pixel_loss(self, prediction: Tensor, patches: Tensor, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean squared error per sample (B,), float32 whatever the precision; over targets by ``weights`` (B, T)."""
        errors = (prediction.float() - self.targets(patches, ids)).square()
        if weights is None:
            return errors.mean(dim=(1, 2))
        return (errors.mean(dim=2) * weights).sum(dim=1) / weights.sum(dim=1)

    def judged(
        self, output: Tensor, images: Tensor, patches: Tensor, ids: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predicted pixels (B, T, p*p*3) and the loss per sample (B,) of a decoder's ``outputs`` for chosen patches."""
        prediction = output[:, :, : self.pixels]
        loss = self.pixel_loss(prediction, patches, ids, weights)
        if self.hog_weight:
            loss = loss + self.hog_weight * self.hog_loss(output[:, :, self.pixels :], images, ids)
        return prediction, loss

    def hog_loss(self, prediction: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        """Mean squared error per sample (B,) of the chosen patches' predicted gradients (B, T, 108), float32."""
        wanted = gather_rows(hog_features(images, self.patch_size), ids)
        loss: Tensor = (prediction.float() - wanted).square().mean(dim=(1, 2))
        return loss

    @torch.no_grad()
    def reconstruct(self, images: Tensor, output: Output) -> Tensor:
        """Picture of an output: visible patches as they are, targets as predicted, everything else mid-grey.

        Args:
            images: the uint8 images (B, 3, H, W) that ``forward`` saw. With ``norm_pix`` a target's own mean and
                deviation are borrowed from them, since the model does not predict those.
            output: what ``forward`` returned for them.

        Returns:
            uint8 (B, 3, H, W).
        """
        patches = self.patchify(images)
        guess = output.prediction.float()
        if self.norm_pix:
            mean, deviation = patch_statistics(self.normalise(gather_rows(patches, output.target_ids)))
            guess = guess * deviation + mean
        area = self.patch_size**2
        colours = swap_channels(guess, area, 3) * self.std.repeat_interleave(area) + self.mean.repeat_interleave(area)
        guessed = colours.mul(255).round().clamp(0, 255).to(torch.uint8)
        canvas = torch.full_like(patches, 128)
        canvas = scatter_rows(canvas, output.visible_ids, gather_rows(patches, output.visible_ids))
        return self.unpatchify(scatter_rows(canvas, output.target_ids, guessed))


def gather_rows(rows: Tensor, ids: Tensor) -> Tensor:
    """Rows ``ids`` (B, n) of (B, N, D): (B, n, D)."""
    return rows.gather(1, ids[:, :, None].expand(-1, -1, rows.shape[2]))


def scatter_rows(rows: Tensor, ids: Tensor, values: Tensor) -> Tensor:
    """A copy of (B, N, D) with rows ``ids`` (B, n) replaced by (B, n, D)."""
    return rows.scatter(1, ids[:, :, None].expand(-1, -1, rows.shape[2]), values)


def swap_channels(patches: Tensor, outer: int, inner: int) -> Tensor:
    """Reorder the last axis of (B, n, outer*inner) from ``outer`` slowest to ``outer`` fastest."""
    batch, count = patches.shape[:2]
    return patches.view(batch, count, outer, inner).transpose(2, 3).flatten(2)


def patch_statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (B, n, 1) over a patch's values: unbiased variance plus 1e-6, as released by MAE."""
    variance, mean = torch.var_mean(values, dim=2, keepdim=True)
    return mean, torch.sqrt(variance + 1e-6)


def share_of(total: int, share: float) -> int:
    """floor(total * share), safe against 0.15 being a little below 0.15."""
    return int(total * share + 1e-6)
