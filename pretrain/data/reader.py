"""What a worker does: read one image's bytes, decode, crop, resize.

Shards may come from anywhere, so sizes are bounded before anything is decoded, and a sample that cannot be read becomes
a row of zeros with weight 0 and a reason. A shard that cannot be read is no fault of its samples: the request is given
back, and the main process waits for the shard.
"""

from __future__ import annotations

import io
import math
import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import get_worker_info

from curation.base.errors import DAMAGED_IMAGE
from pretrain.data.augment import Box, CropRule, around, crop_and_resize, crop_box, gsd_after
from pretrain.data.corpus import MISSING, SampleRows, digest_of_image
from pretrain.data.jpeg_part import part_decoder
from pretrain.data.packed import Packed, PackedImage, pack
from pretrain.data.ring import Filled, Ring
from pretrain.errors import UnreadableImage

MAX_PIXELS = 1 << 26
"""Greatest image that is decoded, 8192 x 8192: a forged header must not fill the memory."""
PART = 0.9
"""Share of a JPEG's pixels above which decoding a part takes as long as decoding the whole."""
_REDUCED = 0.5
"""Greatest share of an image's sides below 1 at which a JPEG is decoded fast: others have no vector code."""
_OPEN_FILES = 64


class Request(NamedTuple):
    """Images of one micro-batch; arrays of equal length."""

    epoch: int
    row: int
    """First image of the *global* batch in the epoch's order; with ``epoch`` the position."""
    rows: SampleRows
    noise: npt.NDArray[np.float32]
    """(B, K, augment.NOISE_SIZE): of K crops of each image."""
    part: int | None = None
    """Of the shared memory that goes round; none where all of it is in use, or for this process itself."""


class Spent(NamedTuple):
    """Seconds of a worker."""

    read: float = 0.0
    decode: float = 0.0
    crop: float = 0.0


class Batch(NamedTuple):
    """One micro-batch: B rows, of which K in succession are crops of one image."""

    images: Tensor
    """(B, 3, S, S) uint8; of those that are not in ``packed``, where that is set."""
    gsd: Tensor
    """(B,) float32, metres per pixel of the crop; NaN when unknown."""
    sample_id: Tensor
    """(B,) int64."""
    epoch: Tensor
    """(B,) int64: where folders are mixed, the pass over the sample's folder."""
    weight: Tensor
    """(B,) float32; 0 for a sample that could not be read."""
    crop: Tensor
    """(B,) int64: number of the crop among those of its image."""
    position: tuple[int, int]
    """(epoch, row) of the global batch's first image."""
    unreadable: list[tuple[int, str]]
    """(sample id, reason)."""
    spent: Spent = Spent()
    """Where the worker's time went."""
    packed: Packed | None = None
    """Images that the device decodes."""

    def to(self, device: torch.device) -> Batch:
        """With its tensors on a device."""
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in self._fields[:6]}
        return self._replace(**moved)

    def to_send(self, **instead: Any) -> Batch:
        """For its way to another process, which opens a connection for every tensor that is sent as it is."""
        columns: dict[str, Any] = {name: getattr(self, name).numpy() for name in self._fields[1:6]}
        return self._replace(**columns, **instead)

    def received(self, pin: bool) -> Batch:
        """With all its tensors again, for a GPU in pinned memory."""
        columns: dict[str, Any] = {name: torch.from_numpy(getattr(self, name)) for name in self._fields[1:6]}
        return self._replace(**{name: column.pin_memory() if pin else column for name, column in columns.items()})


