"""Perceptual hashes of tiles, bit for bit imagehash's, and what deduplication needs beside them.

A tile is *reduced* once, when its pixels are at hand: three small grey images and the statistics of its luma. Whole
batches of reduced tiles are then *finished*: DCT, hashes of the eight orientations, second opinion. The order of the
orientations is identity, rot90, rot180, rot270, mirror, mirror+rot90, mirror+rot180, mirror+rot270 (counter-clockwise;
mirror is left-right and first).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash
from PIL import Image

from curation.base.arrays import Bytes, Doubles, Words

if TYPE_CHECKING:
    import imagehash


SMALL, LARGE = 32, 64
"""Sides of the reductions for the hash and for ``dct16``: four times the side of the block that is kept."""
_GREYS = (0, SMALL**2, 2 * SMALL**2, 2 * SMALL**2 + LARGE**2)
BOXED = 1024
"""Fewest rows and columns that an image too large to be held is averaged to before it is reduced."""

_SAFE_MARGIN = 1e-9
"""Distance from the median, relative to the largest coefficient, below which a matrix product may err."""


class Reduced(NamedTuple):
    """One tile, reduced: all that its fingerprint needs."""

    greys: Bytes
    """``(6144,)``: :attr:`small`, ``(32, 32)`` of the transposed tile (not the transpose of ``small``, since Pillow
    rounds between passes) and ``(64, 64)`` of the tile, one after the other."""
    content_hash: bytes
    mean: float
    std: float

    @property
    def small(self) -> Bytes:
        """Of the tile, ``(32, 32)``."""
        return self.greys[: SMALL * SMALL].reshape(SMALL, SMALL)


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of N tiles."""

    phash: Words
    """``(N,)``; ``format(value, "016x")`` is what ``str(imagehash.phash(image))`` gives."""
    orientations: Words
    """``(N, 8)``; column 0 is ``phash``."""
    dct16: npt.NDArray[np.int8]
    """``(N, 16, 16)``: DCT-II block that ``imagehash.phash(image, hash_size=16)`` looks at, without its mean (the first
    entry is 0)."""
    dct_scale: npt.NDArray[np.float32]
    """``(N,)``: ``dct16 * dct_scale`` are orthonormal coefficients in grey levels."""
    content_hash: list[bytes]
    """xxh3_128 of shape and pixels, 16 bytes each."""
    mean: npt.NDArray[np.float32]
    """``(N,)`` mean of the luma, 0 to 255."""
    std: npt.NDArray[np.float32]
    """``(N,)`` standard deviation of the luma."""
    ac_energy: npt.NDArray[np.float32]
    """``(N,)`` median size of the 63 AC coefficients that the hash compares, orthonormal, in grey levels.

    Rounding to 8 bits alone gives about 0.2; where a tile is near that, its bits are noise. A median, since one strong
    gradient is no texture.
    """


def get_ready() -> None:
    """Load the compiled loops, or compile them in a new installation: no image is to blame for that time."""
    from curation.scan import lanczos, lanczos_kernel, measure_kernel

    lanczos.pass_order()
    lanczos_kernel.kernel()
    measure_kernel.kernel()


def content_hash(rgb: Bytes) -> bytes:
    """Hash of an image's shape and pixels: equal images, and no others, have equal hashes (128 bits)."""
    return pixel_hasher(rgb.shape[0], rgb.shape[1], np.ascontiguousarray(rgb).data).digest()


def pixel_hasher(height: int, width: int, rows: memoryview | bytes = b"") -> xxhash.xxh3_128:
    """Hasher of :func:`content_hash` that more rows can be fed to."""
    hasher = xxhash.xxh3_128(b"%d,%d," % (height, width))
    hasher.update(rows)
    return hasher


def reduce(rgb: Bytes, valid: npt.NDArray[np.bool_] | None = None, grey: Bytes | None = None) -> Reduced:
    """Reduce one tile ``(H, W, 3)``; mean and deviation are those of its ``valid`` pixels ``(H, W)``.

    ``grey`` ``(H, W)`` is its luma, where that is at hand.
    """
    if valid is None:
        greys, moments = _reductions(rgb if grey is None else grey)
    else:
        from curation.scan import lanczos

        grey = lanczos.luma(rgb) if grey is None else grey
        greys, moments = _reductions(grey)[0], lanczos.moments(grey, valid)
    mean, std = _mean_and_std(*moments)
    return Reduced(greys, content_hash(rgb), mean, std)


