"""The tables of docs/benchmarks/study.md, made from the cells' JSON between two marks; the words around stay.

An interval adds in quadrature what the seeds leave open (Student's t over their accuracies, n - 1 degrees of freedom)
and what the choice of test images does (normal, over the images' mean answer). Differences are paired in both: a seed
gives all arms the same first weights, order and crops.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from benchmarks.study.arms import ARMS, PRESETS, Preset
from benchmarks.study.curve import draw

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
TOGETHER = "both"
"""The test images of all sets as one."""
FREE = ("histogram", "untrained")
"""Arms that no budget touches."""
UNITS = {
    "seconds": "seconds for each run",
    "half": "seconds for each run, half of what MAE has",
    "images": "images for each run",
}
Cells = dict[str, list[dict[str, Any]]]
"""Arm to its cells, by rising seed."""


class Estimate(NamedTuple):
    """A mean over seeds and images, in percent or percentage points, and half its 95 % interval."""

    mean: float
    half: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.half:.1f}" + (" (one seed)" if self.seeds == 1 else "")


def estimate(right: np.ndarray) -> Estimate:
    """Mean of (S, N) answers, or of differences of answers, of S seeds on N test images."""
    seeds, images = right.shape
    of_images = 1.96 * right.mean(0).std(ddof=1) / images**0.5
    of_seeds = student.ppf(0.975, seeds - 1) * right.mean(1).std(ddof=1) / seeds**0.5 if seeds > 1 else 0.0
    return Estimate(100 * right.mean(), 100 * float(np.hypot(of_images, of_seeds)), seeds)


def write_page(results: Path, page: Path) -> None:
    """Put the tables of all presets and budgets of which there are cells into the page."""
    told = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*-seed[0-9]*.json"))]
    parts = [
        part
        for name, preset in PRESETS.items()
        for part in sections(preset, [c for c in told if c["preset"] == name], results / name)
    ]
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    page.write_text("\n\n".join([head + BEGIN, *parts, END]) + tail, encoding="utf-8")


def sections(preset: Preset, told: list[dict[str, Any]], stem: Path) -> Iterator[str]:
    """Of one preset; files of its cells begin with ``stem``."""
    for budget, amount in preset.budgets.items():
        cells: Cells = defaultdict(list)
        for each in told:
            if each["budget"] in (budget, "any") or (budget, each["arm"], each["budget"]) == ("half", "mae", "seconds"):
                cells[each["arm"]].append(each)
        if set(cells) <= {*FREE, *(["mae"] if budget == "half" else [])}:
            continue
        yield f"### {preset.words[0].upper()}{preset.words[1:]}: {amount:,.0f} {UNITS[budget]}"
        yield accuracies(cells, "wall_seconds" if preset.resident else "cpu_seconds")
        for other, arms in compared(preset):
            if cells.get(other) and any(cells.get(arm) for arm in arms):
                yield f"Difference to {ARMS[other].words} of the same seeds, percentage points:"
                yield differences({arm: cells[arm] for arm in ARMS if arm in {*arms, other}}, other)
        yield from pictures(cells, preset, budget, stem)
        fallen = [each for arm in cells.values() for each in arm if "failed" in each]
        if fallen:
            reasons = [f"{each['words']}, seed {each['seed']}: {each['failed']}" for each in fallen]
            yield f"Did not finish: {'; '.join(reasons)}."


def compared(preset: Preset) -> Iterator[tuple[str, set[str]]]:
    """With which arm which others are compared: with the published one at its own rate only those at theirs."""
    yield "mae", set(ARMS)
    if not preset.rates:
        yield "selective", set(ARMS)
    else:
        yield "selective", set(preset.whole)
        yield "selective_plain", set(ARMS) - set(preset.whole)


def pictures(cells: Cells, preset: Preset, budget: str, stem: Path) -> Iterator[str]:
    """Of how the arms learn, one for each protocol that asked on their way."""
    costs = stem.with_name(f"{stem.name}-cost.json")
    cost = json.loads(costs.read_text(encoding="utf-8")) if costs.is_file() else {}
    for protocol in preset.asks("histogram"):
        out = stem.with_name(f"{stem.name}-{budget}-{protocol.replace(' ', '').lower()}.svg")
        if draw(cells, cost, protocol, out):
            yield f"![{protocol} against images and against seconds](study/{out.name})"


def accuracies(cells: Cells, seconds: str) -> str:
    """Arms with what they cost, by one of the cells' clocks, and every accuracy."""
    rows = []
    for arm in in_order(cells):
        whole = [each for each in cells[arm] if each["answers"]]
        spent = [""] * 4
        if arm not in FREE and whole:
            told = whole[0]
            rates, clocks = ([cell[name] for cell in whole] for name in ("rate", seconds))
            spent = [spread(rates, "{:g}".format), f"{told['epochs']}", f"{told['images']:,}", spread(clocks)]
        values = [accuracy(whole, *column) for column in columns(cells)]
        rows.append([ARMS[arm].words, ", ".join(str(each["seed"]) for each in whole), *spent, *values])
    clock = seconds.partition("_")[0].replace("cpu", "CPU")
    return table(["arm", "seeds", "rate", "epochs", "images", f"{clock} s", *titles(cells)], rows)