class ShardReader:
    """Serves requests. Its only state is open files; ``pread`` keeps no position, so forked workers may share them."""

    def __init__(
        self, paths: list[Path], rule: CropRule, names: list[str] | None = None, ring: Ring | None = None
    ) -> None:
        self.paths, self.rule, self.ring = paths, rule, ring
        self.names = names or [path.name for path in paths]
        self.missing: set[int] = set()
        """Shards whose samples count as unreadable."""
        self.failed: int | None = None
        """The shard that could not be read last."""
        self._open: OrderedDict[int, int] = OrderedDict()

    def __getitems__(self, request: Request) -> Batch | Request:
        """Serve a whole request, or give it back where a shard cannot be read.

        The name is torch's protocol for datasets that fetch batches. An error that is raised in a worker would reach
        the user wrapped in torch's own, and a worker that waited could not be ended.
        """
        try:
            served = self.serve(request)
        except OSError:
            return request
        if self.ring is None or request.part is None:
            return served.to_send()
        return served.to_send(images=Filled(self.ring.number, request.part, tuple(served.images.shape)))

    def serve(self, request: Request) -> Batch:
        """Read, decode and crop.

        Raises:
            OSError: a shard cannot be read; names it.
        """
        count, crops = request.noise.shape[:2]
        shape = count, crops, 3, self.rule.size, self.rule.size
        images = torch.empty(shape, dtype=torch.uint8) if self.rule.packed else self._room(request.part, shape)
        gsd = torch.full((count, crops), float("nan"))
        weight = torch.ones(count)
        unreadable, spent, packed = [], [0.0, 0.0, 0.0], dict[int, PackedImage]()
        for row in range(count):
            try:
                if (image := self._sample(request, row, images[row], gsd[row], spent)) is not None:
                    packed[row] = image
            except UnreadableImage as error:
                images[row], weight[row] = 0, 0
                gsd[row] = 1.0  # a NaN here would reach the gradients in spite of the weight
                unreadable.append((int(request.rows.sample_id[row]), str(error)))
        columns = [torch.from_numpy(request.rows.sample_id), torch.from_numpy(request.rows.epoch), weight]
        ids, epoch, weight = (column.repeat_interleave(crops) for column in columns)
        crop = torch.arange(crops).repeat(count)
        position, times, left = (request.epoch, request.row), Spent(*spent), pack(packed) if packed else None
        images = images[[row not in packed for row in range(count)]] if packed else images
        images, gsd = images.flatten(0, 1), gsd.flatten()
        return Batch(images, gsd, ids, epoch, weight, crop, position, unreadable, times, left)

    def _room(self, part: int | None, shape: tuple[int, ...]) -> Tensor:
        """An empty uint8 tensor; of a worker in shared memory, into which it would be copied on its way to the process.

        All of that is taken at once: it is not for what stays empty.
        """
        if self.ring is not None and part is not None:
            return self.ring.part(part, shape)
        empty = torch.empty(0, dtype=torch.uint8)
        if get_worker_info() is not None:
            empty.set_(torch.UntypedStorage._new_shared(math.prod(shape)))  # type: ignore[no-untyped-call]
        return empty.resize_(shape)

    def _sample(
        self, request: Request, row: int, images: Tensor, gsd: Tensor, spent: list[float]
    ) -> PackedImage | None:
        """Fill in the crops of an image, ``images`` (K, 3, S, S) and ``gsd`` (K,), and add to ``spent``.

        Returns:
            The image, if the device is to make its crops.
        """
        shard, offset = int(request.rows.shard[row]), int(request.rows.offset[row])
        try:
            began = perf_counter()
            data = self.read(shard, offset, int(request.rows.size[row]))
            read = perf_counter()
            packed = None
            if self.rule.packed and int(request.rows.digest[row]) in (0, digest_of_image(data)):
                packed = packed_for(data, self.rule, request.noise[row])
            opened = packed or open_for(data, self.rule, request.noise[row])
            decoded = perf_counter()
            for crop, box in enumerate(opened.boxes):
                gsd[crop] = gsd_after(float(request.rows.gsd_m[row]), box, self.rule.size)
                if isinstance(opened, Opened):
                    opened.crop(box, self.rule.size, images[crop])
            for part, seconds in enumerate((read - began, decoded - read, perf_counter() - decoded)):
                spent[part] += seconds
            return packed and packed._replace(place=f"{self.names[shard]} at byte {offset}")
        except UnreadableImage as error:
            raise UnreadableImage(f"{self.names[shard]} at byte {offset}: {error}") from None

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Bytes of a member.

        Raises:
            UnreadableImage: the shard ends before it, or is missing, and may be.
            OSError: the shard cannot be read; names it.
        """
        if size == MISSING:
            raise UnreadableImage("the shard could not be had")
        if size <= 0 or offset < 0:
            raise UnreadableImage("the index gives it no bytes")
        try:
            data = os.pread(self._descriptor(shard), size, offset)
            if len(data) != size and self._was_removed(shard):  # from the cache, while it was open here
                data = os.pread(self._descriptor(shard), size, offset)
        except OSError as error:
            self._forget(shard)
            if shard in self.missing:
                raise UnreadableImage("the shard could not be had") from None
            self.failed = shard
            raise OSError(error.errno, error.strerror, str(self.paths[shard])) from None
        if len(data) != size:
            raise UnreadableImage("the file ends early")
        return data

    def _descriptor(self, shard: int) -> int:
        if shard not in self._open:
            self._let_go()
            if len(self._open) >= _OPEN_FILES:
                self._forget(next(iter(self._open)))
            self._open[shard] = os.open(self.paths[shard], os.O_RDONLY)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _let_go(self) -> None:
        """Close what was removed, such as shards of which a cache made room: the disk holds them as long."""
        for shard in list(self._open):
            with suppress(OSError):
                self._was_removed(shard)

    def _was_removed(self, shard: int) -> bool:
        """Whether an open shard was removed, which closes it."""
        removed = not os.fstat(self._open[shard]).st_nlink
        if removed:
            self._forget(shard)
        return removed

    def _forget(self, shard: int) -> None:
        """Close a shard: a stale descriptor of a network file system never works again, a new one may."""
        if shard in self._open:
            with suppress(OSError):
                os.close(self._open.pop(shard))


class Opened(NamedTuple):
    """An image, decoded for its crops."""

    rgb: npt.NDArray[np.uint8]
    """(H, W, 3), whole, reduced, or the part that holds the crops."""
    boxes: list[Box]
    """The crops in the whole image."""
    across: float = 1.0
    """Width over that of the whole image, where it is reduced."""
    down: float = 1.0
    left: int = 0
    """Where the part begins in the whole image."""
    top: int = 0

    def crop(self, box: Box, size: int, out: Tensor | None = None) -> Tensor:
        """A crop, (3, size, size) uint8; into ``out``, where it is given."""
        here = box.on(self.across, self.down)
        return crop_and_resize(self.rgb, here._replace(left=here.left - self.left, top=here.top - self.top), size, out)


def packed_for(data: bytes, rule: CropRule, noise: npt.NDArray[np.float32]) -> PackedImage | None:
    """Choose the crops of an image that a device can decode; null of any but a plain whole JPEG in colour."""
    header = _jpeg_header(data) if data[:2] == _JPEG and data.endswith(_JPEG_END) else None
    if header is None or header[2] != "YCbCr" or header[0] * header[1] > MAX_PIXELS:
        return None
    height, width, _ = header
    return PackedImage(data, (height, width), [crop_box(width, height, rule, numbers) for numbers in noise])


def open_for(data: bytes, rule: CropRule, noise: npt.NDArray[np.float32]) -> Opened:
    """Choose an image's crops and decode it once: the part that holds them, or as small as they allow for a fast rule.

    Args:
        data: the file's bytes.
        rule: what the crops may be.
        noise: (K, NOISE_SIZE).

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    header = _jpeg_header(data) if data[:2] == _JPEG else None
    if header is None:
        rgb = decode(data)
        return Opened(rgb, [crop_box(rgb.shape[1], rgb.shape[0], rule, numbers) for numbers in noise])
    height, width, colours = header
    boxes = [crop_box(width, height, rule, numbers) for numbers in noise]
    share = max(rule.size / min(box.width, box.height) for box in boxes)
    reduced = share if rule.fast and share <= _REDUCED else None
    high, wide = (height, width) if reduced is None else _reduced(data, height, width, reduced)
    across, down = wide / width, high / height
    part = around([box.on(across, down) for box in boxes])
    small = part.width * part.height <= PART * wide * high and width * height <= MAX_PIXELS
    if small and colours in _COLOURS:
        found = _decode_part(data, (high, wide), part, round(8 * max(across, down)))
        if found is not None:
            return Opened(found, boxes, across, down, part.left, part.top)
    rgb = decode(data, share=reduced)
    return Opened(rgb, boxes, rgb.shape[1] / width, rgb.shape[0] / height)  # CMYK is not reduced


