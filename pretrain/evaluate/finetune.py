"""Fine-tuning for classification with the published recipe (MAE, He et al. 2022, appendix A.1, table 9) or a short one.

Layer decay, mixup, cutmix, drop path, random augmentation are timm's, the loop is that of pretraining; crops, flips and
the order are functions of seed, epoch and image as there, so that a run that was stopped goes on exactly.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import timm
import torch
from PIL import Image
from pydantic import Field, model_validator
from timm.data import Mixup
from timm.data.auto_augment import rand_augment_transform
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from curation.base.arrays import Ints
from curation.base.progress import Observer
from curation.base.settings import Strict
from pretrain.config import OptimConfig
from pretrain.data.augment import NOISE_SIZE, CropRule, crop_and_resize, crop_box, resize_whole
from pretrain.data.noise import Purpose, bits, drawn_permutation, uniform
from pretrain.errors import InputError
from pretrain.evaluate.encoders import FrozenEncoder, Input, Pool, TimmEncoder, VitEncoder, normalised
from pretrain.evaluate.held import Held
from pretrain.evaluate.labelled import Divided, Labelled
from pretrain.evaluate.tuning import Tuning, alone, loader, no_nonfinite, tune, tuning_folder
from pretrain.loop import Pace
from pretrain.run import RunFolder
from pretrain.schedule import learning_rate

SHORT = {
    "epochs": 20, "base_lr": 4e-3, "layer_decay": 1.0, "drop_path": 0.0, "mixup": 0.0, "cutmix": 0.0, "augment": None,
    "crop_scale": (0.5, 1.0), "vflip": 0.5,
}  # fmt: skip
"""For small networks and a thousand images: a fifth of the length, the same rate for all layers and eight times as
high, and no regularisation but large crops, flips and smoothing (docs/benchmarks/evaluate.md says what that gains)."""


class Finetune(Strict):
    """Fine-tuning of all weights, with a linear head on the mean of the patch tokens or the class token."""

    name: Literal["finetune"] = "finetune"
    recipe: Literal["published", "short"] = Field("published", exclude=True)
    """Where the other fields' defaults come from: those below, or :data:`SHORT`. Only the values count, so one recipe
    written in two ways is one cell of a suite."""
    epochs: int = Field(100, ge=1)
    batch: int = Field(64, ge=2, multiple_of=2)
    base_lr: float = Field(5e-4, gt=0)
    """Learning rate of the head for 256 images a step."""
    warmup_epochs: float = Field(5, ge=0)
    """At most a quarter of the epochs."""
    weight_decay: float = Field(0.05, ge=0)
    layer_decay: float = Field(0.75, gt=0, le=1)
    """Each block learns so much more slowly than the one after it."""
    drop_path: float = Field(0.1, ge=0, lt=1)
    mixup: float = Field(0.8, ge=0)
    cutmix: float = Field(1.0, ge=0)
    smoothing: float = Field(0.1, ge=0, lt=1)
    augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's name of a random augmentation."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    hflip: float = Field(0.5, ge=0, le=1)
    vflip: float = Field(0.0, ge=0, le=1)
    pool: Pool = "mean"
    save_every: int = Field(1, ge=1)
    """Epochs between checkpoints, where there is a folder for them."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_recipe(cls, value: Any) -> Any:
        return SHORT | value if isinstance(value, dict) and value.get("recipe") == "short" else value

    @property
    def rates(self) -> OptimConfig:
        """The schedule, in the terms of pretraining."""
        return OptimConfig(base_lr=self.base_lr, warmup_epochs=min(self.warmup_epochs, self.epochs / 4))


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning came to."""

    guesses: npt.NDArray[np.int64]
    """Classes of the test images that could be read."""
    test: Ints
    """Their rows."""
    train_images: int
    unreadable: list[str]
    losses: list[float]
    """Mean training loss of each epoch."""
    seconds: float
    """What training and classifying took, over all the processes that worked on it."""


def finetune(
    encoder: FrozenEncoder, data: Divided, recipe: Finetune, device: torch.device, workers: int = 0,
    folder: Path | None = None, observer: Observer | None = None,
) -> Tuned:  # fmt: skip
    """Fine-tune a copy of an encoder on the training images and classify the test images.

    The test sees whole central squares. Positions are those of the encoder's table, for Scale-MAE those of 1 m a pixel.

    Args:
        encoder: where to start; it is not changed.
        data: the images.
        recipe: how.
        device: where to compute; in bfloat16 on a GPU.
        workers: decoding processes.
        folder: for checkpoints, from which the same call goes on; removed at the end.
        observer: shown the steps.

    Raises:
        InputError: the encoder has no weights, or too few images can be read.
        WorkError: a loss, gradient or weight is no longer finite.
    """
    if not isinstance(encoder, VitEncoder | TimmEncoder):
        raise InputError(f"{encoder.name}: cannot be fine-tuned; leave it out of this protocol")
    images = Held(data.images.decoded)
    train, test = (images.readable(rows) for rows in (data.train, data.test))
    if len(train) < 2 or not len(test):
        raise InputError(f"{len(train)} images to train on and {len(test)} to test on can be read; too few")
    torch.manual_seed(recipe.seed)  # of the head's start
    model = classifier(encoder, len(data.images.classes), recipe).to(device)
    job = _Job(model, images, data.images, encoder.input, recipe, device, workers)
    with tuning_folder(folder) as place:
        past = tune(_training(job, train, place, keeps=folder is not None), observer)
        start = time.perf_counter()
        guesses = _classify(job, test)
    seconds = past.seconds + time.perf_counter() - start
    unreadable = [data.images.places[row].name for row in sorted(images.bad)]
    return Tuned(guesses, test, len(train), unreadable, past.losses, seconds)


def classifier(encoder: VitEncoder | TimmEncoder, classes: int, recipe: Finetune) -> nn.Module:
    """A timm classifier with the encoder's weights.

    For the mean of the patch tokens the final norm moves behind the pooling and starts anew, as in MAE's release.
    """
    args = dict(encoder.config.args) | {"num_classes": classes, "drop_path_rate": recipe.drop_path}
    if isinstance(encoder, TimmEncoder):
        model, state = timm.create_model(encoder.config.name, **args), encoder.model.state_dict()
    else:
        if recipe.pool == "both":
            raise InputError("pool both: a classifier is tuned on the mean or on the token; give one of them")
        pooled = {"global_pool": "avg", "fc_norm": True} if recipe.pool == "mean" else {"global_pool": "token"}
        model, state = timm.create_model(encoder.config.name, **args | pooled), encoder.vit.state_dict()
    missing, unexpected = model.load_state_dict(state, strict=False)
    odd = [name for name in missing if not name.startswith(("head", "fc_norm", "fc", "classifier"))]
    odd += [name for name in unexpected if not name.startswith(("norm.", "fc_norm"))]
    if odd:
        raise InputError(f"{encoder.name}: {odd[0]} fits no classifier of {encoder.config.name}")
    head = model.get_classifier()
    nn.init.trunc_normal_(head.weight, std=2e-5)
    nn.init.zeros_(head.bias)
    return model


@dataclass
class _Job:
    model: nn.Module
    images: Held
    labelled: Labelled
    input: Input
    recipe: Finetune
    device: torch.device
    workers: int


class _Crops(Dataset[tuple[Tensor, int, int]]):
    """Random crops, mirrored and augmented, in the order of all epochs: uint8 (3, S, S), the class, and the row."""

    def __init__(self, job: _Job, rows: Ints) -> None:
        self.images, self.labels, self.recipe = job.images, job.labelled.labels, job.recipe
        self.rows = rows
        self.rule = CropRule(job.input.size, job.recipe.crop_scale, (3 / 4, 4 / 3), max_upsample=1e9)
        self.size = even_batch(job.recipe.batch, len(rows))
        self.per_epoch = len(rows) // self.size * self.size
        self._known = -1, rows
        self.augment: Callable[[Image.Image], Image.Image] | None = None
        if job.recipe.augment is not None:
            self.augment = _augmentation(job.recipe.augment, job.input.size)

    def __len__(self) -> int:
        return self.recipe.epochs * self.per_epoch

    def __getitem__(self, number: int) -> tuple[Tensor, int, int]:
        seed, epoch = self.recipe.seed, number // self.per_epoch
        row = int(self.rows[self._order(epoch)[number % self.per_epoch]])
        rgb = self.images[row]
        crop = crop_box(rgb.shape[1], rgb.shape[0], self.rule, uniform(seed, Purpose.CROP, epoch, row, NOISE_SIZE))
        image = crop_and_resize(rgb, crop, self.rule.size)
        if self.augment is not None:
            _seed(seed, epoch, row)
            pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
            image = torch.from_numpy(np.array(self.augment(pixels))).permute(2, 0, 1)
        across, down = uniform(seed, Purpose.FLIP, epoch, row, 2) < (self.recipe.hflip, self.recipe.vflip)
        axes = [axis for axis, wanted in ((2, across), (1, down)) if wanted]
        return image.flip(axes).contiguous(), int(self.labels[row]), row

    def _order(self, epoch: int) -> Ints:
        if self._known[0] != epoch:
            self._known = epoch, drawn_permutation(self.recipe.seed, Purpose.SAMPLE_ORDER, epoch, n=len(self.rows))
        return self._known[1]


def _augmentation(name: str, side: int) -> Callable[[Image.Image], Image.Image]:
    try:
        transform = rand_augment_transform(name, {"translate_const": int(0.45 * side)})
    except (AssertionError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"augment: {name!r} is no random augmentation of timm ({error}); rand-m9-mstd0.5-inc1 is"
        ) from None
    for op in transform.ops:
        if op.name.startswith("Posterize"):  # timm's strongest leaves no bit, which Pillow refuses
            op.level_fn = partial(_one_bit_at_least, op.level_fn)
    return transform


def _one_bit_at_least(bits_of: Callable[..., tuple[int]], level: float, parameters: object) -> tuple[int]:
    return (max(1, bits_of(level, parameters)[0]),)


def _seed(*words: int) -> None:
    """Seed the global generators of Python, NumPy and torch, from which timm's augmentations draw."""
    drawn = int(bits(words[0], Purpose.STEP, *words[1:], n=1)[0] >> 33)
    random.seed(drawn)
    np.random.seed(drawn)  # noqa: NPY002
    torch.manual_seed(drawn)