def accuracy(cells: list[dict[str, Any]], dataset: str, protocol: str) -> str:
    """Empty where nobody was asked so: a histogram cannot be fine-tuned."""
    right = answers(cells, dataset, protocol)
    if not len(right):
        return ""
    found = estimate(right)
    return f"{found.mean:.1f} ± {found.half:.1f}" if cells[0]["arm"] == "histogram" else str(found)


def differences(cells: Cells, base: str) -> str:
    """Arms against another one, on the seeds that both have."""
    rows = []
    for arm in in_order(cells):
        if arm == "histogram":  # nothing of it is drawn, so no seed pairs it
            continue
        pairs = [
            (one, other) for one in cells[arm] for other in cells[base]
            if one["seed"] == other["seed"] and one["answers"] and other["answers"]
        ]  # fmt: skip
        if arm == base or not pairs:
            continue
        rows.append([ARMS[arm].words, str(len(pairs)), *(gap(pairs, *column) for column in columns(cells))])
    return table(["arm", "seeds", *titles(cells)], rows)


def gap(pairs: list[tuple[dict[str, Any], dict[str, Any]]], dataset: str, protocol: str) -> str:
    """Over the pairs of which both were asked so; empty where there is none."""
    asked = [pair for pair in pairs if all(protocol in next(iter(each["answers"].values())) for each in pair)]
    if not asked:
        return ""
    ours, theirs = (answers([pair[side] for pair in asked], dataset, protocol) for side in range(2))
    found = estimate(ours - theirs)
    return f"{'+' if found.mean >= 0 else ''}{found}"


def in_order(cells: Cells) -> list[str]:
    return [arm for arm in ARMS if cells.get(arm)]


def columns(cells: Cells) -> list[tuple[str, str]]:
    """Data set and protocol of each accuracy; behind several sets, all their images together."""
    asked = [each["answers"] for arm in in_order(cells) for each in cells[arm] if each["answers"]]
    names = [*asked[0], TOGETHER] if len(asked[0]) > 1 else list(asked[0])
    protocols = dict.fromkeys(protocol for sets in asked for by in sets.values() for protocol in by)
    return [(name, protocol) for name in names for protocol in protocols]


def titles(cells: Cells) -> list[str]:
    return [", ".join(column) for column in columns(cells)]


def answers(cells: list[dict[str, Any]], dataset: str, protocol: str) -> np.ndarray:
    """(S, N): which test images each seed's encoder had right; of those that were asked so."""
    sets = list(cells[0]["answers"]) if dataset == TOGETHER else [dataset]
    asked = [cell["answers"] for cell in cells if protocol in cell["answers"][sets[0]]]
    return np.array([np.concatenate([unpacked(each[name][protocol]) for name in sets]) for each in asked], dtype=float)


def unpacked(answer: dict[str, Any]) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(answer["right"]), np.uint8))[: answer["images"]]


def spread(values: list[float], form: Callable[[float], str] = "{:,.0f}".format) -> str:
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low} to {high}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