_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_COLOURS = ("YCbCr", "Gray", "RGB")
"""Of JPEGs that libjpeg-turbo turns into RGB; CMYK it does not."""
SHARD_FORMATS = ("JPEG", "PNG", "WEBP")
EVALUATION_FORMATS = (*SHARD_FORMATS, "TIFF", "BMP")
"""Benchmarks are folders of files as their authors made them."""


def decode(data: bytes, formats: tuple[str, ...] = SHARD_FORMATS, share: float | None = None) -> npt.NDArray[np.uint8]:
    """Decode an image to (H, W, 3) uint8.

    Args:
        data: the file's bytes.
        formats: Pillow's names of the formats that are tried.
        share: decode a JPEG fast, at the least of 1, 1/2, 3/8, 1/4 and 1/8 of its sides that is this share or more; its
            pixels are not Pillow's then. Other formats are decoded whole.

    Raises:
        UnreadableImage: damaged, cut short, of another format, or larger than ``MAX_PIXELS``.
    """
    try:
        return _decode_jpeg(data, share) if data[:2] == _JPEG else _decode_any(data, formats)
    except UnidentifiedImageError:  # whose words name an address in memory
        raise UnreadableImage(f"not an image of a format that is read ({', '.join(formats)})") from None
    except (*DAMAGED_IMAGE, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"cannot be decoded ({str(error) or type(error).__name__})") from None


