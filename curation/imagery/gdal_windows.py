"""Rasters read by windows through GDAL: TIFF of every kind, JPEG 2000, 16-bit PNG, and groups of one-band files."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window as RasterWindow

from curation.base.arrays import Mask, Pixels
from curation.base.errors import UnreadableImage
from curation.catalogue import Window
from curation.imagery.band_names import Bands, rgb_bands
from curation.imagery.georeference import Affine
from curation.imagery.pixel_loops import differs, interleave
from curation.imagery.sidecars import named
from curation.imagery.signature import sniff
from curation.sources.source import Source

DRIVERS = {
    "TIFF": "GTiff", "JP2": "JP2OpenJPEG", "PNG": "PNG", "JPEG": "JPEG", "PNM": "PNM", "HFA": "HFA", "NITF": "NITF",
}  # fmt: skip
"""GDAL's driver of each format. These hold their own pixels; others (VRT, WMS, ...) can name further files and URLs."""

GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",  # listing a folder of a million files takes longer than reading one;
    # what lies beside an image is found by curation.imagery.sidecars
    "GDAL_NUM_THREADS": "1",
    "GDAL_CACHEMAX": 256,  # MB; every block of the rows in work stays decoded
    "GDAL_PAM_ENABLED": "NO",  # no .aux.xml beside the user's data
}

CHUNK = 1 << 20
"""Pixels whose bands are read and put side by side at a time, in whole blocks: they are still in the cache then."""

_CYAN = (ColorInterp.cyan, ColorInterp.magenta, ColorInterp.yellow, ColorInterp.black)


