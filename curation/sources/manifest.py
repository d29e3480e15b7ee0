"""What exists and what we want from it: sources, benchmarks and recipes as strict models.

A *source* describes one public dataset, a *benchmark* one evaluation set that must not leak into training, a
*recipe* which sources to take and by which rules. Shipped YAML lies in the ``manifests`` package; a recipe can also
name a plain folder, and everything it does not say has a default::

    name: my-corpus
    sources:
      - {id: mine, path: /some/folder, gsd_m: 0.5}
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from curation.base.errors import InputError
from curation.base.settings import Strict, load, validate
from curation.containers import CONTAINERS

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$", max_length=64)]
"""A source or benchmark id: lower case letters, digits, underscore; it is a folder name and a column value."""

RecipeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]


def _yes_no(value: object) -> object:
    """YAML reads ``yes`` and ``no`` as booleans; take them as the words they were."""
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


def _relative(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path:
        raise ValueError(f"{path!r} must be a relative POSIX path inside the source's folder")
    return unicodedata.normalize("NFC", path)


RelativePath = Annotated[str, BeforeValidator(lambda value: _relative(value) if isinstance(value, str) else value)]

IMAGE_SUFFIXES = (
    "jpg", "jpeg", "jpe", "jfif", "png", "tif", "tiff", "jp2", "j2k", "j2c", "jpc", "jpx", "bmp", "webp", "gif", "avif",
    "ppm", "pgm", "pnm", "img", "ntf", "nitf",
)  # fmt: skip
EVERY_IMAGE = f"**/*.{{{','.join(IMAGE_SUFFIXES)}}}"


# ------------------------------------------------------------------------------------------------ sources


if TYPE_CHECKING:
    ContainerName = str
else:
    ContainerName = Literal[("folder", *CONTAINERS, "other")]


class RemoteFile(Strict):
    """One file to download. Unknown facts stay null; none is invented."""

    name: RelativePath
    """File name below the source's folder."""
    url: str | None = None
    mirrors: tuple[str, ...] = ()
    size: int | None = Field(None, ge=0, description="bytes")
    md5: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    into: RelativePath = ""
    """Folder below the source's root that the archive's members are listed under, unpacked or read in place alike."""


class Obtain(Strict):
    """How a person or a script gets the files."""

    via: Literal[
        "direct", "zenodo", "huggingface", "s3", "kaggle", "gdrive", "baidu", "onedrive", "form", "manual", "local"
    ] = "local"
    instructions: str = ""
    """What to do by hand where no script can: page, button, form, and what to expect."""
    repository: str | None = None
    """Hugging Face dataset, Kaggle slug, Zenodo record or ``s3://bucket/prefix``: files not listed one by one."""
    wanted: tuple[str, ...] = ()
    """Globs on the repository's files; empty: the files that the image globs take, else its archives and tables."""


class Stretch(Strict):
    """How 16-bit and float pixels become 8 bits. Never per tile, which would make two looks of one scene disagree."""

    how: Literal["fixed", "per_scene"]
    fixed: tuple[float, float] | None = None
    """Values that become 0 and 255."""
    percentiles: tuple[float, float] = (2.0, 98.0)
    scene: str | None = None
    """Regular expression on the path; files with the same first group are one scene. Null: every file is a scene."""

    @model_validator(mode="after")
    def _complete(self) -> Stretch:
        if self.how == "fixed" and (self.fixed is None or self.fixed[0] >= self.fixed[1]):
            raise ValueError("how: fixed needs fixed: [low, high] with low < high")
        if self.scene is not None and re.compile(self.scene).groups < 1:
            raise ValueError("scene needs one group in parentheses, for example '(T31[A-Z]{3})_'")
        return self


class BandFiles(Strict):
    """An image stored one band per file: three globs, and what the files of one image have in common."""

    r: str
    g: str
    b: str
    key: str
    """Regular expression on the path; files whose groups are equal belong to one image, named by the red file."""


class Examples(Strict):
    """Real paths as the cited source shows them: what the globs must take and leave."""

    take: tuple[RelativePath, ...] = ()
    leave: tuple[RelativePath, ...] = ()


