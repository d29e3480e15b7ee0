"""What exported weights are: the card that this project reads, and the Hub's model card for people."""

from __future__ import annotations

from typing import Any

import yaml

from curation import __version__
from curation.base.settings import Strict
from pretrain.config import EncoderConfig

FORMAT_VERSION = 1


class DataFacts(Strict):
    """What an encoder was trained on."""

    key: list[str]
    """Keys of the shards' ``checksums.json``."""
    catalogue: list[str] = []
    """SHA-256 of each ``catalogue.parquet`` that lay beside shards."""
    fingerprint: str
    """Hash over all shards' checksums."""
    samples: dict[str, int]
    """Samples in the shards, per source."""
    licences: dict[str, int]
    """The same samples, per licence."""
    licences_of: dict[str, list[str]] = {}
    """Source to the licences of its samples."""


class Card(Strict):
    """What exported weights are."""

    format_version: int = FORMAT_VERSION
    made_by: str = f"rscorpus {__version__}"
    encoder: EncoderConfig
    input_size: int
    """Side of the images in pixels."""
    interpolation: str = "bicubic"
    mean: list[float]
    std: list[float]
    """Of RGB in 0 to 1, by which images are normalised."""
    parameters: int
    objective: str
    step: int
    total_steps: int
    data: DataFacts | None
    """Null when the shards were not at hand at the export, or others than at the training."""
    config: dict[str, Any]
    """The whole training configuration."""


def readme(card: Card, results: str = "") -> str:
    """The Hub's model card: how to load the weights, what they are, what they saw and under which licences.

    Args:
        card: what the weights are.
        results: of :func:`results_table`.
    """
    head = {"library_name": "timm", "license": "other", "tags": ["image-feature-extraction", "remote-sensing", "timm"]}
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        f"# {card.encoder.name}, pretrained by {card.objective}\n",
        _USE.format(size=card.input_size),
        _what(card),
        *([_METRES] if card.objective == "scale_mae" else []),
        *([results] if results else []),
        _data(card.data),
        f"## Training configuration\n\n```yaml\n{yaml.safe_dump(card.config, sort_keys=False)}```\n",
    ]
    return "\n".join(parts)


_USE = """```python
import timm

model = timm.create_model("local-dir:.", pretrained=True).eval()    # or "hf-hub:USER/NAME"
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
tokens = model.forward_features(transform(image)[None])             # class token, then patches
```

`timm.create_model(..., img_size=N)` resamples the positions for images other than {size} px. Needs timm 1.0.26.
"""

_METRES = """The positions were scaled by the ground sample distance. The stored table is that of 1 m a pixel;
rscorpus recomputes it for others.
"""


def results_table(data: str, rows: dict[str, dict[str, str]]) -> str:
    """Encoders (rows) by protocols (columns) on one data set."""
    protocols = list(next(iter(rows.values())))
    head = f"| encoder | {' | '.join(protocols)} |\n|{'---|' * (len(protocols) + 1)}"
    lines = {name: " | ".join(scores.get(protocol, "-") for protocol in protocols) for name, scores in rows.items()}
    return f"## Results on {data}\n\nIn brackets the 95 % interval of a bootstrap over the test images.\n\n" + _table(
        head, lines
    )


def _what(card: Card) -> str:
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (card.mean, card.std))
    rows = {
        "parameters": f"{card.parameters / 1e6:.1f} M", "objective": card.objective,
        "steps": f"{card.step:,} of {card.total_steps:,}", "input": f"RGB, {card.input_size} x {card.input_size} px, "
        f"{card.interpolation}", "mean of RGB in 0 to 1": mean, "deviation": std, "made by": card.made_by,
    }  # fmt: skip
    return _table("| | |\n|---|---|", rows)


def _data(data: DataFacts | None) -> str:
    if data is None:
        return "## Data\n\nThe shards were not at hand when this was written, or no longer those of the training.\n"
    rows = {
        name: f"{', '.join(data.licences_of.get(name, ['unknown']))} | {count:,}"
        for name, count in data.samples.items()
    }
    keys, catalogues = (", ".join(f"`{each}`" for each in told) for told in (data.key, data.catalogue))
    beside = f"`catalogue.parquet` beside them has the SHA-256 {catalogues}" if catalogues else "no catalogue lay there"
    return "\n".join(
        [
            f"## Data\n\nShards with the fingerprint `{data.fingerprint}` and the key {keys};",
            f"{beside}. The licences of the images hold for what",
            "is made of them as far as they reach; they are the images', not the weights'.\n",
            _table("| source | licence | samples |\n|---|---|---|", rows),
        ]
    )


def _table(head: str, rows: dict[str, str]) -> str:
    return "\n".join([head, *(f"| {name} | {value} |" for name, value in rows.items())]) + "\n"
