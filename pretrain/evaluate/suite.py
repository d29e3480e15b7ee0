"""Encoders x data sets x protocols: one table, computed cell by cell, each kept under the hash of what it depends on.

OUT/cells/<key>.json     one answer; beside it its confusion matrix as .png
OUT/features/<key>.npz   features, shared by the protocols
OUT/table.md, .json, .html   the table
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field, model_validator

from curation import __version__
from curation.base.arrays import Ints
from curation.base.files import digest
from curation.base.locks import hold
from curation.base.progress import Observer
from curation.base.settings import Strict
from pretrain.errors import InputError, RscorpusError
from pretrain.evaluate.confusion import draw_confusion
from pretrain.evaluate.encoders import EncoderSpec, FrozenEncoder, open_encoder
from pretrain.evaluate.features import Work
from pretrain.evaluate.finetune import Finetune
from pretrain.evaluate.labelled import DataSet, Divided
from pretrain.evaluate.masks import Masked, MaskSet
from pretrain.evaluate.protocols import Answer, AnyAnswer, AnyProtocol, ask_any, open_any
from pretrain.evaluate.protocols import Protocol as HowAsked
from pretrain.evaluate.score import confusion
from pretrain.evaluate.segment import Segment, Segmented
from pretrain.evaluate.table import Cell, as_markdown, as_records, in_short, write_html
from pretrain.evaluate.words import in_words
from pretrain.run import writing

CELL_VERSION = 2


class Suite(Strict):
    """What is asked of whom."""

    encoders: dict[str, EncoderSpec] = Field(min_length=1)
    """Label to encoder: ``random: random:vit_tiny_patch16_224``, or a mapping with ``spec``, ``args``, ``seed``."""
    datasets: dict[str, DataSet] = {}
    """Images with a class each, for the protocols that classify."""
    masks: dict[str, MaskSet] = {}
    """Images with masks, for those that segment."""
    protocols: dict[str, HowAsked] = Field(min_length=1)
    baseline: str | None = None
    """Label of the encoder with which the others are compared, image by image."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _baseline_is_there(self) -> Suite:
        if self.baseline is not None and self.baseline not in self.encoders:
            raise ValueError(f"baseline {self.baseline!r} is none of the encoders {', '.join(self.encoders)}")
        if not self.datasets and not self.masks:
            raise ValueError("datasets: give one at least, or masks")
        if both := sorted(self.datasets.keys() & self.masks.keys()):
            raise ValueError(f"masks.{both[0]}: is one of the datasets, too; give it another name")
        return self

    @model_validator(mode="after")
    def _all_are_asked(self) -> Suite:
        for name, how in self.protocols.items():
            needs = "masks" if isinstance(how, Segment) else "datasets"
            if not getattr(self, needs):
                raise ValueError(f"protocols.{name}: {how.name} needs {needs}; give one at least")
        kinds = {isinstance(how, Segment) for how in self.protocols.values()}
        for images, segments in (("datasets", False), ("masks", True)):
            if getattr(self, images) and segments not in kinds:
                raise ValueError(f"{images}: no protocol asks them; add {'segment' if segments else 'knn or linear'}")
        return self


@dataclass(frozen=True)
class _Question:
    """One cell before it is asked."""

    encoder: str
    dataset: str
    protocol: str
    spec: EncoderSpec
    data: Divided | Masked
    how: AnyProtocol


def run_suite(config: Suite, out: Path, observer: Observer) -> list[Path]:
    """Ask what is not known yet, then write the tables; returns their paths.

    Raises:
        InputError: a data set cannot be opened.
        RscorpusError: cells could not be asked, after all others were and are in the tables; names the first.
    """
    work = Work(workers=config.workers, device=config.device, cache=out / "features", observer=observer)
    cells: list[Cell] = []
    failed: list[tuple[str, RscorpusError]] = []
    with hold(out):
        data = {name: open_any(each) for name, each in (config.datasets | config.masks).items()}
        for name, opened in data.items():
            if opened.one_sided:
                observer.say(f"{name}: {opened.one_sided}")
        for question in _questions(config, data):
            where = f"{question.dataset}, {question.encoder}, {question.protocol}"
            try:
                cell, fresh = _answer(question, out / "cells", work)
            except RscorpusError as error:
                failed.append((where, error))
                observer.say(f"{where}: {error}")
                continue
            cells.append(cell)
            observer.say(f"{where}: {in_short(cell.answer)}{'' if fresh else ', known before'}")
        paths = _write(config, cells, {where: str(error) for where, error in failed}, out)
    if failed:
        where, first = failed[0]
        raise type(first)(f"{len(failed)} of {len(failed) + len(cells)} cells could not be asked: {where}: {first}")
    return paths


