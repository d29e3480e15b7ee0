"""Checkpoints: complete or absent, plain data, and refused by field name when they do not fit."""

from __future__ import annotations

import ast
import json
import math
import re
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from curation.base.errors import FormatVersionError, InputError, WorkError
from curation.base.settings import override, validate
from pretrain.checkpoint import (
    TrainState,
    Writer,
    finite,
    flat,
    found,
    load_model,
    load_optimizer,
    moments,
    read_state,
    refuse_changes,
    save,
    snapshot,
)
from pretrain.config import MAY_CHANGE, TrainConfig
from pretrain.log import Log

CONFIG = {"objective": {"name": "mae"}, "data": {"shards": "a", "gsd_missing": {"s": 1.0}}}


def config(**changes: object) -> TrainConfig:
    return validate(TrainConfig, CONFIG | changes, "test")


def state(step: int) -> TrainState:
    return TrainState(step, 100, "data-1", config().model_dump(mode="json"))


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
    path = save(tmp_path, snapshot(model, moments(model, optimizer)), state(7), keep=2)
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


def test_what_is_written_is_what_was_there_when_it_began(tmp_path: Path) -> None:
    """Training changes weights and moments in place while they are written."""
    model, optimizer = trained()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    writer = Writer(tmp_path, keep=1)
    tensors = snapshot(model, moments(model, optimizer))
    with torch.no_grad():
        for tensor in (*model.parameters(), *(t for held in optimizer.state.values() for t in held.values())):
            tensor.fill_(-7)
    writer.start(tensors, state(7))
    with pytest.raises(AssertionError, match="two checkpoints at once"):
        writer.start(tensors, state(8))
    assert writer.wait() is None
    (path,) = found(tmp_path)
    written = load_file(path / "model.safetensors")
    assert all(torch.equal(written[name], before[name]) for name in before)
    assert not any((tensor == -7).any() for tensor in load_file(path / "optimizer.safetensors").values())


def test_only_the_newest_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    model, optimizer = trained()
    (tmp_path / ".step-00000003.1.part").mkdir()  # of a process that was killed
    (tmp_path / "step-00000004").mkdir()  # incomplete: no state
    for step in (10, 20, 30):
        save(tmp_path, snapshot(model, moments(model, optimizer)), state(step), keep=2)
    assert [path.name for path in found(tmp_path)] == ["step-00000020", "step-00000030"]
    assert not list(tmp_path.glob(".step-*"))


