"""Frozen features of labelled images: decoded in workers, kept on disk, and written for anyone."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from curation.base.errors import DAMAGED_IMAGE
from curation.base.files import digest
from curation.base.progress import Observer
from pretrain.data.augment import resize_whole
from pretrain.data.reader import EVALUATION_FORMATS
from pretrain.data.stream import loader_options
from pretrain.errors import InputError, UnreadableImage
from pretrain.evaluate.encoders import FrozenEncoder
from pretrain.evaluate.labelled import Labelled
from pretrain.run import writing

CACHE_VERSION = 1
_FEW = 256
"""Images for which starting a worker takes longer than decoding them."""
_ASKED = 101


@dataclass(frozen=True)
class Features:
    """Features of labelled images, row by row."""

    values: npt.NDArray[np.float32]
    """(N, D); zeros where the image could not be read."""
    unreadable: dict[int, str]
    """Row to reason."""
    seconds: float
    """What computing them took; as it was then, where they come from the cache."""

    def readable(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Those of the rows whose image could be read."""
        return rows[~np.isin(rows, list(self.unreadable))]


class View(NamedTuple):
    """How large images are shown."""

    size: int
    """Side in pixels."""
    scale: float = 1.0
    """Where the GSD is not known, a pixel is told to be 1 m at scale 1, and 1 / scale otherwise."""


@dataclass(frozen=True)
class Work:
    """Where and how features are computed; changes no number beyond rounding."""

    batch_size: int | None = None
    """Images at a time; by default 256 on a GPU and 32 on a CPU, whose caches hold no more."""
    workers: int | None = None
    """Decoding processes; by default as many as there are cores but one, at most eight, and none for few images."""
    device: str = "auto"
    cache: Path | None = None
    """Folder in which features are kept; without one they are kept in memory."""
    done: Callable[[int], None] = lambda count: None
    """Told how many images were done."""
    observer: Observer | None = None
    """Shown the steps of a training."""
    memory: dict[str, Features] = field(default_factory=dict)

    @property
    def torch_device(self) -> torch.device:
        """The device that was asked for, or the GPU where there is one."""
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cuda" != automatic:
            raise InputError("device: cuda, but PyTorch sees no GPU here; set device=cpu")
        return torch.device(automatic if self.device == "auto" else self.device)

    @property
    def batch(self) -> int:
        """Images at a time."""
        return self.batch_size or (256 if self.torch_device.type == "cuda" else 32)

    def workers_for(self, count: int) -> int:
        """Decoding processes for so many images."""
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return 0 if count < _FEW else min(8, max(1, cores - 1))


def extract(encoder: FrozenEncoder, images: Labelled, view: View | None = None, work: Work | None = None) -> Features:
    """Features of all images, computed or taken from the cache.

    Each image is cut to its central square and resized, antialiased and bicubic, to ``view.size``.

    Args:
        encoder: what computes them; in bfloat16 on a GPU.
        images: the images.
        view: by default the encoder's input size.
        work: where and how.

    Raises:
        InputError: the size does not fit the encoder, no image can be read, or a feature is not finite; names the
            image.
    """
    view, work = view or View(encoder.input.size), work or Work()
    if view.size % encoder.input.patch:
        raise InputError(f"{encoder.name}: {view.size} px is no multiple of its patch of {encoder.input.patch} px")
    key = digest([CACHE_VERSION, encoder.identity, images.digest(), view, work.torch_device.type])
    if key in work.memory:
        return work.memory[key]
    kept = work.cache / f"{key}.npz" if work.cache is not None else None
    if kept is not None and kept.is_file():
        work.done(len(images.places))
        return _load(kept)
    features = _compute(encoder, images, view, work)
    _refuse_nonsense(encoder.name, images, features)
    if kept is None:
        work.memory[key] = features
    else:
        _keep(features, kept)
    return features


@torch.no_grad()
def _compute(encoder: FrozenEncoder, images: Labelled, view: View, work: Work) -> Features:
    start, device = time.perf_counter(), work.torch_device
    moved = encoder.to(device)
    parts: list[npt.NDArray[np.float32]] = []
    unreadable: dict[int, str] = {}
    for first, batch in _batches(images, view, work):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            values = moved.features(batch.images.to(device), batch.gsd.to(device)).float().cpu().numpy()
        bad = {row: why for row, why in enumerate(batch.reasons) if why}
        values[list(bad)] = 0
        parts.append(values)
        unreadable |= {first + row: why for row, why in bad.items()}
        work.done(len(values))
    return Features(np.concatenate(parts), unreadable, time.perf_counter() - start)


class _Batch(NamedTuple):
    images: Tensor
    gsd: Tensor
    reasons: list[str]
    """Why an image could not be read; empty where it could."""


