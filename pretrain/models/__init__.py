"""Objectives: modules from a batch of images to a loss per sample. Nothing here touches files or process groups."""

from __future__ import annotations

from pretrain.config import EncoderConfig, MaeObjective, ScaleMaeObjective, SelectiveMaeObjective
from pretrain.models.mae import MAE
from pretrain.models.objective import Objective
from pretrain.models.output import Output
from pretrain.models.scale_mae import ScaleMAE
from pretrain.models.selective_mae import SelectiveMAE

__all__ = ["MAE", "Objective", "Output", "ScaleMAE", "SelectiveMAE", "build_objective"]


def build_objective(
    config: MaeObjective | SelectiveMaeObjective | ScaleMaeObjective, encoder: EncoderConfig
) -> Objective:
    """Make the objective that ``config`` names around a new encoder.

    Raises:
        InputError: the encoder cannot be pretrained by masking, or the ratios do not fit its number of patches.
    """
    if isinstance(config, MaeObjective):
        return MAE(config, encoder)
    if isinstance(config, SelectiveMaeObjective):
        return SelectiveMAE(config, encoder)
    return ScaleMAE(config, encoder)
