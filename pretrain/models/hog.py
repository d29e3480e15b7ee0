"""Richness of patches: the energy of their histograms of oriented gradients (Dalal and Triggs 2005), batched.

Definition of scikit-image's ``hog`` before block normalisation: central differences per colour channel, zero on the
image border; 9 unsigned orientations of 20 degrees without interpolation; a cell holds the mean over its pixels of the
gradient magnitudes in each bin. A patch is 2 x 2 cells; its richness is the L2 norm of its 2 x 2 x 9 x 3 values.

Bins need no arc tangent: a gradient with ``row >= 0`` points at or beyond angle ``a`` exactly if
``column / row <= cot(a)``, and the quotient of an unsigned direction does not depend on its sign. Nine sums of
magnitudes *at or beyond* each bin's start then give the bins as differences. These sums are made twice here: by tensor
operations for GPUs and compiled graphs, and by :mod:`pretrain.models.hog_kernel` for CPUs, three to five times as fast:
half a percent of a step instead of up to eleven (``docs/benchmarks/step.md``).
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.device import fused

BINS = 9
GRADIENTS = 3 * 4 * BINS
"""Numbers of a patch's histograms: colours, cells, bins."""
_EDGES = [1 / math.tan(index * math.pi / BINS) for index in range(1, BINS)]
"""Column over row of a gradient at the start of bins 1 to 8."""


def richness(images: Tensor, patch_size: int) -> Tensor:
    """HOG energy of every patch.

    Args:
        images: uint8 (B, C, H, W); H and W are multiples of ``patch_size``.
        patch_size: an even number of pixels.

    Returns:
        (B, N) float32, patches in raster order, for pixel values scaled to 0..1.

    Raises:
        ValueError: the sizes do not fit, or the images are not uint8.
    """
    if images.dtype is not torch.uint8:
        raise ValueError(f"richness is of uint8 images, not of {images.dtype}")
    if patch_size % 2 or images.shape[2] % patch_size or images.shape[3] % patch_size:
        raise ValueError(f"patches of {patch_size} px must be even and divide images of {tuple(images.shape[2:])}")
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        energy = cell_histograms(images, patch_size // 2).square().sum(dim=(0, 2))
        batch, rows, columns = energy.shape
        return energy.reshape(batch, rows // 2, 2, columns // 2, 2).sum(dim=(2, 4)).sqrt().flatten(1)


def hog_features(images: Tensor, patch_size: int) -> Tensor:
    """Histograms of every patch's 2 x 2 cells, each cell and channel of length one or, where it is even, zero.

    Args:
        images: uint8 (B, C, H, W), sizes as for :func:`richness`.
        patch_size: an even number of pixels.

    Returns:
        (B, N, C * 4 * 9) float32, patches in raster order; channel slowest, bin fastest.
    """
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        cells = F.normalize(cell_histograms(images, patch_size // 2), dim=0, eps=1e-4)
        bins, batch, channels, rows, columns = cells.shape
        patches = cells.reshape(bins, batch, channels, rows // 2, 2, columns // 2, 2).permute(1, 3, 5, 2, 4, 6, 0)
        return patches.reshape(batch, rows * columns // 4, channels * 4 * bins)


def cell_histograms(images: Tensor, cell: int) -> Tensor:
    """Histograms of the cells of uint8 (B, C, H, W), values scaled to 0..1: (9, B, C, H/cell, W/cell) float32."""
    eager_cpu = images.device.type == "cpu" and not torch.compiler.is_compiling()
    beyond = kernel_beyond(images, cell) if eager_cpu else fused(tensor_beyond, images)(images, cell)
    return (beyond - F.pad(beyond[1:], (0, 0) * 4 + (0, 1))) / (255 * cell * cell)


def kernel_beyond(images: Tensor, cell: int) -> Tensor:
    """Per cell of images on the CPU, magnitudes at or beyond each bin's start: (9, B, C, H/cell, W/cell) float32."""
    from pretrain.models.hog_kernel import (
        fill_beyond,  # compiled at its first call: training on a GPU never waits for it
    )

    batch, channels, height, width = images.shape
    sums = torch.empty(BINS, batch, channels, height // cell, width // cell)
    planes, filled = images.reshape(-1, height, width).numpy(), sums.flatten(1, 2).numpy()
    edges = np.array(_EDGES, np.float32)
    threads = max(1, min(torch.get_num_threads(), len(planes)))
    cuts = [len(planes) * number // threads for number in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda low, high: fill_beyond(planes, cell, edges, filled, low, high), cuts[:-1], cuts[1:]))
    return sums


def tensor_beyond(images: Tensor, cell: int) -> Tensor:
    """The same on any device, as operations that ``torch.compile`` can fuse."""
    down, right = _gradients(images.float())
    squared = down * down
    # Not right / down: a horizontal gradient has angle 0 on both sides, so it must never count as beyond an edge. Here
    # it is 0/0, and comparisons with NaN are false. Whole numbers up to 255 keep both products exact.
    quotient = right * down / squared
    magnitude = torch.addcmul(squared, right, right).sqrt()
    beyond = [_row_sums(magnitude, cell)]
    # In place the comparison gives 0.0 and 1.0, and a product of floats is six times as fast as one with bools.
    beyond += [_row_sums(quotient.clone().le_(edge).mul_(magnitude), cell) for edge in _EDGES]
    return torch.matmul(torch.stack(beyond), _column_pool(images.shape[3], cell, images.device))


def _gradients(values: Tensor) -> tuple[Tensor, Tensor]:
    down, right = torch.zeros_like(values), torch.zeros_like(values)
    down[:, :, 1:-1] = values[:, :, 2:] - values[:, :, :-2]
    right[..., 1:-1] = values[..., 2:] - values[..., :-2]
    return down, right


def _column_pool(width: int, cell: int, device: torch.device) -> Tensor:
    cells = torch.arange(width, device=device) // cell
    return (cells[:, None] == torch.arange(width // cell, device=device)).float()


def _row_sums(values: Tensor, cell: int) -> Tensor:
    batch, channels, height, width = values.shape
    return values.view(batch, channels, height // cell, cell, width).sum(dim=3)
