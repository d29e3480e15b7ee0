"""Labelled images: where they lie, which class each has, and which are for training and which for testing.

Three layouts are read: a folder with one folder of images per class, shards (class and part as their sidecars say, or
class = the raw image's folder), and a CSV list ``image,label[,part][,gsd_m]`` whose paths are relative to it.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from curation.base.arrays import Ints
from curation.base.files import digest
from curation.base.settings import Strict
from curation.shards.format import INDEX_FILE, open_index
from pretrain.data.noise import bits
from pretrain.data.reader import EVALUATION_FORMATS, decode
from pretrain.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
"""Of images."""
_UNKNOWN = float("nan")


class StoredImage(NamedTuple):
    """Where an image lies."""

    path: Path
    offset: int
    size: int
    """-1: the whole file."""
    name: str
    """As a list of a split names it: relative to the data folder."""

    def read(self) -> bytes:
        """The image's bytes."""
        if self.size < 0:
            return self.path.read_bytes()
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), self.size, self.offset)


class LabelledImage(NamedTuple):
    """One labelled image."""

    label: str
    place: StoredImage
    gsd_m: float = _UNKNOWN
    part: str = ""
    """``train``, ``test``, or empty where nobody said."""


@dataclass(frozen=True)
class Labelled:
    """Images with a class each."""

    places: list[StoredImage]
    labels: Ints
    classes: list[str]
    gsd: npt.NDArray[np.float64]
    """(N,) metres per pixel of the raw image; NaN where unknown."""
    parts: list[str]

    def decoded(self, row: int) -> npt.NDArray[np.uint8]:
        """One image, (H, W, 3).

        Raises:
            UnreadableImage: it cannot be decoded.
            OSError: its file cannot be read.
        """
        return decode(self.places[row].read(), EVALUATION_FORMATS)

    def digest(self) -> str:
        """Changes with any image's name, size or time of change, and with any GSD; labels play no part."""
        stamps = {path: _stamp(path) for path in {place.path for place in self.places}}
        rows = []
        for place in self.places:
            size, changed = stamps[place.path]
            rows.append((place.name, place.offset, place.size if place.size >= 0 else size, changed))
        return digest([rows, [str(value) for value in self.gsd]])


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change; of a file that is gone, which is then told as unreadable, neither."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


class DataSet(Strict):
    """Labelled images and how they are divided for training and testing a classifier."""

    path: Path
    """Folder with one folder of images per class, shards, or a CSV list."""
    test_path: Path | None = None
    """The same for testing; by default ``path`` is divided."""
    train_list: Path | None = None
    """Text file with the name of one training image per line, as ``airport/airport_001.jpg``."""
    test_list: Path | None = None
    train_share: float = Field(0.5, gt=0, lt=1)
    """Where no list and no CSV says: share of each class to train on."""
    seed: int = 0
    """Of that split."""
    gsd_m: float | None = Field(None, gt=0)
    """Metres per pixel of the raw images, where the data does not say."""

    @model_validator(mode="after")
    def _one_division(self) -> DataSet:
        if (self.train_list is None) != (self.test_list is None):
            raise ValueError("train_list and test_list belong together; give both")
        if self.test_path is not None and self.train_list is not None:
            raise ValueError("test_path and lists exclude each other; give one of them")
        return self


