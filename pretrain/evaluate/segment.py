"""Segmentation: a linear head on patch features, of a frozen encoder or one that is tuned with it.

Images are cut into square windows at their own resolution, each shown at the encoder's input size; logits are enlarged
to the window. What stands in two windows at an image's far edge is learned and scored once. Heavier decoders belong to
other libraries (docs).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.nn import functional as F

from curation.base.arrays import Ints
from curation.base.progress import Observer
from curation.base.settings import Strict
from pretrain.config import OptimConfig
from pretrain.data.noise import Purpose, drawn_permutation
from pretrain.errors import InputError
from pretrain.evaluate.encoders import FrozenEncoder, Pool, VitEncoder
from pretrain.evaluate.held import HELD_BYTES, Held
from pretrain.evaluate.masks import UNLABELLED, Masked
from pretrain.evaluate.outcome import Outcome
from pretrain.evaluate.score import (
    Interval,
    bootstrap_classes,
    confusion,
    counted,
    f1,
    intersection_over_union,
)
from pretrain.evaluate.tuning import Shown, Tuning, alone, loader, no_nonfinite, tune, tuning_folder
from pretrain.evaluate.windows import MaskedWindow, MaskedWindows, windows
from pretrain.loop import Pace
from pretrain.run import RunFolder
from pretrain.schedule import learning_rate


class Segment(Strict):
    """A linear head on the patches' features."""

    name: Literal["segment"] = "segment"
    tune: bool = False
    """Whether the encoder's weights are trained too."""
    window: int | None = Field(None, ge=8)
    """Side of the windows in the images' pixels; by default the encoder's input size."""
    epochs: int = Field(20, ge=1)
    batch: int = Field(16, ge=1)
    """Windows per step."""
    rate: float | None = Field(None, gt=0)
    """Of AdamW, by default 1e-3 for the head alone and 1e-4 with the encoder; a tenth of the epochs warms up."""
    weight_decay: float = Field(0.05, ge=0)
    layer_decay: float = Field(0.75, gt=0, le=1)
    """Each block learns so much more slowly than the one after it, where the encoder is tuned."""
    flips: bool = True
    """Mirrored windows both ways, where the encoder is tuned; a frozen one sees the windows as they are."""
    seed: int = Field(0, ge=0)
    pool: ClassVar[Pool] = "mean"

    @property
    def rates(self) -> OptimConfig:
        """The schedule, in the terms of pretraining."""
        return OptimConfig(base_lr=self.rate or (1e-4 if self.tune else 1e-3), warmup_epochs=self.epochs / 10)


@dataclass(frozen=True, kw_only=True)
class Segmented(Outcome):
    """What one encoder answered on images with masks."""

    scores: dict[str, Interval]
    """``mIoU`` and ``mF1``: means over the classes that occur."""
    counts: list[list[list[int]]]
    """(N, 3, C) per test image: pixels recognised, of the class, taken for it."""
    confusion: list[list[int]]
    """(C, C) pixels of a class (row) that were taken for a class (column)."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return super().as_json() | {"scores": {name: score._asdict() for name, score in self.scores.items()}}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Segmented:
        """What :meth:`as_json` gave."""
        return cls(**value | {"scores": {name: Interval(**score) for name, score in value["scores"].items()}})

    def minus(self, other: Segmented) -> Interval:
        """Difference of mIoU, the same images drawn for both."""
        ours, theirs = (np.array(each.counts, np.float64) for each in (self, other))
        return bootstrap_classes(ours, intersection_over_union, theirs)


class Segmenter(nn.Module):
    """A linear classifier behind BatchNorm without affine, on a copy of an encoder's patch features."""

    def __init__(self, encoder: VitEncoder, classes: int, *, tune: bool) -> None:
        super().__init__()
        self.vit = deepcopy(encoder.vit).requires_grad_(tune)
        if tune and self.vit.pos_embed is not None:
            self.vit.pos_embed.requires_grad_(encoder.vit.pos_embed.requires_grad)  # sin-cos tables stay
        self.encoder, self.tune = replace(encoder, vit=self.vit), tune
        head = nn.Conv2d(self.vit.embed_dim, classes, 1)
        nn.init.trunc_normal_(head.weight, std=0.01)
        self.probe = nn.Sequential(nn.BatchNorm2d(self.vit.embed_dim, affine=False), head)

    @property
    def learned(self) -> nn.Module:
        """What changes, and so what checkpoints hold."""
        return self if self.tune else self.probe

    def train(self, mode: bool = True) -> Segmenter:
        """A frozen encoder is never in training mode."""
        super().train(mode)
        self.vit.train(mode and self.tune)
        return self

    def maps(self, images: Tensor, gsd: float) -> Tensor:
        """Patch features (B, D, h, w) of uint8 images (B, 3, S, S)."""
        with torch.set_grad_enabled(self.tune and torch.is_grad_enabled()):
            return self.encoder.patch_map(images, torch.full((len(images),), gsd, device=images.device))

    def forward(self, maps: Tensor, side: int) -> Tensor:
        """Logits (B, C, side, side)."""
        logits = self.probe(maps.float())
        return F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)


