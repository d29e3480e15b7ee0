"""Answers as tables: Markdown and a page for people, records for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pretrain.evaluate.protocols import AnyAnswer
from pretrain.evaluate.score import Interval
from pretrain.page import embedded, write_page

_OF_IMAGES = ("guesses", "truth", "right", "counts")
"""What an answer holds for each test image."""


class Cell(NamedTuple):
    """One encoder's answer on one data set by one protocol."""

    encoder: str
    dataset: str
    protocol: str
    answer: AnyAnswer
    picture: Path
    """Of its confusion matrix."""
    prepared: str
    """In words, how the encoder was shown the images."""
    one_sided: str = ""
    """In words, which classes of the data set are in one part alone."""


def percent(interval: Interval) -> str:
    """``69.1 % (66.7 - 71.4)``."""
    mean, low, high = (100 * value for value in interval)
    return f"{mean:.1f} % ({low:.1f} - {high:.1f})"


def labelled(protocol: str, score: str) -> str:
    """A column's head: accuracy needs no name."""
    return protocol if score == "accuracy" else f"{protocol}, {score}"


def in_short(answer: AnyAnswer) -> str:
    """``69.1 % (66.7 - 71.4)``, or ``mIoU 51.2 % (50.1 - 52.3), mF1 ...``."""
    if len(answer.scores) == 1:
        return percent(next(iter(answer.scores.values())))
    return ", ".join(f"{name} {percent(score)}" for name, score in answer.scores.items())


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
        told = {key: value for key, value in answer.items() if key not in _OF_IMAGES}
        found = differences.get(cell[:3])
        records.append(
            {
                "encoder": cell.encoder,
                "dataset": cell.dataset,
                "protocol": cell.protocol,
                **told,
                "prepared": cell.prepared,
            }
            | ({"difference": found._asdict()} if found is not None else {})
        )
    return records


def as_markdown(cells: Sequence[Cell], baseline: str | None, failed: Mapping[str, str]) -> str:
    """A section per data set: scores with their intervals, what it cost, and differences to the baseline.

    Args:
        cells: those that were asked.
        baseline: label of the encoder with which the others are compared.
        failed: the others, and why.
    """
    parts = []
    for section in _sections(cells, baseline):
        scores = [
            [row["encoder"], *(percent(score) if score else "-" for score in row["scores"]),
             f"{row['features']:.0f}", f"{row['classifiers']:.0f}"]
            for row in section["rows"]
        ]  # fmt: skip
        heads = [*section["heads"], "features s", "classifiers s"]
        prepared = "\n".join(f"- {line}" for line in section["prepared"])
        parts += [f"## {section['dataset']}", section["about"], _table(heads, scores), prepared]
        if baseline is not None:
            compared = _table(section["differences"][0], section["differences"][1:])
            parts += [f"Difference to {baseline}, percentage points, image by image:", compared]
    if failed:
        parts += ["## Not asked", "\n".join(f"- {where}: {why}" for where, why in failed.items())]
    return "\n\n".join(parts) + "\n"


def write_html(
    path: Path, cells: Sequence[Cell], baseline: str | None, config: str, failed: Mapping[str, str]
) -> None:  # fmt: skip
    """The same as one HTML file, with the confusion matrices.

    Raises:
        InputError: the file cannot be written.
    """
    parts = list(_sections(cells, baseline))
    for part in parts:
        part["cells"] = [
            {"encoder": cell.encoder, "protocol": cell.protocol, "picture": embedded(cell.picture.read_bytes())}
            for cell in cells
            if cell.dataset == part["dataset"]
        ]
    write_page(path, "suite.html.j2", parts=parts, baseline=baseline, config=config, percent=percent, failed=failed)


def _sections(cells: Sequence[Cell], baseline: str | None) -> Iterator[dict[str, Any]]:
    differences = _differences(cells, baseline)
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        inside = [cell for cell in cells if cell.dataset == dataset]
        asked = dict.fromkeys((cell.protocol, score) for cell in inside for score in cell.answer.scores)
        yield {
            "dataset": dataset, "about": _about(inside), "heads": ["encoder", *(labelled(*each) for each in asked)],
            "rows": [_row(inside, encoder, list(asked)) for encoder in dict.fromkeys(cell.encoder for cell in inside)],
            "differences": _compared(inside, differences) if baseline is not None else [],
            "prepared": list(_prepared(inside)),
        }  # fmt: skip


def _about(cells: Sequence[Cell]) -> str:
    answer, one_sided = cells[0].answer, cells[0].one_sided
    named = f": {', '.join(answer.unreadable[:5])}" if answer.unreadable else ""
    told = f"; {one_sided}" if one_sided else ""
    return (
        f"{answer.train_images:,} training and {answer.test_images:,} test images; {len(answer.unreadable)} could not "
        f"be read{named}{told}. In brackets the 95 % interval of a bootstrap over the test images."
    )


def _prepared(cells: Sequence[Cell]) -> Iterator[str]:
    """A line per encoder; the protocols are named where they are shown images in several ways."""
    ways: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        ways.setdefault(cell.encoder, {}).setdefault(cell.prepared, []).append(cell.protocol)
    for encoder, found in ways.items():
        for way, protocols in found.items():
            some = f" ({', '.join(protocols)})" if len(found) > 1 else ""
            yield f"{encoder}{some}: {way}"


def _row(cells: Sequence[Cell], encoder: str, asked: Sequence[tuple[str, str]]) -> dict[str, Any]:
    answers = {cell.protocol: cell.answer for cell in cells if cell.encoder == encoder}
    return {
        "encoder": encoder,
        "scores": [answers[protocol].scores[score] if protocol in answers else None for protocol, score in asked],
        "features": max(answer.feature_seconds for answer in answers.values()),
        "classifiers": sum(answer.classifier_seconds for answer in answers.values()),
    }


def _compared(cells: Sequence[Cell], differences: dict[tuple[str, str, str], Interval]) -> list[list[str]]:
    """Heads, then a row per encoder that is compared."""
    protocols = list(dict.fromkeys(cell.protocol for cell in cells))
    rows = []
    for encoder in dict.fromkeys(cell.encoder for cell in cells):
        found = [differences.get((encoder, cells[0].dataset, protocol)) for protocol in protocols]
        if any(found):
            rows.append([encoder, *(points(each) if each else "-" for each in found)])
    return [["encoder", *protocols], *rows]


def _differences(cells: Sequence[Cell], baseline: str | None) -> dict[tuple[str, str, str], Interval]:
    base = {cell[1:3]: cell.answer for cell in cells if cell.encoder == baseline}
    return {
        cell[:3]: cell.answer.minus(base[cell[1:3]])  # type: ignore[arg-type]  # of the same kind: the same protocol
        for cell in cells
        if cell.encoder != baseline and cell[1:3] in base
    }


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