def test_other_versions_and_damage_are_named(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = save(tmp_path, snapshot(model, moments(model, optimizer)), state(1), keep=1)
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
    changes = {"epochs": 700, "seed": 4, "data": {"shards": "a", "gsd_missing": {"s": 2.0}}}
    with pytest.raises(InputError, match=r"data.gsd_missing.s: 1.0 -> 2.0; epochs: 800 -> 700; seed: 0 -> 4"):
        refuse_changes(state(1), config(**changes), "data-1", Path("run"))
    with pytest.raises(
        InputError, match=r"data.gsd_missing.s: 1.0 -> None; data.gsd_missing: None -> 'drop'|data.gsd_missing"
    ):
        refuse_changes(state(1), config(data={"shards": "a", "gsd_missing": "drop"}), "data-1", Path("run"))
    with pytest.raises(InputError, match="other data"):
        refuse_changes(state(1), config(), "data-2", Path("run"))


def test_epochs_may_be_raised() -> None:
    refuse_changes(state(1), config(epochs=801), "data-1", Path("run"))


OTHER: dict[str, Any] = {
    "data.cache": "c", "data.cache_gigabytes": 3, "data.missing_shard": "skip",
    "data.shards": ["b"], "data.workers": 3, "data.prefetch": 5, "data.max_unreadable": 0.5, "data.retry_seconds": 1,
    "max_batch_per_gpu": 8, "max_nonfinite": 0, "timeout_minutes": 3, "device": "cpu", "compile": True,
    "grad_checkpointing": True, "shard_optimizer": True, "log_every": 1, "save_every": 2, "keep_checkpoints": 7,
    "picture_every": 0, "track": ["tensorboard"], "peak_tflops": 1.5,
}  # fmt: skip


def changed(field: str, value: object) -> TrainConfig:
    return validate(TrainConfig, override(CONFIG, [f"{field}={json.dumps(value)}"]), "test")


@pytest.mark.parametrize("field", sorted(MAY_CHANGE))
def test_where_it_runs_what_it_logs_and_what_it_bears_may_change(field: str) -> None:
    asked = changed(field, OTHER[field])
    assert asked != config()
    refuse_changes(state(1), asked, "data-1", Path("run"))


def test_a_field_that_is_new_since_the_checkpoint_has_its_default() -> None:
    old = state(1)
    del old.config["data"]["augment"]["vflip"]
    del old.config["optim"]["clip_grad"]
    refuse_changes(old, config(), "data-1", Path("run"))
    with pytest.raises(InputError, match=r"\(data.augment.vflip: 0.0 -> 0.5\); restore"):
        refuse_changes(old, changed("data.augment.vflip", 0.5), "data-1", Path("run"))


def test_a_field_that_is_gone_since_the_checkpoint_is_named() -> None:
    old = state(1)
    old.config["data"]["cache"] = 3
    old.config["precision"] = "fp16"
    with pytest.raises(InputError, match=r"does not know \(data.cache: 3; precision: 'fp16'\); go on with the release"):
        refuse_changes(old, config(), "data-1", Path("run"))


def test_the_older_order_of_groups_is_refused_by_name(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = save(tmp_path, snapshot(model, moments(model, optimizer)), state(1), keep=1)
    data = json.loads((path / "state.json").read_text())
    assert data.pop("order_version") == 2
    (path / "state.json").write_text(json.dumps(data))  # as the first release wrote it
    refuse_changes(read_state(path), config(), "data-1", Path("run"))
    grouped = changed("data.groups", 4)
    old = replace(read_state(path), config=grouped.model_dump(mode="json"))
    with pytest.raises(InputError, match=r"run: data.groups: the order .*\(order version 1, now 2\).*another --out"):
        refuse_changes(old, grouped, "data-1", Path("run"))
    refuse_changes(replace(old, order_version=2), grouped, "data-1", Path("run"))


FIELD = re.compile(r"\b(?:(?:data|optim|objective|encoder)\.[a-z_]+|[a-z]+(?:_[a-z]+)+)\b")


def test_what_a_message_advises_resume_allows() -> None:
    """Every text of the trainer that names a field, but for errors before the first step."""
    fields = set(flat(config().model_dump(mode="json")))
    advised = {}
    for path in sorted((Path(__file__).parents[2] / "pretrain").glob("*.py")):
        for text in _texts(ast.parse(path.read_text(encoding="utf-8"))):
            for field in FIELD.findall(text):
                if field in fields:
                    advised.setdefault(field, []).append(text)
    assert {"data.max_unreadable", "data.retry_seconds", "optim.base_lr", "optim.clip_grad"} <= advised.keys()
    for field in advised.keys() - MAY_CHANGE:
        assert all("another --out" in text for text in advised[field]), (field, advised[field])


def _texts(tree: ast.AST) -> Iterator[str]:
    """What is raised as an error of work, or put together by a function to be raised."""
    for node in ast.walk(tree):
        error = isinstance(node, ast.Raise) and "WorkError" in ast.dump(node)
        if error or (isinstance(node, ast.Return) and isinstance(node.value, ast.JoinedStr)):
            constants = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            yield "".join(part for part in constants if isinstance(part, str))


def test_moments_that_are_missing_or_of_another_shape_are_named(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = save(tmp_path, snapshot(model, moments(model, optimizer)), state(1), keep=1)
    file = path / "optimizer.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"exp_avg.0.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(InputError, match=r"optimizer.safetensors: has no exp_avg.0.weight of shape \(4, 3\); delete"):
        load_optimizer(path, model, optimizer)
    save_file({key: value for key, value in tensors.items() if key != "step.1.bias"}, file)
    with pytest.raises(InputError, match=r"has no step.1.bias of shape \(\); delete .*step-00000001 to go on"):
        load_optimizer(path, model, optimizer)


def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    model, optimizer = trained()
    save(tmp_path, snapshot(model, moments(model, optimizer)), state(1), keep=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(WorkError, match="a checkpoint cannot be written .*make room, and --resume goes on"):
            save(tmp_path, snapshot(model, moments(model, optimizer)), state(2), keep=1)
        writer = Writer(tmp_path, keep=1)
        writer.start(snapshot(model, moments(model, optimizer)), state(3))
        error = writer.wait()
        assert isinstance(error, WorkError)
        assert writer.wait() is None  # told once
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_one_value_is_enough_not_to_be_finite(value: float) -> None:
    model, optimizer = trained()
    assert finite(model, optimizer)
    moment = optimizer.state[model[1].bias]["exp_avg_sq"]
    moment[2] = value
    assert not finite(model, optimizer)
    moment[2] = 0
    with torch.no_grad():
        model[0].weight[1, 1] = value
    assert not finite(model, optimizer)


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
