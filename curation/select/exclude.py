"""Why an image or a tile is left out.

What the listing and the header alone decide (licence, split, values that are no light) stops an image in the scan.
Everything else is *measured* there and judged here, from columns of the table: ``select`` compares each measurement
with the recipe's threshold, so that moving one reads no pixel. A new rule on what is measured is an entry of
:data:`RULES`; its threshold is the field of :class:`curation.sources.recipe.ExcludeRules` that it is named by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.base.arrays import Flags, Floats
from curation.catalogue import MEASUREMENTS, REASONS
from curation.imagery import stretch
from curation.select.rows import codes, column
from curation.sources.recipe import ExcludeRules

Of = Literal["image", "tile"]
"""What a row is, and a rule asks."""

KINDS = ("rgb", "grey", "false_colour")
"""What a manifest may say that a source's pixels show (:attr:`curation.sources.source.Source.kind`)."""
NONE = -1
"""Stands for no rule."""


# ------------------------------------------------------------------------------------------------ by threshold


@dataclass(frozen=True)
class Measured:
    """Measurements of N rows: numbers by column, NaN where a row has none, and the kind of each row's source."""

    columns: Mapping[str, Floats]
    kind: npt.NDArray[np.int64]
    """(N,) index in :data:`KINDS`."""

    def __getitem__(self, column: str) -> Floats:
        return self.columns[column]


@dataclass(frozen=True)
class Rule:
    """One question: is a measurement at least, or at most, its threshold? What was not measured is not asked."""

    verdict: str
    name: str
    """Field of ``ExcludeRules`` that holds the threshold; the detail begins with it."""
    column: str | None
    """What is measured; null: the kind of the source alone decides, as if 1 had been measured."""
    bound: Literal["at least", "at most"]
    value: str
    """Words for what was measured; braces name columns."""
    of: Of = "image"
    kinds: tuple[str, ...] = KINDS
    """Kinds of sources that are asked."""
    unless: Callable[[Measured, ExcludeRules], Flags] | None = None
    """Rows that are not asked."""
    limit: str = ""
    """Words for the threshold; braces name fields. Empty: the bound and the number."""
    fixed: float | None = None
    """The threshold, where no recipe may move it; ``name`` is then a word."""
    advice: tuple[str, Callable[[float], str]] | None = None
    """A further column, and what its value advises to do."""

    def __post_init__(self) -> None:
        """Refuse, by name, what a rule would otherwise silently miss."""
        if self.verdict not in REASONS:
            raise ValueError(f"rule {self.name}: no verdict is named {self.verdict!r}")
        for name in self.reads:
            if name not in MEASUREMENTS[self.of]:
                known = ", ".join(MEASUREMENTS[self.of])
                raise ValueError(f"rule {self.name}: nothing is measured of {self.of}s as {name!r}, only {known}")
        for field in [*_named(self.limit), *([] if self.fixed is not None else [self.name])]:
            if field not in ExcludeRules.model_fields:
                raise ValueError(f"rule {self.name}: ExcludeRules has no field {field!r}")

    @property
    def reads(self) -> list[str]:
        """Columns that it compares and words."""
        further = [self.advice[0]] if self.advice else []
        return list(dict.fromkeys([*([self.column] if self.column else []), *_named(self.value), *further]))

    def threshold(self, rules: ExcludeRules) -> float:
        """The number that the measurement is compared with; a yes counts as 1."""
        return float(getattr(rules, self.name)) if self.fixed is None else self.fixed

    def asked(self, measured: Measured, rules: ExcludeRules) -> Flags:
        """Which rows have the measurement, and are of a kind and in a state that the rule is about."""
        concerned = self._concerned(measured, rules)
        return concerned if self.column is None else concerned & ~np.isnan(measured[self.column])

    def against(self, measured: Measured, rules: ExcludeRules) -> Flags:
        """Which rows it speaks against. Compared in the column's precision: a ratio of 3.7 is at most 3.7."""
        value = np.ones(len(measured.kind), np.float32) if self.column is None else measured[self.column]
        limit = np.float32(self.threshold(rules))
        against = value < limit if self.bound == "at least" else value > limit  # neither where it is NaN
        return against & self._concerned(measured, rules) if against.any() else against

    def _concerned(self, measured: Measured, rules: ExcludeRules) -> Flags:
        concerned: Flags = np.array([kind in self.kinds for kind in KINDS])[measured.kind]
        return concerned if self.unless is None else concerned & ~self.unless(measured, rules)

    def limit_in_words(self, rules: ExcludeRules) -> str:
        """Threshold of a recipe, for people."""
        return self.limit.format(**dict(rules)) if self.limit else f"{self.bound} {self.threshold(rules):g}"

    def details(self, rows: Sequence[Mapping[str, Any]], rules: ExcludeRules) -> list[str]:
        """Rule, measured value and threshold of rows that hold what :attr:`reads` names."""
        end = f", {self.limit_in_words(rules)}"
        told = [f"{self.name}: {self.value.format_map(row)}{end}" for row in rows]
        if self.advice is None:
            return told
        name, advise = self.advice
        return [f"{text}; {advise(row[name])}" for text, row in zip(told, rows, strict=True)]


