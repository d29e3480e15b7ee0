"""Open any raw image as upright 8-bit RGB windows with their valid pixels, their place and their GSD.

JPEG, PNG, BMP and WebP are decoded whole; TIFF, JPEG 2000, 16-bit PNG, one-band-per-file groups and very large JPEG
and PNG are read by windows. What a file *is* is told by its first bytes, never by its name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from curation.base.arrays import Bytes, Mask, Pixels
from curation.base.errors import UnreadableImage
from curation.base.lazy import lazy
from curation.catalogue import Window
from curation.imagery import stretch as stretching
from curation.imagery.decode import Decoded, JpegHeader, decode, jpeg_header
from curation.imagery.gdal_windows import Raster, open_raster
from curation.imagery.georeference import Affine, Bounds, Georeference, gsd_of_plane
from curation.imagery.location import Location
from curation.imagery.pixel_loops import differs
from curation.imagery.sidecars import Sidecar, beside
from curation.imagery.signature import sniff
from curation.sources.recipe import ExcludeRules
from curation.sources.source import Source

MAX_FILE = 1 << 30
"""Most bytes of a file that is taken into memory."""
BEGINNING = 1 << 16
"""Bytes of a file that are read before it is known whether the others are wanted: all of a chip."""
LARGEST_DECODED = 64_000_000
"""JPEG and PNG of more pixels are read by windows."""

BY_WINDOW = ("TIFF", "JP2", "PNM", "HFA", "NITF")

DENSEST = {"PNG": 8 * 1032, "JPEG": 1024}
"""Most pixels that one byte can hold: deflate's limit at one bit a pixel; two bits for a block of 64 pixels."""
SPARSEST = 10_000
"""The same of rasters read by windows, whose empty blocks need no bytes."""


class Ground(NamedTuple):
    """Where a window lies, and how long its pixels are there."""

    gsd: float | None
    """Metres per pixel."""
    gsd_from: str
    """Who says so: ``file``, ``manifest`` or ``none``."""
    bounds: Bounds | None
    """West, south, east, north in degrees."""


