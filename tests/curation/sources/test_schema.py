"""The schemas by which editors complete and check YAML: they take what the commands take, says jsonschema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[3]


def schema(name: str) -> Draft202012Validator:
    found: dict[str, Any] = json.loads((ROOT / f"docs/schema/{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


@pytest.mark.parametrize("kind", ["recipe", "source", "benchmark"])
def test_all_that_is_shipped_is_valid(kind: str) -> None:
    validator = schema(kind)
    for path in sorted((ROOT / f"manifests/{kind}s").glob("*.yaml")):
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        document = json.loads(json.dumps(read, default=str))  # dates are text
        told = [error.message for error in validator.iter_errors(document)]
        assert not told, f"{path.name}: {told[0]}"


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("deduplicate: off", True),
        ("deduplicate: exact", True),
        ("deduplicate: {method: off, radius: 2}", True),
        ("deduplicate: of", False),
        ("deduplicate: {methd: off}", False),
        ("sources: [a, {id: b, path: c, bands: [3, 2, 1], priority: 1}]", True),
        ("sources: [{id: b, band: [3, 2, 1]}]", False),
    ],
)
def test_words_for_blocks_and_manifest_fields_beside_an_id(written: str, taken: bool) -> None:
    recipe = {"name": "m", "sources": ["a"], **yaml.safe_load(written)}
    assert schema("recipe").is_valid(recipe) is taken
