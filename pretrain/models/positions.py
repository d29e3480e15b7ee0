"""Fixed 2-D sin-cos position tables, plain (MAE) and scaled by ground sample distance (Scale-MAE).

Layout of both releases: the first half of the channels encodes the column, the second half the row; in each half all
sines come before all cosines; frequency ``k`` of ``D/4`` is ``10000 ** (-k / (D/4))``.
"""

from __future__ import annotations

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor


def frequencies(dim: int, device: torch.device | None = None) -> Tensor:
    """Angular frequencies (D/4,) in float64.

    Raises:
        ValueError: ``dim`` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"a 2-D sin-cos table needs a width divisible by 4, not {dim}")
    steps = torch.arange(dim // 4, dtype=torch.float64, device=device) / (dim / 4)
    return 10000.0**-steps


def sincos_2d(grid: tuple[int, int], dim: int) -> Tensor:
    """Table of a ``(rows, columns)`` grid: (rows*columns, D) float32, raster order, computed in float64 as by MAE."""
    return _table(grid, frequencies(dim), torch.ones(1, dtype=torch.float64))[0].float()


def is_sincos(table: Tensor, grid: tuple[int, int]) -> bool:
    """Whether a table (N, D) of patch positions is the fixed sin-cos table of a grid (released ones are float32)."""
    if table.shape[1] % 4:
        return False
    return bool((table - sincos_2d(grid, table.shape[1]).to(table)).abs().max() < 1e-4)


def on_grid(table: Tensor, grid: tuple[int, int], to: tuple[int, int], prefix: int = 0) -> Tensor:
    """Positions of one grid on another: a sin-cos table is computed anew, a learned one resampled as timm does.

    Args:
        table: (1, P + N, D).
        grid: rows and columns of its last N.
        to: rows and columns that are wanted.
        prefix: P, rows of class and register tokens; they stay.
    """
    if grid == to:
        return table
    if is_sincos(table[0, prefix:], grid):
        return torch.cat([table[:, :prefix], sincos_2d(to, table.shape[2]).to(table)[None]], dim=1)
    resampled: Tensor = resample_abs_pos_embed(table, to, grid, num_prefix_tokens=prefix)
    return resampled


def gsd_sincos_2d(grid: tuple[int, int], dim: int, gsd: Tensor) -> Tensor:
    """One table per sample with positions multiplied by its GSD over a reference of 1 m (Scale-MAE, section 3.1).

    Args:
        grid: rows and columns of patches.
        dim: width D of the table.
        gsd: (B,) metres per pixel of the image that the patches are cut from.

    Returns:
        (B, rows*columns, D) float32. Angles are float32 like the release's: at 60 m and 14 rows they reach 780, where
        one unit in the last place of the angle is 6e-5, so tables of different devices agree to about 1e-4.
    """
    return _table(grid, frequencies(dim, gsd.device).float(), gsd.float())


def _table(grid: tuple[int, int], omega: Tensor, scale: Tensor) -> Tensor:
    rows, columns = (_waves(n, omega, scale) for n in grid)
    shape = (scale.shape[0], grid[0], grid[1], 2 * omega.shape[0])
    return torch.cat([columns[:, None].expand(shape), rows[:, :, None].expand(shape)], dim=3).flatten(1, 2)


def _waves(length: int, omega: Tensor, scale: Tensor) -> Tensor:
    steps = torch.arange(length, dtype=omega.dtype, device=omega.device)
    angles = (scale[:, None] * steps)[:, :, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=2)
