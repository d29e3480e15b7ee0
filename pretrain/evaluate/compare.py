"""The first question to new weights: do they know more than an encoder that learned nothing?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer

from pretrain.config import EncoderConfig
from pretrain.errors import InputError
from pretrain.evaluate.features import Labelled, Pool, Preparation, extract, open_labelled, split
from pretrain.evaluate.knn import knn_accuracy
from pretrain.export import Card, card_of, load_export
from pretrain.models.encoder import build_encoder
from pretrain.run import load_run, writing


@dataclass(frozen=True)
class Comparison:
    """kNN accuracy of a pretrained and of an untrained encoder of the same architecture."""

    encoder: str
    objective: str
    step: int
    data: str
    classes: int
    train_images: int
    test_images: int
    pool: str
    temperature: float
    pretrained: dict[int, float]
    untrained: dict[int, float]


@dataclass(frozen=True)
class Protocol:
    """How encoders are compared."""

    ks: tuple[int, ...] = (1, 5, 20)
    train_share: float = 0.5
    pool: Pool = "mean"
    temperature: float = 0.07
    seed: int = 0


def load_encoder(run: Path | None, weights: Path | None) -> tuple[VisionTransformer, Card]:
    """An encoder from a run's newest checkpoint, or from exported weights."""
    if weights is not None:
        return load_export(weights)
    assert run is not None
    model, config, state = load_run(run)
    return model.encoder, card_of(model, config, state)


def untrained(config: EncoderConfig, seed: int) -> VisionTransformer:
    """An encoder of the same architecture as it is before training."""
    torch.manual_seed(seed)
    return build_encoder(config).eval()


def compare(
    encoder: VisionTransformer, card: Card, data: Path, protocol: Protocol,
    test_data: Path | None = None, done: Callable[[int], None] = lambda count: None,
) -> Comparison:  # fmt: skip
    """Compare by weighted kNN on frozen features.

    Args:
        encoder: the pretrained one.
        card: what it is.
        data: labelled images; split unless ``test_data`` is given.
        protocol: how to compare.
        test_data: labelled images with the same classes.
        done: told how many images were done.

    Raises:
        InputError: see :func:`pretrain.evaluate.features.open_labelled`.
    """
    train, test = _parts(data, test_data, protocol)
    prepare = Preparation(card.input_size, card.mean, card.std)
    encoders = [encoder, untrained(card.encoder, protocol.seed)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features = [extract(encoders, part, prepare, protocol.pool, device=device, done=done) for part in (train, test)]
    labels = [torch.from_numpy(part.labels) for part in (train, test)]
    results = [
        knn_accuracy(seen, labels[0], asked, labels[1], list(protocol.ks), protocol.temperature)
        for seen, asked in zip(*features, strict=True)
    ]
    return Comparison(
        card.encoder.name, card.objective, card.step, str(data), len(train.classes), len(train.places),
        len(test.places), protocol.pool, protocol.temperature, *results,
    )  # fmt: skip


def image_count(data: Path, test_data: Path | None) -> int:
    """Images that will be read, for a progress display."""
    folders = [data] if test_data is None else [data, test_data]
    return sum(len(open_labelled(folder).places) for folder in folders)


def _parts(data: Path, test_data: Path | None, protocol: Protocol) -> tuple[Labelled, Labelled]:
    train = open_labelled(data)
    if test_data is None:
        return split(train, protocol.train_share, protocol.seed)
    test = open_labelled(test_data)
    if test.classes != train.classes:
        only = sorted(set(test.classes) ^ set(train.classes))
        raise InputError(f"{test_data}: its classes differ from those of {data}: {', '.join(only[:5])}")
    return train, test


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write a comparison as JSON."""
    with writing(path) as aside:
        aside.write_text(json.dumps(asdict(comparison), indent=1) + "\n", encoding="utf-8")
