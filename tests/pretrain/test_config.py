"""Configurations: strict, shipped ones valid, messages that name field and allowed values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from curation.base.errors import InputError
from curation.base.settings import load, validate
from pretrain.checkpoint import flat
from pretrain.config import MAY_CHANGE, TrainConfig
from pretrain.models import build_objective
from pretrain.models.selective_mae import token_counts
from pretrain.schedule import peak_rate

CONFIGS = sorted((Path(__file__).parents[2] / "pretrain" / "configs").glob("*.yaml"))
SMALLEST = {"objective": {"name": "mae"}, "data": {"shards": "x"}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_build(path: Path) -> None:
    config = load(TrainConfig, path)
    with torch.device("meta"):
        model = build_objective(config.objective, config.encoder)
    # Dosovitskiy et al. 2021, table 1 (millions of B and L); Touvron et al. 2021, table 1 (S). Classifiers included.
    published = {"_s": 22, "_b": 86, "_l": 307}
    size = next((millions for mark, millions in published.items() if f"vit{mark}" in path.stem), None)
    if size is not None:
        trained = sum(parameter.numel() for parameter in model.encoder.parameters() if parameter.requires_grad)
        assert trained / 1e6 == pytest.approx(size, rel=0.02)
        assert (config.precision, config.compile, config.epochs, config.global_batch) == ("auto", "auto", 800, 2048)
        assert f"train {path.stem} " in path.read_text(encoding="utf-8")


def test_every_encoder_has_its_objectives() -> None:
    names = {path.stem for path in CONFIGS}
    assert {f"{objective}_vit_{size}" for objective in ("mae", "selective_mae") for size in "sbl"} <= names
    assert {"scale_mae_vit_b", "scale_mae_vit_l", "selective_mae_vit_b_release"} <= names


def test_published_numbers() -> None:
    paper = {path.stem: load(TrainConfig, path) for path in CONFIGS}
    selective = paper["selective_mae_vit_b"]
    assert token_counts(196, selective.objective) == (14, (7, 8), 49)
    assert (selective.epochs, selective.global_batch, selective.objective.decoder_depth) == (800, 2048, 12)
    assert peak_rate(selective.optim, selective.global_batch) == pytest.approx(3.53e-4, rel=1e-3)
    assert selective.optim.betas == (0.9, 0.95)
    assert selective.data.crop_scale == (0.2, 1.0)
    assert peak_rate(paper["mae_vit_b"].optim, paper["mae_vit_b"].global_batch) == pytest.approx(1.2e-3)
    assert paper["scale_mae_vit_l"].objective.decoder_depth == 3
    released = paper["selective_mae_vit_b_release"]
    assert (released.objective.decoder_depth, released.optim.warmup_epochs) == (8, 10)
    assert released.objective.seeds == released.objective.targets == "uniform" and released.objective.added == "psts"
    assert paper["selective_mae_vit_s"].objective.decoder_dim == 256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 5}, r"epoch: unknown key; did you mean 'epochs'\?"),
        ({"data": {"shards": "x", "wndow": 2}}, r"data.wndow: unknown key; did you mean 'window'\?"),
        ({"objective": {"name": "dino"}}, r"objective: .*'mae', 'selective_mae', 'scale_mae'"),
        ({"data": {}}, "data.shards: this key is required"),
        ({"precision": "fp16"}, r"precision: Input should be 'auto', 'fp32' or 'bf16' \(found 'fp16'\)"),
        ({"data": {"shards": "x", "crop_scale": [0.5, 0.2]}}, "crop_scale"),
        ({"global_batch": 30, "data": {"shards": "x", "groups": 4}}, "not a multiple of data.groups 4"),
        ({"epochs": 5}, "warmup_epochs 40 exceeds epochs 5"),
        ({"optim": {"base_lr": float("nan")}}, "optim.base_lr"),
    ],
)
def test_mistakes_are_named(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(TrainConfig, SMALLEST | change, "x.yaml")


def test_fields_that_may_change_exist() -> None:
    config = validate(TrainConfig, SMALLEST, "x").model_dump()
    for field in MAY_CHANGE:
        node = config
        for part in field.split("."):
            node = node[part]


def test_every_field_is_documented(repository: Path) -> None:
    page = (repository / "docs" / "pretrain.md").read_text(encoding="utf-8")
    fields = flat(validate(TrainConfig, SMALLEST, "x").model_dump(mode="json", exclude={"objective"})).keys()
    assert not [field for field in fields if f"`{field}`" not in page]
    may_change = page.partition("what it bears")[2].partition("Any other change")[0]
    assert not [field for field in MAY_CHANGE if f"`{field}`" not in may_change]


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        (
            "objective.name=mae",
            r"objective\.target_ratio: is no key of this objective, but of selective_mae; remove it",
        ),
        ("objective.mask_ratio=1.5", r"objective\.mask_ratio: .*less than 1 \(found 1\.5\)"),
        ("objective.mask_rato=0.5", r"objective\.mask_rato: unknown key; did you mean 'mask_ratio'\?"),
        ("epochs=1", r"warmup_epochs 1\.5 exceeds epochs 1; set it too, for example optim\.warmup_epochs=0\.05"),
    ],
)
def test_a_wrong_field_is_named_as_it_is_typed(assignment: str, said: str) -> None:
    demo = next(path for path in CONFIGS if path.stem == "demo")
    with pytest.raises(InputError, match=said):
        load(TrainConfig, demo, ["optim.warmup_epochs=1.5", "epochs=2", assignment])