def _named(words: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(words) if name]


def _placed(measured: Measured, _rules: ExcludeRules) -> Flags:
    """Images with a CRS: a mosaic's valid area may well be feathered."""
    return ~np.isnan(measured["on_earth"])


def _gentle(measured: Measured, rules: ExcludeRules) -> Flags:
    """Calm water under strong compression is flat as well, but what steps it has are gentle."""
    return measured["gentle"] >= np.float32(rules.min_gentle)


def _faint(measured: Measured, rules: ExcludeRules) -> Flags:
    """Where neighbours hardly differ, channels differ by noise alone."""
    return measured["edge"] < np.float32(rules.agreement_from)


def _not_mapped(measured: Measured, rules: ExcludeRules) -> Flags:
    """Where light steps more than colour, or colours hardly differ, nothing is mapped to colours."""
    lit = measured["colour_steps"] < np.float32(rules.told_steps_from)
    return lit | (measured["colour_spread"] < np.float32(rules.told_from))


def _no_composite(measured: Measured, rules: ExcludeRules) -> Flags:
    """Where colours hardly differ, encoders alone make them step; dull fields step a little more than light."""
    lit = measured["colour_steps"] < np.float32(rules.grain_steps_from)
    return lit | (measured["colour_spread"] < np.float32(rules.grain_from)) | _faint(measured, rules)


_STEPS = " where colour steps {colour_steps:.2f} times as much as light"
_FLAT = "{flat:.3f} of the pixels equal their neighbours"

