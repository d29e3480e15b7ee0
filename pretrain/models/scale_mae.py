"""Scale-MAE: a scale-aware masked autoencoder for multiscale geospatial learning (Reed et al., ICCV 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.config import EncoderConfig, ScaleMaeObjective
from pretrain.errors import InputError
from pretrain.models.encoder import embed_patches, encode, initialise, run_blocks
from pretrain.models.laplacian import LaplacianDecoder
from pretrain.models.mae import self_attention_blocks, visible_count
from pretrain.models.objective import Objective, gather_rows, scatter_rows
from pretrain.models.output import Output
from pretrain.models.positions import gsd_sincos_2d


class ScaleMAE(Objective):
    """Positions in metres; low frequencies are rebuilt at the input's scale, high ones at twice that scale.

    ``crop_size`` is the side of the target image; the encoder's input is made from it by area averaging.
    """

    crop_ratio = (1.0, 1.0)  # one GSD describes square crops only
    uses_gsd = True
    parts = ("band_loss",)

    def __init__(self, config: ScaleMaeObjective, encoder: EncoderConfig) -> None:
        super().__init__(encoder, norm_pix=False)
        self.config = config
        if config.target_size != 32 * self.grid[0]:
            raise InputError(
                f"objective.target_size: {config.target_size}; the decoder makes 32 px per patch of the encoder, "
                f"so {self.grid[0]} x {self.grid[0]} patches need {32 * self.grid[0]}"
            )
        self.input_size, self.crop_size = self.crop_size, config.target_size
        self.visible = visible_count(self.num_patches, config.mask_ratio)
        width = config.decoder_dim
        self.decoder_embed = nn.Linear(self.encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_blocks = self_attention_blocks(config.decoder_depth, width, config.decoder_heads)
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.laplacian = LaplacianDecoder(width, config.fcn_dim, config.fcn_layers)
        for part in (self.decoder_embed, self.decoder_blocks):
            initialise(part)
        nn.init.normal_(self.mask_token, std=0.02)

    def blocks(self) -> list[nn.Module]:
        """Of the encoder and the decoder, and the parts of the Laplacian block."""
        return [*self.encoder.blocks, *self.decoder_blocks, *self.laplacian.children()]

    def forward(self, images: Tensor, gsd: Tensor, noise: Tensor, progress: Tensor) -> Output:
        """One pass over uint8 target images (B, 3, S, S).

        Args:
            images: uint8 (B, 3, S, S), S = ``crop_size``.
            gsd: (B,) metres per pixel of ``images``; the input's pixels are S / input side times as long.
            noise: (B, N) uniform; the patches with the least noise stay visible.
            progress: unused; part of the common interface.
        """
        order = noise.argsort(dim=1)
        visible, masked = order[:, : self.visible], order[:, self.visible :]
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            target = self.normalise_images(images)
            patches = self.patchify(resize_area(target, self.input_size))
            input_gsd = gsd.float() * (self.crop_size / self.input_size)
            positions = gsd_sincos_2d(self.grid, self.encoder.embed_dim, input_gsd)
        tokens = embed_patches(self.encoder, gather_rows(patches, visible)) + gather_rows(positions, visible)
        low, high = self.decode(encode(self.encoder, tokens), visible, input_gsd)
        return Output(self.band_loss(low, high, target, masked), high, visible, masked, low)

    def normalise_images(self, images: Tensor) -> Tensor:
        """Uint8 images to float32 with the ImageNet statistics."""
        return (images.float() / 255 - self.mean[:, None, None]) / self.std[:, None, None]

    def decode(self, latent: Tensor, visible: Tensor, input_gsd: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the low band (B, 3, 16g, 16g) and the high band (B, 3, 32g, 32g) of the whole image."""
        with torch.no_grad(), torch.autocast(latent.device.type, enabled=False):
            positions = gsd_sincos_2d(self.grid, self.config.decoder_dim, input_gsd)
        seen = self.decoder_embed(latent)[:, -visible.shape[1] :] + gather_rows(positions, visible)
        x = scatter_rows(self.mask_token + positions, visible, seen)
        x = self.decoder_norm(run_blocks(self.decoder_blocks, x, recompute=self.grad_checkpointing))
        plane = x.unflatten(1, self.grid).permute(0, 3, 1, 2)  # channels last in memory
        low, high = self.laplacian(plane, recompute=self.grad_checkpointing)
        return low, high

    def band_loss(self, low: Tensor, high: Tensor, target: Tensor, masked: Tensor) -> Tensor:
        """Sum of both bands' losses per sample (B,), float32, over masked areas.

        Each is the sum over the three channels of a mean over pixels, three times a mean over all values, as released.
        """
        with torch.autocast(target.device.type, enabled=False):
            low_target, high_target = bands(target, low.shape[2], self.config.high_band)
            return self._masked_mean(low, low_target, masked, self.config.low_loss) + self._masked_mean(
                high, high_target, masked, self.config.high_loss
            )

    def _masked_mean(self, prediction: Tensor, target: Tensor, masked: Tensor, kind: str) -> Tensor:
        difference = prediction.float() - target
        error = (difference.abs() if kind == "l1" else difference.square()).sum(dim=1)
        per_patch = F.avg_pool2d(error[:, None], target.shape[2] // self.grid[0]).flatten(1)
        return per_patch.gather(1, masked).mean(dim=1)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, output: Output) -> Tensor:
        """The target image as predicted, visible patches as they are: uint8 (B, 3, S, S).

        The high band is an image minus its coarse part, which is taken from the predicted low band.
        """
        assert output.low_band is not None, "an output of Scale-MAE has both bands"
        coarse = resize_area(output.low_band.float(), self.config.high_band)
        colours = output.prediction.float() + enlarge(coarse, self.crop_size)
        colours = colours * self.std[:, None, None] + self.mean[:, None, None]
        guessed = colours.mul(255).round().clamp(0, 255).to(torch.uint8)
        seen = torch.zeros(images.shape[0], self.num_patches, device=images.device).scatter(1, output.visible_ids, 1.0)
        seen = F.interpolate(seen.view(-1, 1, *self.grid), size=self.crop_size, mode="nearest")
        return torch.where(seen > 0, images, guessed)


def bands(image: Tensor, low_size: int, high_band: int) -> tuple[Tensor, Tensor]:
    """Low band (B, C, low_size, low_size) and high band (B, C, S, S) of images (B, C, S, S).

    Low: area averaging. High: the image minus its area reduction to ``high_band`` pixels, enlarged bilinearly.
    """
    return resize_area(image, low_size), image - enlarge(resize_area(image, high_band), image.shape[2])


def resize_area(image: Tensor, side: int) -> Tensor:
    """Average over the area of each new pixel."""
    return F.interpolate(image, size=(side, side), mode="area")


def enlarge(image: Tensor, side: int) -> Tensor:
    """Bilinear, pixel centres aligned at half positions."""
    return F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False)
