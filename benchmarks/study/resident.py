"""A feed for GPUs: all images of a corpus lie in the device's memory, and crops are made there.

Order, crops and masks are those of the usual feed. Crops are resized otherwise: bilinear at twice the side, then the
mean of 2 x 2, where workers use antialiased bicubic; so numbers are compared within one feed only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.data.augment import Box, CropRule, crop_box
from pretrain.data.corpus import Corpus
from pretrain.data.reader import Batch, ShardReader, decode
from pretrain.data.stream import StreamPlan, requests


@dataclass
class Resident:
    """Filled by the first corpus that it is asked for."""

    device: torch.device
    images: Tensor | None = None
    """(N, 3, S, S) uint8."""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Width and height of each."""

    def __call__(
        self, corpus: Corpus, plan: StreamPlan, rule: CropRule, start: int, stop: int, *_: object, **__: object
    ) -> Iterator[Batch]:
        """Yield the batches of the steps ``start`` to ``stop``, on the device."""
        if self.images is None:
            images = load(corpus, rule)
            self.images, self.sizes = stacked(images).to(self.device), [image.shape[1::-1] for image in images]
        for request in requests(corpus, plan, start, stop):
            ids = torch.from_numpy(request.rows.sample_id).to(self.device)
            sizes = [self.sizes[sample] for sample in request.rows.sample_id.tolist()]
            boxes = [crop_box(*size, rule, noise) for size, (noise,) in zip(sizes, request.noise, strict=True)]
            gsd, weight = torch.full((len(boxes),), torch.nan), torch.ones(len(boxes))
            epoch = torch.full((len(boxes),), request.epoch, dtype=torch.int64)
            crops = cut(self.images[ids], boxes, rule.size)
            yield Batch(crops, gsd, ids, epoch, weight, torch.zeros_like(epoch), (request.epoch, request.row), [])


def load(corpus: Corpus, rule: CropRule) -> list[np.ndarray]:
    """Every image of the corpus, (H, W, 3), by its sample id."""
    reader, images = ShardReader(corpus.paths, rule), list[np.ndarray]()
    for shard in range(len(corpus.paths)):
        rows = corpus.rows(shard)
        if rows.sample_id.tolist() != list(range(len(images), len(images) + len(rows.sample_id))):
            raise SystemExit(f"{corpus.paths[shard]}: samples are left out; all must be usable to be held by number")
        places = zip(rows.offset.tolist(), rows.size.tolist(), strict=True)
        images += [decode(reader.read(shard, *place)) for place in places]
    return images


def stacked(images: list[np.ndarray]) -> torch.Tensor:
    """(N, 3, S, S) uint8, smaller images at the upper left, their last row and column repeated."""
    side = max(max(image.shape) for image in images)
    padded = [np.pad(image, [(0, side - length) for length in image.shape[:2]] + [(0, 0)], "edge") for image in images]
    return torch.from_numpy(np.stack(padded)).permute(0, 3, 1, 2).contiguous()


def cut(images: Tensor, boxes: list[Box], size: int) -> Tensor:
    """Crop (B, 3, S, S) uint8 to ``boxes``, one each, and resize: (B, 3, size, size) uint8."""
    side = images.shape[3]
    left, top, width, height = torch.tensor(boxes, dtype=torch.float32, device=images.device).T[:, :, None]
    steps = (torch.arange(2 * size, device=images.device) + 0.5) / (2 * size)
    across, down = ((first + steps * extent) * 2 / side - 1 for first, extent in ((left, width), (top, height)))
    grid = torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), dim=3)
    fine = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(fine, 2).round().to(torch.uint8)
