"""Images with a mask each: where they lie, which value is which class, which are for training and which for testing.

Layouts are data: LoveDA as it is unpacked, SpaceNet 1 with its building outlines as GeoJSON, or two folders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field, model_validator

from curation.base.arrays import Bytes, Ints
from curation.base.errors import DAMAGED_IMAGE
from curation.base.files import digest
from curation.base.settings import Strict
from pretrain.data.noise import bits
from pretrain.data.reader import EVALUATION_FORMATS, decode
from pretrain.errors import InputError, UnreadableImage
from pretrain.evaluate.labelled import SUFFIXES

UNLABELLED = 255
"""Number of a pixel whose value is none of the classes: neither learned nor scored."""
_OUTLINES = ".geojson"


class Layout(NamedTuple):
    """How a benchmark's folders are named."""

    images: str
    """Folder of images, at any depth."""
    masks: str
    """Folder beside it."""
    image_prefix: str = ""
    mask_prefix: str = ""
    """In the names of files that belong together otherwise."""
    parts: tuple[str, str] = ("train", "test")
    """First folders, where images are divided so; others are left out."""
    classes: tuple[tuple[int, str], ...] = ()


LAYOUTS = {
    "folders": Layout("images", "masks"),
    "loveda": Layout(
        "images_png", "masks_png", parts=("Train", "Val"),
        classes=((1, "background"), (2, "building"), (3, "road"), (4, "water"), (5, "barren"), (6, "forest"),
                 (7, "agriculture")),
    ),
    "spacenet": Layout("3band", "geojson", "3band_", "Geo_", classes=((0, "background"), (1, "building"))),
}  # fmt: skip
"""LoveDA: Wang et al. 2021, value 0 is no data. SpaceNet 1: Van Etten et al. 2018; as torchgeo reads both."""


class MaskSet(Strict):
    """Images with masks, and how they are divided for training and testing."""

    path: Path
    layout: Literal["folders", "loveda", "spacenet"] = "folders"
    """``folders``: ``images/`` and ``masks/`` with equal names, below ``train/`` and ``test/`` or undivided."""
    classes: dict[int, str] = {}
    """Value in the masks to class; other values are not scored. The layout's own by default."""
    train_share: float = Field(0.5, gt=0, lt=1)
    """Where no folder says: share of the images to train on."""
    seed: int = 0
    """Of that split."""
    gsd_m: float | None = Field(None, gt=0)
    """Metres per pixel of the images."""

    @model_validator(mode="after")
    def _classes_are_known(self) -> MaskSet:
        if not 2 <= len(self.values) < UNLABELLED:
            raise ValueError("classes: give each class's value in the masks, for example {0: ground, 255: building}")
        return self

    @property
    def values(self) -> dict[int, str]:
        """Value in the masks to class."""
        return self.classes or dict(LAYOUTS[self.layout].classes)


class Pair(NamedTuple):
    """An image and its mask."""

    image: Path
    mask: Path
    name: str
    """Of the image, relative to the data folder."""


@dataclass(frozen=True)
class Masked:
    """Images with masks, and the rows of both parts."""

    pairs: list[Pair]
    values: dict[int, str]
    gsd_m: float | None
    train: Ints
    test: Ints

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by their number."""
        return [self.values[value] for value in sorted(self.values)]

    @property
    def one_sided(self) -> str:
        """Nothing: which classes occur is known when the masks are decoded."""
        return ""

    def __len__(self) -> int:
        return len(self.pairs)

    def digest(self) -> str:
        """Changes with any file's name, size or time of change, with the classes and with the division."""
        files = [path.stat() for pair in self.pairs for path in (pair.image, pair.mask)]
        stamps = [(each.st_size, each.st_mtime_ns) for each in files]
        names = [pair.name for pair in self.pairs]
        return digest([names, stamps, sorted(self.values.items()), self.gsd_m, self.train.tolist(), self.test.tolist()])

    def read(self, row: int) -> Bytes:
        """(H, W, 4): RGB, and the class number of each pixel or ``UNLABELLED``.

        Raises:
            UnreadableImage: image or mask cannot be decoded, or they differ in size.
            OSError: a file cannot be read.
        """
        pair = self.pairs[row]
        rgb = decode(pair.image.read_bytes(), EVALUATION_FORMATS)
        mask = _filled(pair) if pair.mask.suffix == _OUTLINES else _decoded(pair.mask, rgb.shape[:2])
        return np.dstack([rgb, self._numbers(mask)])

    def _numbers(self, mask: npt.NDArray[np.generic]) -> Bytes:
        numbers = np.full(mask.shape, UNLABELLED, np.uint8)
        for number, value in enumerate(sorted(self.values)):
            numbers[mask == value] = number
        return numbers