@dataclass
class _Job:
    encoder: VitEncoder
    data: Masked
    images: Held
    recipe: Segment
    side: int
    """Of the windows, in pixels of the images."""
    gsd: float
    """Metres per pixel as shown."""
    device: torch.device
    workers: int

    def windows(self, chosen: list[MaskedWindow], flips_of_seed: int | None = None) -> MaskedWindows:
        """As the encoder is shown them."""
        return MaskedWindows(self.images, chosen, self.side, self.encoder.input.size, flips_of_seed)


def segment(
    encoder: FrozenEncoder, data: Masked, recipe: Segment, device: torch.device, workers: int = 0,
    folder: Path | None = None, observer: Observer | None = None,
) -> Segmented:  # fmt: skip
    """Train a head, and the encoder with it where the recipe says so, and score it on the test images.

    Args:
        encoder: where to start; it is not changed.
        data: images with masks.
        recipe: how.
        device: where to compute; in bfloat16 on a GPU.
        workers: decoding processes.
        folder: for checkpoints, from which the same call goes on; removed at the end.
        observer: shown the steps.

    Raises:
        InputError: the encoder has no patch features, too few images can be read, or no pixel is of a class.
        WorkError: a loss, gradient or weight is no longer finite.
    """
    if not isinstance(encoder, VitEncoder):
        raise InputError(f"{encoder.name}: has no features of patches, which segmentation needs; leave it out")
    images = Held(data.read)
    train, test = (images.readable(rows) for rows in (data.train, data.test))
    if not len(train) or not len(test):
        first = "".join(f"; {data.pairs[row].name}: {why}" for row, why in list(images.bad.items())[:1])
        raise InputError(f"{len(train)} images to train on and {len(test)} to test on can be read; too few{first}")
    _refuse_unlabelled(images, data, train, test)
    side = recipe.window or encoder.input.size
    gsd = data.gsd_m * side / encoder.input.size if data.gsd_m else 1.0
    torch.manual_seed(recipe.seed)  # of the head's start
    job = _Job(encoder, data, images, recipe, side, gsd, device, workers)
    model = Segmenter(encoder, len(data.classes), tune=recipe.tune).to(device)
    with tuning_folder(folder) as place:
        shown = windows(train, images.shapes, side)
        past = tune(_training(job, model, shown, place, keeps=folder is not None), observer)
        start = time.perf_counter()
        tables = _tables(job, model, test, len(data.classes))
    bad = [data.pairs[row].name for row in sorted(images.bad)]
    told = {"losses": [round(loss, 4) for loss in past.losses], "sides": [side]}
    return _answer(tables, len(train), bad, past.seconds + time.perf_counter() - start, told)


def _refuse_unlabelled(images: Held, data: Masked, *parts: Ints) -> None:
    """Refuse masks of other values than the classes': there would be nothing to learn or to score."""
    for rows in parts:
        if not any((images[row][..., 3] != UNLABELLED).any() for row in rows.tolist()):
            values = ", ".join(str(value) for value in sorted(data.values))
            first = data.pairs[rows[0]].mask
            raise InputError(
                f"{first}: no pixel, nor one of the other masks', is {values}; give classes as masks have them"
            )


def _answer(tables: Ints, train: int, bad: list[str], seconds: float, details: dict[str, Any]) -> Segmented:
    counts = counted(tables)
    scores = {"mIoU": bootstrap_classes(counts, intersection_over_union), "mF1": bootstrap_classes(counts, f1)}
    shares = intersection_over_union(counts.sum(0)).tolist()
    return Segmented(
        scores=scores, counts=counts.astype(int).tolist(), confusion=tables.sum(0).tolist(),
        per_class=[None if share != share else share for share in shares], train_images=train,
        test_images=len(tables), unreadable=bad, feature_seconds=0.0, classifier_seconds=round(seconds, 2),
        details=details,
    )  # fmt: skip