@dataclass(frozen=True)
class Divided:
    """Labelled images and the rows of both parts."""

    images: Labelled
    train: Ints
    test: Ints

    def __len__(self) -> int:
        return len(self.images.places)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by their number."""
        return self.images.classes

    @property
    def one_sided(self) -> str:
        """In words, which classes have images in one part alone; empty where none has."""
        train, test = (set(self.images.labels[rows].tolist()) for rows in (self.train, self.test))
        names = [self.classes[label] for label in sorted(train ^ test)]
        return f"only in one part, to train on or to test on: {', '.join(names)}" if names else ""

    def marked(self) -> Labelled:
        """The images, each with the part in which it is."""
        parts = np.full(len(self.images.places), "", dtype=object)
        parts[self.train], parts[self.test] = "train", "test"
        return replace(self.images, parts=parts.tolist())

    def digest(self) -> str:
        """Changes with the images, their labels and the division."""
        parts = [rows.tolist() for rows in (self.images.labels, self.train, self.test)]
        return digest([self.images.digest(), self.images.classes, parts])


def open_dataset(config: DataSet) -> Divided:
    """Open and divide labelled images.

    Raises:
        InputError: see :func:`open_labelled`; the classes of both folders differ, a list names an image that is not
            there or that the other list has too, or a part is empty.
    """
    samples = _samples(config.path)
    if config.test_path is not None:
        samples = [sample._replace(part="train") for sample in samples]
        samples += _tests(config.path, config.test_path, samples)
    images = _gather(config.path, samples, config.gsd_m)
    if config.train_list is not None and config.test_list is not None:
        train, test = (_listed(path, images) for path in (config.train_list, config.test_list))
        if both := np.intersect1d(train, test).tolist():
            raise InputError(f"{config.test_list}: {images.places[both[0]].name} is in {config.train_list} as well")
    elif any(images.parts):
        train, test = (np.flatnonzero(np.array(images.parts) == part) for part in ("train", "test"))
    else:
        train, test = split(images.labels, config.train_share, config.seed)
    if not len(train) or not len(test):
        raise InputError(f"{config.path}: {len(train)} images to train on and {len(test)} to test on; both are needed")
    return Divided(images, train, test)


def open_labelled(path: Path) -> Labelled:
    """All images of a folder tree, of shards or of a CSV list.

    Raises:
        InputError: the path is absent, is no such list, names an image twice, holds no images, or fewer than two
            classes.
    """
    return _gather(path, _samples(path), None)


def _samples(path: Path) -> list[LabelledImage]:
    if path.is_file() and path.suffix.lower() == ".csv":
        return sorted(_from_csv(path))
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder; give a folder with one folder of images per class, shards, or a CSV list"
        )
    return sorted(_from_shards(path) if (path / INDEX_FILE).is_file() else _from_tree(path))


def _tests(path: Path, test_path: Path, train: list[LabelledImage]) -> list[LabelledImage]:
    test = [sample._replace(part="test") for sample in _samples(test_path)]
    if only := sorted({sample.label for sample in test} ^ {sample.label for sample in train}):
        raise InputError(f"{test_path}: its classes differ from those of {path}: {', '.join(only[:5])}")
    return test


def _gather(path: Path, samples: list[LabelledImage], gsd_m: float | None) -> Labelled:
    classes = sorted({sample.label for sample in samples})
    if len(classes) < 2:
        raise InputError(
            f"{path}: {len(samples)} images in {len(classes)} classes; there must be a folder of images per class"
        )
    seen: set[tuple[Path, int]] = set()
    for place in (sample.place for sample in samples):
        if (place.path, place.offset) in seen:
            raise InputError(f"{place.path}: is in the data twice; no image may be seen in training and in the test")
        seen.add((place.path, place.offset))
    numbers = {name: number for number, name in enumerate(classes)}
    gsd = np.array([sample.gsd_m for sample in samples], dtype=np.float64)
    return Labelled(
        [sample.place for sample in samples], np.array([numbers[sample.label] for sample in samples]), classes,
        gsd if gsd_m is None else np.where(np.isnan(gsd), gsd_m, gsd), [sample.part for sample in samples],
    )  # fmt: skip


def _from_tree(folder: Path) -> Iterator[LabelledImage]:
    for path in folder.glob("*/**/*"):
        if path.suffix.lower() in SUFFIXES and not path.is_dir():  # a link to nowhere is told as unreadable
            name = path.relative_to(folder)
            yield LabelledImage(name.parts[0], StoredImage(path, 0, -1, name.as_posix()))


def _from_shards(folder: Path) -> Iterator[LabelledImage]:
    index, paths = open_index(folder)
    columns = ["image_offset", "image_size", "json_offset", "json_size", "gsd_m"]
    with index:
        for number, path in enumerate(paths):
            for row in index.read_row_group(number, columns=columns).to_pylist():
                about = StoredImage(path, row["json_offset"], row["json_size"], "")
                told = json.loads(about.read()) if about.size else {}
                image = str(told.get("image", ""))
                place = StoredImage(path, row["image_offset"], row["image_size"], image)
                part = told.get("split") if told.get("split") in ("train", "test") else ""
                yield LabelledImage(
                    str(told.get("label") or Path(image).parent.name), place, float(row["gsd_m"]), str(part)
                )


def _from_csv(path: Path) -> Iterator[LabelledImage]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a CSV list in UTF-8") from None
    known, needed, found = {"image", "label", "part", "gsd_m"}, {"image", "label"}, set(header)
    if not needed <= found <= known or len(found) < len(header):
        raise InputError(f"{path}: has columns {', '.join(header)}; expected image,label[,part][,gsd_m]")
    column = header.index("part") if "part" in header else None
    divided = column is not None and any(row[column] for row in rows if len(row) == len(header))
    for number, row in enumerate(rows, start=2):
        if row:
            yield _from_row(path, number, header, row, divided=divided)


def _from_row(path: Path, number: int, header: list[str], row: list[str], *, divided: bool) -> LabelledImage:
    where = f"{path}, line {number}"
    if len(row) != len(header):
        raise InputError(f"{where}: has {len(row)} fields, the first line {len(header)}")
    told = dict(zip(header, row, strict=True))
    image, part = path.parent / told["image"], told.get("part", "")
    if not told["label"]:
        raise InputError(f"{where}: has no label")
    if part not in (("train", "test") if divided else ("",)):
        raise InputError(f"{where}: part {part!r}; expected train or test in every line, or in none")
    if not image.is_file():
        raise InputError(f"{where}: {image}: no such file")
    return LabelledImage(told["label"], StoredImage(image, 0, -1, told["image"]), _metres(where, told), part)


def _metres(where: str, told: dict[str, str]) -> float:
    text = told.get("gsd_m", "")
    try:
        gsd_m = float(text) if text else _UNKNOWN
    except ValueError:
        gsd_m = 0.0
    if text and not 0 < gsd_m < float("inf"):
        raise InputError(f"{where}: gsd_m {text!r}; expected metres, or nothing")
    return gsd_m


def _listed(path: Path, images: Labelled) -> Ints:
    """Ints of the images that a list names, by their whole name, or by the file's name where that is enough."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a text file with an image's name per line") from None
    rows: dict[str, list[int]] = {}
    for row, place in enumerate(images.places):
        for name in {place.name, place.name.rpartition("/")[2]}:
            rows.setdefault(name, []).append(row)
    chosen: set[int] = set()
    for number, line in enumerate(lines, start=1):
        found = rows.get(line.replace("\\", "/"), []) if line else [-1]
        if len(found) != 1:
            known = f"for example {images.places[0].name}"
            raise InputError(f"{path}, line {number}: {line} names {len(found)} images of the data; {known}")
        if found[0] in chosen:
            raise InputError(f"{path}, line {number}: {line} is named a second time")
        chosen.update(row for row in found if row >= 0)
    return np.array(sorted(chosen), dtype=np.int64)


def split(labels: Ints, train_share: float, seed: int = 0) -> tuple[Ints, Ints]:
    """Split every class alike, by a fixed permutation; a class with two images or more is in both parts.

    Args:
        labels: (N,) class numbers.
        train_share: share of each class that becomes training data.
        seed: of the permutation.

    Returns:
        Ints of both parts, ascending.
    """
    train: list[int] = []
    test: list[int] = []
    for label in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(bits(seed, 0, label, n=len(members)), kind="stable")]
        cut = min(max(round(train_share * len(members)), 1), max(len(members) - 1, 1))
        train += members[:cut].tolist()
        test += members[cut:].tolist()
    return np.array(sorted(train), dtype=np.int64), np.array(sorted(test), dtype=np.int64)
