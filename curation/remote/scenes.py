"""Windows of a remote scene: which there are, which are drawn, and their pixels as the bytes of a small TIFF.

GDAL decodes; a scene's bytes reach it by ranges (:mod:`~curation.remote.remote_file`). An overview is asked one thing
only, where a scene is empty: averages shift everything else that is measured.
"""

from __future__ import annotations

import hashlib
import heapq
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window as RasterWindow

from curation.base.errors import UnreadableImage
from curation.catalogue import Window
from curation.remote.remote_file import Opener, RemoteFile
from curation.remote.transport import Pin

GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no file beside the scene is looked for
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_NUM_THREADS": "1",
    "GDAL_CACHEMAX": 64,
    "GDAL_TIFF_INTERNAL_MASK": "YES",
}
_SIGNATURES = ((b"II*\0", "GTiff"), (b"MM\0*", "GTiff"), (b"II+\0", "GTiff"), (b"MM\0+", "GTiff"),
               (b"\0\0\0\x0cjP  ", "JP2OpenJPEG"), (b"\xff\x4f\xff\x51", "JP2OpenJPEG"))  # fmt: skip
"""What is read by windows, and GDAL's driver of it; no other driver is tried."""
LEAST_VALID = 0.5
"""Share of pixels that are not empty, as an overview shows, below which a window is not drawn."""
_CELLS = 8
"""Pixels of an overview along the side of a window, at least."""
MOST_WINDOWS = 1 << 22
"""Of a scene: a mosaic of a whole state has 1.6 million."""
MOST_DRAWN = 1 << 20
MOST_PIXELS = 250_000_000
"""Of a block in all bands, and of an overview: what is decoded at once."""


class Drawn(NamedTuple):
    """Windows of a scene."""

    windows: tuple[Window, ...]
    empty: int
    """Windows that an overview shows to be empty."""
    blind: bool
    """Whether there is no overview, so that nobody knows which are empty before they are read."""


def driver_of(head: bytes) -> str | None:
    """GDAL's driver of a file that is read by windows, by its first bytes; null for what is read whole."""
    return next((driver for signature, driver in _SIGNATURES if head.startswith(signature)), None)


@contextmanager
def opened(file: RemoteFile, driver: str) -> Iterator[Any]:
    """A scene as a dataset of rasterio, until the block ends.

    Raises:
        UnreadableImage: it is no raster of this driver.
        RscorpusError: its bytes do not come.
    """
    with told_of(file), ExitStack() as stack:
        yield enter(stack, file, driver)


def enter(stack: ExitStack, file: RemoteFile, driver: str) -> Any:
    """Open a scene until ``stack`` is closed, within :func:`told_of`."""
    name = f"{file.pin.key}.bin"
    stack.enter_context(rasterio.Env(**GDAL_OPTIONS))
    with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
        return stack.enter_context(rasterio.open(name, driver=driver, opener=Opener(name, file)))


@contextmanager
def told_of(file: RemoteFile) -> Iterator[None]:
    """What goes wrong with a scene in the block, as our own errors: first what its file says, since GDAL hears zeros.

    Raises:
        UnreadableImage: GDAL cannot read it.
        RscorpusError: its bytes do not come.
    """
    try:
        yield
    except (RasterioError, ValueError, OSError) as error:
        raise file.error or UnreadableImage(f"{file.pin.url}: {_cause(error)}") from None
    if file.error is not None:
        raise file.error


def draw(data: Any, side: int, count: int | None, key: str, nodata: float | None) -> Drawn:
    """Windows of a scene: all that are whole, or ``count`` of them in the order of a digest.

    Args:
        data: an open scene.
        side: pixels of a window; it begins where a block does, and windows do not overlap.
        count: how many; null: all.
        key: what the draw follows from: the recipe's seed and the scene's path.
        nodata: the manifest's, in place of the file's.

    Raises:
        UnreadableImage: it has more windows than can be listed, or blocks that are too large.
    """
    high, wide = data.block_shapes[0]
    if high * wide * data.count > MOST_PIXELS:
        raise UnreadableImage(f"{data.width} x {data.height} pixels of {data.count} bands in blocks of {wide} x {high}")
    windows = data.width * data.height // side**2
    if windows > (MOST_WINDOWS if count is not None and count <= MOST_DRAWN else MOST_DRAWN):
        raise UnreadableImage(
            f"{data.width} x {data.height} pixels are too many windows of {side}; set remote.per_file or raise side"
        )
    is_one = len(list(islice(_grid(data, side), 2))) < 2
    full, empty = None if is_one else _full(data, side, nodata), 0

    def kept() -> Iterator[Window]:
        """Windows that are not empty, one by one: all of a mosaic take more memory than a worker has."""
        nonlocal empty
        for window in _grid(data, side):
            if full is None or _share(full, data, window) >= LEAST_VALID:
                yield window
            else:
                empty += 1

    drawn = kept() if count is None else heapq.nsmallest(count, kept(), key=lambda window: _order(key, window))
    return Drawn(tuple(sorted(drawn, key=lambda window: (window[1], window[0]))), empty, full is None and not is_one)


