"""What exists: public datasets (*sources*) and evaluation sets (*benchmarks*) as strict models.

A *source* describes one public dataset, a *benchmark* one evaluation set that must not leak into training. Shipped YAML
lies in the ``manifests`` package.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Sequence
from datetime import date
from importlib.resources import files as package_files
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, StringConstraints, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from curation.base.errors import InputError
from curation.base.settings import Strict, load
from curation.containers import CONTAINERS
from curation.containers.array_layout import ArrayLayout, BandColumns
from curation.containers.parquet_arrays import ArrayColumns
from curation.remote.access import RemoteImagery


def slug(name: str, between: str) -> str:
    """A name as ids (``between`` being an underscore) and recipes (a hyphen) take it."""
    return re.sub(r"[^a-z0-9]+", between, name.lower()).strip(between)[:60].strip(between) or "mine"


def plain_words(pattern: str, between: str) -> BeforeValidator:
    """Refuse a name with the one to type instead, where pydantic would tell a regular expression."""

    def check(value: object) -> object:
        if isinstance(value, str) and not re.fullmatch(pattern, value):
            mark = {"_": "underscores", "-": "hyphens"}[between]
            raise ValueError(f"lower case letters, digits and {mark} only, such as {slug(value, between)}")
        return value

    return BeforeValidator(check)


Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$", max_length=64), plain_words(r"[a-z0-9_]+", "_")]
"""A source or benchmark id: lower case letters, digits, underscore; it is a folder name and a column value."""


def _yes_no(value: object) -> object:
    """YAML reads ``yes`` and ``no`` as booleans; take them as the words they were."""
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


def _relative(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path:
        raise ValueError(f"{path!r} must be a relative POSIX path inside the source's folder")
    return unicodedata.normalize("NFC", path)


Counted = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
RelativePath = Annotated[str, BeforeValidator(lambda value: _relative(value) if isinstance(value, str) else value)]

BY_SCRIPT = ("direct", "zenodo", "huggingface", "s3")
"""Routes that need no person."""

_PAGES = ("drive.google.com", "pan.baidu.com", "1drv.ms", "onedrive.live.com", "mega.nz")

IMAGE_SUFFIXES = (
    "jpg", "jpeg", "jpe", "jfif", "png", "tif", "tiff", "jp2", "j2k", "j2c", "jpc", "jpx", "bmp", "webp", "gif", "avif",
    "ppm", "pgm", "pnm", "img", "ntf", "nitf",
)  # fmt: skip
EVERY_IMAGE = f"**/*.{{{','.join(IMAGE_SUFFIXES)}}}"


if TYPE_CHECKING:
    ContainerName = str
else:
    ContainerName = Literal[("folder", *CONTAINERS, "remote", "other")]


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
    split: str | None = None
    """The one split that all its images are of: where a recipe leaves that out, the file is not fetched."""


class Reported(Strict):
    """What others found of a source's files that nobody here could ask for."""

    state: Literal["gone", "doubtful"]
    on: date
    why: str = Field(min_length=1)


class Obtain(Strict):
    """How a person or a script gets the files."""

    via: Literal[
        "direct", "zenodo", "huggingface", "s3", "kaggle", "gdrive", "baidu", "onedrive", "form", "manual", "local"
    ] = "local"
    instructions: str = ""
    """What to do by hand where no script can: page, button, form, and what to expect."""
    repository: str | None = None
    """Hugging Face dataset, Kaggle slug, Zenodo record or ``s3://bucket/prefix``: files not listed one by one."""
    revision: str | None = Field(None, min_length=1)
    """Commit, tag or branch of the Hugging Face dataset; null: its newest commit when the fetch began."""
    wanted: tuple[str, ...] = ()
    """Globs on the repository's files; empty: the files that the image globs take, else its archives and tables."""
    reported: Reported | None = None
    """What is known of the files until a probe knows better."""

    @model_validator(mode="after")
    def _revision_of_a_repository(self) -> Obtain:
        if self.revision is not None and (self.via != "huggingface" or self.repository is None):
            raise ValueError("revision is that of a repository with via: huggingface; a Zenodo record is one version")
        return self


