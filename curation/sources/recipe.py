"""What we want from it: a *recipe* names the sources to take and the rules that hold for them.

Shipped recipes lie in the ``manifests`` package; a recipe can also name a plain folder, and everything it does not say
has a default::

    name: my-corpus
    sources:
      - {id: mine, path: /some/folder, gsd_m: 0.5}
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, StringConstraints, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from curation.base.errors import InputError
from curation.base.settings import Strict, load, validate
from curation.base.terminal import local_folder
from curation.sources.exclude_rules import ExcludeRules as ExcludeRules
from curation.sources.source import Identifier, Source, load_source, plain_words, shipped, shipped_path
from curation.sources.subset import ALL, Subset, narrow, without_splits

RecipeName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64),
    plain_words(r"[a-z0-9][a-z0-9-]*", "-"),
]


class SliceRules(Strict):
    """How a raw image becomes tiles."""

    mode: Literal["grid", "random", "whole"] = "whole"
    tile: int = Field(512, ge=16)
    overlap: int = Field(0, ge=0)
    remainder: Literal["apart", "drop", "shift", "pad"] = "apart"
    """What becomes of the rest at the right and lower edge, which is narrower than a tile. ``apart``: a tile shifted
    inwards takes it, unless that would share more than half of its pixels with its neighbour."""
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
    """When two tiles are one, and which of them stays (contracts: *Duplicates, defined*).

    One word may stand for the whole block: ``deduplicate: off``.
    """

    method: Literal["near", "exact", "off"] = "near"
    """``exact``: equal pixels alone; ``off``: nothing is a duplicate, as for time series."""
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

    @model_validator(mode="before")
    @classmethod
    def _from_a_word(cls, data: object) -> object:
        return {"method": data} if isinstance(data, str | bool) else data

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Editors take the word, and what YAML makes of ``off``, as well."""
        block = handler(schema)
        method = handler.resolve_ref_schema(block)["properties"]["method"]
        method["enum"] = ["near", "exact", "off", True, False]
        del method["type"]
        return {"anyOf": [block, {"enum": method["enum"]}]}

    @field_validator("method", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: object) -> object:
        return {True: "near", False: "off"}[value] if isinstance(value, bool) else value


class GuardRules(Strict):
    """Evaluation sets to keep out."""

    benchmarks: tuple[Identifier, ...] = ()
    radius: int = Field(4, ge=0, le=10)
    crops: bool = True
    """Find tiles that are cut out of a benchmark's image, down to 0.82 of its sides."""
    fingerprints: str | None = None
    """Folder of fingerprint files; null: ``DATA/.fingerprints``."""


class BalanceRules(Strict):
    """Caps, applied after deduplication in a seeded, deterministic order."""

    per_source: int | None = Field(None, ge=1)
    per_place: int | None = Field(None, ge=1)
    """Kept tiles per raw image."""
    per_cell: int | None = Field(None, ge=1)
    """Kept tiles per degree of latitude and longitude, of all sources together; where a tile's place is known."""
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
    sample: int | None = Field(None, ge=1)
    """Archives, tables or files of the source that are taken, drawn by the seed; the others are not fetched."""
    max_images: int | None = Field(None, ge=1)
    """Images that are listed, drawn by the seed; without ``sample`` of no more archives than hold them."""
    slice: SliceRules | None = None
    predicted_tiles: int | None = Field(None, ge=0)
    manifest: dict[str, Any] = {}
    """Manifest fields that this recipe sets; they may also be written beside ``id``."""

    @classmethod
    def accepted_keys(cls) -> set[str]:
        """The entry's own keys and every manifest field."""
        return {*cls.model_fields, *Source.model_fields}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Editors take an id alone, and the manifest's fields beside it."""
        block = handler(schema)
        fields = handler.resolve_ref_schema(handler(Source.__pydantic_core_schema__))["properties"]
        own = handler.resolve_ref_schema(block)["properties"]
        own |= {name: field for name, field in fields.items() if name not in own}
        return {"anyOf": [block, {"type": "string"}]}

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
    left_out: dict[Identifier, str] = {}
    """Sources that are not run, each with the reason."""
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

    @model_validator(mode="after")
    def _some_are_left(self) -> Recipe:
        ids = {source.id for source in self.sources}
        if unknown := sorted(self.left_out.keys() - ids):
            raise ValueError(f"left_out: no source of the recipe is named {', '.join(unknown)}")
        if not ids - self.left_out.keys():
            raise ValueError("left_out: names every source, so nothing is left to run")
        return self


@dataclass(frozen=True)
class ResolvedSource:
    """A recipe's source with its manifest, its folder and the rules that hold for it."""

    source: Source
    root: Path
    slice: SliceRules
    priority: int
    cap: int | None
    seed: int = 0
    """The recipe's: what is drawn when it is listed follows from it."""
    subset: Subset = ALL
    """What is still to be drawn of its files and images."""
    untaken: int = 0
    """Files that its manifest names and the recipe does not take."""

    @property
    def id(self) -> str:
        """The source's id."""
        return self.source.id


def load_recipe(name_or_path: str, assignments: Sequence[str] = ()) -> Recipe:
    """Load a recipe by path, or by the name of a shipped one.

    Raises:
        InputError: no such recipe, or a field is wrong.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"} and not path.exists():
        path = shipped_path("recipes", name_or_path)
    return load(Recipe, path, assignments)


def resolve(recipe: Recipe, data: Path | None) -> list[ResolvedSource]:
    """Give every source of a recipe its manifest and its folder below ``data``; folders are not touched here.

    Those of ``left_out`` are none of them.

    Raises:
        InputError: a URL for a folder, an id without manifest and without path, or a manifest field that the recipe
            sets wrongly.
    """
    resolved: list[ResolvedSource] = []
    for entry in recipe.sources:
        if entry.id in recipe.left_out:
            continue
        known = entry.id in shipped("sources")
        if entry.path is None and not known and "remote" not in entry.manifest:
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
        local_folder(root)
        if not root.is_absolute():
            if data is None:
                raise InputError(f"source {entry.id}: its folder {root} is relative; say where with --data DIR")
            root = data / root
        source = without_splits(source, recipe.exclude.splits)
        taken, subset = narrow(source, Subset(entry.sample, entry.max_images, recipe.seed))
        rules, untaken = entry.slice or recipe.slice, len(source.files) - len(taken.files)
        drawn = (recipe.seed, subset, untaken)
        resolved.append(ResolvedSource(taken, root, rules, entry.priority, entry.cap, *drawn))
    return resolved
