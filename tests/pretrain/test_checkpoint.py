"""Checkpoints: complete or absent, plain data, and refused by field name when they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from curation.errors import FormatVersionError, InputError
from curation.settings import validate
from pretrain.checkpoint import State, flat, found, load_model, load_optimizer, read_state, refuse_changes, save
from pretrain.config import TrainConfig
from pretrain.log import Log

CONFIG = {"objective": {"name": "mae"}, "data": {"shards": "a", "gsd_missing": {"s": 1.0}}}


def config(**changes: object) -> TrainConfig:
    return validate(TrainConfig, CONFIG | changes, "test")


def state(step: int) -> State:
    return State(step, 100, "data-1", config().model_dump(mode="json"))


def trained() -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = save(tmp_path, model, optimizer, state(7), keep=2)
    assert sorted(item.name for item in path.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    fresh = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    again = torch.optim.AdamW(fresh.parameters(), lr=0.1, fused=True)
    load_model(path, fresh)
    load_optimizer(path, fresh, again)
    x = torch.randn(5, 3)
    for one, optim in ((model, optimizer), (fresh, again)):
        one(x).square().sum().backward()
        optim.step()
    for one, other in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other)
    assert read_state(path) == state(7)


def test_only_the_newest_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    model, optimizer = trained()
    (tmp_path / ".step-00000003.1.part").mkdir()  # of a process that was killed
    (tmp_path / "step-00000004").mkdir()  # incomplete: no state
    for step in (10, 20, 30):
        save(tmp_path, model, optimizer, state(step), keep=2)
    assert [path.name for path in found(tmp_path)] == ["step-00000020", "step-00000030"]
    assert not list(tmp_path.glob(".step-*"))


def test_other_versions_and_damage_are_named(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = save(tmp_path, model, optimizer, state(1), keep=1)
    with pytest.raises(InputError, match="holds another model than the config"):
        load_model(path, nn.Linear(2, 2))
    (path / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(InputError, match=r"model.safetensors: cannot be read"):
        load_model(path, model)
    data = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(data | {"format_version": 99}))
    with pytest.raises(FormatVersionError, match="version 99, this release reads 1"):
        read_state(path)
    (path / "state.json").write_text("{")
    with pytest.raises(InputError, match="not a checkpoint's state"):
        read_state(path)


def test_a_changed_field_is_refused_by_name() -> None:
    changes = {"epochs": 900, "seed": 4, "data": {"shards": "a", "gsd_missing": {"s": 2.0}}}
    with pytest.raises(InputError, match=r"data.gsd_missing.s: 1.0 -> 2.0; epochs: 800 -> 900; seed: 0 -> 4"):
        refuse_changes(state(1), config(**changes), "data-1", Path("run"))
    with pytest.raises(
        InputError, match=r"data.gsd_missing.s: 1.0 -> None; data.gsd_missing: None -> 'drop'|data.gsd_missing"
    ):
        refuse_changes(state(1), config(data={"shards": "a", "gsd_missing": "drop"}), "data-1", Path("run"))
    with pytest.raises(InputError, match="other data"):
        refuse_changes(state(1), config(), "data-2", Path("run"))


def test_where_it_runs_and_what_it_logs_may_change() -> None:
    elsewhere = {"shards": ["b"], "gsd_missing": {"s": 1.0}, "workers": 3, "prefetch": 5}
    changed = config(data=elsewhere, log_every=1, save_every=2, max_batch_per_gpu=8, device="cpu", picture_every=0)
    refuse_changes(state(1), changed, "data-1", Path("run"))


def test_flat_names_nested_fields() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": {}}, "e": [1]}) == {"a.b.c": 1, "a.d": {}, "e": [1]}


def test_the_log_is_cut_back_and_survives_a_torn_line(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    for step in (1, 2, 3, 4):
        log.write({"step": step, "loss": 1 / step})
    with log.path.open("a") as file:
        file.write('{"step": 5, "lo')
    assert [record["step"] for record in log.records()] == [1, 2, 3, 4]
    log.cut(2)
    assert log.path.read_text() == '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n'
