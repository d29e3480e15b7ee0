"""What every objective returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """Result of one forward pass over ``B`` images."""

    loss_per_sample: Tensor
    """(B,) float32: mean loss over the sample's own targets, differentiable."""
    prediction: Tensor
    """MAE and SelectiveMAE: (B, T, p*p*3), row ``t`` describes patch ``target_ids[:, t]``, channel fastest, normalised
    per patch when ``norm_pix``. Scale-MAE: the high band (B, 3, S, S) of the target image, ImageNet-normalised."""
    visible_ids: Tensor
    """(B, V) int64: patches that the encoder saw, in its order (raster numbering)."""
    target_ids: Tensor
    """(B, T) int64: patches that the loss covers."""
    low_band: Tensor | None = None
    """Scale-MAE only: the predicted low band (B, 3, S/2, S/2)."""
