"""What the report counts of a catalogue, and which rows it shows: one pass over its row groups, whatever their number.

Counts are of all rows. Rows to show are drawn by their ids, which are hashes, so that every run draws the same ones;
of every image one tile before any second one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.base.arrays import Doubles
from curation.catalogue import KEPT, MEASUREMENTS, VERDICTS, ledger, open_table
from curation.report.lookup import Lookup
from curation.select.exclude import RULES, Measured, Of, Rule, measured_of
from curation.sources.recipe import ExcludeRules

BINS = 100
"""Bins on either side of a threshold."""
NEAREST = 8
"""Cases shown on either side of a threshold."""
CELL = 1
"""Side of the map's cells in degrees."""

_COLUMNS = [
    "kind", "source", "image", "tile_id", "verdict", "subject", "width", "height", "gsd_m", "mean", "ac_energy",
    "west", "south", "east", "north", *MEASUREMENTS["tile"], *MEASUREMENTS["image"],
]  # fmt: skip


# ------------------------------------------------------------------------------------------------ histograms


@dataclass
class Histogram:
    """Counts between edges; what lies beyond counts in the first and last bin."""

    edges: Doubles
    counts: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.edges) - 1, np.int64)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count ``(N,)`` values; those that are not finite are left out."""
        values = np.clip(values[np.isfinite(values)].astype(np.float64), self.edges[0], self.edges[-1])
        self.counts += np.histogram(values, self.edges)[0]

    def as_json(self) -> dict[str, Any]:
        """Edges and counts."""
        return {"edges": [float(f"{edge:.6g}") for edge in self.edges], "counts": self.counts.tolist()}


def kept_histograms() -> dict[str, Histogram]:
    """Histograms of what is kept, by the words that stand above them."""
    return {
        "ground length of a pixel, m": Histogram(np.geomspace(0.01, 1000, 61)),
        "side of a tile (root of its area), pixels": Histogram(np.geomspace(16, 16384, 61)),
        "brightness (mean luma)": Histogram(np.linspace(0, 255, 52)),
        "texture (median AC coefficient), grey levels": Histogram(np.geomspace(0.05, 200, 61)),
    }


@dataclass
class Threshold:
    """A rule with a threshold that can be moved: how its measurement is spread, and which rows are nearest to it."""

    rule: Rule
    value: float
    histogram: Histogram
    """Of the rows that are asked; the threshold is one of its edges."""
    near: dict[str, list[tuple[float, str]]] = field(default_factory=lambda: {"passed": [], "against": []})
    """Distance and id of the nearest rows on either side."""

    @classmethod
    def of(cls, rule: Rule, rules: ExcludeRules) -> Threshold:
        """The threshold of a recipe."""
        value = rule.threshold(rules)
        low, high = _bounds(rule.name, value)
        edges = [np.linspace(low, value, BINS + 1) if value > low else [low], np.linspace(value, high, BINS + 1)[1:]]
        return cls(rule, value, Histogram(np.concatenate(edges)))

    def add(self, measured: Measured, rules: ExcludeRules, ids: pa.Array) -> None:
        """Take the next rows, of the kind that the rule is about."""
        assert self.rule.column is not None
        asked = self.rule.asked(measured, rules)
        against = self.rule.against(measured, rules)
        values = measured[self.rule.column].astype(np.float64)
        self.histogram.add(values[asked])
        for side, chosen in (("against", asked & against), ("passed", asked & ~against)):
            (at,) = np.nonzero(chosen)
            distance = np.abs(values[at] - self.value)
            first = np.argsort(distance, kind="stable")[:NEAREST]
            found = zip(distance[first].tolist(), ids.take(pa.array(at[first])).to_pylist(), strict=True)
            self.near[side] = sorted([*self.near[side], *found])[:NEAREST]


def _bounds(name: str, value: float) -> tuple[float, float]:
    """Range of a threshold, as its field says; where that is open, as far as ten times the threshold."""
    told = {type(each).__name__: each for each in ExcludeRules.model_fields[name].metadata}
    low = getattr(told.get("Ge"), "ge", 0.0)
    high = getattr(told.get("Le"), "le", max(10.0 * value, value + 1.0))
    return float(min(low, value)), float(high)


def movable(rules: ExcludeRules) -> list[Threshold]:
    """The rules that compare something measured with a number of the recipe."""
    return [
        Threshold.of(rule, rules)
        for rule in RULES
        if rule.fixed is None and rule.column is not None and not isinstance(getattr(rules, rule.name), bool)
    ]


# ------------------------------------------------------------------------------------------------ rows to show


class Draw:
    """The rows with the smallest ids of each verdict, one of every image first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._first: dict[str, list[str]] = {}
        self._any: dict[str, list[str]] = {}

    def add(self, verdict: str, rows: pa.Table) -> None:
        """Take the next rows of a verdict."""
        per_image = rows.group_by(["source", "image"]).aggregate([("tile_id", "min")])["tile_id_min"]
        for kept, ids in ((self._first, per_image), (self._any, rows["tile_id"])):
            kept[verdict] = sorted([*kept.get(verdict, []), *_smallest(ids, self._count)])[: self._count]

    def of(self, verdict: str, count: int) -> list[str]:
        """At most ``count`` ids."""
        first = self._first.get(verdict, [])
        more = [one for one in self._any.get(verdict, []) if one not in set(first)]
        return [*first, *more][:count]