RULES: tuple[Rule, ...] = (
    # Another planet: the CRS says so.
    Rule("not_optical", "earth_only", "on_earth", "at least", "the CRS is that of another celestial body",
         limit="only the Earth's"),
    # Decibels, temperatures, differences: light is not negative.
    Rule("not_optical", "values", "band_middle", "at least", "middle of a band is {band_middle:.4g}", fixed=0.0,
         advice=("band_low", stretch.missing)),
    # Figures: lines and letters are smoothed into a transparent canvas; a mask of valid pixels has hard edges.
    Rule("not_optical", "max_soft_alpha", "soft_alpha", "at most", "{soft_alpha:.4f} half transparent", unless=_placed,
         limit="at most {max_soft_alpha:g} without a CRS"),
    # Masks, class maps, charts, drawings: areas of exactly one colour that end in hard edges.
    Rule("not_optical", "max_flat", "flat", "at most", _FLAT + " and {gentle:.3f} of the others nearly",
         kinds=("rgb",), unless=_gentle, limit="at most {max_flat:g} unless at least {min_gentle:g}"),
    # In one-band sources gentle steps say nothing: neighbouring class numbers are one apart.
    Rule("not_optical", "max_flat", "flat", "at most", _FLAT, kinds=("grey", "false_colour")),
    # One band, also where it is stored as three: panchromatic, radar, elevation, hillshade, masks.
    Rule("not_optical", "min_coloured", "coloured", "at least", "{coloured:.4f} of the pixels", kinds=("rgb",)),
    # Colour-coded masks and maps, also as JPEG: colours are spread further than any ground's.
    Rule("not_optical", "max_colour_spread", "colour_spread", "at most", "{colour_spread:.1f} grey levels",
         kinds=("rgb",)),
    # Radar composites and noise: in visible light every channel has its edges where another has them.
    Rule("not_optical", "min_agreement", "agreement", "at least", "{agreement:.3f} between channels of edge {edge:.1f}",
         kinds=("rgb",), unless=_faint, limit="at least {min_agreement:g} from edge {agreement_from:g} on"),
    # Radar composites and noise, also as JPEG: colours step more than light does, and light has no shapes.
    Rule("not_optical", "min_grain", "grain", "at least", "{grain:.3f} along rows" + _STEPS, kinds=("rgb",),
         unless=_no_composite),
    # Colour-mapped elevation, indices, temperatures, also as JPEG: the hue tells the brightness.
    Rule("not_optical", "max_told", "told", "at most", "{told:.3f} of the light" + _STEPS, kinds=("rgb",),
         unless=_not_mapped),
    # Near infrared shown as red.
    Rule("false_colour", "false_colour", None, "at most", "the manifest says kind: false_colour",
         kinds=("false_colour",), limit="not taken"),
    # A strip: too long for its width.
    Rule("aspect", "max_aspect", "elongation", "at most", "{elongation:.1f}"),
    Rule("too_small", "min_side", "short_side", "at least", "{short_side} pixels"),
    # Too little of the tile is imagery.
    Rule("nodata", "min_valid", "valid_share", "at least", "{valid_share:.3f}", of="tile"),
    # Sea, haze, saturation: nothing to see.
    Rule("blank", "min_std", "std", "at least", "{std:.2f} grey levels", of="tile"),
)  # fmt: skip
"""All rules in the order of precedence of their verdicts; the first that speaks against a row decides."""


def judge(of: Of, measured: Measured, rules: ExcludeRules) -> npt.NDArray[np.int8]:
    """Number in :data:`RULES` of the first rule that speaks against each of N images, or tiles; else ``NONE``."""
    found = np.full(len(measured.kind), NONE, np.int8)
    for number in reversed(range(len(RULES))):
        if RULES[number].of == of:
            found[RULES[number].against(measured, rules)] = number
    return found


def judge_table(table: pa.Table, kinds: Mapping[str, str], rules: ExcludeRules) -> npt.NDArray[np.int8]:
    """The same for rows of a ``tiles`` table: images by their rules, tiles by theirs.

    Args:
        table: with the columns :data:`READ`.
        kinds: kind of every source, by id.
        rules: the recipe's thresholds.
    """
    found = np.full(len(table), NONE, np.int8)
    of_tile = codes(column(table, "kind"), {"image": 0, "tile": 1}, 0) > 0
    rows_of: dict[Of, Flags] = {"image": ~of_tile, "tile": of_tile}
    for of, chosen in rows_of.items():
        (at,) = np.nonzero(chosen)
        found[at] = judge(of, measured_of(table, at, of, kinds), rules)
    return found


READ = ("kind", "source", *MEASUREMENTS["image"], *MEASUREMENTS["tile"])
"""Columns that :func:`judge_table` needs."""


def measured_of(table: pa.Table, at: npt.NDArray[np.int64], of: Of, kinds: Mapping[str, str]) -> Measured:
    """Measurements of the images, or tiles, that lie ``at`` those rows of a table."""
    columns = {name: _as_floats(column(table, name).take(pa.array(at))) for name in MEASUREMENTS[of]}
    lookup = {source: KINDS.index(kind) for source, kind in kinds.items()}
    return Measured(columns, codes(column(table, "source"), lookup, 0)[at])


def _as_floats(values: pa.Array) -> Floats:
    result: Floats = values.cast(pa.float32()).fill_null(float("nan")).to_numpy(zero_copy_only=False)
    return result
