"""A catalogue tried beside the finished one: ``run --until select``.

``OUT/catalogue.parquet`` describes the shards that lie beside it, so a trial never takes its place: it goes to
``OUT/trial/``, with a report of its own, and is compared with the finished one verdict by verdict.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from curation.base.errors import FormatVersionError
from curation.catalogue import KEPT, SLICED, VERDICTS, ledger, open_table

FOLDER = "trial"
"""Folder of the trial below ``OUT``."""

Counts = dict[str, Counter[str]]
"""Rows per verdict of ``image`` and ``tile`` rows."""


def count(catalogue: Path) -> Counts:
    """Rows per verdict of a catalogue.

    Raises:
        InputError: no catalogue, or one of another format version.
    """
    counts: Counts = {"image": Counter(), "tile": Counter()}
    with open_table(catalogue, "catalogue") as file:
        for number in range(file.num_row_groups):
            for kinds in ledger(file.read_row_group(number, columns=["source", "kind", "verdict"])).values():
                for kind, verdicts in kinds.items():
                    counts[kind].update(verdicts)
    return counts


def beside_release(tried: Counts, finished: Path) -> list[str]:
    """Lines that say what a trial changes against the finished catalogue, per verdict."""
    if not finished.exists():
        return [f"no finished catalogue to compare with ({finished})"]
    try:
        before = count(finished)
    except FormatVersionError as error:
        return [f"not compared: {error}"]
    return [
        f"against {finished}:",
        *(f"  {kind}s: {_changes(before[kind], tried[kind])}" for kind in ("tile", "image")),
    ]


def _changes(before: Counter[str], after: Counter[str]) -> str:
    words = [KEPT, SLICED, *(verdict for verdict in VERDICTS if verdict not in (KEPT, SLICED))]
    changed = [
        f"{verdict} {before[verdict]:,} -> {after[verdict]:,} ({after[verdict] - before[verdict]:+,})"
        for verdict in words
        if before[verdict] != after[verdict]
    ]
    return ", ".join(changed) or "as many of every verdict"
