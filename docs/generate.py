"""Write the pages and schemas that follow from the manifests: ``python docs/generate.py``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from curation.base.columns import number
from curation.sources.recipe import Recipe
from curation.sources.say import gsd
from curation.sources.source import Benchmark, Source, load_benchmark, load_source, shipped

DOCS = Path(__file__).parent

INTRODUCTION = """# Sources

{count} public datasets that a recipe can name by their id. `rs-curate sources` prints this table; `--json` prints every
field.

*Images* is the number that the set's own pages or lists of datasets state, empty where nothing is known or where only a
part of the set is taken. *Redistributable* is `yes` where the licence that was read clearly allows to publish tiles,
`no` where it forbids or restricts them (on request, academic use, competition rules, no derivatives), `unknown` for the
rest, licences for non-commercial use among them. *Route* is how the files come: `direct`, `zenodo`, `huggingface` and
`s3` need no person. *Verified* rows have their layout and examples from a cited source, which the manifest names under
`facts`; what is not known is empty there, never guessed.

A manifest of your own, or a recipe, is completed and checked by editors that read JSON Schema:
[source](schema/source.json), [benchmark](schema/benchmark.json), [recipe](schema/recipe.json). For the YAML language
server:

    # yaml-language-server: $schema=docs/schema/recipe.json
"""

BENCHMARKS = """
## Evaluation sets

What `guard.benchmarks` of a recipe can name. Some are sources as well; a recipe takes a set as one or the other.
"""

COLUMNS = "id | name | task | images | GSD in m | licence | redistributable | route | verified | shares images with"


def pages() -> dict[str, str]:
    """Path below docs -> content."""
    sources = [load_source(name) for name in shipped("sources")]
    benchmarks = [load_benchmark(name) for name in shipped("benchmarks")]
    parts = [INTRODUCTION.format(count=len(sources)), _table(sources), BENCHMARKS, _table(benchmarks), ""]
    models: dict[str, type[BaseModel]] = {"source": Source, "benchmark": Benchmark, "recipe": Recipe}
    schemas = {
        f"schema/{name}.json": json.dumps(model.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
        for name, model in models.items()
    }
    return {"sources.md": "\n".join(parts), **schemas}


def _table(sources: Sequence[Source]) -> str:
    rows = [f"| {COLUMNS} |", "|---|---|---|---:|---:|---|---|---|---|---|"]
    for source in sources:
        cells = (
            f"`{source.id}`",
            f"[{source.name}]({source.homepage})" if source.homepage else source.name,
            source.task,
            number(source.expected_images),
            gsd(source),
            source.licence.pixels,
            source.redistributable,
            source.obtain.via + ("" if source.readable else ", not read here"),
            "yes" if source.verified else "",
            ", ".join(source.shares_images_with),
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    for path, text in pages().items():
        (DOCS / path).parent.mkdir(exist_ok=True)
        (DOCS / path).write_text(text, encoding="utf-8")
