"""What a training's log compares its speed with."""

from __future__ import annotations

import torch

from pretrain.bench.arithmetic import multiply_adds, peak_operations
from pretrain.config import TrainConfig
from pretrain.loop import Worth
from pretrain.models import Objective


def worth(model: Objective, config: TrainConfig, device: torch.device) -> Worth | None:
    """Operations of an image, and the device's peak: as stated in ``peak_tflops``, else as measured on a GPU.

    Returns:
        None where the peak is not known: on a CPU without ``peak_tflops``.
    """
    operations = multiply_adds(model).training_operations
    if config.peak_tflops is not None:
        return Worth(operations, config.peak_tflops * 1e12)
    return Worth(operations, peak_operations(device, config.precision)) if device.type == "cuda" else None