Task = Literal[
    "classification",
    "detection",
    "segmentation",
    "change",
    "caption",
    "vqa",
    "super-resolution",
    "regression",
    "retrieval",
    "unlabelled",
]


class Source(Strict):
    """One public dataset. Globs are POSIX, case-insensitive, relative to the source's root; ``**`` spans folders."""

    id: Identifier
    name: str = ""
    task: Task = "unlabelled"
    year: int | None = None
    citation: str = ""
    homepage: str | None = None
    licence: str = "unknown"
    """SPDX identifier where the licence has one, else the words the source uses."""
    redistributable: Annotated[Literal["yes", "no", "unknown"], BeforeValidator(_yes_no)] = "unknown"
    obtain: Obtain = Obtain()
    files: tuple[RemoteFile, ...] = ()
    container: ContainerName = "folder"
    image_column: str | None = None
    """Column (Parquet) or dataset (HDF5) that holds the images."""
    readable: bool = True
    """False when the images come in a container that this project does not read."""
    images: tuple[str, ...] = (EVERY_IMAGE,)
    leave: tuple[str, ...] = ()
    """Masks, labels, SAR, elevation, second renderings."""
    splits: dict[str, tuple[str, ...]] = {}
    """Split name to globs; a path that none takes has no split."""
    label_from: Literal["parent"] | None = None
    """Where the class is told by the folder."""
    bands_in_files: BandFiles | None = None
    bands: tuple[int, int, int] | None = None
    """1-based bands to take as red, green, blue; null: those that the file marks or names as
    red, green and blue, else 1, 2, 3."""
    kind: Literal["rgb", "grey", "false_colour"] = "rgb"
    """What the pixels show where content alone cannot tell."""
    bit_depth: int | None = Field(None, ge=1, le=64)
    nodata: float | None = None
    stretch: Stretch | None = None
    trim: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Pixels to cut from left, top, right, bottom: painted borders."""
    gsd_m: float | tuple[float, float] | None = None
    """Metres per pixel, or a range; null: from the file."""
    native_size: str = ""
    listed_megabytes: float | None = Field(None, gt=0)
    """Download volume as lists of datasets print it, where the sizes of the files are not known."""
    expected_images: int | None = Field(None, ge=0)
    shares_images_with: tuple[Identifier, ...] = ()
    examples: Examples = Examples()
    verified: bool = False
    """True when layout and facts come from a cited source rather than from general knowledge."""
    facts: str = ""
    """Where the facts were read."""

    @field_validator("gsd_m")
    @classmethod
    def _positive(cls, value: float | tuple[float, float] | None) -> float | tuple[float, float] | None:
        low, high = value if isinstance(value, tuple) else (value or 1.0, value or 1.0)
        if value == 0 or not 0 < low <= high:
            raise ValueError("metres per pixel must be above 0, a range [low, high] in that order")
        return value

    @property
    def gsd(self) -> float | None:
        """GSD in metres: the value, or the geometric mean of a range."""
        return math.sqrt(self.gsd_m[0] * self.gsd_m[1]) if isinstance(self.gsd_m, tuple) else self.gsd_m


class Benchmark(Source):
    """One evaluation set that must never leak into training; read like a source."""

    test_splits: tuple[str, ...] = ()
    """Splits to guard; empty: all images."""


# ------------------------------------------------------------------------------------------------ recipes


class ExcludeRules(Strict):
    """Thresholds of the exclusion rules; each names the rule in :mod:`curation.select.exclude` that reads it.

    A threshold is bounded by the range of what it is compared with: one beyond would silently take all or nothing.
    """

    SCAN_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"splits", "licences", "redistributable_only", "max_pixels", "max_bytes"}
    )
    """Fields that the scan itself reads; all others are judged from what it measured."""

    splits: tuple[str, ...] = ()
    """Splits to leave out."""
    licences: tuple[str, ...] | None = None
    """Licences to take; null: all."""
    redistributable_only: bool = False
    min_side: int = Field(64, ge=8, description="pixels")
    max_aspect: float = Field(8.0, ge=1)
    min_valid: float = Field(0.5, ge=0, le=1)
    """Least share of valid pixels in a tile."""
    max_unreadable: float = Field(0.5, ge=0, le=1)
    """Share of a source's images above which unreadable ones stop the run (sources of 20 images or more)."""
    min_std: float = Field(2.0, ge=0, le=127.5)
    """Least standard deviation of a tile's valid luma, in grey levels."""
    min_coloured: float = Field(0.01, ge=0, le=1)
    """Least share of pixels whose channels differ; below, an image is single-band. Sources of ``kind: rgb`` only."""
    max_flat: float = Field(0.65, ge=0, le=1)
    """Largest share of pixels that equal their neighbours, where the others step hard: masks, class maps, charts."""
    min_gentle: float = Field(0.5, ge=0, le=1)
    """Of the other pixels, the share of gentle steps from which on a flat image is calm water. ``kind: rgb`` only."""
    max_colour_spread: float = Field(70.0, ge=0, le=361)
    """Largest standard deviation of the opponent colours, in grey levels: colour-coded maps. ``kind: rgb`` only."""
    min_agreement: float = Field(0.3, ge=-1, le=1)
    """Least correlation of fine detail between channels: radar composites, noise. ``kind: rgb`` only."""
    agreement_from: float = Field(4.0, ge=0, le=255)
    """Difference of neighbours, in grey levels, below which channels differ by noise alone and are not compared."""
    min_grain: float = Field(0.0, ge=-1, le=1)
    """Least correlation of successive steps of light: radar composites, noise, also as JPEG. ``kind: rgb`` only."""
    grain_steps_from: float = Field(1.35, ge=0)
    """Steps of colour between blocks, as a multiple of those of light, from which ``min_grain`` is asked; dull fields
    reach 1.29."""
    grain_from: float = Field(12.0, ge=0, le=361)
    """Spread of colours, in grey levels, below which encoders alone make colours step, and grain is not asked."""
    max_told: float = Field(0.9, ge=0, le=1)
    """Largest share of the variance of light that the hue tells: colour-mapped numbers. ``kind: rgb`` only."""
    told_steps_from: float = Field(1.0, ge=0)
    """Steps of colour between blocks, as a multiple of those of light, from which ``max_told`` is asked."""
    told_from: float = Field(20.0, ge=0, le=361)
    """Spread of colours, in grey levels, below which nothing is mapped to colours, and ``max_told`` is not asked."""
    max_soft_alpha: float = Field(0.005, ge=0, le=1)
    """Largest share of half transparent pixels of an image without CRS: figures."""
    earth_only: bool = True
    """Leave out images whose CRS is that of another celestial body."""
    false_colour: bool = False
    """Take sources whose manifest says ``kind: false_colour``."""
    max_pixels: int = Field(250_000_000, ge=1)
    """Most pixels that are decoded at once: of a whole image, or of one block of a raster that is read by windows."""
    max_bytes: int = Field(64 << 30, ge=1)

    def thresholds(self) -> dict[str, Any]:
        """What ``select`` compares measurements with, as JSON values: part of its key and of the catalogue."""
        return self.model_dump(mode="json", exclude={*self.SCAN_FIELDS, "max_unreadable"})

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """``min_std: no`` would be taken for 0 without a word."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("a number is needed here; yes and no are none")
        return value


class SliceRules(Strict):
    """How a raw image becomes tiles."""

    mode: Literal["grid", "random", "whole"] = "whole"
    tile: int = Field(512, ge=16)
    overlap: int = Field(0, ge=0)
    remainder: Literal["drop", "shift", "pad"] = "shift"
    whole_up_to: int = Field(1024, ge=16)
    """Images with both sides at most this pass through untouched, in every mode; ``whole`` grids larger ones."""
    min_side: int = Field(64, ge=16)
    max_side: int = Field(1024, ge=16)
    density: float = Field(1.0, gt=0)
    """``random``: tile area drawn, as a multiple of the valid area."""
    max_iou: float = Field(0.25, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> SliceRules:
        if self.overlap >= self.tile:
            raise ValueError("overlap must be smaller than tile")
        if self.min_side > self.max_side:
            raise ValueError("min_side must not exceed max_side")
        return self


class FingerprintRules(Strict):
    """Hashes beyond the built-in 64-bit pHash, computed by imagehash itself.

    They are written beside each part of tiles, in ``<part>.hashes.parquet``; no stage reads them.
    """

    extra: tuple[Literal["dhash", "whash", "average_hash", "colorhash", "crop_resistant"], ...] = ()


KeepKey = Literal["gsd", "area", "bytes_per_pixel", "licence", "priority"]


class DeduplicateRules(Strict):
    """When two tiles are one, and which of them stays (contracts: *Duplicates, defined*)."""

    radius: int = Field(4, ge=0, le=10)
    """Hamming distance of the 64-bit pHash within which two tiles are candidates."""
    orientations: bool = True
    crops: bool = True
    """Whether a tile is compared with the centre crop (0.9 of each side) of another as well; soft tiles are not."""
    confirm: float = Field(0.90, ge=0, le=1)
    """Least correlation of the clipped 16x16 thumbnails (from ``dct16``) for a candidate to be a duplicate."""
    soft_ac_energy: float = Field(5.0, ge=0)
    """Tiles below have so little texture that encoding alone flips bits of their hash; among each other, ..."""
    soft_radius: int = Field(10, ge=0, le=10)
    """... they are candidates within this distance (where it is larger than ``radius``)."""
    min_ac_energy: float = Field(0.5, ge=0)
    """Tiles below are duplicates only when their pixels are equal."""
    keep: tuple[KeepKey, ...] = ("gsd", "area", "bytes_per_pixel", "licence", "priority")


class GuardRules(Strict):
    """Evaluation sets to keep out."""

    benchmarks: tuple[Identifier, ...] = ()
    radius: int = Field(4, ge=0, le=10)
    fingerprints: str | None = None
    """Folder of fingerprint files; null: ``DATA/.fingerprints``."""


class BalanceRules(Strict):
    """Caps, applied after deduplication in a seeded, deterministic order."""

    per_source: int | None = Field(None, ge=1)
    per_place: int | None = Field(None, ge=1)
    """Kept tiles per raw image."""
    total: int | None = Field(None, ge=1)
    """The light version: a deterministic subset of this size."""


class ShardRules(Strict):
    """Shard limits and encoding."""

    max_samples: int = Field(10_000, ge=1, le=99_999)
    max_bytes: int = Field(1 << 30, ge=1 << 20)
    """Predicted bytes at which a shard is closed."""
    run: int = Field(256, ge=1)
    """Most tiles of one image that are shuffled as one run, so that a raster is opened once per run."""
    pass_through: bool = True
    """Copy the bytes of unsliced 8-bit RGB JPEGs instead of encoding them again."""
    encoder: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = Field(92, ge=1, le=100)
    bytes_per_pixel: float = Field(0.5, gt=0)
    """The encoder's predicted bytes per pixel, in the pure formula that closes shards."""