def _smallest(ids: pa.ChunkedArray, count: int) -> list[str]:
    chosen = pc.take(ids, pc.select_k_unstable(ids, count, [("", "ascending")])) if len(ids) > count else ids
    found: list[str] = chosen.to_pylist()
    return found


class Groups:
    """Duplicates by the tile that stands for them."""

    def __init__(self) -> None:
        self._sizes: Counter[str] = Counter()

    def add(self, subjects: pa.ChunkedArray) -> None:
        """Count the next duplicates."""
        for pair in pc.value_counts(subjects).to_pylist():
            self._sizes[pair["values"]] += pair["counts"]

    @property
    def total(self) -> int:
        """Number of groups."""
        return len(self._sizes)

    def largest(self, count: int) -> list[tuple[str, int]]:
        """The tile that stays, and how many it stands for."""
        return sorted(self._sizes.items(), key=lambda item: (-item[1], item[0]))[:count]


# ------------------------------------------------------------------------------------------------ the pass


@dataclass
class Figures:
    """What one pass over a catalogue finds."""

    counts: dict[str, dict[str, Counter[str]]]
    """Rows by source, kind of row and verdict."""
    leaks: dict[str, Counter[str]]
    """Rows taken out, by source and benchmark."""
    thresholds: list[Threshold]
    kept: dict[str, Histogram]
    cells: Counter[tuple[int, int]]
    """Kept tiles by column and row of the map's cells, from the north west."""
    draw: Draw
    groups: Groups


def look(catalogue: Path, pictures: int) -> Figures:
    """Count a catalogue's rows and draw those to show.

    Args:
        catalogue: of a finished run, or of a trial.
        pictures: most rows to draw of one verdict.
    """
    rulebook = Lookup.open(catalogue).rules
    found = Figures({}, {}, movable(rulebook.exclude), kept_histograms(), Counter(), Draw(pictures), Groups())
    with open_table(catalogue, "catalogue") as file:
        for number in range(file.num_row_groups):
            group = file.read_row_group(number, columns=_COLUMNS)
            _count(found, group)
            _verdicts(found, group)
            _kept(found, group)
            _measured(found, group, rulebook.exclude, rulebook.kinds)
    return found


def _count(found: Figures, group: pa.Table) -> None:
    for source, kinds in ledger(group.select(["source", "kind", "verdict"])).items():
        mine = found.counts.setdefault(source, {"image": Counter(), "tile": Counter()})
        for kind, counts in kinds.items():
            mine[kind].update(counts)


