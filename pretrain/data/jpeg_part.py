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

from curation.base.native import function
from pretrain.data.augment import Box

SOURCE = Path(__file__).with_suffix(".c")
REDUCED = (4, 3, 2, 1)
"""Eighths of their sides at which images are decoded fast."""
_SUBSAMPLINGS = ("444", "422", "420", "440", "Gray")


class PartDecoder(NamedTuple):
    """The compiled function; without the interpreter lock."""

    function: Any

    def decode(self, data: bytes, whole: tuple[int, int], part: Box, eighths: int = 8) -> npt.NDArray[np.uint8] | None:
        """Pixels of a part, (H, W, 3); null where damage shows down to the part's last row.

        Args:
            data: a JPEG of grey, YCbCr or RGB.
            whole: height and width of the image, as its header says, and reduced.
            part: within it.
            eighths: to which its sides are reduced, as by a fast decoder.
        """
        out = np.empty((part.height * whole[1], 3), np.uint8)
        columns, left = ctypes.c_uint(), ctypes.c_uint()
        place = whole[1], part.left, part.top, part.width, part.height, eighths
        if self.function(data, len(data), *place, out.ctypes.data, ctypes.byref(columns), ctypes.byref(left)):
            return None
        rows = out[: part.height * columns.value].reshape(part.height, columns.value, 3)
        return rows[:, left.value : left.value + part.width]


@cache
def part_decoder() -> PartDecoder | None:
    """The decoder of this process; null where it cannot be compiled, or gives other pixels."""
    words, number = [ctypes.c_uint] * 6, ctypes.POINTER(ctypes.c_uint)
    arguments = [ctypes.c_char_p, ctypes.c_ulong, *words, ctypes.c_void_p, number, number]
    compiled = function(SOURCE, "decode_part", arguments, "-ljpeg")
    return None if compiled is None or not _is_exact(PartDecoder(compiled)) else PartDecoder(compiled)


def _is_exact(decoder: PartDecoder) -> bool:
    """Whether parts at the edges and within are those of the whole, for every subsampling and size."""
    rgb = np.random.default_rng(0).integers(0, 256, (83, 101, 3), np.uint8)
    for subsampling in _SUBSAMPLINGS:
        space = {"colorspace": "GRAY"} if subsampling == "Gray" else {}
        pixels = rgb[:, :, :1] if space else rgb
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 90, **space, colorsubsampling=subsampling)
        for eighths in (8, *REDUCED):
            height, width = (-(-side * eighths // 8) for side in rgb.shape[:2])
            least: dict[str, Any] = {"min_height": height, "min_width": width, "min_factor": 2, "fastupsample": True}
            whole = simplejpeg.decode_jpeg(data, **least if eighths < 8 else {})
            if not all(_is_equal(decoder, data, whole, eighths, part) for part in _parts(height, width)):
                return False
    return True


def _parts(height: int, width: int) -> list[Box]:
    half = Box(width // 3, height // 5, width // 3, height // 3)
    corner = Box(width // 2, height // 2, width - width // 2, height - height // 2)
    return [Box(0, 0, width, height), half, corner, Box(0, height - 1, max(width // 6, 1), 1)]


def _is_equal(decoder: PartDecoder, data: bytes, whole: npt.NDArray[np.uint8], eighths: int, part: Box) -> bool:
    found = decoder.decode(data, whole.shape[:2], part, eighths)
    cut = whole[part.top : part.top + part.height, part.left : part.left + part.width]
    return found is not None and np.array_equal(found, cut)