class RecipeSource(Strict):
    """A source in a recipe: an id of a shipped manifest, or a plain folder; any manifest field can be set beside."""

    id: Identifier
    path: str | None = None
    """Folder; relative to --data. Null: ``DATA/<id>``."""
    priority: int = 0
    """Higher stays when duplicates compete."""
    cap: int | None = Field(None, ge=1)
    slice: SliceRules | None = None
    predicted_tiles: int | None = Field(None, ge=0)
    manifest: dict[str, Any] = {}
    """Manifest fields that this recipe sets; they may also be written beside ``id``."""

    @classmethod
    def accepted_keys(cls) -> set[str]:
        """The entry's own keys and every manifest field."""
        return {*cls.model_fields, *Source.model_fields}

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: object) -> object:
        if isinstance(data, str):
            return {"id": data}
        if not isinstance(data, dict):
            return data
        own = {key: value for key, value in data.items() if key in cls.model_fields}
        manifest = {key: value for key, value in data.items() if key in Source.model_fields and key not in own}
        unknown = {key: value for key, value in data.items() if key not in own and key not in manifest}
        if manifest:
            own["manifest"] = {**own.get("manifest", {}), **manifest}
        return {**own, **unknown}


class Recipe(Strict):
    """Which sources, by which rules, with which seed."""

    name: RecipeName
    description: str = ""
    seed: int = Field(0, ge=0, lt=2**63)
    sources: tuple[RecipeSource, ...] = Field(min_length=1)
    exclude: ExcludeRules = ExcludeRules()
    slice: SliceRules = SliceRules()
    fingerprint: FingerprintRules = FingerprintRules()
    deduplicate: DeduplicateRules = DeduplicateRules()
    guard: GuardRules = GuardRules()
    balance: BalanceRules = BalanceRules()
    shards: ShardRules = ShardRules()

    @field_validator("sources")
    @classmethod
    def _unique(cls, sources: tuple[RecipeSource, ...]) -> tuple[RecipeSource, ...]:
        ids = [source.id for source in sources]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"source ids must be unique; given twice: {', '.join(twice)}")
        return sources


