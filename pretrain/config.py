"""One configuration of a training run: strict, one YAML per published experiment in ``pretrain/configs/``.

The command line, Python and the checkpoint share these models. What an objective computes is in
:mod:`pretrain.models`; here are only its numbers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from curation.settings import Strict


class EncoderConfig(Strict):
    """The timm VisionTransformer that is pretrained."""

    name: str = "vit_base_patch16_224"
    """A timm model name; made with ``num_classes=0, global_pool='token', fc_norm=False, pretrained=False``."""
    args: dict[str, Any] = {}
    """Further keyword arguments of ``timm.create_model``: ``img_size``, ``patch_size``, ``depth``, ..."""


class _Objective(Strict):
    """What all objectives share."""

    mask_ratio: float = Field(0.75, gt=0, lt=1)
    decoder_depth: int = Field(8, ge=1)
    decoder_dim: int = Field(512, ge=8)
    decoder_heads: int = Field(16, ge=1)
    norm_pix: bool = True

    @model_validator(mode="after")
    def _heads_divide(self) -> _Objective:
        if self.decoder_dim % self.decoder_heads:
            raise ValueError(f"decoder_heads {self.decoder_heads} must divide decoder_dim {self.decoder_dim}")
        return self


class MaeObjective(_Objective):
    """Masked autoencoder (He et al. 2022): the baseline."""

    name: Literal["mae"]


Selection = Literal["hog_sample", "hog_topk", "uniform"]


class SelectiveMaeObjective(_Objective):
    """SelectiveMAE: 15 % visible, 25 % reconstructed, both chosen."""

    name: Literal["selective_mae"]
    mask_ratio: float = Field(0.85, gt=0, lt=1)
    target_ratio: float = Field(0.25, gt=0, lt=1)
    decoder_depth: int = Field(12, ge=1)
    seeds: Selection = "hog_sample"
    targets: Selection = "hog_topk"
    temperature: float = Field(1.0, gt=0)
    borders: tuple[float, float, float, float] = (0.35, 0.375, 0.725, 0.75)
    """Shares of training where near ends, far begins, far ends, random begins."""

    @model_validator(mode="after")
    def _counts(self) -> SelectiveMaeObjective:
        if self.target_ratio > self.mask_ratio:
            raise ValueError(f"target_ratio {self.target_ratio} exceeds mask_ratio {self.mask_ratio}: targets are masked patches")
        if list(self.borders) != sorted(self.borders) or not 0 <= self.borders[0] <= self.borders[-1] <= 1:
            raise ValueError("borders must ascend within 0 and 1")
        return self


class ScaleMaeObjective(_Objective):
    """Scale-MAE: positions scaled by GSD, Laplacian band-pass decoder."""

    name: Literal["scale_mae"]
    decoder_depth: int = Field(3, ge=1)
    target_size: int = Field(448, ge=32)
    fcn_dim: int = Field(512, ge=8)
    fcn_layers: int = Field(2, ge=1)
    high_band: int = Field(14, ge=1)
    """Side to which the image is reduced before it is taken away from itself; the released training script has 7."""
    low_loss: Literal["l1", "l2"] = "l2"
    high_loss: Literal["l1", "l2"] = "l1"
    """The released training script has l2 for both."""


Objective = Annotated[MaeObjective | SelectiveMaeObjective | ScaleMaeObjective, Field(discriminator="name")]
