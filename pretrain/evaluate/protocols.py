"""Protocols: how an encoder is asked what it knows, and what it answered."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from curation.base.arrays import Ints
from curation.base.files import digest
from curation.base.settings import Strict
from pretrain.errors import InputError
from pretrain.evaluate.encoders import FrozenEncoder, Pool
from pretrain.evaluate.features import Features, View, Work, extract, scaled_view
from pretrain.evaluate.finetune import Finetune, finetune
from pretrain.evaluate.knn import Votes, knn_scores, refuse_too_many
from pretrain.evaluate.labelled import DataSet, Divided, open_dataset
from pretrain.evaluate.linear import RATES, Classifier, fit_lars, fit_swept, swept
from pretrain.evaluate.masks import Masked, MaskSet, open_masks
from pretrain.evaluate.outcome import Outcome
from pretrain.evaluate.score import Interval, bootstrap, per_class
from pretrain.evaluate.segment import Segment, Segmented, segment

Share = Annotated[float, Field(gt=0, le=1)]


class Knn(Strict):
    """Nearest neighbours by cosine."""

    name: Literal["knn"] = "knn"
    k: int = Field(20, ge=1)
    votes: Votes = "weighted"
    temperature: float = Field(0.07, gt=0)
    pool: Pool = "mean"
    scales: list[Share] = []
    """Shares of the images' own side at which they are shown, training and test images alike; accuracy is the mean
    over them (Scale-MAE, section 4.1). Empty: shown at the encoder's input size."""


class LinearProbe(Strict):
    """A linear classifier on frozen features."""

    name: Literal["linear"] = "linear"
    solver: Literal["lbfgs", "lars"] = "lbfgs"
    """Logistic regression to its optimum with a swept penalty, or MAE's recipe with a swept learning rate."""
    pool: Pool = "mean"
    held_out: float = Field(0.2, gt=0, lt=1)
    """Share of the training images on which the penalty or rate is chosen."""
    epochs: int = Field(90, ge=1)
    """Of ``lars``."""
    batch: int = Field(256, ge=1)
    """Of ``lars``."""
    seed: int = 0


