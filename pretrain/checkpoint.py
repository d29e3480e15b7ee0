"""Checkpoints: safetensors for tensors, JSON for the rest, no pickle; complete or absent.

A checkpoint is a folder ``checkpoints/step-00001000`` that was written aside and renamed. It does not depend on the
number of processes. Randomness has no state, so the step is all there is besides weights and moments.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pretrain.config import MAY_CHANGE, TrainConfig
from pretrain.errors import FormatVersionError, InputError

FORMAT_VERSION = 1
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class State:
    """All of a checkpoint that is not a tensor."""

    step: int
    """Steps done."""
    total_steps: int
    data: str
    """Fingerprint of the shards' content."""
    config: dict[str, Any]
    format_version: int = FORMAT_VERSION


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State, *, keep: int) -> Path:
    """Write a checkpoint atomically, then drop all but the newest ``keep``."""
    target = folder / f"step-{state.step:08d}"
    for left in folder.glob(".step-*.part"):  # of a process that was killed while it wrote
        shutil.rmtree(left)
    aside = folder / f".{target.name}.{os.getpid()}.part"
    aside.mkdir(parents=True)
    save_file(_packed(model.state_dict()), aside / _MODEL)
    save_file(_packed(_moments(model, optimizer)), aside / _OPTIMIZER)
    (aside / _STATE).write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
    for path in aside.iterdir():
        _flush(path)
    os.replace(aside, target)
    _flush(folder)
    for old in found(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def found(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / _STATE).is_file())


def read_state(checkpoint: Path) -> State:
    """Read what is not a tensor.

    Raises:
        InputError: it is damaged.
        FormatVersionError: another version wrote it.
    """
    path = checkpoint / _STATE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a checkpoint's state ({error!r})") from None
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            f"{path}: checkpoint format version {version}, this release reads {FORMAT_VERSION}; "
            "go on with the release that wrote it, or start anew in another --out"
        )
    return State(**data)


def load_model(checkpoint: Path, model: nn.Module) -> None:
    """Load the weights of the whole objective, strictly.

    Raises:
        InputError: the file is damaged, or of another model.
    """
    path = checkpoint / _MODEL
    try:
        model.load_state_dict(_tensors(path), strict=True)
    except RuntimeError as error:
        raise InputError(f"{path}: holds another model than the config ({_first_line(error)})") from None


def load_optimizer(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the optimiser's moments."""
    tensors = _tensors(checkpoint / _OPTIMIZER)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            held = {key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            # A fused optimiser keeps the step beside the parameter.
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in held.items()}


def refuse_changes(state: State, config: TrainConfig, data: str, where: Path) -> None:
    """Compare a checkpoint with what is asked for.

    Raises:
        InputError: a field that decides the result differs, or the shards hold other data; names the fields.
    """
    before, now = flat(state.config), flat(config.model_dump(mode="json"))
    changed = [
        f"{field}: {before.get(field)!r} -> {now.get(field)!r}"
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field) and not _may_change(field)
    ]
    if changed:
        raise InputError(
            f"{where}: was trained with other settings ({'; '.join(changed)}); restore them, or give another --out"
        )
    if state.data != data:
        raise InputError(
            f"{where}: data.shards holds other data than this run was trained on; restore it, or give another --out"
        )


def _may_change(field: str) -> bool:
    return any(field == free or field.startswith(f"{free}.") for free in MAY_CHANGE)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as ``{"data.window": 8}``."""
    fields: dict[str, Any] = {}
    for key, value in tree.items():
        fields |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return fields


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{key}.{names[parameter]}": value for parameter, held in optimizer.state.items() for key, value in held.items()
    }


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def _flush(path: Path) -> None:
    """Bring to disk: a rename must not outlive the content that it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