@dataclass(frozen=True)
class Raster:
    """An open raster. ``read`` gives native values of one or three bands; upright as GDAL has it."""

    datasets: tuple[Any, ...]
    """One dataset, or one per band."""
    indexes: tuple[int, ...]
    """1-based bands of the first dataset: red, green, blue, or one."""
    alpha: int | None
    palette: npt.NDArray[np.uint8] | None
    """``(256, 4)`` colours of a paletted raster."""
    cmyk: bool
    nodata: float | None
    masked: bool
    bands: int
    format: str
    plain: bool = False

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.datasets[0].width)

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.datasets[0].height)

    @property
    def dtype(self) -> str:
        """Native type of the bands that are read."""
        return str(self.datasets[0].dtypes[self.indexes[0] - 1])

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns that are decoded together."""
        height, width = self.datasets[0].block_shapes[self.indexes[0] - 1]
        return int(height), int(width)

    @property
    def told(self) -> Bands | None:
        """Bands that the file marks or names as red, green and blue."""
        return _told(self.datasets[0])

    @property
    def crs(self) -> str | None:
        """``EPSG:n`` where there is such a code, else WKT."""
        crs = self.datasets[0].crs
        return named(crs) if crs else None

    @property
    def affine(self) -> Affine | None:
        """Affine of the file; null where it is the identity or holds what is no number.

        A PNM has none but a world file's, which lies beside it: GDAL then leaves unset what rasterio takes for it.
        """
        if self.format == "PNM":
            return None
        transform = self.datasets[0].transform
        values = (transform.a, transform.b, transform.c, transform.d, transform.e, transform.f)
        return None if transform.is_identity or not all(map(math.isfinite, values)) else values

    def read(self, window: Window) -> tuple[Pixels, Mask | None]:
        """Native values ``(h, w, 1 or 3)`` and valid pixels of a window.

        Raises:
            UnreadableImage: a block cannot be decoded.
        """
        place = RasterWindow(*window)
        try:
            pixels, valid = self._bands(place), self._declared(place)
        except (RasterioError, RasterioIOError, ValueError, MemoryError, OSError) as error:
            raise UnreadableImage(f"{self.format}: {_cause(error)}") from None
        if self.palette is not None:
            return self._coloured(pixels, valid)
        return pixels, self._without_nodata(pixels, valid)

    def _bands(self, place: RasterWindow) -> Pixels:
        top, bottom, width = int(place.row_off), int(place.row_off + place.height), int(place.width)
        pixels = np.empty((bottom - top, width, max(len(self.indexes), len(self.datasets))), self.dtype)
        block = self.block_shape[0]
        step = max(CHUNK // (width * block), 1) * block
        for row in (top, *range((top // step + 1) * step, bottom, step)):
            rows = pixels[row - top : (row // step + 1) * step - top]
            planes = np.empty((rows.shape[2], *rows.shape[:2]), rows.dtype)
            part = RasterWindow(place.col_off, row, width, rows.shape[0])
            if len(self.datasets) == 1:
                self.datasets[0].read(list(self.indexes), window=part, out=planes)
            else:
                for plane, data in zip(planes, self.datasets, strict=True):
                    data.read(1, window=part, out=plane)
            interleave(planes, rows)
        if not self.cmyk:
            return pixels
        light = 255 - pixels.astype(np.uint16)
        return np.asarray(light[..., :3] * light[..., 3:] // 255).astype(np.uint8)

    def _declared(self, place: RasterWindow) -> Mask | None:
        if self.alpha is not None:
            return np.asarray(self.datasets[0].read(self.alpha, window=place) > 0)
        if self.masked:
            return np.asarray(self.datasets[0].read_masks(1, window=place) > 0)
        return None

    def _coloured(self, indexes: Pixels, valid: Mask | None) -> tuple[Pixels, Mask | None]:
        assert self.palette is not None  # read() has asked
        colours = self.palette[indexes[..., 0]]
        opaque = colours[..., 3] > 0
        inside = self._without_nodata(indexes, opaque if valid is None else valid & opaque)
        return np.ascontiguousarray(colours[..., :3]), inside

    def _without_nodata(self, pixels: Pixels, valid: Mask | None) -> Mask | None:
        """A pixel is nodata where all its bands are: the declared value, NaN, or zero in undeclared 16-bit imagery."""
        nodata = self.nodata
        if nodata is None and pixels.dtype.kind in "iu" and pixels.dtype.itemsize > 1:
            nodata = 0
        masks = [] if valid is None else [valid]
        if pixels.dtype.kind == "f":
            masks += [np.isfinite(pixels[..., band]) for band in range(pixels.shape[2])]
        if nodata is not None and not np.isnan(nodata):
            masks.append(differs(pixels, nodata))
        return reduce(np.logical_and, masks) if masks else None


def open_raster(stack: ExitStack, source: Source, places: Sequence[Path | bytes], max_pixels: int) -> Raster:
    """Open one file, or one file per band; ``stack`` closes what is opened.

    Raises:
        UnreadableImage: not a raster of :data:`DRIVERS`, band files of different sizes, a missing band, or blocks of
            more than ``max_pixels``, which no window could be read without decoding.
    """
    stack.enter_context(rasterio.Env(**GDAL_OPTIONS))
    datasets = tuple(_open(stack, place) for place in places)
    first = datasets[0]
    if any(data.shape != first.shape for data in datasets):
        raise UnreadableImage(f"band files differ in size: {', '.join(f'{d.width}x{d.height}' for d in datasets)}")
    interpretation = tuple(first.colorinterp)
    cmyk = first.count == 4 and interpretation == _CYAN and first.dtypes[0] == "uint8"
    indexes = (1,) if len(datasets) > 1 else (1, 2, 3, 4) if cmyk else _wanted(first, source)
    flags = first.mask_flag_enums[indexes[0] - 1]
    raster = Raster(
        datasets=datasets,
        indexes=indexes,
        alpha=next((at + 1 for at, kind in enumerate(interpretation) if kind == ColorInterp.alpha), None),
        palette=_palette(first, indexes),
        cmyk=cmyk,
        nodata=source.nodata if source.nodata is not None else first.nodatavals[indexes[0] - 1],
        masked=MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
        bands=first.count if len(datasets) == 1 else len(datasets),
        format=first.driver,
    )
    if raster.block_shape[0] * raster.block_shape[1] > max_pixels:
        raise UnreadableImage(
            f"{raster.width} x {raster.height} pixels in one block, more than max_pixels={max_pixels}"
        )
    return raster


def _open(stack: ExitStack, place: Path | bytes) -> Any:
    try:
        driver = DRIVERS.get(sniff(_head(place)))
        if driver is None:
            raise UnreadableImage("not a format that is read by windows")
        if isinstance(place, bytes):
            place = stack.enter_context(rasterio.MemoryFile(place)).name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return stack.enter_context(rasterio.open(place, driver=driver))
    except (RasterioError, ValueError, OSError) as error:
        raise UnreadableImage(_cause(error)) from None


def _head(place: Path | bytes) -> bytes:
    if isinstance(place, bytes):
        return place[:32]
    with place.open("rb") as file:
        return file.read(32)


def _wanted(data: Any, source: Source) -> tuple[int, ...]:
    """Bands to read: the manifest's; else those marked or named as colours; else the first three, or the first."""
    if source.bands is not None:
        if max(source.bands) > data.count:
            raise UnreadableImage(f"bands {source.bands} are asked for, the file has {data.count}")
        return source.bands
    return _told(data) or ((1, 2, 3) if data.count >= 3 else (1,))


def _told(data: Any) -> Bands | None:
    return rgb_bands(data.descriptions, [kind.name for kind in data.colorinterp])


def _palette(data: Any, indexes: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    if len(indexes) != 1 or data.colorinterp[indexes[0] - 1] != ColorInterp.palette or data.dtypes[0] != "uint8":
        return None
    table = np.zeros((256, 4), np.uint8)
    for index, colour in data.colormap(indexes[0]).items():
        table[index] = colour
    return table


def _cause(error: BaseException) -> str:
    """The first cause that GDAL gave; rasterio hides it behind 'see previous exception'."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:200] or type(error).__name__
