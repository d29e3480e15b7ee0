"""Sheets of pictures: columns of equal squares with a head each, and numbers as colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from curation.base.arrays import Bytes

Colour = tuple[int, int, int]

_CELL, _GAP, _HEAD = 192, 6, 20


class Column(NamedTuple):
    """One column of a sheet."""

    pixels: Bytes
    """(B, H, W, 3)."""
    title: str = ""
    legend: Sequence[tuple[str, Colour]] = ()
    """Stands beside the title: what colours mean."""
    captions: Sequence[str] = ()
    """One per picture, below its upper edge."""


def sheet(columns: Sequence[Column]) -> Image.Image:
    """Columns beside each other, a row per picture."""
    step, rows = _CELL + _GAP, len(columns[0].pixels)
    drawn = Image.new("RGB", (len(columns) * step + _GAP, rows * step + _GAP + _HEAD), "white")
    pen = ImageDraw.Draw(drawn)
    for x, column in enumerate(columns):
        left = _GAP + x * step
        _head(pen, left, column)
        for y, pixels in enumerate(column.pixels):
            cell, top = Image.fromarray(pixels), _HEAD + _GAP + y * step
            drawn.paste(cell.resize((_CELL, _CELL), Image.Resampling.NEAREST), (left, top))
            if column.captions:
                _caption(pen, left, top, column.captions[y])
    return drawn


def _head(pen: ImageDraw.ImageDraw, left: int, column: Column) -> None:
    if column.title:
        pen.text((left, 6), column.title, fill="black")
        left += 10 + int(pen.textlength(column.title))
    for name, colour in column.legend:
        pen.rectangle((left, 8, left + 8, 16), fill=colour)
        pen.text((left + 11, 6), name, fill="black")
        left += 20 + int(pen.textlength(name))


def _caption(pen: ImageDraw.ImageDraw, left: int, top: int, text: str) -> None:
    pen.rectangle((left, top, left + 6 + int(pen.textlength(text)), top + 14), fill="white")
    pen.text((left + 3, top + 1), text, fill="black")


def to_pixels(images: Tensor) -> Bytes:
    """Uint8 (B, 3, H, W) as (B, H, W, 3)."""
    pixels: Bytes = images.permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def heat(values: Tensor, high: Tensor | float, size: int) -> Bytes:
    """Numbers (B, h, w) from 0 (dark) to ``high`` (bright) as colours, (B, size, size, 3), squares kept as squares."""
    from matplotlib import colormaps

    shares = (values.float() / high).clamp(0, 1)[:, None]
    enlarged = F.interpolate(shares, size=(size, size), mode="nearest")[:, 0]
    coloured: Bytes = (colormaps["inferno"](enlarged.cpu().numpy())[..., :3] * 255).round().astype(np.uint8)
    return coloured