def _verdicts(found: Figures, group: pa.Table) -> None:
    words = group["verdict"].cast(pa.string())
    for verdict in pc.unique(words).to_pylist():
        if verdict not in VERDICTS:
            raise ValueError(f"a row without a verdict ({verdict})")
        rows = group.filter(pc.equal(words, verdict)).select(["source", "image", "tile_id", "subject"])
        found.draw.add(verdict, rows.set_column(0, "source", rows["source"].cast(pa.string())))
        if verdict == "duplicate":
            found.groups.add(rows["subject"])
        if verdict == "leak":
            for pair in rows.group_by(["source", "subject"]).aggregate([([], "count_all")]).to_pylist():
                found.leaks.setdefault(pair["source"], Counter())[str(pair["subject"])] += pair["count_all"]


def _kept(found: Figures, group: pa.Table) -> None:
    rows = group.filter(pc.equal(group["verdict"].cast(pa.string()), KEPT))
    number = {name: _floats(rows[name]) for name in ("gsd_m", "width", "height", "mean", "ac_energy")}
    values = (number["gsd_m"], np.sqrt(number["width"] * number["height"]), number["mean"], number["ac_energy"])
    for histogram, of_all in zip(found.kept.values(), values, strict=True):
        histogram.add(of_all)
    west, south, east, north = (_floats(rows[name]) for name in ("west", "south", "east", "north"))
    here = np.isfinite(west + south + east + north)
    across = np.clip(((west + east)[here] / 2 + 180) // CELL, 0, 360 // CELL - 1).astype(np.int64)
    down = np.clip((90 - (south + north)[here] / 2) // CELL, 0, 180 // CELL - 1).astype(np.int64)
    cells, counts = np.unique(np.stack([across, down], axis=1), axis=0, return_counts=True)
    found.cells.update({(int(x), int(y)): int(n) for (x, y), n in zip(cells, counts, strict=True)})


def _measured(found: Figures, group: pa.Table, rules: ExcludeRules, kinds: Mapping[str, str]) -> None:
    of_image = pc.equal(group["kind"].cast(pa.string()), "image").combine_chunks().to_numpy(zero_copy_only=False)
    ids = group["tile_id"].combine_chunks()
    chosen: dict[Of, npt.NDArray[np.bool_]] = {"image": of_image, "tile": ~of_image}
    for of, rows in chosen.items():
        (at,) = np.nonzero(rows)
        measured = measured_of(group, at, of, kinds)
        own = ids.take(pa.array(at))
        for threshold in found.thresholds:
            if threshold.rule.of == of:
                threshold.add(measured, rules, own)


def _floats(column: pa.ChunkedArray) -> Doubles:
    result: Doubles = column.cast(pa.float64()).fill_null(float("nan")).to_numpy()
    return result


def members(catalogue: Path, heads: Iterable[str], count: int) -> dict[str, list[str]]:
    """The first ids of the duplicates that each of some tiles stands for."""
    wanted = pa.array(sorted(heads), pa.string())
    found: dict[str, list[str]] = {head: [] for head in heads}
    with open_table(catalogue, "catalogue") as file:
        for number in range(file.num_row_groups):
            group = file.read_row_group(number, columns=["tile_id", "subject", "verdict"])
            held = pc.and_(
                pc.equal(group["verdict"].cast(pa.string()), "duplicate"), pc.is_in(group["subject"], wanted)
            )
            for row in group.filter(held).to_pylist():
                found[row["subject"]].append(row["tile_id"])
    return {head: sorted(ids)[:count] for head, ids in found.items()}


def share(pictures: int, verdicts: Sequence[str]) -> dict[str, int]:
    """How many pictures each verdict gets: a fifth for what is kept, the rest evenly."""
    others = [verdict for verdict in verdicts if verdict != KEPT]
    each = (pictures - pictures // 5) // max(len(others), 1)
    return {verdict: pictures // 5 if verdict == KEPT else each for verdict in verdicts}