class _Decoded(Dataset[tuple[Tensor, float, str]]):
    """Images as uint8 (3, S, S), their metres per pixel, and why one could not be read."""

    def __init__(self, images: Labelled, view: View) -> None:
        self.images, self.view = images, view

    def __len__(self) -> int:
        return len(self.images.places)

    def __getitem__(self, row: int) -> tuple[Tensor, float, str]:
        size = self.view.size
        try:
            rgb = self.images.decoded(row)
        except (UnreadableImage, OSError) as error:
            return torch.zeros(3, size, size, dtype=torch.uint8), 1.0, str(error)
        gsd = float(self.images.gsd[row]) * min(rgb.shape[:2]) / size
        return resize_whole(rgb, size), gsd if gsd == gsd else 1 / self.view.scale, ""


def _batches(images: Labelled, view: View, work: Work) -> Iterator[tuple[int, _Batch]]:
    loader = DataLoader(
        _Decoded(images, view), work.batch, collate_fn=_collate,
        **loader_options(work.workers_for(len(images.places))),
    )  # fmt: skip
    first = 0
    for batch in loader:
        yield first, batch
        first += len(batch.reasons)


def _collate(rows: Sequence[tuple[Tensor, float, str]]) -> _Batch:
    images, gsd, reasons = zip(*rows, strict=True)
    return _Batch(torch.stack(images), torch.tensor(gsd), list(reasons))


def _refuse_nonsense(name: str, images: Labelled, features: Features) -> None:
    if len(features.unreadable) == len(images.places):
        row, why = next(iter(features.unreadable.items()))
        raise InputError(f"{images.places[row].path}: {why}; nor can any other image of the data be read")
    bad = np.flatnonzero(~np.isfinite(features.values).all(1))
    if len(bad):
        raise InputError(
            f"{name}: its features are not finite for {len(bad)} images, first {images.places[bad[0]].path}; the "
            "weights are damaged or overflow"
        )


def _keep(features: Features, path: Path) -> None:
    about = json.dumps({"unreadable": features.unreadable, "seconds": features.seconds})
    with writing(path) as aside, aside.open("wb") as file:
        np.savez(file, values=features.values, about=np.frombuffer(about.encode(), np.uint8))


def _load(path: Path) -> Features:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values, about = arrays["values"], json.loads(arrays["about"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: features cannot be read ({error}); delete it, they are computed again") from None
    return Features(values, {int(row): why for row, why in about["unreadable"].items()}, about["seconds"])


def scaled_view(encoder: FrozenEncoder, images: Labelled, scale: float) -> View:
    """Images shown at a share of their own side, rounded to whole patches (Scale-MAE, section 4.1).

    Args:
        encoder: whose patch it is.
        images: their own side is the median of the shorter sides of a hundred of them.
        scale: share of the side.
    """
    patch = encoder.input.patch
    return View(max(1, round(scale * typical_side(images) / patch)) * patch, scale)


def typical_side(images: Labelled) -> int:
    """Median of the shorter sides of a hundred images, in pixels."""
    step = max(1, len(images.places) // _ASKED)
    sides = []
    for place in images.places[::step]:
        try:
            with Image.open(io.BytesIO(place.read()), formats=EVALUATION_FORMATS) as image:
                sides.append(min(image.size))
        except (*DAMAGED_IMAGE, Image.DecompressionBombError):
            continue
    if not sides:
        raise InputError(f"{images.places[0].path}: cannot be decoded, nor can the others that were tried")
    return int(np.median(sides))


def check_ending(path: Path) -> None:
    """Refuse a file that :func:`write_features` cannot write, before features are computed.

    Raises:
        InputError: it ends neither in ``.parquet`` nor in ``.npy``.
    """
    if path.suffix not in (".parquet", ".npy"):
        raise InputError(f"{path}: must end in .parquet or .npy")


def write_features(features: Features, images: Labelled, path: Path, about: dict[str, str]) -> list[Path]:
    """Write features as Parquet (``image, label, part, readable, feature``) or as a plain ``.npy`` matrix.

    Args:
        features: of all the images.
        images: what they are of.
        path: ends in ``.parquet`` or ``.npy``; the latter holds all rows, zeros where an image could not be read, and
            beside it ``.json`` says the same of them as the other columns.
        about: encoder and preparation; the Parquet file's metadata, or the beginning of the JSON.

    Returns:
        What was written.

    Raises:
        InputError: the path ends otherwise, or cannot be written.
    """
    check_ending(path)
    table = _table(features, images)
    if path.suffix == ".parquet":
        with writing(path) as aside:
            pq.write_table(table.replace_schema_metadata(about), aside)
        return [path]
    beside = path.with_suffix(".json")
    with writing(path) as aside, aside.open("wb") as file:
        np.save(file, features.values, allow_pickle=False)
    with writing(beside) as aside:
        rows = table.drop_columns("feature").to_pylist()
        aside.write_text(json.dumps(about | {"images": rows}, indent=1) + "\n", encoding="utf-8")
    return [path, beside]


def _table(features: Features, images: Labelled) -> pa.Table:
    width = features.values.shape[1]
    return pa.table(
        {
            "image": [place.name for place in images.places],
            "label": [images.classes[label] for label in images.labels],
            "part": images.parts,
            "readable": [row not in features.unreadable for row in range(len(images.places))],
            "feature": pa.FixedSizeListArray.from_arrays(pa.array(features.values.ravel()), width),
        }
    )
