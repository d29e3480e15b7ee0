"""Whole images decoded in memory: JPEG, PNG, BMP, WebP, AVIF, and the first frame of a GIF.

The integrity of the stream is checked, and EXIF rotation is undone.
"""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from curation.base.arrays import Bytes, Mask
from curation.base.errors import DAMAGED_IMAGE, UnreadableImage
from curation.catalogue import Window

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "AVIF", "GIF")
_EXIF_ORIENTATION = 0x0112


class Decoded(NamedTuple):
    """An image that lies decoded in memory, upright."""

    rgb: Bytes
    valid: Mask | None
    bands: int
    dtype: str
    format: str
    plain: bool
    """The file's own bytes are an 8-bit three-component JPEG that is upright as it is."""
    soft_alpha: float = 0.0
    """Share of pixels that are neither opaque nor transparent."""
    turned: bool = False
    """Whether EXIF turned it: then rows and columns are not those that a world file counts."""

    @property
    def width(self) -> int:
        """Columns."""
        return self.rgb.shape[1]

    @property
    def height(self) -> int:
        """Rows."""
        return self.rgb.shape[0]

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns that are decoded together: all."""
        return self.height, self.width

    def read(self, window: Window) -> tuple[Bytes, Mask | None]:
        """Pixels ``(h, w, 3)`` and valid pixels of a window; views, not copies."""
        rows = slice(window.row_off, window.row_off + window.height)
        columns = slice(window.col_off, window.col_off + window.width)
        return self.rgb[rows, columns], None if self.valid is None else self.valid[rows, columns]


class JpegHeader(NamedTuple):
    """What a JPEG's markers say before its first scan."""

    width: int
    height: int
    components: int
    precision: int
    orientation: int


def jpeg_header(data: bytes) -> JpegHeader:
    """Walk the markers up to the frame header.

    Raises:
        UnreadableImage: no frame header.
    """
    at, orientation = 2, 1
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = data[at + 4 : at + 10]
            if len(frame) < 6:
                break
            height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
            return JpegHeader(width, height, frame[5], frame[0], orientation)
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _orientation(data[at + 10 : at + 2 + size])
        at += 2 + size
    raise UnreadableImage("JPEG without a frame header")


def _orientation(tiff: bytes) -> int:
    """Orientation tag of an EXIF block, 1 where it is absent or damaged."""
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return 1

    def number(start: int, size: int) -> int:
        """A whole number in the block's byte order."""
        return int.from_bytes(tiff[start : start + size], "little" if order == "little" else "big")

    directory = number(4, 4)
    for entry in range(min(number(directory, 2), 512)):
        start = directory + 2 + 12 * entry
        if number(start, 2) == _EXIF_ORIENTATION:
            value = number(start + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def decode(data: bytes, image_format: str, max_pixels: int, header: JpegHeader | None = None) -> Decoded:
    """Decode a whole image; ``header`` is that of a JPEG, where it is at hand.

    Raises:
        UnreadableImage: damaged, truncated, or more than ``max_pixels``, which is checked before decoding.
    """
    if image_format == "JPEG":
        header = header or jpeg_header(data)
        _bounded(header.width, header.height, max_pixels)
        if header.components in (1, 3) and header.precision == 8:
            return _jpeg(data, header)
    return _by_pillow(data, image_format, max_pixels)


def _bounded(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise UnreadableImage(f"{width} x {height} pixels, more than max_pixels={max_pixels}")


def _jpeg(data: bytes, header: JpegHeader) -> Decoded:
    import simplejpeg

    try:
        rgb = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError as error:
        if "extraneous bytes" not in str(error):
            raise UnreadableImage(f"JPEG: {error}") from None
        return _by_pillow(data, "JPEG", header.width * header.height)  # garbage between markers: every pixel is there
    turned = header.orientation != 1
    plain = header.components == 3 and not turned
    return Decoded(_turn(rgb, header.orientation), None, header.components, "uint8", "JPEG", plain, turned=turned)


def _turn(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Undo an EXIF orientation; the standard's figure of eight, rows first."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _by_pillow(data: bytes, image_format: str, max_pixels: int) -> Decoded:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own pixel limit is looser than ours
            with Image.open(io.BytesIO(data), formats=(image_format,)) as picture:
                _bounded(picture.width, picture.height, max_pixels)
                return _converted(picture, data, image_format)
    except (*DAMAGED_IMAGE, Image.DecompressionBombError) as error:
        if isinstance(error, UnidentifiedImageError):  # whose words name an address in memory
            raise UnreadableImage(f"{image_format}: cannot be identified") from None
        raise UnreadableImage(f"{image_format}: {str(error) or type(error).__name__}") from None


def _converted(picture: Image.Image, data: bytes, image_format: str) -> Decoded:
    mode = picture.mode
    bands = len(picture.getbands())
    orientation = (
        jpeg_header(data).orientation if image_format == "JPEG" else picture.getexif().get(_EXIF_ORIENTATION, 1)
    )
    picture.load()
    if image_format == "PNG":
        _check_end(data)
    transparent = mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info
    if not transparent:
        rgb = np.asarray(picture if mode == "RGB" else picture.convert("RGB"))
        valid = None
    else:
        rgba = _turn(np.asarray(picture.convert("RGBA")), orientation)
        rgb, valid = np.ascontiguousarray(rgba[..., :3]), rgba[..., 3] > 0
        soft = float((valid & (rgba[..., 3] < 255)).mean())
        mask = None if valid.all() else valid
        return Decoded(_blanked(rgb, valid), mask, bands, "uint8", image_format, False, soft, orientation != 1)
    return Decoded(
        _turn(rgb, orientation), None, bands, "bool" if mode == "1" else "uint8", image_format,
        image_format == "JPEG" and mode == "RGB" and orientation == 1, turned=orientation != 1,
    )  # fmt: skip


def _blanked(rgb: Bytes, valid: Mask) -> Bytes:
    """Zero where nothing is valid: what lies under a transparent pixel is arbitrary."""
    return np.where(valid[..., None], rgb, np.uint8(0))


def _check_end(data: bytes) -> None:
    """Pillow takes a PNG for whole once its rows are; a cut file has no end chunk."""
    if b"IEND" not in data[-(1 << 16) :]:
        raise UnreadableImage("PNG: truncated, no end chunk")
