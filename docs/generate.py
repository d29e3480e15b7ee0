"""Write the pages and schemas that follow from the manifests: ``python docs/generate.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from pydantic import BaseModel

from curation.base.columns import number
from curation.sources.probe import Standing, standing
from curation.sources.recipe import Recipe, load_recipe
from curation.sources.say import gsd
from curation.sources.source import Benchmark, Source, load_benchmark, load_source, shipped

DOCS = Path(__file__).parent

INTRODUCTION = """# Sources

{count} public datasets that a recipe can name by their id. `rs-curate sources` prints this table; `--json` prints every
field.

*Images* is the number that the set's own pages or lists of datasets state, empty where nothing is known or where only a
part of the set is taken. *Licence* is that of the pixels, which are all that shards hold: who labelled pictures of
Google Earth cannot free them. `provider` of a manifest says whose they are, `licence.labels` how labels are licensed.
*Redistributable* is `yes` where the licence that was read clearly allows to publish tiles, `noncommercial` where it
allows that without gain, `no` where it forbids or restricts them (on request, academic use, competition rules, no
derivatives), `unknown` for the rest. *Route* is how the files come: `direct`, `zenodo`, `huggingface` and `s3` need no
person. *Verified* rows have their layout and examples from a cited source, which the manifest names under `facts`; what
is not known is empty there, never guessed. Sizes of files stand where a cited page told them, which is rare:
`rs-curate probe` asks.

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
    recipes = {f"recipes/{name}.md": _with_today(name) for name in shipped("recipes") if _page(name).exists()}
    return {"sources.md": "\n".join(parts), **recipes, **schemas}


def _page(recipe: str) -> Path:
    return DOCS / "recipes" / f"{recipe}.md"


def _with_today(name: str) -> str:
    """The page of a recipe, with what of it can be had today between its two marks."""
    before, start, rest = _page(name).read_text(encoding="utf-8").partition("<!-- today -->\n")
    _, end, after = rest.partition("<!-- /today -->")
    return before + start + "\n".join(_today(name)) + "\n" + end + after


def _today(name: str) -> list[str]:
    """Three columns: what comes by script, what a person fetches, and what is gone."""
    recipe = load_recipe(name)
    entries = {entry.id: entry.predicted_tiles or 0 for entry in recipe.sources}
    sources = {source: load_source(source) for source in entries}
    states = {source: standing(sources[source]) for source in entries}
    columns = {
        state: sorted((source for source in entries if states[source].state == state), key=lambda s: -entries[s])
        for state in ("automatic", "by hand", "gone")
    }
    sums = {state: sum(entries[source] for source in found) for state, found in columns.items()}
    kept = [source for source in entries if source not in recipe.left_out]
    tiles = sum(entries[source] for source in kept)
    free = sum(entries[source] for source in kept if sources[source].redistributable == "yes")
    lines = [
        "## Today",
        "",
        f"Of {tiles:,} predicted tiles {sums['automatic'] / tiles:.1%} come by script; {free / tiles:.1%} are of",
        "sources whose tiles may be published. What others reported of a host has its date; nobody here opened a URL,",
        f"so ask yourself: `rs-curate probe {name} --out probe.json`, then `rs-curate plan {name} --probe probe.json`.",
    ]
    titles = [f"{state}{' today' if state == 'automatic' else ''}: {sums[state]:,}" for state in columns]
    lines += ["", f"| {' | '.join(titles)} |", "|---|---|---|"]
    for row in zip_longest(*columns.values()):
        lines.append("| " + " | ".join(_cell(source, entries, states) for source in row) + " |")
    notes = [f"- `{source}`, {each.checked}: {each.note}" for source, each in states.items() if each.note]
    return [*lines, "", *notes] if notes else lines


def _cell(source: str | None, tiles: Mapping[str, int], states: Mapping[str, Standing]) -> str:
    if source is None:
        return ""
    day = states[source].checked
    return f"`{source}` {tiles[source]:,}" + (f" ({day})" if day else "")


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
