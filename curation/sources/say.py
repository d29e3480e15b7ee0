"""How `rs-curate sources`, `plan`, `probe`, `fetch` and `check` say what they found."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from curation.base.columns import number, table
from curation.sources.fetch import FetchResult
from curation.sources.plan import TILE_SIDE, CheckRow, PlanRow, RecipePlan
from curation.sources.probe import Probe, Standing, standing
from curation.sources.source import Land, Source


def _today_of(found: Standing) -> str:
    """``automatic``, ``by hand`` or ``gone``, with the day on which that was found."""
    return f"{found.state} {found.checked}".strip()


def format_sources(
    sources: Sequence[Source], as_json: bool = False, width: int | None = None, probe: Probe | None = None
) -> str:
    """A table of sources that fits a terminal of ``width`` columns, or every field as JSON."""
    if as_json:
        return json.dumps([source.model_dump(mode="json") for source in sources], indent=2, ensure_ascii=False)
    rows = [
        (
            source.id,
            source.task,
            number(source.expected_images),
            gsd(source),
            source.licence.pixels,
            source.redistributable,
            source.obtain.via,
            _today_of(standing(source, probe)),
            "yes" if source.verified else "",
        )
        for source in sources
    ]
    header = ("id", "task", "images", "gsd in m", "licence", "redistributable", "route", "today", "verified")
    return table(header, rows, (2, 3), width) + f"\n\n{len(sources)} sources"


def format_plan(plan: RecipePlan, typed: str = "", data: Path | None = None, width: int | None = None) -> str:
    """A plan that a person can act on: the table, the sums, what to do by hand, and the commands.

    Args:
        plan: what to say.
        typed: the recipe as it was named on the command line.
        data: the folder of the raw sources, if it was given.
        width: columns of the terminal.
    """
    rows = [
        (
            row.id + (" (benchmark)" if row.benchmark else ""),
            row.licence,
            row.redistributable,
            row.route,
            _today_of(row.standing),
            "?" if row.megabytes is None else f"{row.megabytes / 1e3:,.1f}",
            number(row.predicted_tiles),
            number(row.cap),
        )
        for row in plan.rows
    ]
    header = ("source", "licence", "redistributable", "route", "today", "GB", "tiles", "cap")
    unknown = sum(row.megabytes is None for row in plan.rows)
    hands = [row for row in plan.rows if row.standing.state == "by hand"]
    closed = sum(row.redistributable != "yes" for row in plan.rows if not row.benchmark)
    own = all(row.route == "local" for row in plan.rows)
    sums = [
        f"{sum(not row.benchmark for row in plan.rows)} sources, of which {closed} may not surely be redistributed",
        f"download: {plan.gigabytes:,.0f} GB as far as known; {unknown} rows tell no size (fetch asks the servers)",
        f"disk: {plan.disk_gigabytes:,.0f} GB and what those {unknown} add (archives, their content, the shards"
        f"{f', at most {plan.spool_gigabytes:,.0f} GB of spools' if plan.spool_gigabytes else ''})",
        f"predicted: {plan.tiles:,} tiles in {plan.shards:,} shards of together {plan.shard_gigabytes:,.0f} GB"
        f" (at {TILE_SIDE} x {TILE_SIDE} pixels a tile)",
        *_today(plan),
    ]
    sums += _spread(plan)
    if own:
        sums = [sums[0], "nothing to download: the folders are your own; `run --dry-run` says what they give"]
    drawn = [f"{row.id} {row.drawn}" for row in plan.rows if row.drawn]
    sums += [f"drawn by the seed: {'; '.join(drawn)}"] if drawn else []
    sums += [plan.held_out] if plan.held_out else []
    sums += [f"left out: {', '.join(plan.left_out)}"] if plan.left_out else []
    parts = [table(header, rows, (5, 6, 7), width), "\n".join(sums)]
    steps = _steps(plan, shlex.quote(typed or plan.name), data, own)
    parts += [row.instructions for row in hands]
    return "\n\n".join([*parts, "Next:\n  " + "\n  ".join(steps)])


GSD_STEPS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Metres per pixel between the rows of the histogram; a source of a range stands at its geometric mean."""


def _gsd_row(row: PlanRow) -> str:
    if row.gsd_m is None:
        return "not told"
    below = next((step for step in GSD_STEPS if row.gsd_m < step), None)
    return f"from {GSD_STEPS[-1]:g} m" if below is None else f"below {below:g} m"


def _spread(plan: RecipePlan) -> list[str]:
    """How the tiles lie over metres per pixel and land, as far as the manifests tell."""
    steps = [*(f"below {step:g} m" for step in GSD_STEPS), f"from {GSD_STEPS[-1]:g} m", "not told"]
    lands = [*get_args(Land), "not told"]
    found = {
        "metres per pixel": (plan.histogram(_gsd_row), steps),
        "land": (plan.histogram(lambda row: row.land or "not told"), lands),
    }
    every = sum(row.tiles_there for row in plan.rows)
    if not every:
        return []
    script = plan.share(lambda row: row.standing.state == "automatic")
    free = plan.share(lambda row: row.redistributable == "yes")
    lines = [f"of these tiles {script:.1%} come by script, {free:.1%} are redistributable"]
    for title, (tiles, order) in found.items():
        rows = [(name, number(tiles[name]), "#" * round(40 * tiles[name] / every)) for name in order if name in tiles]
        lines += ["", table((title, "tiles", ""), rows, (1,))]
    return [*lines, ""]