def _order(key: str, window: Window) -> bytes:
    return hashlib.blake2b(f"{key}\0{window.col_off}\0{window.row_off}".encode(), digest_size=8).digest()


def _grid(data: Any, side: int) -> Iterator[Window]:
    """Whole windows that begin at blocks; a scene smaller than one is one."""
    if data.width < side or data.height < side:
        yield Window(0, 0, min(data.width, side), min(data.height, side))
        return
    high, wide = data.block_shapes[0]
    for top in range(0, data.height - side + 1, _step(side, high, data.height)):
        for left in range(0, data.width - side + 1, _step(side, wide, data.width)):
            yield Window(left, top, side, side)


def _step(side: int, block: int, length: int) -> int:
    """Distance between windows that begin at blocks; strips and blocks that span the scene do not bind."""
    if block >= length or side % block == 0 or block % side == 0:
        return side
    return -(-side // block) * block


def _full(data: Any, side: int, nodata: float | None) -> npt.NDArray[np.bool_] | None:
    """Where the coarsest overview that still tells windows apart is not empty; null where there is none."""
    factors = [factor for factor in data.overviews(1) if side // factor >= _CELLS] or data.overviews(1)[:1]
    if not factors:
        return None
    shape = -(-data.height // max(factors)), -(-data.width // max(factors))
    if shape[0] * shape[1] > MOST_PIXELS:
        return None
    indexes = [1, 2, 3] if data.count >= 3 else [1]
    pixels = data.read(indexes, out_shape=(len(indexes), *shape))
    inside = np.asarray(data.dataset_mask(out_shape=shape) > 0)
    outside = [(pixels == nodata).all(0)] if nodata is not None else []
    if data.dtypes[0] == "uint8":
        outside += [(pixels == value).all(0) for value in (0, 255)]
    elif nodata is None and data.nodata is None and pixels.dtype.kind in "iu":
        outside.append((pixels == 0).all(0))
    for each in outside:
        inside &= ~each
    return inside


def _share(full: npt.NDArray[np.bool_], data: Any, window: Window) -> float:
    down, across = full.shape[0] / data.height, full.shape[1] / data.width
    rows = slice(int(window.row_off * down), max(int((window.row_off + window.height) * down), 1))
    columns = slice(int(window.col_off * across), max(int((window.col_off + window.width) * across), 1))
    part = full[rows, columns]
    return float(part.mean()) if part.size else 1.0


def cut(data: Any, window: Window) -> bytes:
    """A window as a TIFF that is not compressed: all bands, mask, palette, place on the ground.

    Raises:
        RasterioError: a block cannot be decoded.
    """
    place = RasterWindow(*window)
    shape: dict[str, Any] = {"width": window.width, "height": window.height, "count": data.count}
    shape |= {"dtype": data.dtypes[0], "crs": data.crs, "nodata": data.nodata}
    shape["blockysize"] = window.height  # one strip a band: strips of 8 KB take longer to write than to decode
    if not data.transform.is_identity:
        shape["transform"] = data.window_transform(place)
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **shape) as out:
            out.colorinterp = data.colorinterp
            out.descriptions = data.descriptions
            out.write(data.read(window=place))
            if data.colorinterp[0].name == "palette":
                out.write_colormap(1, data.colormap(1))
            flags = data.mask_flag_enums[0]
            if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
                out.write_mask(data.read_masks(1, window=place))
        return bytes(memory.read())


def window_bytes(pin: Pin, data: Any, windows: Sequence[Window]) -> int:
    """Bytes of a file that a window takes, about: its share of the pixels, overviews counted."""
    pixels = data.width * data.height * (4 / 3 if data.overviews(1) else 1)
    return int(pin.size * min(windows[0].width * windows[0].height / pixels, 1)) if windows else 0


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:200] or type(error).__name__
