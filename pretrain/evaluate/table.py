"""Answers as tables: Markdown for people, records for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pretrain.evaluate.protocols import Answer
from pretrain.evaluate.score import Interval, bootstrap


class Cell(NamedTuple):
    """One encoder's answer on one data set by one protocol."""

    encoder: str
    dataset: str
    protocol: str
    answer: Answer


def percent(interval: Interval) -> str:
    """``69.1 % (66.7 - 71.4)``."""
    mean, low, high = (100 * value for value in interval)
    return f"{mean:.1f} % ({low:.1f} - {high:.1f})"


def points(interval: Interval) -> str:
    """``+2.1 (-0.3 - +4.4)``: percentage points."""
    mean, low, high = (100 * value for value in interval)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def as_records(cells: Sequence[Cell], baseline: str | None) -> list[dict[str, Any]]:
    """A flat record per cell, without the answers to single images."""
    differences = _differences(cells, baseline)
    records = []
    for cell in cells:
        answer = cell.answer.as_json()
        told = {key: value for key, value in answer.items() if key not in ("guesses", "right")}
        found = differences.get(cell[:3])
        records.append(
            {"encoder": cell.encoder, "dataset": cell.dataset, "protocol": cell.protocol, **told}
            | ({"difference": found._asdict()} if found is not None else {})
        )
    return records


def as_markdown(cells: Sequence[Cell], baseline: str | None) -> str:
    """A section per data set: accuracy with its interval, what it cost, and differences to the baseline."""
    differences = _differences(cells, baseline)
    parts = []
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        inside = [cell for cell in cells if cell.dataset == dataset]
        parts += [f"## {dataset}", _about(inside), _accuracies(inside)]
        if baseline is not None:
            parts += [f"Difference to {baseline}, percentage points, image by image:", _compared(inside, differences)]
    return "\n\n".join(parts) + "\n"


def _about(cells: Sequence[Cell]) -> str:
    answer = cells[0].answer
    named = f": {', '.join(answer.unreadable[:5])}" if answer.unreadable else ""
    return (
        f"{answer.train_images:,} training and {answer.test_images:,} test images; {len(answer.unreadable)} could not "
        f"be read{named}. In brackets the 95 % interval of a bootstrap over the test images."
    )


def _accuracies(cells: Sequence[Cell]) -> str:
    protocols = list(dict.fromkeys(cell.protocol for cell in cells))
    found = {(cell.encoder, cell.protocol): cell.answer for cell in cells}
    rows = []
    for encoder in dict.fromkeys(cell.encoder for cell in cells):
        answers = [found.get((encoder, protocol)) for protocol in protocols]
        told = [percent(answer.accuracy) if answer else "-" for answer in answers]
        rows.append([encoder, *told, _seconds([answer for answer in answers if answer])])
    return _table(["encoder", *protocols, "features s", "classifiers s"], rows)


def _seconds(answers: Sequence[Answer]) -> str:
    features = max(answer.feature_seconds for answer in answers)
    return f"{features:.0f} | {sum(answer.classifier_seconds for answer in answers):.0f}"


def _compared(cells: Sequence[Cell], differences: dict[tuple[str, str, str], Interval]) -> str:
    protocols = list(dict.fromkeys(cell.protocol for cell in cells))
    rows = []
    for encoder in dict.fromkeys(cell.encoder for cell in cells):
        found = [differences.get((encoder, cells[0].dataset, protocol)) for protocol in protocols]
        if any(found):
            rows.append([encoder, *(points(each) if each else "-" for each in found)])
    return _table(["encoder", *protocols], rows)


def _differences(cells: Sequence[Cell], baseline: str | None) -> dict[tuple[str, str, str], Interval]:
    """Paired: the same test images were asked, so chance in their choice cancels."""
    base = {cell[1:3]: np.array(cell.answer.right) for cell in cells if cell.encoder == baseline}
    return {
        cell[:3]: bootstrap(np.array(cell.answer.right) - base[cell[1:3]])
        for cell in cells
        if cell.encoder != baseline and cell[1:3] in base
    }


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
