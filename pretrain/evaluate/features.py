"""Labelled images and their features."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from curation.shards.format import INDEX_FILE, open_index
from pretrain.data.augment import resize_whole
from pretrain.data.noise import bits
from pretrain.data.reader import EVALUATION_FORMATS, decode
from pretrain.errors import InputError, UnreadableImage

Pool = Literal["mean", "token"]
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}


class Place(NamedTuple):
    """Where an image lies."""

    path: Path
    offset: int
    size: int
    """-1: the whole file."""

    def read(self) -> bytes:
        """The image's bytes."""
        if self.size < 0:
            return self.path.read_bytes()
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), self.size, self.offset)


@dataclass(frozen=True)
class Labelled:
    """Images with a class each."""

    places: list[Place]
    labels: npt.NDArray[np.int64]
    classes: list[str]

    def take(self, where: npt.NDArray[np.int64]) -> Labelled:
        """Some of the images."""
        return Labelled([self.places[index] for index in where], self.labels[where], self.classes)


def open_labelled(folder: Path) -> Labelled:
    """Labelled images of a folder tree (class = first folder), or of shards (class = the raw image's folder).

    Raises:
        InputError: the folder is absent, holds no images, or fewer than two classes.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder with one folder of images per class, or shards")
    pairs = sorted(_from_shards(folder) if (folder / INDEX_FILE).is_file() else _from_tree(folder))
    classes = sorted({name for name, _ in pairs})
    if len(classes) < 2:
        raise InputError(
            f"{folder}: {len(pairs)} images in {len(classes)} classes; there must be a folder of images per class"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    return Labelled([place for _, place in pairs], np.array([numbers[name] for name, _ in pairs]), classes)


def _from_tree(folder: Path) -> Iterator[tuple[str, Place]]:
    for path in folder.glob("*/**/*"):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            yield path.relative_to(folder).parts[0], Place(path, 0, -1)


def _from_shards(folder: Path) -> Iterator[tuple[str, Place]]:
    index, paths = open_index(folder)
    columns = ["image_offset", "image_size", "json_offset", "json_size"]
    with index:
        for number, path in enumerate(paths):
            for row in index.read_row_group(number, columns=columns).to_pylist():
                meta = json.loads(Place(path, row["json_offset"], row["json_size"]).read()) if row["json_size"] else {}
                yield Path(str(meta.get("image", ""))).parent.name, Place(path, row["image_offset"], row["image_size"])


def split(labelled: Labelled, train_share: float, seed: int = 0) -> tuple[Labelled, Labelled]:
    """Split every class alike, by a fixed permutation; a class with two images or more is in both parts.

    Args:
        labelled: the images.
        train_share: share of each class that becomes training data.
        seed: of the permutation.
    """
    train: list[int] = []
    test: list[int] = []
    for label in range(len(labelled.classes)):
        members = np.flatnonzero(labelled.labels == label)
        members = members[np.argsort(bits(seed, 0, label, n=len(members)), kind="stable")]
        cut = min(max(round(train_share * len(members)), 1), max(len(members) - 1, 1))
        train += members[:cut].tolist()
        test += members[cut:].tolist()
    return labelled.take(np.array(sorted(train))), labelled.take(np.array(sorted(test), dtype=np.int64))


@dataclass(frozen=True)
class Preparation:
    """How images become the encoder's input."""

    size: int
    mean: list[float]
    std: list[float]


@torch.no_grad()
def extract(
    encoders: Sequence[VisionTransformer], labelled: Labelled, prepare: Preparation, pool: Pool = "mean", *,
    batch_size: int = 64, device: torch.device | None = None, done: Callable[[int], None] = lambda count: None,
) -> list[Tensor]:  # fmt: skip
    """Features of images, (N, D) float32 on the CPU, of several encoders that share one decoding.

    Args:
        encoders: timm ViTs of one input size.
        labelled: the images; each is cropped to its central square and resized.
        prepare: size and normalisation.
        pool: mean over the patch tokens, or the class token.
        batch_size: images at a time.
        device: where to compute.
        done: told how many images were done.

    Raises:
        InputError: an image cannot be read; names it.
    """
    device = device or torch.device("cpu")
    moved = [encoder.to(device).eval() for encoder in encoders]
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (prepare.mean, prepare.std))
    features: list[list[Tensor]] = [[] for _ in moved]
    for start in range(0, len(labelled.places), batch_size):
        places = labelled.places[start : start + batch_size]
        images = torch.stack([_load(place, prepare.size) for place in places]).to(device)
        inputs = (images.float() / 255 - mean) / std
        for encoder, parts in zip(moved, features, strict=True):
            parts.append(_pool(encoder, encoder.forward_features(inputs), pool).float().cpu())
        done(len(places))
    return [torch.cat(parts) for parts in features]


def _pool(encoder: VisionTransformer, tokens: Tensor, pool: Pool) -> Tensor:
    return tokens[:, encoder.num_prefix_tokens :].mean(1) if pool == "mean" else tokens[:, 0]


def _load(place: Place, size: int) -> Tensor:
    try:
        return resize_whole(decode(place.read(), EVALUATION_FORMATS), size)
    except (UnreadableImage, OSError) as error:
        raise InputError(f"{place.path}: {error}; remove the image, or repair it") from None