def _questions(config: Suite, data: Mapping[str, Divided | Masked]) -> Iterator[_Question]:
    for (dataset, opened), (encoder, spec), (protocol, how) in product(
        data.items(), config.encoders.items(), config.protocols.items()
    ):
        fits = isinstance(how, Segment) == isinstance(opened, Masked)
        tunable = spec.spec != "histogram" or not isinstance(how, Finetune | Segment)
        if fits and tunable:
            yield _Question(encoder, dataset, protocol, spec, opened, how)


def _answer(question: _Question, folder: Path, work: Work) -> tuple[Cell, bool]:
    """The cell, and whether it was asked now."""
    encoder = open_encoder(question.spec, question.how.pool)
    asked = {
        "version": CELL_VERSION, "encoder": encoder.identity, "data": question.data.digest(),
        "protocol": question.how.model_dump(mode="json"),
    }  # fmt: skip
    path = folder / f"{digest(asked)}.json"
    picture = path.with_suffix(".png")
    if path.is_file() and picture.is_file():
        return _cell(question, encoder, _read(path, question.how), picture), False
    answer = ask_any(encoder, question.data, question.how, work)
    title = f"{question.encoder}, {question.dataset}, {question.protocol}: {in_short(answer)}"
    draw_confusion(_confused(question.data, answer), question.data.classes, title, picture)
    with writing(path) as aside:
        aside.write_text(json.dumps(asked | _in_words(question, encoder) | {"answer": answer.as_json()}) + "\n")
    return _cell(question, encoder, answer, picture), True


def _cell(question: _Question, encoder: FrozenEncoder, answer: AnyAnswer, picture: Path) -> Cell:
    prepared = in_words(encoder, answer.details.get("sides", ()), windows=isinstance(answer, Segmented))
    if isinstance(question.how, Finetune):
        prepared += "; random crops in training"
    named = (question.encoder, question.dataset, question.protocol)
    return Cell(*named, answer, picture, prepared, question.data.one_sided)


def _confused(data: Divided | Masked, answer: AnyAnswer) -> Ints:
    if isinstance(answer, Segmented):
        return np.array(answer.confusion)
    return confusion(np.array(answer.guesses), np.array(answer.truth), len(data.classes))


def _in_words(question: _Question, encoder: FrozenEncoder) -> dict[str, Any]:
    return {
        "made_by": f"rscorpus {__version__}", "labels": [question.encoder, question.dataset, question.protocol],
        "spec": question.spec.model_dump(mode="json"), "name": encoder.name, "input": encoder.input._asdict(),
        "features": encoder.in_words,
    }  # fmt: skip


def _read(path: Path, how: AnyProtocol) -> AnyAnswer:
    kind = Segmented if isinstance(how, Segment) else Answer
    try:
        return kind.from_json(json.loads(path.read_text(encoding="utf-8"))["answer"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error!r}); delete it, it is asked again") from None


def _write(config: Suite, cells: list[Cell], failed: dict[str, str], out: Path) -> list[Path]:
    told = {"config": config.model_dump(mode="json"), "cells": as_records(cells, config.baseline), "not_asked": failed}
    texts = {
        "table.md": as_markdown(cells, config.baseline, failed),
        "table.json": json.dumps(told, indent=1) + "\n",
    }
    for name, text in texts.items():
        with writing(out / name) as aside:
            aside.write_text(text, encoding="utf-8")
    page = out / "table.html"
    write_html(page, cells, config.baseline, yaml.safe_dump(told["config"], sort_keys=False), failed)
    return [*(out / name for name in texts), page]