# ------------------------------------------------------------------------------------------------ loading


@dataclass(frozen=True)
class ResolvedSource:
    """A recipe's source with its manifest, its folder and the rules that hold for it."""

    source: Source
    root: Path
    slice: SliceRules
    priority: int
    cap: int | None

    @property
    def id(self) -> str:
        """The source's id."""
        return self.source.id


def manifests_folder(kind: Literal["sources", "benchmarks", "recipes"]) -> Path:
    """Folder of the shipped YAML of one kind."""
    return Path(str(package_files("manifests"))) / kind


def shipped(kind: Literal["sources", "benchmarks", "recipes"]) -> list[str]:
    """Names of the shipped YAML files of one kind, sorted."""
    return sorted(path.stem for path in manifests_folder(kind).glob("*.yaml"))


def load_source(name: str) -> Source:
    """Load a shipped source manifest.

    Raises:
        InputError: no such source, or the file is wrong.
    """
    return load(Source, _shipped_path("sources", name))


def load_benchmark(name: str) -> Benchmark:
    """Load a benchmark manifest by the name of a shipped one, or by path.

    Raises:
        InputError: no such benchmark, or the file is wrong.
    """
    return load(Benchmark, Path(name) if Path(name).suffix in {".yaml", ".yml"} else _shipped_path("benchmarks", name))