Classifies = Knn | LinearProbe | Finetune
AnyProtocol = Classifies | Segment
Protocol = Annotated[AnyProtocol, Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True)
class Answer(Outcome):
    """What one encoder answered on labelled images."""

    accuracy: Interval
    """Of the test images that could be read."""
    right: list[float]
    """Per test image that could be read: whether it was classified rightly; the share of the scales where there are
    several."""
    guesses: list[int]
    """The classes for which they were taken, at the last scale."""
    truth: list[int]
    """Their classes."""

    @property
    def scores(self) -> dict[str, Interval]:
        """By name; there is one."""
        return {"accuracy": self.accuracy}

    def minus(self, other: Answer) -> Interval:
        """Difference of accuracy, paired: the same test images were asked, so chance in their choice cancels."""
        return bootstrap(np.array(self.right) - np.array(other.right))

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return super().as_json() | {"accuracy": self.accuracy._asdict()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Answer:
        """What :meth:`as_json` gave."""
        return cls(**value | {"accuracy": Interval(**value["accuracy"])})


AnyAnswer = Answer | Segmented


def _tuned(encoder: FrozenEncoder, data: Divided, recipe: Finetune, work: Work) -> Answer:
    folder = _folder(encoder, data, recipe, work)
    tuned = finetune(encoder, data, recipe, work.torch_device, work.workers_for(len(data)), folder, work.observer)
    truth = data.images.labels[tuned.test]
    right = tuned.guesses == truth
    return Answer(
        accuracy=bootstrap(right), right=right.astype(float).tolist(), guesses=tuned.guesses.tolist(),
        truth=truth.tolist(),
        per_class=per_class(tuned.guesses, truth, len(data.classes)), train_images=tuned.train_images,
        test_images=len(truth), unreadable=tuned.unreadable, feature_seconds=0.0,
        classifier_seconds=round(tuned.seconds, 2), details={"losses": [round(loss, 4) for loss in tuned.losses]},
    )  # fmt: skip


def _folder(encoder: FrozenEncoder, data: Divided | Masked, recipe: Finetune | Segment, work: Work) -> Path | None:
    """Where a training keeps its checkpoints, under the hash of all that it depends on."""
    key = digest([encoder.identity, data.digest(), recipe.model_dump(mode="json")])
    return work.cache / f"{recipe.name}-{key}" if work.cache is not None else None


@dataclass(frozen=True)
class _Sides:
    """Features and labels of both parts, without what could not be read."""

    train: Tensor
    labels: Tensor
    test: Tensor
    truth: Ints
    classes: int


def open_any(config: DataSet | MaskSet) -> Divided | Masked:
    """Open labelled images, or images with masks.

    Raises:
        InputError: see :func:`pretrain.evaluate.labelled.open_dataset` and :func:`pretrain.evaluate.masks.open_masks`.
    """
    return open_masks(config) if isinstance(config, MaskSet) else open_dataset(config)


def ask_any(
    encoder: FrozenEncoder, data: Divided | Masked, protocol: AnyProtocol, work: Work | None = None
) -> AnyAnswer:
    """Ask one encoder on labelled images, or on images with masks.

    Raises:
        InputError: see :func:`ask` and :func:`pretrain.evaluate.segment.segment`; or the protocol is one of the other
            kind of data.
    """
    work = work or Work()
    if isinstance(data, Divided) and not isinstance(protocol, Segment):
        return ask(encoder, data, protocol, work)
    if isinstance(data, Masked) and isinstance(protocol, Segment):
        folder = _folder(encoder, data, protocol, work)
        answer = segment(encoder, data, protocol, work.torch_device, work.workers_for(len(data)), folder, work.observer)
        work.done(len(data))
        return answer
    raise InputError(f"{protocol.name}: is no protocol of these images; segment needs masks, the others classes")


def ask(encoder: FrozenEncoder, data: Divided, protocol: Classifies, work: Work | None = None) -> Answer:
    """Ask one encoder on labelled images.

    Raises:
        InputError: see :func:`pretrain.evaluate.features.extract`, :func:`pretrain.evaluate.knn.knn_scores` and
            :func:`pretrain.evaluate.finetune.finetune`.
    """
    work = work or Work()
    if isinstance(protocol, Finetune):
        return _tuned(encoder, data, protocol, work)
    if isinstance(protocol, Knn):
        refuse_too_many(protocol.k, len(data.train))  # before features are computed
    asked = [_ask_once(encoder, data, protocol, view, work) for view in _views(encoder, data, protocol)]
    last = asked[-1]
    right = np.mean([each.guesses == each.sides.truth for each in asked], axis=0)
    details = last.details | {"sides": [each.view.size for each in asked]}
    if len(asked) > 1:
        details["scales"] = {each.view.scale: float((each.guesses == each.sides.truth).mean()) for each in asked}
    return Answer(
        accuracy=bootstrap(right), right=right.tolist(), guesses=last.guesses.tolist(),
        truth=last.sides.truth.tolist(),
        per_class=per_class(last.guesses, last.sides.truth, last.sides.classes),
        train_images=len(last.sides.labels), test_images=len(last.sides.truth),
        unreadable=[data.images.places[row].name for row in last.features.unreadable],
        feature_seconds=round(sum(each.features.seconds for each in asked), 2),
        classifier_seconds=round(sum(each.seconds for each in asked), 2), details=details,
    )  # fmt: skip


def _views(encoder: FrozenEncoder, data: Divided, protocol: Knn | LinearProbe) -> list[View]:
    if isinstance(protocol, Knn) and protocol.scales:
        return [scaled_view(encoder, data.images, scale) for scale in protocol.scales]
    return [View(encoder.input.size)]


@dataclass(frozen=True)
class _Asked:
    view: View
    features: Features
    sides: _Sides
    guesses: Ints
    details: dict[str, Any]
    seconds: float


def _ask_once(encoder: FrozenEncoder, data: Divided, protocol: Knn | LinearProbe, view: View, work: Work) -> _Asked:
    features = extract(encoder, data.images, view, work)
    sides = _sides(features, data, work.torch_device)
    start = time.perf_counter()
    guesses, details = _guess(protocol, sides)
    return _Asked(view, features, sides, guesses, details, time.perf_counter() - start)


def _sides(features: Features, data: Divided, device: torch.device) -> _Sides:
    train, test = (features.readable(rows) for rows in (data.train, data.test))
    if not len(train) or not len(test):
        raise InputError(f"{len(train)} images to train on and {len(test)} to test on can be read; both are needed")
    labels = torch.from_numpy(data.images.labels)
    values = torch.from_numpy(features.values)
    return _Sides(
        values[train].to(device), labels[train].to(device), values[test].to(device), data.images.labels[test],
        len(data.images.classes),
    )  # fmt: skip


def _guess(protocol: Knn | LinearProbe, sides: _Sides) -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
    if isinstance(protocol, Knn):
        scores = knn_scores(
            sides.train, sides.labels, sides.test, protocol.k, sides.classes, protocol.votes, protocol.temperature
        )
        return scores.argmax(1).cpu().numpy(), {}
    if protocol.solver == "lars":
        return _guess_by_lars(protocol, sides)
    linear = fit_swept(sides.train, sides.labels, sides.classes, protocol.held_out, protocol.seed)
    return linear.logits(sides.test).argmax(1).cpu().numpy(), {"penalty": linear.penalty}


def _guess_by_lars(protocol: LinearProbe, sides: _Sides) -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
    def fitted(x: Tensor, y: Tensor, rate: float) -> Classifier:
        return fit_lars(x, y, sides.classes, rate, epochs=protocol.epochs, batch=protocol.batch, seed=protocol.seed)

    rate = swept(fitted, RATES, sides.train, sides.labels, protocol.held_out, protocol.seed)
    probe = fitted(sides.train, sides.labels, rate)
    return probe(sides.test).argmax(1).cpu().numpy(), {"base_lr": rate}