def _today(plan: RecipePlan) -> list[str]:
    """What can be counted on, by the way it comes, and what each answer said that was no file."""
    lines = []
    for state in ("automatic", "by hand", "gone"):
        rows = [row for row in plan.rows if row.standing.state == state]
        tiles = sum((row.predicted_tiles or 0) if state == "gone" else row.tiles_there for row in rows)
        lines.append(f"{state}: {len(rows)} of {len(plan.rows)}, {tiles:,} tiles")
    lines[2] += " that are not counted above"
    parts = sum((row.predicted_tiles or 0) - row.tiles_there for row in plan.rows if row.standing.state != "gone")
    lines += [f"gone of the others: files of {parts:,} tiles"] if parts else []
    days = [row.standing.checked for row in plan.rows if row.standing.checked]
    asked = (
        f"{len(days)} of {len(plan.rows)} rows were asked about, the first on {min(days)}" if days else "nobody asked"
    )
    lines.append(f"servers: {asked}; rs-curate probe {plan.name} --out FILE asks, plan --probe FILE reads the answers")
    return lines + [f"{row.id}: {row.standing.note}" for row in plan.rows if row.standing.note]


def _steps(plan: RecipePlan, word: str, data: Path | None, own: bool) -> list[str]:
    """Commands to type next, of which each works as it stands once DATA and OUT are names."""
    where = f" --data {shlex.quote(str(data)) if data else 'DATA'}" if plan.needs_data else ""
    run = f"rs-curate run {word}{where} --out OUT"
    steps = [f"rs-curate check {word}{where}     counts what is there"]
    if plan.guarded:
        steps.append(f"rs-curate fingerprint --benchmark {' '.join(plan.guarded)}{where}     so that they are kept out")
    if own:
        return [*steps, f"{run} --dry-run", run]
    automatic = sum(row.standing.state == "automatic" for row in plan.rows)
    return [f"rs-curate fetch {word}{where}     fetches {automatic}, explains the others", *steps, run]


def format_probe(rows: Sequence[tuple[str, Standing]], width: int | None = None) -> str:
    """How every source stands, and below the table what each server said that gave no file."""
    lines = [(name, each.state, each.checked, "" if each.share == 1 else f"{each.share:.0%}") for name, each in rows]
    counts = Counter(each.state for _, each in rows)
    notes = [f"{name}: {each.note}" for name, each in rows if each.note]
    parts = [table(("source", "today", "checked", "there"), lines, (3,), width), *(["\n".join(notes)] if notes else [])]
    return "\n\n".join([*parts, ", ".join(f"{count} {state}" for state, count in counts.items())])


def format_check(rows: Sequence[CheckRow]) -> str:
    """The table of what was found, and below it what needs a look."""
    lines = [
        (
            row.id,
            number(row.found),
            number(row.expected),
            number(row.missing) if row.missing else "",
            number(row.surplus) if row.surplus else "",
            "read where it lies"
            if row.remote
            else "ok"
            if row.fine
            else "absent"
            if row.error and not row.found
            else "look below",
        )
        for row in rows
    ]
    text = table(("source", "found", "expected", "missing", "surplus", ""), lines, right=(1, 2, 3, 4))
    notes = [row.error for row in rows if row.error]
    notes += [f"source {row.id}: {warning}" for row in rows for warning in row.warnings]
    fine = sum(row.fine for row in rows)
    return "\n\n".join([text, *(["\n".join(notes)] if notes else []), f"{fine} of {len(rows)} as expected"])


def format_fetch(results: Sequence[FetchResult]) -> str:
    """What was fetched, what failed, and what a person must do."""
    lines = [
        (
            result.id,
            number(result.downloaded) if result.downloaded else "",
            number(result.unpacked) if result.unpacked else "",
            "failed" if result.error else "by hand" if result.instructions else "; ".join(result.notes) or "ok",
        )
        for result in results
    ]
    parts = [table(("source", "files fetched", "archives unpacked", ""), lines, right=(1, 2))]
    parts += [result.instructions for result in results if result.instructions]
    parts += [result.error for result in results if result.error]
    done = sum(not result.error and not result.instructions for result in results)
    return "\n\n".join([*parts, f"{done} of {len(results)} are there"])


def gsd(source: Source) -> str:
    """A source's GSD as text."""
    if isinstance(source.gsd_m, tuple):
        return f"{source.gsd_m[0]:g} to {source.gsd_m[1]:g}"
    return "" if source.gsd_m is None else f"{source.gsd_m:g}"
