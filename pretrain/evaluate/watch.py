"""Nearest neighbours while a run trains: what its features tell of labelled images, by all processes together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from curation.base.arrays import Flags
from pretrain import distributed
from pretrain.checkpoint import TrainState
from pretrain.config import TrainConfig
from pretrain.distributed import Team
from pretrain.errors import InputError
from pretrain.evaluate.encoders import Pool, VitEncoder, from_card
from pretrain.evaluate.features import Work, extract
from pretrain.evaluate.knn import knn_scores
from pretrain.evaluate.labelled import DataSet, Divided, open_dataset
from pretrain.export import card_of
from pretrain.models import Objective
from pretrain.train import Watch


def neighbours(config: TrainConfig) -> Watch | None:
    """What ``train`` asks every ``knn.every`` steps; None where the config asks for nothing.

    Raises:
        InputError: the labelled images cannot be opened, or are fewer than the neighbours.
    """
    asked = config.knn
    if asked is None:
        return None
    data = open_dataset(DataSet(path=asked.data, train_share=asked.train_share, seed=asked.seed, gsd_m=asked.gsd_m))
    if asked.k > len(data.train):
        raise InputError(f"knn.k: {asked.k} is more than the {len(data.train)} images to train on in {asked.data}")

    def watch(model: Objective, team: Team, done: int) -> dict[str, Any]:
        encoder = running(model, config, done, "mean")
        with torch.compiler.set_stance("force_eager"):  # images of other sizes are not worth kernels of their own
            values, readable = _features(encoder, data, team)
        train, test = (rows[readable[rows]] for rows in (data.train, data.test))
        labels = torch.from_numpy(data.images.labels)
        scores = knn_scores(values[train], labels[train], values[test], asked.k, len(data.classes))
        right = (scores.argmax(1) == labels[test]).double().mean()
        return {f"knn_{asked.k}": round(float(right), 4), "knn_images": len(test)}

    return watch


def running(model: Objective, config: TrainConfig, done: int, pool: Pool) -> VitEncoder:
    """The encoder of a model that is being trained, as it is after so many steps."""
    return from_card(f"step {done}", model.encoder, card_of(model, config, TrainState(done, 0, "", {})), pool)


def _features(encoder: VitEncoder, data: Divided, team: Team) -> tuple[Tensor, Flags]:
    """Features of all images (N, D), each process's part computed there, and which images could be read."""
    rows = list(range(team.rank, len(data), team.world))
    images = data.images
    part = replace(
        images, places=[images.places[row] for row in rows], parts=[images.parts[row] for row in rows],
        labels=images.labels[rows], gsd=images.gsd[rows],
    )  # fmt: skip
    found = extract(encoder, part, work=Work(device=team.device.type))
    readable = torch.ones(len(rows), 1)
    readable[list(found.unreadable)] = 0
    everyones = distributed.interleaved(torch.cat([torch.from_numpy(found.values), readable], 1), len(data), team)
    return everyones[:, :-1], everyones[:, -1].numpy() > 0