def _decoded(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    try:
        with Image.open(path, formats=("PNG", "TIFF", "BMP")) as mask:
            if (mask.height, mask.width) != shape:
                raise UnreadableImage(f"its mask has {mask.width} x {mask.height} px, not its size")
            if len(mask.getbands()) > 1:
                raise UnreadableImage(f"its mask has {len(mask.getbands())} bands; one of class values is needed")
            return np.asarray(mask)
    except (*DAMAGED_IMAGE, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"its mask cannot be decoded ({str(error) or type(error).__name__})") from None


def _filled(pair: Pair) -> npt.NDArray[np.generic]:
    """Outlines in degrees filled with 1 on the image's grid."""
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.features import rasterize
    from rasterio.warp import transform_geom

    try:
        text = pair.mask.read_text(encoding="utf-8")
        features = json.loads(text)["features"] if text.strip() else []  # SpaceNet's empty files: no building
        with rasterio.open(pair.image, driver="GTiff") as raster:
            if raster.crs is None:
                raise UnreadableImage("says nowhere where it lies, as outlines need")
            drawn = [transform_geom("EPSG:4326", raster.crs, each["geometry"]) for each in features if each["geometry"]]
            if not drawn:
                return np.zeros(raster.shape, np.uint8)
            return np.asarray(rasterize(drawn, raster.shape, transform=raster.transform, dtype="uint8"))
    except (RasterioError, ValueError, KeyError, TypeError) as error:
        raise UnreadableImage(f"its outlines cannot be drawn ({error})") from None


def open_masks(config: MaskSet) -> Masked:
    """Find and divide images and their masks.

    Raises:
        InputError: the folder is absent or holds no such images, an image has no mask, or a part is empty.
    """
    layout = LAYOUTS[config.layout]
    pairs = sorted(_pairs(config.path, layout), key=lambda pair: pair.name)
    first = np.array([pair.name.split("/")[0] for pair in pairs])
    if np.isin(first, layout.parts).any():
        train, test = (np.flatnonzero(first == part) for part in layout.parts)
    else:
        order = np.argsort(bits(config.seed, 0, 0, n=len(pairs)), kind="stable")
        cut = round(config.train_share * len(pairs))
        train, test = np.sort(order[:cut]), np.sort(order[cut:])
    if not len(train) or not len(test):
        raise InputError(
            f"{config.path}: {len(train)} images with masks to train on and {len(test)} to test on; both are needed, "
            f"in {layout.images} and {layout.masks} as layout {config.layout} has them"
        )
    return Masked(pairs, config.values, config.gsd_m, train, test)


def _pairs(folder: Path, layout: Layout) -> Iterator[Pair]:
    images = [path for path in folder.rglob(f"{layout.images}/**/*") if path.suffix.lower() in SUFFIXES]
    divided = any(path.relative_to(folder).parts[0] in layout.parts for path in images)
    mask_of = _finder(folder, layout)
    for path in images:
        name = path.relative_to(folder)
        if divided and name.parts[0] not in layout.parts:
            continue
        if (mask := mask_of(name)) is None:
            raise InputError(f"{path}: has no mask in {layout.masks}; add it, or take the image away")
        yield Pair(path, mask, name.as_posix())


def _finder(folder: Path, layout: Layout) -> Callable[[Path], Path | None]:
    """From an image's name to its mask: the same name in the folder beside, but for its ending and prefix."""
    masks = {
        path.relative_to(folder).with_suffix(""): path
        for path in folder.rglob(f"{layout.masks}/**/*")
        if path.suffix.lower() in {*SUFFIXES, _OUTLINES}
    }

    def found(name: Path) -> Path | None:
        folders = [layout.masks if part == layout.images else part for part in name.parts[:-1]]
        return masks.get(Path(*folders, layout.mask_prefix + name.stem.removeprefix(layout.image_prefix)))

    return found
