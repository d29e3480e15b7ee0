"""The texts beside a published corpus: dataset card, attribution, and ``croissant.json``.

The card follows the Hugging Face Hub's metadata; the description in JSON-LD follows Croissant 1.0
(https://docs.mlcommons.org/croissant/docs/croissant-spec.html), so that search engines and loaders find the data.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from curation.release.facts import CorpusFacts, SourceFacts

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_ON_THE_HUB = {"CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "MIT", "Apache-2.0"}
"""Licences whose SPDX identifier in lower case is the Hub's."""

_TYPES = {
    "key": "sc:Text", "shard": "sc:Integer", "image_offset": "sc:Integer", "image_size": "sc:Integer",
    "image_format": "sc:Text", "width": "sc:Integer", "height": "sc:Integer", "gsd_m": "sc:Float",
    "source": "sc:Text", "licence": "sc:Text",
}  # fmt: skip
"""Columns of the index that are told, with their types."""

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        name: f"cr:{name}"
        for name in (
            "citeAs", "column", "extract", "field", "fileProperty", "fileObject", "fileSet", "format", "includes",
            "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
            "repeated", "replace", "separator", "source", "subField", "transform",
        )
    },
}  # fmt: skip


def dataset_card(facts: CorpusFacts, lock_only: bool, pictures: Collection[str] = ()) -> str:
    """``README.md``: YAML front matter and what a person wants to know, with the pictures that lie beside it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("curation.release", "."), undefined=StrictUndefined, keep_trailing_newline=True
    )
    front = yaml.safe_dump(_front(facts, lock_only), sort_keys=False, allow_unicode=True)
    return environment.get_template("card.md.j2").render(
        facts=facts, lock_only=lock_only, front=front, pictures=pictures
    )


def _front(facts: CorpusFacts, lock_only: bool) -> dict[str, Any]:
    own = facts.licences[0] if len(facts.licences) == 1 else ""
    known = own in _ON_THE_HUB
    size = next((word for limit, word in _SIZES if facts.samples < limit), "10M<n<100M")
    front: dict[str, Any] = {
        "pretty_name": facts.name,
        "license": own.lower() if known else "other",
        "task_categories": ["image-feature-extraction"],
        "tags": ["remote-sensing", "earth-observation", "pretraining", "webdataset"],
        "size_categories": [size],
    }
    if not known:
        front["license_name"] = own or "of-the-sources"
        front["license_link"] = "ATTRIBUTION.md"
    if not lock_only:
        front["configs"] = [{"config_name": "default", "data_files": "shards/*.tar"}]
    return front


def attribution(facts: CorpusFacts) -> str:
    """``ATTRIBUTION.md``: every source with its licence, as its authors want to be named."""
    told = "\n".join(_attributed(each) for each in facts.sources)
    return f"# Sources of {facts.name}\n\nEach sample names its source and licence in its metadata.\n{told}"


def _attributed(each: SourceFacts) -> str:
    source = each.source
    lines = [f"- licence: {source.licence.pixels}", f"- tiles: {each.samples:,}"]
    lines += [f"- imagery of: {source.provider}"] if source.provider else []
    lines += [f"- homepage: {source.homepage}"] if source.homepage else []
    lines += [f"- cite: {source.citation}"] if source.citation else []
    return "\n".join([f"\n## {each.title} (`{source.id}`)", "", *lines, ""])


def croissant(facts: CorpusFacts, url: str, sha256: Mapping[str, str]) -> str:
    """``croissant.json`` of a corpus whose files have these SHA-256."""
    index = _file("shards/index.parquet", "application/x-parquet", sha256)
    tars = [_file(f"shards/{shard.file}", "application/x-tar", sha256) for shard in facts.shards]
    images = {
        "@type": "cr:FileSet",
        "@id": "images",
        "name": "images",
        "description": "The image of every sample; its metadata lie beside it as JSON.",
        "containedIn": [{"@id": tar["@id"]} for tar in tars],
        "encodingFormat": ["image/jpeg", "image/png", "image/webp"],
        "includes": ["*.jpg", "*.png", "*.webp"],
    }
    told = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": facts.name,
        "description": facts.description or f"{facts.samples:,} remote sensing image tiles for pretraining.",
        "license": facts.licences,
        "url": url,
        "keywords": ["remote sensing", "pretraining"],
        "distribution": [index, *tars, images],
        "recordSet": [_records(index["@id"])],
    }
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def _file(name: str, kind: str, sha256: Mapping[str, str]) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": kind,
        "sha256": sha256[name],
    }


def _records(index: str) -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"samples/{column}",
            "name": column,
            "dataType": kind,
            "source": {"fileObject": {"@id": index}, "extract": {"column": column}},
        }
        for column, kind in _TYPES.items()
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": "A row of the index for every sample: where its image lies in its shard, and what it shows.",
        "key": {"@id": "samples/key"},
        "field": fields,
    }
