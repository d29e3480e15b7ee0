"""Export in timm's own form: ``timm.create_model("local-dir:OUT", pretrained=True)``, or ``"hf-hub:USER/NAME"``.

OUT/model.safetensors   the encoder's weights, float32
OUT/config.json         architecture, arguments and input as timm reads them
OUT/card.json           encoder, normalisation, training, data and their licences
OUT/README.md           the same for people: the Hub's model card
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from curation.base import settings
from curation.base.files import file_digest
from curation.shards.format import open_index, read_checksums
from pretrain.checkpoint import TrainState
from pretrain.config import DataConfig, EncoderConfig, TrainConfig
from pretrain.errors import FormatVersionError, InputError, RscorpusError
from pretrain.model_card import FORMAT_VERSION, Card, DataFacts, readme, results_table
from pretrain.models import Objective
from pretrain.models.encoder import build_encoder, timm_args
from pretrain.run import load_run, writing

WEIGHTS, CARD, TIMM_CONFIG, README = "model.safetensors", "card.json", "config.json", "README.md"


def export(run: Path, out: Path, results: Path | None = None) -> Card:
    """Export the encoder of a run's newest checkpoint.

    Args:
        run: folder of the run.
        out: folder to make.
        results: what ``rs-pretrain evaluate --run RUN --out`` wrote of this checkpoint, for the model card.

    Raises:
        InputError: there is no run or checkpoint, the results are of another, or ``out`` cannot be written.
    """
    model, config, state = load_run(run)
    card = card_of(model, config, state)
    told = read_results(results, f"{run.name}, step {state.step}") if results is not None else ""
    weights = {name: tensor.detach().float().contiguous() for name, tensor in model.encoder.state_dict().items()}
    _check_loads(card.encoder, weights)
    facts = data_facts(config.data)
    same = facts is not None and facts.fingerprint == state.data
    card = card.model_copy(update={"data": facts if same else None})
    with writing(out / WEIGHTS) as aside:
        save_file(weights, aside, metadata={"format": "pt"})
    tables = {TIMM_CONFIG: timm_config(card), CARD: card.model_dump(mode="json")}
    texts = {name: json.dumps(table, indent=1) + "\n" for name, table in tables.items()}
    for name, text in (texts | {README: readme(card, told)}).items():
        with writing(out / name) as aside:
            aside.write_text(text, encoding="utf-8")
    return card


def read_results(path: Path, name: str) -> str:
    """What ``rs-pretrain evaluate`` found, as a table: the encoder of this name, and those that it was set beside.

    Raises:
        InputError: the file is not one of evaluate, or the encoder is not in it.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        data, asked = Path(told["data"]["path"]).name, told["encoders"]
        rows = {each["name"]: _scores(each["answers"]) for each in asked}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not what rs-pretrain evaluate --out wrote ({error!r})") from None
    if name not in rows:
        raise InputError(f"{path}: holds results of {', '.join(rows)}, none of {name}; evaluate this checkpoint")
    return results_table(data, rows)


def _scores(answers: dict[str, Any]) -> dict[str, str]:
    """Protocol to ``69.1 % (66.7 - 71.4)``; mIoU and mF1 of masks have columns of their own."""
    found = {}
    for protocol, answer in answers.items():
        scores = answer["scores"] if "scores" in answer else {"": answer["accuracy"]}
        for score, interval in scores.items():
            mean, low, high = (100 * interval[part] for part in ("mean", "low", "high"))
            found[f"{protocol} {score}".strip()] = f"{mean:.1f} % ({low:.1f} - {high:.1f})"
    return found


def timm_config(card: Card) -> dict[str, Any]:
    """What timm's ``load_model_config_from_path`` reads; ``timm.data.resolve_model_data_config`` gives the input."""
    with torch.device("meta"):
        model = timm.create_model(card.encoder.name, **timm_args(card.encoder))
    return {
        "architecture": card.encoder.name,
        "num_classes": 0,
        "num_features": model.num_features,
        "global_pool": model.global_pool,
        "model_args": timm_args(card.encoder),
        "pretrained_cfg": {
            "tag": f"{card.objective}_step{card.step}", "custom_load": False, "num_classes": 0,
            "input_size": [3, card.input_size, card.input_size], "fixed_input_size": True,
            "interpolation": card.interpolation, "crop_pct": 1.0, "crop_mode": "center",
            "mean": card.mean, "std": card.std, "first_conv": "patch_embed.proj", "classifier": "head",
        },
    }  # fmt: skip