def _jpeg_header(data: bytes) -> tuple[int, int, str] | None:
    """Height, width and kind of colours; None where TurboJPEG does not know such files."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return height, width, colours


def _decode_jpeg(data: bytes, share: float | None) -> npt.NDArray[np.uint8]:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as damaged:
        try:  # colours sampled in a rare way, which libjpeg alone reads
            return _decode_any(data, SHARD_FORMATS)
        except UnidentifiedImageError:
            raise damaged from None
    _check_size(width, height)
    if colours not in _COLOURS:
        return _decode_any(data, SHARD_FORMATS)
    faster: dict[str, Any] = {} if share is None else {**_least(height, width, share), "fastupsample": True}
    rgb: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB", **faster)
    return rgb


def _least(height: int, width: int, share: float) -> dict[str, int]:
    """What is asked of a reduced image; shares other than those of a factor of 2 or more have no vector code."""
    return {"min_height": math.ceil(height * share), "min_width": math.ceil(width * share), "min_factor": 2}


def _reduced(data: bytes, height: int, width: int, share: float) -> tuple[int, int]:
    """Height and width at which a JPEG is decoded fast."""
    found: tuple[int, int] = simplejpeg.decode_jpeg_header(data, **_least(height, width, share))[:2]
    return found


def _decode_part(data: bytes, whole: tuple[int, int], part: Box, eighths: int) -> npt.NDArray[np.uint8] | None:
    """Pixels of a part of a JPEG; null where it must be decoded whole. One that was cut short must, and is refused."""
    decoder = part_decoder()
    if decoder is None or not data.endswith(_JPEG_END):
        return None
    return decoder.decode(data, whole, part, eighths)


def _decode_any(data: bytes, formats: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=formats) as image:
        _check_size(*image.size)
        return np.array(image.convert("RGB"))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{width}x{height} has more than {MAX_PIXELS} pixels")