class RowReducer:
    """Reduction of an image that is seen a strip of rows at a time, top to bottom.

    Its grey image is averaged over boxes of pixels to between :data:`BOXED` and twice as many a side first, and reduced
    from there: what Pillow does with its ``reducing_gap``. Hashes can differ from imagehash's in single bits where the
    boxes hold more than one pixel.
    """

    def __init__(self, height: int, width: int) -> None:
        self._factors = max(height // BOXED, 1), max(width // BOXED, 1)
        self._shape = height, width
        tall, wide = (-(-size // factor) for size, factor in zip(self._shape, self._factors, strict=True))
        self._boxes = np.zeros((tall, wide), np.uint8)
        self._sums = np.zeros(width, np.uint32)
        self._hasher = pixel_hasher(height, width)
        self._rows = self._count = self._total = self._squares = 0

    @property
    def complete(self) -> bool:
        """Whether all rows were seen."""
        return self._rows == self._shape[0]

    def add(self, rgb: Bytes, valid: npt.NDArray[np.bool_] | None) -> Bytes:
        """Take the next rows ``(h, W, 3)`` and their valid pixels ``(h, W)``; returns their luma ``(h, W)``."""
        from curation.scan import lanczos

        grey = lanczos.luma(rgb)
        count, total, squares = lanczos.moments(grey, valid)
        lanczos.average(grey, self._rows, self._shape[0], *self._factors, self._sums, self._boxes)
        self._hasher.update(np.ascontiguousarray(rgb).data)
        self._rows += rgb.shape[0]
        self._count, self._total = self._count + count, self._total + total
        self._squares += squares
        return grey

    def reduced(self) -> Reduced:
        """The whole image, reduced."""
        from curation.scan import lanczos

        bottom, right = (size / factor for size, factor in zip(self._shape, self._factors, strict=True))
        greys = lanczos.by_pillow(Image.fromarray(self._boxes), SMALL, LARGE, (right, bottom))
        mean, std = _mean_and_std(self._count, self._total, self._squares)
        return Reduced(greys, self._hasher.digest(), mean, std)


def _mean_and_std(count: int, total: int, squares: int) -> tuple[float, float]:
    mean = total / max(count, 1)
    return mean, math.sqrt(max(squares / max(count, 1) - mean * mean, 0.0))


def _reductions(pixels: Bytes) -> tuple[Bytes, tuple[int, int, int]]:
    """Reductions of RGB ``(H, W, 3)`` or its luma ``(H, W)``; the luma's count, sum and sum of squares."""
    from curation.scan import lanczos, lanczos_kernel

    order, kernel = lanczos.pass_order(), lanczos_kernel.kernel()
    if order != "unknown" and kernel is not None:
        made = kernel.reduce(pixels, SMALL, LARGE, order == "by_size")
        if made is not None:
            return made.greys, (pixels.shape[0] * pixels.shape[1], made.total, made.squares)
    grey = lanczos.luma(pixels) if pixels.ndim == 3 else pixels
    if order == "unknown":
        greys = lanczos.by_pillow(Image.fromarray(grey), SMALL, LARGE, (grey.shape[1], grey.shape[0]))
    else:
        greys = lanczos.reductions(grey, SMALL, LARGE, order == "by_size")
    return greys, lanczos.moments(grey)


def fingerprint(rgb: Sequence[Bytes], valid: Sequence[npt.NDArray[np.bool_] | None] | None = None) -> Fingerprints:
    """Fingerprint N tiles, each ``(H, W, 3)`` of any size, with their valid pixels ``(H, W)`` where there is a mask."""
    masks = valid if valid is not None else [None] * len(rgb)
    return finish([reduce(tile, mask) for tile, mask in zip(rgb, masks, strict=True)])


def finish(reduced: Sequence[Reduced]) -> Fingerprints:
    """Fingerprints of reduced tiles."""
    greys = np.stack([tile.greys for tile in reduced]) if reduced else np.zeros((0, _GREYS[-1]), np.uint8)
    small, transposed, large = (
        greys[:, start:stop].reshape(-1, side, side).astype(np.float64)
        for (start, stop), side in zip(pairwise(_GREYS), (SMALL, SMALL, LARGE), strict=True)
    )
    block, block_transposed, block16 = _low(small, 8), _low(transposed, 8), _low(large, 16)
    orientations = _orientations(block, block_transposed, small, transposed)
    quantised, scale = _quantise(block16)
    return Fingerprints(
        phash=orientations[:, 0].copy(),
        orientations=orientations,
        dct16=quantised,
        dct_scale=scale,
        content_hash=[tile.content_hash for tile in reduced],
        mean=np.array([tile.mean for tile in reduced], np.float32),
        std=np.array([tile.std for tile in reduced], np.float32),
        ac_energy=_ac_energy(block),
    )


def _low(images: Doubles, side: int) -> Doubles:
    """Lowest ``side`` x ``side`` block of the unnormalised DCT-II of ``(N, S, S)``, rows being vertical frequencies."""
    size = images.shape[1]
    basis = 2.0 * np.cos(np.pi * np.arange(side)[:, None] * (2 * np.arange(size) + 1) / (2 * size))
    across = (images.reshape(-1, size) @ basis.T).reshape(-1, size, side)  # one product for the batch, not one an image
    down = across.transpose(0, 2, 1).reshape(-1, size) @ basis.T
    return np.ascontiguousarray(down.reshape(-1, side, side).transpose(0, 2, 1))


def _bits(block: Doubles, images: Doubles) -> npt.NDArray[np.bool_]:
    """Which coefficients exceed their block's median. Near-ties are decided by the transform that imagehash runs."""
    flat = block.reshape(len(block), block.shape[1] * block.shape[2])
    middle = flat.shape[1] // 2
    ordered = np.sort(flat, axis=1)  # of so few values numpy sorts faster than it partitions
    median = (ordered[:, middle - 1 : middle] + ordered[:, middle : middle + 1]) / 2
    distance = np.abs(flat - median).min(axis=1, initial=np.inf)
    bits = flat > median
    for index in np.flatnonzero(distance <= _SAFE_MARGIN * np.abs(flat).max(axis=1, initial=0.0)):
        bits[index] = _bits_by_fftpack(images[index], block.shape[1])
    return bits


def _bits_by_fftpack(image: Doubles, side: int) -> npt.NDArray[np.bool_]:
    from scipy.fftpack import dct

    low = dct(dct(image, axis=0), axis=1)[:side, :side]
    return np.asarray(low > np.median(low)).reshape(-1)


def _orientations(block: Doubles, transposed: Doubles, small: Doubles, small_transposed: Doubles) -> Words:
    """Hashes in the eight orientations ``(N, 8)``: mirroring an axis changes the sign of its odd frequencies."""
    odd = np.where(np.arange(8) % 2, -1.0, 1.0)
    mirrored, upside = odd[None, :], odd[:, None]  # left-right, top-bottom
    half_turn = mirrored * upside
    plain = (block, small)
    other = (transposed, small_transposed)
    variants: list[tuple[Doubles, Doubles, Doubles | float, int, int]] = [
        (*plain, 1.0, 1, 1),
        (*other, upside, -1, 1),
        (*plain, half_turn, -1, -1),
        (*other, mirrored, 1, -1),
        (*plain, mirrored, 1, -1),
        (*other, 1.0, 1, 1),
        (*plain, upside, -1, 1),
        (*other, half_turn, -1, -1),
    ]
    words = [
        np.packbits(_bits(low * signs, images[:, ::rows, ::columns]), axis=1).view(">u8").astype(np.uint64).reshape(-1)
        for low, images, signs, rows, columns in variants
    ]
    return np.stack(words, axis=1)


def _quantise(block16: Doubles) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    ac = _orthonormal(block16, LARGE)
    ac[:, 0, 0] = 0.0
    scale = np.abs(ac).max(axis=(1, 2), initial=0.0) / 127.0
    safe = np.where(scale > 0, scale, 1.0)
    return np.rint(ac / safe[:, None, None]).astype(np.int8), scale.astype(np.float32)


def _ac_energy(block: Doubles) -> npt.NDArray[np.float32]:
    ac = np.abs(_orthonormal(block, SMALL)).reshape(len(block), 64)[:, 1:]
    return np.median(ac, axis=1).astype(np.float32) if len(ac) else np.zeros(0, np.float32)


def _orthonormal(block: Doubles, size: int) -> Doubles:
    """Scale an unnormalised block of a ``size`` x ``size`` DCT-II to the orthonormal transform."""
    weight = np.full(block.shape[1], math.sqrt(1 / (2 * size)))
    weight[0] = math.sqrt(1 / (4 * size))
    return np.asarray(block * weight[:, None] * weight[None, :])


# ------------------------------------------------------------------------------------------------ in and out


def to_hex(phash: int) -> str:
    """Sixteen hex digits, as imagehash prints a 64-bit hash."""
    return format(int(phash), "016x")


def to_imagehash(phash: int) -> imagehash.ImageHash:
    """The 64-bit hash as imagehash's own object."""
    import imagehash

    return imagehash.hex_to_hash(to_hex(phash))


def from_imagehash(value: imagehash.ImageHash) -> int:
    """The 64-bit hash of imagehash's object.

    Raises:
        ValueError: the hash has another number of bits.
    """
    if value.hash.size != 64:
        raise ValueError(f"expected a hash of 64 bits, found {value.hash.size}")
    return int.from_bytes(np.packbits(value.hash.reshape(-1)).tobytes(), "big")


def extra_hashes(rgb: Bytes, kinds: Sequence[str]) -> dict[str, str]:
    """Other perceptual hashes of one tile ``(H, W, 3)`` as hex, computed by imagehash itself."""
    import imagehash

    functions = {
        "dhash": imagehash.dhash,
        "whash": imagehash.whash,
        "average_hash": imagehash.average_hash,
        "colorhash": imagehash.colorhash,
        "crop_resistant": imagehash.crop_resistant_hash,
    }
    picture = Image.fromarray(rgb)
    return {kind: str(functions[kind](picture)) for kind in kinds}
