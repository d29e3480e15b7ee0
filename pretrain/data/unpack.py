"""``decode: gpu``: a batch's JPEGs are decoded, cropped and resized on the device, all at once.

Samples, crops and noise are those of the other decoders; only pixels differ, by what the device's decoder rounds
otherwise (torchvision's ``decode_jpeg``, nvJPEG on a GPU). Of a JPEG that it refuses the CPU's decoder has the word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter

import simplejpeg
import torch
import torchvision
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from pretrain.data.packed import Packed
from pretrain.data.reader import Batch, decode
from pretrain.data.resize import resize_crops
from pretrain.errors import InputError, UnreadableImage

_AT_ONCE = 1 << 24
"""Pixels of images that are decoded and resized together, padding counted: 200 MB of them as float32."""


class Unpacker:
    """Decodes batches on a device.

    On a GPU it works on a stream of its own, beside the step that is computed. torchvision's decoder writes from yet
    another stream into memory of the current one without waiting for it, so this one must stand still then.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __call__(self, batch: Batch) -> Batch:
        """The batch with all its images, on the device; those that cannot be decoded have weight 0."""
        packed = batch.packed
        if packed is None:
            return batch
        began, told = perf_counter(), list(batch.unreadable)
        with torch.cuda.stream(self.stream):
            images, lost = self._images(batch, packed)
        if self.stream is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(self.stream)
            images.record_stream(here)
        for number, reason in lost.items():
            first = int(packed.rows[number]) * images.shape[1]
            batch.weight[first : first + images.shape[1]] = 0
            batch.gsd[first : first + images.shape[1]] = 1.0
            told.append((int(batch.sample_id[first]), f"{packed.places[number]}: {reason}"))
        spent = batch.spent._replace(decode=batch.spent.decode + perf_counter() - began)
        return batch._replace(images=images.flatten(0, 1), unreadable=told, packed=None, spent=spent)

    def _images(self, batch: Batch, packed: Packed) -> tuple[Tensor, dict[int, str]]:
        """All images of a batch, (B / K, K, 3, S, S), and why packed ones could not be decoded."""
        crops, size = packed.boxes.shape[1], batch.images.shape[-1]
        count = len(batch.sample_id) // crops
        images = torch.zeros((count, crops, 3, size, size), dtype=torch.uint8, device=self.device)
        boxes, rows = (value.to(self.device, non_blocking=True) for value in (packed.boxes, packed.rows))
        others = sorted(set(range(count)) - set(packed.rows.tolist()))
        for place, row in enumerate(others):
            images[row].copy_(batch.images[place * crops : (place + 1) * crops], non_blocking=True)
        lost: dict[int, str] = {}
        for lot in _lots(packed.sides, crops):
            these = slice(lot.start, lot.stop)
            made = resize_crops(list(self._crops(packed, lot, lost)), boxes[these, :, 2:].flatten(0, 1), size)
            images.index_copy_(0, rows[these], made.view(len(lot), *images.shape[1:]))
        return images, lost

    def _crops(self, packed: Packed, lot: range, lost: dict[int, str]) -> Iterator[Tensor]:
        """The crops of some images, (3, h, w) uint8; black ones of what cannot be decoded, which is noted."""
        files = packed.data.split(packed.lengths)[lot.start : lot.stop]  # type: ignore[no-untyped-call]
        for number, image in zip(lot, self._decoded(files, packed.sides[lot.start : lot.stop]), strict=True):
            if isinstance(image, str):
                lost[number], image = image, torch.zeros((3, *packed.sides[number]), dtype=torch.uint8)
            for left, top, width, height in packed.boxes[number].tolist():
                yield image[:, top : top + height, left : left + width]

    def _decoded(self, files: Sequence[Tensor], sides: Sequence[tuple[int, int]]) -> list[Tensor | str]:
        """Images on the device, (3, H, W) uint8; for one that cannot be decoded the reason."""
        if self.stream is not None:
            self.stream.synchronize()
        try:
            found = _decode_all(files, self.device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # one that is refused fails all
            found = []
        if [tuple(image.shape[1:]) for image in found] == list(sides):
            return [*found]
        if len(files) > 1:
            return [self._decoded([file], [each])[0] for file, each in zip(files, sides, strict=True)]
        return [self._by_cpu(files[0], sides[0])]

    def _by_cpu(self, file: Tensor, sides: tuple[int, int]) -> Tensor | str:
        try:
            rgb = decode(file.numpy().tobytes())
        except UnreadableImage as error:
            return str(error)
        if rgb.shape[:2] != sides:
            return "its header contradicts itself"
        return torch.from_numpy(rgb).permute(2, 0, 1).to(self.device)


def refuse_decoder(decoder: str, device: torch.device) -> None:
    """Check that a device has the decoder that ``data.decode`` names.

    Raises:
        InputError: it has not.
    """
    if decoder != "gpu":
        return
    if device.type != "cuda":
        raise InputError("data.decode: gpu decodes on a GPU, and this run has none; set data.decode=exact")
    grey = torch.full((16, 16, 3), 128, dtype=torch.uint8).numpy()
    try:
        _decode_all([torch.frombuffer(bytearray(simplejpeg.encode_jpeg(grey)), dtype=torch.uint8)], device)
    except RuntimeError as error:
        raise InputError(
            f"data.decode: gpu: torchvision {torchvision.__version__} decodes no JPEG on {device} "
            f"({str(error).splitlines()[0]}); install the torchvision that was built for CUDA {torch.version.cuda}, or "
            "set data.decode=exact"
        ) from None


def _decode_all(files: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    found: list[Tensor] = decode_jpeg(list(files), ImageReadMode.RGB, device)
    return found


def _lots(sides: Sequence[tuple[int, int]], crops: int) -> Iterator[range]:
    """Images that are decoded and resized together, in order: as many as there is memory for, and one at least."""
    start = high = wide = 0
    for number, (height, width) in enumerate(sides):
        high, wide = max(high, height), max(wide, width)
        if number > start and (number + 1 - start) * crops * high * wide > _AT_ONCE:
            yield range(start, number)
            start, high, wide = number, height, width
    yield range(start, len(sides))