@dataclass
class Image:
    """An open raw image; windows are in its own upright pixel coordinates."""

    pixels: Decoded | Raster
    source: Source
    file_bytes: int
    raw_sha256: bytes | None
    """Of the file's bytes; null for files that are read by windows."""
    given_stretch: Sequence[float] | None = None
    location: Location | None = None
    """Where it lies, for what lies beside it; null for members of archives, whose siblings are not sought."""
    _held: ExitStack | None = None
    """Files that are held open; null when all was read."""

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.close()

    @lazy
    def width(self) -> int:
        """Columns."""
        return self.pixels.width

    @lazy
    def height(self) -> int:
        """Rows."""
        return self.pixels.height

    @property
    def bands(self) -> int:
        """Bands or components in the file."""
        return self.pixels.bands

    @lazy
    def dtype(self) -> str:
        """Native type."""
        return self.pixels.dtype

    @lazy
    def format(self) -> str:
        """Name of the format: JPEG, PNG, BMP, WEBP, GTiff, JP2OpenJPEG."""
        return self.pixels.format

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns that are decoded together."""
        return self.pixels.block_shape

    @property
    def soft_alpha(self) -> float:
        """Share of half transparent pixels; 0 of images that are read by windows."""
        return self.pixels.soft_alpha if isinstance(self.pixels, Decoded) else 0.0

    @lazy
    def area(self) -> Window:
        """The image without the border that the manifest trims."""
        left, top, right, bottom = self.source.trim
        return Window(left, top, max(self.width - left - right, 0), max(self.height - top - bottom, 0))

    @property
    def pass_through(self) -> bool:
        """Whether the file's own bytes show exactly what ``read`` gives of the whole image."""
        source = self.source
        untouched = source.bands in (None, (1, 2, 3)) and source.stretch is None and source.nodata is None
        return self.pixels.plain and untouched and source.trim == (0, 0, 0, 0)

    @lazy
    def georeference(self) -> Georeference | None:
        """Place on the ground, where the file has a CRS and a transform."""
        if self.crs is None or self.affine is None:
            return None
        return Georeference(self.crs, self.affine)

    @lazy
    def _sidecar(self) -> Sidecar:
        if self.location is None or (isinstance(self.pixels, Decoded) and self.pixels.turned):
            return Sidecar()
        linked = self.source.linked(self.location.root)
        return beside(self.location.name(self.location.file), self.location.root, *([] if linked is None else [linked]))

    @lazy
    def crs(self) -> str | None:
        """``EPSG:n`` or WKT, of the file or of what lies beside it."""
        own = self.pixels.crs if isinstance(self.pixels, Raster) else None
        return own or self._sidecar.crs

    @lazy
    def affine(self) -> Affine | None:
        """a, b, c, d, e, f; null where neither the file nor what lies beside it says so."""
        own = self.pixels.affine if isinstance(self.pixels, Raster) else None
        return own or self._sidecar.affine

    def ground(self, windows: Sequence[Window]) -> list[Ground]:
        """Places of some windows; together, since a call of PROJ takes longer than a point."""
        known = self.source.gsd
        own: tuple[float | None, str] = (known, "none" if known is None else "manifest")
        if self.georeference is None:
            plane = None if self.affine is None or known is not None else gsd_of_plane(self.affine)
            return [Ground(*(own if plane is None else (plane, "file")), None)] * len(windows)
        found = zip(self.georeference.gsd(windows), self.georeference.bounds(windows), strict=True)
        return [Ground(*(own if gsd is None else (gsd, "file")), box) for gsd, box in found]

    @lazy
    def stretch(self) -> tuple[float, ...] | None:
        """Low and high of red, green, blue that become 0 and 255; null where 8-bit pixels stay as they are."""
        how = self.source.stretch
        if self.given_stretch is not None:
            return tuple(self.given_stretch)
        if how is not None and how.fixed is not None:
            return tuple(how.fixed) * 3
        if how is None and self.dtype in stretching.EIGHT_BIT:
            return None
        return stretching.percentiles([self.samples()], how.percentiles if how is not None else (2.0, 98.0))

    def samples(self) -> npt.NDArray[np.float64]:
        """Valid native values ``(N, C)``, evenly spread over the image, for the limits of its scene.

        Raises:
            UnreadableImage: a block cannot be decoded, or the values are complex.
        """
        step = max(self.block_shape[0], 1)
        bands = -(-self.area.height // step)
        every = max(bands // 64, 1)
        share = -(-self.area.width * min(self.area.height, 64 * step) // stretching.SAMPLES)
        found = []
        for band in range(0, bands, every):
            top = band * step
            rows = Window(
                self.area.col_off, self.area.row_off + top, self.area.width, min(step, self.area.height - top)
            )
            pixels, valid = self._native(rows)
            flat = pixels.reshape(-1, pixels.shape[2])
            found.append((flat if valid is None else flat[valid.reshape(-1)])[:: max(share, 1)].astype(np.float64))
        return stretching.thin(np.concatenate(found)) if found else np.zeros((0, 1))

    def _native(self, window: Window) -> tuple[Pixels, Mask | None]:
        if self.dtype.startswith("complex"):
            raise UnreadableImage(f"values are {self.dtype}")
        pixels, valid = self.pixels.read(window)
        if isinstance(self.pixels, Decoded) and self.source.bands not in (None, (1, 2, 3)):
            pixels = self._chosen(pixels)
        return pixels, valid

    def _chosen(self, rgb: Pixels) -> Pixels:
        bands = self.source.bands or (1, 2, 3)
        if max(bands) > rgb.shape[2]:
            raise UnreadableImage(f"{self.format} holds {rgb.shape[2]} bands; bands: {list(bands)} asks for more")
        return rgb[..., [band - 1 for band in bands]]

    def read(self, window: Window) -> tuple[Bytes, Mask | None]:
        """8-bit RGB ``(h, w, 3)`` of a window, zero where it is not valid, and its valid pixels (null: all).

        A window may reach beyond the lower and the right edge; there it is not valid.

        Raises:
            UnreadableImage: a block cannot be decoded.
        """
        width = min(window.width, self.width - window.col_off)
        height = min(window.height, self.height - window.row_off)
        if width < 1 or height < 1:
            raise UnreadableImage(f"{self.width} x {self.height} pixels do not reach the window {tuple(window)}")
        if (width, height) != (window.width, window.height):
            return padded(*self.read(Window(window.col_off, window.row_off, width, height)), window)
        pixels, valid = self._native(window)
        limits = self.stretch
        rgb = np.asarray(pixels if limits is None else stretching.apply(pixels, limits)).astype(np.uint8, copy=False)
        if rgb.shape[2] == 1:
            rgb = rgb.repeat(3, axis=2)
        if isinstance(self.pixels, Decoded) and self.source.nodata is not None:
            inside = differs(rgb, self.source.nodata)
            valid = inside if valid is None else valid & inside
        if valid is None or valid.all():
            return np.ascontiguousarray(rgb), None
        rgb = rgb.copy() if isinstance(self.pixels, Decoded) else np.ascontiguousarray(rgb)
        rgb[~valid] = 0
        return rgb, valid


def padded(rgb: Bytes, valid: Mask | None, window: Window) -> tuple[Bytes, Mask]:
    """Pixels that cover only the upper left of a window, filled up with zeros that are not valid."""
    missing = ((0, window.height - rgb.shape[0]), (0, window.width - rgb.shape[1]))
    inside = np.ones(rgb.shape[:2], bool) if valid is None else valid
    return np.pad(rgb, (*missing, (0, 0))), np.pad(inside, missing)


def raw_bytes(location: Location) -> bytes:
    """All bytes of a file, or of a member of it.

    Raises:
        UnreadableImage: absent, or more than :data:`MAX_FILE` bytes.
    """
    if location.access is not None:
        return location.remote_member(MAX_FILE).data
    if location.member is not None:
        from curation.containers import read_member

        return read_member(location.root, location.file, location.member, MAX_FILE)
    path = location.path(location.file)
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE:
                raise UnreadableImage(f"{location.file}: more than {MAX_FILE} bytes")
            return _read(file.fileno(), size)
    except OSError as error:
        raise UnreadableImage(f"{location.file}: {error.strerror or error}") from None


def _read(handle: int, size: int) -> bytes:
    """So many bytes, or what there is; a buffered file would copy them once more."""
    data = os.read(handle, size)
    while len(data) < size and (more := os.read(handle, size - len(data))):
        data += more
    return data


def open_image(
    location: Location, source: Source, rules: ExcludeRules, stretch: Sequence[float] | None = None
) -> Image:
    """Open an image, to be closed by ``with``; its header is checked against the limits before anything is decoded.

    Args:
        location: where it lies.
        source: its manifest: bands, stretch, nodata, border, GSD.
        rules: limits on bytes and pixels.
        stretch: limits that were found before, of its whole scene; they are not sought again.

    Raises:
        UnreadableImage: it cannot be opened or decoded, or exceeds a limit.
    """
    if location.band_files is not None:
        paths = [location.path(file) for file in location.band_files]
        size = sum(_size(path) for path in paths)
        raster, held = _by_window(source, paths, rules, None)
        return Image(raster, source, size, None, stretch, location, held)
    if location.access is not None:
        member = location.remote_member(MAX_FILE)
        image = _from_memory(member.data, source, rules, stretch)
        return replace(image, file_bytes=member.size, raw_sha256=image.raw_sha256 if member.as_stored else None)
    if location.member is not None:
        return _from_memory(raw_bytes(location), source, rules, stretch)
    size, data = _file(location, rules)
    if data is not None:
        return _from_memory(data, source, rules, stretch, location)
    raster, held = _by_window(source, [location.path(location.file)], rules, size)
    return Image(raster, source, size, None, stretch, location, held)


def _file(location: Location, rules: ExcludeRules) -> tuple[int, bytes | None]:
    """Size of a file, and its bytes; null where it is read by windows."""
    name = location.name(location.file)
    try:
        handle = os.open(name, os.O_RDONLY)
        try:
            size = os.fstat(handle).st_size
            if size > rules.max_bytes:
                raise UnreadableImage(f"{size} bytes, more than max_bytes={rules.max_bytes}")
            head = _read(handle, min(size, BEGINNING))
            kind = sniff(head)
            if kind in BY_WINDOW or _deep_png(kind, head) or size > MAX_FILE:
                return size, None
            return size, head if size == len(head) else head + _read(handle, size - len(head))
        finally:
            os.close(handle)
    except OSError as error:
        raise UnreadableImage(f"{location.file}: {error.strerror or error}") from None


def _from_memory(
    data: bytes,
    source: Source,
    rules: ExcludeRules,
    stretch: Sequence[float] | None,
    location: Location | None = None,
) -> Image:
    kind = sniff(data[:32])
    digest = hashlib.sha256(data).digest()
    header = jpeg_header(data) if kind == "JPEG" else None
    if kind in BY_WINDOW or _deep_png(kind, data) or _is_huge(kind, data, header):
        place = data if location is None else location.path(location.file)
        raster, held = _by_window(source, [place], rules, len(data))
        return Image(raster, source, len(data), digest, stretch, location, held)
    return Image(decode(data, kind, rules.max_pixels, header), source, len(data), digest, stretch, location)


def _by_window(
    source: Source, places: Sequence[Path | bytes], rules: ExcludeRules, size: int | None
) -> tuple[Raster, ExitStack]:
    """An open raster of ``size`` bytes, where they bound its pixels, and what closes it."""
    with ExitStack() as stack:
        raster = open_raster(stack, source, places, rules.max_pixels)
        if size is not None and raster.width * raster.height > max(size * SPARSEST, LARGEST_DECODED):
            raise UnreadableImage(
                f"{raster.format}: declares {raster.width} x {raster.height} pixels, more than {size} bytes can hold"
            )
        return raster, stack.pop_all()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UnreadableImage(f"{path.name}: {error.strerror or error}") from None


def _deep_png(kind: str, head: bytes) -> bool:
    """Sixteen bits a sample, which Pillow would cut to eight without a stretch."""
    return kind == "PNG" and len(head) > 24 and head[24] == 16


def _is_huge(kind: str, data: bytes, header: JpegHeader | None) -> bool:
    """Whether a JPEG or PNG is better read by windows.

    Raises:
        UnreadableImage: it declares more pixels than its bytes can hold, however well they are compressed.
    """
    if kind == "PNG":
        pixels = int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    elif header is not None:
        pixels = header.width * header.height if header.orientation == 1 else 0
    else:
        return False
    if pixels > max(len(data) * DENSEST[kind], LARGEST_DECODED):
        raise UnreadableImage(f"{kind}: declares {pixels} pixels, more than {len(data)} bytes can hold")
    return pixels > LARGEST_DECODED
