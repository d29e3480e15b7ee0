"""Parts of JPEGs, decoded without the rest; used where a C compiler and libjpeg-turbo's header are at hand.

No wheel offers libjpeg-turbo's cropping (``jpeg_crop_scanline``), so ``jpeg_part.c`` is compiled once for a state of
its source and kept beside numba's code. It is taken only if it gives the very pixels that ``simplejpeg`` gives.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

from pretrain.data.augment import Box
from pretrain.data.native import library

SOURCE = Path(__file__).with_suffix(".c")
_SUBSAMPLINGS = ("444", "422", "420", "440", "Gray")


class PartDecoder(NamedTuple):
    """The compiled function; without the interpreter lock."""

    function: Any

    def decode(self, data: bytes, whole: tuple[int, int], part: Box) -> npt.NDArray[np.uint8] | None:
        """Pixels of a part, (H, W, 3); null where damage shows down to the part's last row.

        Args:
            data: a JPEG of grey, YCbCr or RGB.
            whole: height and width of the image, as its header says.
            part: within it.
        """
        out = np.empty((part.height * whole[1], 3), np.uint8)
        columns, left = ctypes.c_uint(), ctypes.c_uint()
        place = whole[1], part.left, part.top, part.width, part.height
        if self.function(data, len(data), *place, out.ctypes.data, ctypes.byref(columns), ctypes.byref(left)):
            return None
        rows = out[: part.height * columns.value].reshape(part.height, columns.value, 3)
        return rows[:, left.value : left.value + part.width]


@cache
def part_decoder() -> PartDecoder | None:
    """The decoder of this process; null where it cannot be compiled, or gives other pixels."""
    compiled = library(SOURCE, "-ljpeg")
    if compiled is None:
        return None
    function, number = compiled.decode_part, ctypes.POINTER(ctypes.c_uint)
    words = [ctypes.c_uint] * 5
    function.argtypes = [ctypes.c_char_p, ctypes.c_ulong, *words, ctypes.c_void_p, number, number]
    decoder = PartDecoder(function)
    return decoder if _is_exact(decoder) else None


def _is_exact(decoder: PartDecoder) -> bool:
    """Whether parts at the edges and within are those of the whole, for every subsampling."""
    rgb = np.random.default_rng(0).integers(0, 256, (83, 101, 3), np.uint8)
    for subsampling in _SUBSAMPLINGS:
        space = {"colorspace": "GRAY"} if subsampling == "Gray" else {}
        pixels = rgb[:, :, :1] if space else rgb
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 90, **space, colorsubsampling=subsampling)
        whole = simplejpeg.decode_jpeg(data)
        for part in (Box(0, 0, 101, 83), Box(33, 17, 41, 29), Box(48, 40, 53, 43), Box(0, 64, 17, 1)):
            cut = whole[part.top : part.top + part.height, part.left : part.left + part.width]
            found = decoder.decode(data, (83, 101), part)
            if found is None or not np.array_equal(found, cut):
                return False
    return True
