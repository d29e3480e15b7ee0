"""Which fields of a source and which rules change the keys of inventory and scan."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from curation.scan.parts import ScanJob
from curation.sources import key_fields
from curation.sources.recipe import Recipe, resolve
from curation.sources.source import Source


def keys(recipe: dict[str, Any] | None = None, **source: Any) -> tuple[Any, Any]:
    made = Recipe.model_validate({"name": "t", "sources": [{"id": "s", "path": "/s", **source}], **(recipe or {})})
    resolved = resolve(made, None)[0]
    return key_fields.listing(resolved.source), ScanJob.of(resolved, made).rules()


def test_every_field_of_a_source_is_decided() -> None:
    assert set(Source.model_fields) == key_fields.LISTING | key_fields.PIXELS | key_fields.NEITHER
    assert not (key_fields.LISTING | key_fields.PIXELS) & key_fields.NEITHER


CHANGES: dict[str, Any] = {
    "files": [{"name": "a.zip", "into": "a"}], "container": "zip", "image_column": "image", "images": ["*.png"],
    "leave": ["masks/*"], "follow_links": "../blobs", "splits": {"val": ["val/*"]}, "label_from": "parent",
    "bands_in_files": {"r": "*4", "g": "*3", "b": "*2", "key": "(.*)"}, "bands": [3, 2, 1], "kind": "grey", "nodata": 0,
    "stretch": {"how": "fixed", "fixed": [0, 10]}, "trim": [1, 1, 1, 1], "gsd_m": 0.5, "name": "n", "task": "change",
    "year": 2020, "citation": "c", "homepage": "h", "licence": "MIT", "provider": "p", "redistributable": "yes",
    "obtain": {"via": "manual"}, "readable": False, "listed_megabytes": 1, "listed_files": 3,
    "land": "asia", "uncounted": "u",
    "expected_images": 5, "shares_images_with": ["other"], "examples": {"take": ["a"]}, "verified": True, "facts": "f",
    "columns": {"red": "B4", "green": "B3", "blue": "B2"}, "array": {"axes": "byx"},
    "remote": {"urls": ["https://example.org/b.tif"]},
}  # fmt: skip
BESIDE: dict[str, Any] = {
    "columns": {"container": "parquet"}, "array": {"container": "parquet", "image_column": "x"},
    "remote": {"container": "remote", "remote": {"urls": ["https://example.org/a.tif"]}},
}  # fmt: skip
"""What must be set for some fields to be there at all."""


@pytest.mark.parametrize("field", sorted(set(Source.model_fields) - {"id"}))
def test_a_field_changes_the_keys_that_depend_on_it_and_no_other(field: str) -> None:
    beside = BESIDE.get(field, {})
    listing, scan = keys(**beside)
    changed_listing, changed_scan = keys(**{**beside, field: CHANGES[field]})
    assert (changed_listing != listing, changed_scan != scan) == (
        field in key_fields.LISTING,
        field in key_fields.PIXELS,
    )


def test_how_fast_a_remote_source_is_read_changes_nothing() -> None:
    place = {"urls": ["https://example.org/a.tif"]}
    fast = {**place, "connections": 2, "spool_gigabytes": 1}
    assert keys(container="remote", remote=place) == keys(container="remote", remote=fast)


def test_addresses_and_checksums_of_files_change_nothing() -> None:
    plain = [{"name": "a.zip"}]
    told = [{"name": "a.zip", "url": "https://example.org/a.zip", "md5": "0" * 32, "size": 5}]
    assert keys(files=plain) == keys(files=told)


@pytest.mark.parametrize(
    ("recipe", "source", "changed_by"),
    [
        ({"exclude": {"licences": ["MIT"]}}, {"licence": "MIT"}, False),
        ({"exclude": {"licences": ["MIT"]}}, {"licence": "GPL"}, True),
        ({"exclude": {"redistributable_only": True}}, {"redistributable": "yes"}, False),
        ({"exclude": {"redistributable_only": True}}, {"redistributable": "no"}, True),
        ({"exclude": {"splits": ["test"]}}, {}, False),
        ({"exclude": {"splits": []}}, {"splits": {"test": ["test/*"]}}, True),
        ({"exclude": {"max_unreadable": 0.9}}, {}, False),
        ({"exclude": {"max_pixels": 5}}, {}, True),
        ({"slice": {"tile": 100}}, {}, True),
        ({"fingerprint": {"extra": ["dhash"]}}, {}, True),
        ({"shards": {"quality": 50}}, {}, False),
        ({"deduplicate": {"radius": 3}}, {}, False),
        ({"balance": {"total": 3}}, {}, False),
        ({}, {"priority": 3}, False),
        ({}, {"cap": 3}, False),
    ],
)
def test_rules_of_a_recipe_that_the_scan_depends_on(
    recipe: dict[str, Any], source: dict[str, Any], changed_by: bool
) -> None:
    assert (keys(recipe, **source)[1] != keys(**source)[1]) == changed_by


def test_the_seed_counts_where_windows_are_drawn() -> None:
    for mode, counts in (("random", True), ("grid", False)):
        first, second = (keys({"seed": seed, "slice": {"mode": mode}})[1] for seed in (0, 1))
        assert (first != second) == counts


def test_the_table_of_the_documentation_is_the_one_of_the_keys(repository: Path) -> None:
    page = (repository / "docs" / "curate.md").read_text()
    section = page.split("### What a change repeats")[1].split("\n#")[0]
    told = dict(re.findall(r"^\| (\w+) \| (.*) \|$", section, re.MULTILINE))
    fields = {stage: set(re.findall(r"`sources\.(\w+)`", cell)) for stage, cell in told.items()}
    assert fields["inventory"] >= key_fields.LISTING
    assert key_fields.PIXELS - {"id"} <= fields["scan"]
    later = fields["select"] | fields["write"] | fields["report"] | {"readable"}
    assert later >= key_fields.NEITHER