def even_batch(batch: int, images: int) -> int:
    """Images per step: mixup wants an even number."""
    return min(batch, images) // 2 * 2


def _training(job: _Job, rows: Ints, folder: RunFolder, *, keeps: bool) -> Tuning:
    recipe, crops = job.recipe, _Crops(job, rows)
    size, steps = crops.size, crops.per_epoch // crops.size
    optimizer = create_optimizer_v2(
        job.model, "adamw", lr=recipe.base_lr, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay,
        fused=True,
    )  # fmt: skip
    nonfinite = no_nonfinite(folder, lambda row: job.labelled.places[row].name, "set base_lr of the recipe lower")
    pace = Pace(recipe.epochs * steps, steps, size, log_every=steps, save_every=recipe.save_every * steps * keeps)
    return Tuning(
        folder, alone(job.device), job.model, job.model, optimizer, pace, recipe.seed, nonfinite,
        batches=lambda start: loader(crops, size, range(start * size, len(crops)), job.workers),
        loss=_mixed_loss(job),
        rate_at=lambda step: learning_rate(recipe.rates, size, step, steps, recipe.epochs),
        recipe=recipe.model_dump(mode="json"),
    )  # fmt: skip


def _mixed_loss(job: _Job) -> Callable[[Tensor, Tensor, int], Tensor]:
    recipe, classes = job.recipe, len(job.labelled.classes)
    mixes = float(recipe.mixup + recipe.cutmix > 0)
    mixup = Mixup(recipe.mixup, recipe.cutmix, prob=mixes, label_smoothing=recipe.smoothing, num_classes=classes)

    def loss(images: Tensor, labels: Tensor, step: int) -> Tensor:
        _seed(recipe.seed, step, len(labels))  # of mixup, cutmix and drop path
        inputs, targets = mixup(normalised(images, job.input), labels)
        with torch.autocast(job.device.type, torch.bfloat16, enabled=job.device.type == "cuda"):
            logits = job.model(inputs)
        return F.cross_entropy(logits.float(), targets, reduction="none")

    return loss


@torch.no_grad()
def _classify(job: _Job, rows: Ints) -> npt.NDArray[np.int64]:
    job.model.eval()
    guesses = []
    for start in range(0, len(rows), job.recipe.batch):
        chosen = rows[start : start + job.recipe.batch].tolist()
        images = torch.stack([resize_whole(job.images[row], job.input.size) for row in chosen]).to(job.device)
        with torch.autocast(job.device.type, torch.bfloat16, enabled=job.device.type == "cuda"):
            guesses.append(job.model(normalised(images, job.input)).argmax(1).cpu())
    return torch.cat(guesses).numpy()
