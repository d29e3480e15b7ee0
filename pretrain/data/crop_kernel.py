"""Crops resized antialiased and bicubic as torch does, bit for bit, from where they lie to where they go.

Torch's own kernel wants the crop copied, and gives another tensor that is copied again. Taken where a C compiler and a
processor with AVX2 are at hand, and only if it gives torch's very pixels.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from curation.base.arrays import Ints
from curation.base.native import function
from pretrain.data.resize import bicubic

SOURCE = Path(__file__).with_suffix(".c")
_ACROSS, _DOWN = 4, 2
"""What the numbers of taps must be multiples of."""
_BITS = 22
"""Greatest precision of torch's weights."""


class _Axis(ctypes.Structure):
    """How one axis is resized; arrays are those of the C file."""

    _fields_ = (
        ("first", ctypes.c_void_p), ("weights", ctypes.c_void_p),
        ("taps", ctypes.c_int32), ("precision", ctypes.c_int32),
    )  # fmt: skip

    def __init__(self, first: Ints, weights: npt.NDArray[np.float64], precision: int) -> None:
        self.held = first.astype(np.int32), np.rint(weights * 2**precision).astype(np.int16)
        super().__init__(*(array.ctypes.data for array in self.held), weights.shape[1], precision)


class Resizer(NamedTuple):
    """The compiled function."""

    function: Any

    def resize(self, cut: npt.NDArray[np.uint8], out: Tensor) -> bool:
        """Resize (H, W, 3), of which only rows may lie apart, into (3, S, S) uint8; says whether it can."""
        height, width, size = *cut.shape[:2], out.shape[-1]
        apart = cut.strides[0] >= 3 * width  # the last row ends last in memory, behind which nothing is read
        if cut.shape[2] != 3 or cut.strides[1:] != (3, 1) or not apart or size % 4 or not out.is_contiguous():
            return False
        columns, rows = _axis(width, size, _ACROSS), _axis(height, size, _DOWN)
        if columns is None or rows is None:
            return False
        given = cut.ctypes.data, cut.strides[0], width, height, size, columns, rows, out.data_ptr()
        return not self.function(*given)


@cache
def resizer() -> Resizer | None:
    """The function of this process; null where it cannot be compiled or run, or gives other pixels."""
    place, number, axis = ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Axis)
    arguments = [place, ctypes.c_long, number, number, number, axis, axis, place]
    compiled = function(SOURCE, "resize", arguments, can="can_resize")
    return None if compiled is None or not _is_exact(Resizer(compiled)) else Resizer(compiled)


@lru_cache(4096)  # of some 7 kB: all lengths of crops of images up to 2,000 px
def _axis(length: int, size: int, multiple: int) -> _Axis | None:
    """Weights of an axis; null where so few pixels cannot be told from what lies beside them."""
    first, weights = _weights(length, size)
    wide = -(-weights.shape[1] // multiple) * multiple
    if wide > length:
        return None
    start = np.minimum(first, length - wide)
    places = np.arange(wide) + (start - first)[:, None]
    inside = (places >= 0) & (places < weights.shape[1])
    weights = np.where(inside, np.take_along_axis(weights, places.clip(0, weights.shape[1] - 1), 1), 0.0)
    precision = next(
        bits for bits in range(_BITS + 1) if bits == _BITS or weights.max() * 2 ** (bits + 1) + 0.5 >= 2**15
    )
    return _Axis(start, weights, precision)


def _weights(length: int, size: int) -> tuple[Ints, npt.NDArray[np.float64]]:
    """First pixels (S,) and weights (S, T) of torch's ``_upsample_bicubic2d_aa``: Keys' cubic with a = -0.5."""
    scale = length / size
    stretch = max(scale, 1.0)
    centre = scale * (np.arange(size) + 0.5)
    first = np.maximum(centre - 2 * stretch + 0.5, 0).astype(np.int64)
    count = np.minimum((centre + 2 * stretch + 0.5).astype(np.int64), length) - first
    places = np.arange(count.max())
    x = (places + first[:, None] - centre[:, None] + 0.5) / stretch
    weights = bicubic(torch.from_numpy(x)).numpy() * (places < count[:, None])
    return first, weights / weights.sum(1, keepdims=True)


def _is_exact(found: Resizer) -> bool:
    """Whether images reduced and enlarged, whole and cut out, are torch's."""
    rgb = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    for size, cut in ((32, rgb), (100, rgb), (64, rgb[20:59, 14:131]), (48, rgb[3:51, 40:88])):
        image, out = torch.from_numpy(cut.copy()).permute(2, 0, 1)[None], torch.empty(3, size, size, dtype=torch.uint8)
        theirs = F.interpolate(image, size=(size, size), mode="bicubic", antialias=True, align_corners=False)[0]
        if not found.resize(cut, out) or not torch.equal(out, theirs):
            return False
    return True