def _with_a_group(pattern: str, field: str, example: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"{field}: {pattern!r} is no regular expression ({error})") from None
    if groups < 1:
        raise ValueError(f"{field} needs one group in parentheses, for example {example!r}")
    return pattern


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
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles: [{low:g}, {high:g}] must be [low, high] with 0 <= low < high <= 100")
        if self.scene is not None:
            _with_a_group(self.scene, "scene", "(T31[A-Z]{3})_")
        return self


class BandFiles(Strict):
    """An image stored one band per file: three globs, and what the files of one image have in common."""

    r: str
    g: str
    b: str
    key: str
    """Regular expression on the path; files whose groups are equal belong to one image, named by the red file."""

    @field_validator("key")
    @classmethod
    def _groups(cls, key: str) -> str:
        return _with_a_group(key, "key", "(.*)_B[0-9]+")


class Examples(Strict):
    """Real paths as the cited source shows them: what the globs must take and leave."""

    take: tuple[RelativePath, ...] = ()
    leave: tuple[RelativePath, ...] = ()


class Licence(Strict):
    """SPDX identifiers where the licences have one, else the words the source uses. A plain text is the pixels'."""

    pixels: str = "unknown"
    labels: str = "unknown"
    """Of annotations, which no shard holds; ``none`` where there are none."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_pixels(cls, data: object) -> object:
        return {"pixels": data} if isinstance(data, str) else data

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Editors take the text alone as well."""
        return {"anyOf": [handler(schema), {"type": "string"}]}


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


Land = Literal[
    "africa", "antarctica", "asia", "europe", "north_america", "oceania", "south_america", "worldwide"
]  # fmt: skip