def card_of(model: Objective, config: TrainConfig, state: TrainState) -> Card:
    """The card of a run's encoder; what it was trained on is not looked up."""
    return Card(
        encoder=config.encoder,
        input_size=model.encoder.patch_embed.img_size[0],
        mean=[round(value, 6) for value in model.mean.tolist()],
        std=[round(value, 6) for value in model.std.tolist()],
        parameters=sum(parameter.numel() for parameter in model.encoder.parameters()),
        objective=config.objective.name,
        step=state.step,
        total_steps=state.total_steps,
        data=None,
        config=config.model_dump(mode="json"),
    )


def load_export(path: Path) -> tuple[VisionTransformer, Card]:
    """The encoder of exported weights and its card.

    Args:
        path: the folder that ``export`` wrote, or the weights in it.

    Raises:
        InputError: a file is absent or damaged, or holds other weights than the card says.
        FormatVersionError: another version wrote the card.
    """
    if not path.exists():
        raise InputError(f"{path}: no such folder; give one that rs-pretrain export wrote")
    folder = path if path.is_dir() else path.parent
    card_path, weights_path = folder / CARD, (folder / WEIGHTS if path.is_dir() else path)
    try:
        data = json.loads(card_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{card_path}: no such file; give a folder that rs-pretrain export wrote") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{card_path}: cannot be read ({error})") from None
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            f"{card_path}: card format version {version}, this release reads {FORMAT_VERSION}; export again"
        )
    card = settings.validate(Card, data, str(card_path))
    encoder = build_encoder(card.encoder)
    try:
        encoder.load_state_dict(load_file(weights_path), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{weights_path}: cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    return encoder.eval(), card


def data_facts(data: DataConfig) -> DataFacts | None:
    """Keys, catalogues, sources and licences of shards; None when they are gone."""
    from pretrain.data.corpus import content_fingerprint
    from pretrain.data.places import access_of, localised

    try:
        folders = [localised(place, access_of(data)) for place in data.folders]
    except RscorpusError:  # elsewhere, and not to be had
        return None
    if not all(folder.is_dir() for folder in folders):
        return None
    keys = []
    tables = []
    for folder in folders:
        checksums = read_checksums(folder)
        assert checksums is not None
        keys.append(checksums.key)
        index, _ = open_index(folder)
        with index:
            tables.append(index.read(columns=["source", "licence"]).cast(_NAMES))
    table = pa.concat_tables(tables)
    licences_of: dict[str, list[str]] = {}
    for pair in table.group_by(["source", "licence"]).aggregate([]).sort_by("licence").to_pylist():
        licences_of.setdefault(pair["source"] or _UNKNOWN, []).append(pair["licence"] or _UNKNOWN)
    beside = [folder.absolute().parent / "catalogue.parquet" for folder in folders]
    return DataFacts(
        key=keys, catalogue=[file_digest(path) for path in beside if path.is_file()],
        fingerprint=content_fingerprint(folders), samples=_counts(table["source"]),
        licences=_counts(table["licence"]), licences_of=licences_of,
    )  # fmt: skip


_UNKNOWN = "unknown"
_NAMES = pa.schema([("source", pa.string()), ("licence", pa.string())])


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    pairs = pc.value_counts(column).to_pylist()
    return dict(sorted((pair["values"] or _UNKNOWN, pair["counts"]) for pair in pairs))


def _check_loads(config: EncoderConfig, weights: dict[str, Tensor]) -> None:
    """Load the weights as a user will: a failure here must not wait until they are published."""
    with torch.device("meta"):
        fresh = timm.create_model(config.name, **timm_args(config))
    fresh.load_state_dict(weights, strict=True, assign=True)