def load_recipe(name_or_path: str, assignments: Sequence[str] = ()) -> Recipe:
    """Load a recipe by path, or by the name of a shipped one.

    Raises:
        InputError: no such recipe, or a field is wrong.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"} and not path.exists():
        path = _shipped_path("recipes", name_or_path)
    return load(Recipe, path, assignments)


def resolve(recipe: Recipe, data: Path | None) -> list[ResolvedSource]:
    """Give every source of a recipe its manifest and its folder below ``data``; folders are not touched here.

    Raises:
        InputError: an id without manifest and without path, or a manifest field that the recipe sets wrongly.
    """
    resolved = []
    for entry in recipe.sources:
        known = entry.id in shipped("sources")
        if entry.path is None and not known:
            near = difflib.get_close_matches(entry.id, shipped("sources"), n=1)
            meant = f"; did you mean {near[0]!r}" if near else ""
            raise InputError(
                f"recipe {recipe.name}: no source is named {entry.id!r}{meant}; rs-curate sources lists them, "
                f"and a folder of your own is {{id: {entry.id}, path: FOLDER}}"
            )
        base: dict[str, Any] = {"id": entry.id, "name": entry.id}
        if known:
            base = load_source(entry.id).model_dump(exclude_unset=True)
        source = validate(Source, {**base, **entry.manifest}, f"recipe {recipe.name}: sources: {entry.id}")
        root = Path(entry.path or entry.id).expanduser()
        if not root.is_absolute():
            if data is None:
                raise InputError(f"source {entry.id}: its folder {root} is relative; say where with --data DIR")
            root = data / root
        resolved.append(ResolvedSource(source, root, entry.slice or recipe.slice, entry.priority, entry.cap))
    return resolved


def _shipped_path(kind: Literal["sources", "benchmarks", "recipes"], name: str) -> Path:
    path = manifests_folder(kind) / f"{name}.yaml"
    if not re.fullmatch(r"[a-z0-9_-]+", name) or not path.is_file():
        near = difflib.get_close_matches(name, shipped(kind), n=3)
        some = f"did you mean {' or '.join(near)}?" if near else f"shipped: {', '.join(shipped(kind)[:12])} ..."
        raise InputError(f"no {kind[:-1]} is named {name!r}; {some} A path to a YAML file is taken too")
    return path