class Source(Strict):
    """One public dataset. Globs are POSIX, case-insensitive, relative to the source's root; ``**`` spans folders."""

    id: Identifier
    name: str = ""
    task: Task = "unlabelled"
    year: int | None = None
    citation: str = ""
    homepage: str | None = None
    provider: str = ""
    """Whose pixels they are, where that is another than who made the set: Google Earth, Maxar, USDA NAIP."""
    licence: Licence = Licence()
    redistributable: Annotated[Literal["yes", "noncommercial", "no", "unknown"], BeforeValidator(_yes_no)] = "unknown"
    """Whether tiles may be published; ``noncommercial``: by whom and for whom it is no business."""
    obtain: Obtain = Obtain()
    files: tuple[RemoteFile, ...] = ()
    container: ContainerName = "folder"
    image_column: str | None = None
    """Column (Parquet) or dataset (HDF5) that holds the images."""
    columns: BandColumns | None = None
    """Of a Parquet table with a column per band, in place of ``image_column``."""
    array: ArrayLayout | None = None
    """Set where ``image_column`` or ``columns`` hold numbers and not encoded images."""
    remote: RemoteImagery | None = None
    """Of ``container: remote``: where the imagery lies that is read without downloading it."""
    readable: bool = True
    """False when the images come in a container that this project does not read."""
    images: tuple[str, ...] = (EVERY_IMAGE,)
    leave: tuple[str, ...] = ()
    """Masks, labels, SAR, elevation, second renderings."""
    follow_links: str | None = None
    """Folder outside of the source's, relative to it, into which symbolic links are followed: ``../../blobs`` of a
    snapshot of the Hugging Face Hub."""
    splits: dict[str, tuple[str, ...]] = {}
    """Split name to globs; a path that none takes has no split."""
    label_from: Literal["parent"] | None = None
    """Where the class is told by the folder."""
    bands_in_files: BandFiles | None = None
    bands: tuple[Counted, Counted, Counted] | None = None
    """1-based bands to take as red, green, blue; null: those that the file marks or names as
    red, green and blue, else 1, 2, 3."""
    kind: Literal["rgb", "grey", "false_colour"] = "rgb"
    """What the pixels show where content alone cannot tell."""
    nodata: float | None = None
    stretch: Stretch | None = None
    trim: tuple[NotNegative, NotNegative, NotNegative, NotNegative] = (0, 0, 0, 0)
    """Pixels to cut from left, top, right, bottom: painted borders."""
    gsd_m: float | tuple[float, float] | None = None
    """Metres per pixel, or a range; null: from the file."""
    land: Land | None = None
    """Where most of it was taken; null: not told."""
    listed_megabytes: float | None = Field(None, gt=0)
    """Download volume as lists of datasets print it, where the sizes of the files are not known."""
    listed_files: int | None = Field(None, gt=0)
    """Files of the repository that are wanted, where ``files`` does not name them."""
    expected_images: int | None = Field(None, ge=0)
    uncounted: str = ""
    """Why ``expected_images`` is not given."""
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

    @model_validator(mode="after")
    def _fits_its_container(self) -> Source:
        if (self.container == "remote") != (self.remote is not None):
            raise ValueError("container: remote and the block remote go together")
        if self.columns is not None and self.image_column is not None:
            raise ValueError("give image_column or columns, not both")
        if self.array is not None and self.image_column is None and self.columns is None:
            raise ValueError("array needs image_column or columns: which ones hold the numbers")
        if (self.columns or self.array) and self.container not in ("parquet", "remote"):
            raise ValueError(f"columns and array are those of a Parquet table, not of container: {self.container}")
        return self

    @property
    def table_column(self) -> str | None:
        """What a container's reader is told to take: a column, or how columns of numbers are an image."""
        if self.columns is None and self.array is None:
            return self.image_column
        colours = self.columns
        names = (self.image_column or "",) if colours is None else (colours.red, colours.green, colours.blue)
        if self.array is None:
            return ArrayColumns(names, is_encoded=True).text()
        return ArrayColumns(names, False, *self.array.model_dump().values()).text()

    def linked(self, root: Path) -> Path | None:
        """The folder of ``follow_links``, without symbolic links."""
        return None if self.follow_links is None else (root / Path(self.follow_links).expanduser()).resolve()

    @property
    def gsd(self) -> float | None:
        """GSD in metres: the value, or the geometric mean of a range."""
        return math.sqrt(self.gsd_m[0] * self.gsd_m[1]) if isinstance(self.gsd_m, tuple) else self.gsd_m


class Benchmark(Source):
    """One evaluation set that must never leak into training; read like a source."""

    test_splits: tuple[str, ...] = ()
    """Splits to guard; empty: all images."""


def is_page(url: str) -> bool:
    """Whether a URL is of a service that shows a page, and gives the file to a person only."""
    return urlsplit(url).netloc.endswith(_PAGES)


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
    return load(Source, shipped_path("sources", name))


def load_benchmark(name: str) -> Benchmark:
    """Load a benchmark manifest by the name of a shipped one, or by path.

    Raises:
        InputError: no such benchmark, or the file is wrong.
    """
    return load(Benchmark, Path(name) if Path(name).suffix in {".yaml", ".yml"} else shipped_path("benchmarks", name))


def as_typed(benchmarks: Sequence[str]) -> tuple[str, ...]:
    """How benchmarks are named on the command line: one of one's own by the file that describes it."""
    known = shipped("benchmarks")
    return tuple(name if name in known else f"{name}.yaml" for name in benchmarks)


def shipped_path(kind: Literal["sources", "benchmarks", "recipes"], name: str) -> Path:
    """Where a shipped YAML file lies.

    Raises:
        InputError: none of that kind has this name; the nearest are offered.
    """
    path = manifests_folder(kind) / f"{name}.yaml"
    if not re.fullmatch(r"[a-z0-9_-]+", name) or not path.is_file():
        near = difflib.get_close_matches(name, shipped(kind), n=3)
        some = f"did you mean {' or '.join(near)}?" if near else f"shipped: {', '.join(shipped(kind)[:12])} ..."
        raise InputError(f"no {kind[:-1]} is named {name!r}; {some} A path to a YAML file is taken too")
    return path