def _training(
    job: _Job, model: Segmenter, chosen: list[MaskedWindow], folder: RunFolder, *, keeps: bool
) -> Tuning:  # fmt: skip
    recipe = job.recipe
    size = min(recipe.batch, len(chosen))
    steps = len(chosen) // size
    optimizer = torch.optim.AdamW(_groups(model, recipe), lr=0.0, fused=True)
    pace = Pace(recipe.epochs * steps, steps, size, log_every=steps, save_every=steps * keeps)
    nonfinite = no_nonfinite(folder, lambda row: job.data.pairs[row].name, "set rate of the recipe lower")
    return Tuning(
        folder, alone(job.device), model.learned, model, optimizer, pace, recipe.seed, nonfinite,
        batches=lambda start: _batches(job, model, chosen, size, start),
        loss=lambda shown, labels, step: _loss(job, model, shown, labels),
        rate_at=lambda step: learning_rate(recipe.rates, 256, step + 1, steps, recipe.epochs),
        recipe=recipe.model_dump(mode="json"),
    )  # fmt: skip


def _groups(model: Segmenter, recipe: Segment) -> list[dict[str, Any]]:
    head = {"params": list(model.probe.parameters()), "weight_decay": recipe.weight_decay}
    if not recipe.tune:
        return [head]
    undecayed = model.vit.no_weight_decay()
    return [head, *param_groups_layer_decay(model.vit, recipe.weight_decay, undecayed, layer_decay=recipe.layer_decay)]


def _loss(job: _Job, model: Segmenter, shown: Tensor, labels: Tensor) -> Tensor:
    """Of each window (B,); their mean is the mean over all labelled pixels of the batch."""
    logits = model(_maps(job, model, shown), job.side)
    entropy = F.cross_entropy(logits.float(), labels.long(), ignore_index=UNLABELLED, reduction="none")
    return entropy.sum((1, 2)) * (len(labels) / (labels != UNLABELLED).sum().clamp(min=1))


def _maps(job: _Job, model: Segmenter, shown: Tensor) -> Tensor:
    """Features of a batch of images; a batch of features is given back."""
    shown = shown.to(job.device)
    if shown.dtype != torch.uint8:
        return shown
    with torch.autocast(job.device.type, torch.bfloat16, enabled=job.device.type == "cuda"):
        return model.maps(shown, job.gsd)


def _batches(job: _Job, model: Segmenter, chosen: list[MaskedWindow], batch: int, start: int) -> Iterator[Shown]:
    """Shuffled batches from a step on: images, or a frozen encoder's features where memory holds all; and labels."""
    orders = [_order(job.recipe, epoch, len(chosen), batch) for epoch in range(job.recipe.epochs)]
    numbers = [epoch * len(chosen) + row for epoch, order in enumerate(orders) for row in order][start * batch :]
    size = model.vit.embed_dim * (job.encoder.input.size // job.encoder.input.patch) ** 2
    if job.recipe.tune or len(chosen) * (2 * size + job.side**2) > HELD_BYTES:
        shown = job.windows(chosen, job.recipe.seed if job.recipe.tune and job.recipe.flips else None)
        yield from loader(shown, batch, numbers, job.workers)
        return
    plain = loader(job.windows(chosen), batch, range(len(chosen)), job.workers)
    parts = [(_maps(job, model, shown).half().cpu(), labels, rows) for shown, labels, rows in plain]
    maps, labels, rows = (torch.cat(each) for each in zip(*parts, strict=True))
    for places in (torch.tensor(numbers) % len(chosen)).view(-1, batch):
        yield maps[places], labels[places], rows[places]


def _order(recipe: Segment, epoch: int, count: int, batch: int) -> list[int]:
    """Windows of an epoch, whole batches."""
    return drawn_permutation(recipe.seed, Purpose.SAMPLE_ORDER, epoch, n=count)[: count // batch * batch].tolist()


@torch.no_grad()
def _tables(job: _Job, model: Segmenter, rows: Ints, classes: int) -> Ints:
    """Confusion tables of the images: (N, C, C) pixels."""
    model.eval()
    chosen = windows(rows, job.images.shapes, job.side)
    tables, place = np.zeros((len(rows), classes, classes), np.int64), {row: number for number, row in enumerate(rows)}
    done = iter(chosen)
    for shown, labels, _ in loader(job.windows(chosen), job.recipe.batch, range(len(chosen)), job.workers):
        guesses = model(_maps(job, model, shown), job.side).argmax(1).cpu().numpy()
        for guess, truth in zip(guesses, labels.numpy(), strict=True):
            scored = truth != UNLABELLED
            tables[place[next(done).row]] += confusion(guess[scored], truth[scored].astype(np.int64), classes)
    return tables
