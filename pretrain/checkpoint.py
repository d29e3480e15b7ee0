"""Checkpoints: safetensors for tensors, JSON for the rest, no pickle; complete and finite, or absent.

A checkpoint is a folder ``checkpoints/step-00001000`` that was written aside and renamed. It does not depend on the
number of processes. Randomness has no state, so the step is all there is besides weights and moments.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from curation.base.files import sync
from pretrain import distributed
from pretrain.config import MAY_CHANGE, TrainConfig
from pretrain.data.order import ORDER_VERSION
from pretrain.distributed import Team
from pretrain.errors import FormatVersionError, InputError, WorkError

FORMAT_VERSION = 1
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class TrainState:
    """All of a checkpoint that is not a tensor."""

    step: int
    """Steps done."""
    total_steps: int
    data: str
    """Fingerprint of the shards' content."""
    config: dict[str, Any]
    order_version: int = ORDER_VERSION
    """Of the order of samples, see :mod:`pretrain.data.order`."""
    format_version: int = FORMAT_VERSION


class Snapshot(NamedTuple):
    """Copies of all tensors, on the CPU."""

    model: dict[str, Tensor]
    moments: dict[str, Tensor]


def moments(model: nn.Module, optimizer: torch.optim.Optimizer, team: Team | None = None) -> dict[str, Tensor]:
    """This process's moments by name; those of all processes on the first of the team, where they are divided."""
    own = distributed.own_part(optimizer)
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    held = {
        f"{key}.{names[parameter]}": value for parameter, state in own.state.items() for key, value in state.items()
    }
    if team is None or own is optimizer:
        return held
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    like = {f"{key}.{name}": parameter.detach() for name, parameter in trained for key in ("exp_avg", "exp_avg_sq")}
    steps = {f"step.{name}": torch.zeros((), dtype=torch.float32) for name, _ in trained}
    return distributed.gathered(held, like | steps, team)


def snapshot(model: nn.Module, moments: Mapping[str, Tensor]) -> Snapshot:
    """Copy weights and moments, so that training may go on while they are written; waits for the device."""
    return Snapshot(_copied(model.state_dict()), _copied(moments))


class Writer(AbstractContextManager["Writer"]):
    """Writes checkpoints beside the training, never two at once; leaving the context waits for the last."""

    def __init__(self, folder: Path, keep: int, always: int | None = None) -> None:
        self.folder, self.keep, self.always = folder, keep, always
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[Path] | None = None

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def start(self, tensors: Snapshot, state: TrainState) -> None:
        """Begin to write, as :func:`save`; what was begun before must have been waited for."""
        assert self._last is None, "two checkpoints at once"
        self._last = self._thread.submit(save, self.folder, tensors, state, keep=self.keep, always=self.always)

    def failed(self) -> bool:
        """Whether the last one is known not to have been written."""
        return self._last is not None and self._last.done() and self._last.exception() is not None

    def wait(self) -> BaseException | None:
        """Wait until the last one is written; returns what prevented it."""
        last, self._last = self._last, None
        return None if last is None else last.exception()


def name_of(step: int) -> str:
    """Name of the folder of a checkpoint after so many steps."""
    return f"step-{step:08d}"


def save(folder: Path, tensors: Snapshot, state: TrainState, *, keep: int, always: int | None = None) -> Path:
    """Write a checkpoint atomically, then drop all but the newest ``keep`` and that of the step ``always``.

    Raises:
        WorkError: it cannot be written, for instance because the disk is full; nothing of it remains.
    """
    target = folder / name_of(state.step)
    for left in folder.glob(".step-*.part"):  # of a process that was killed while it wrote or deleted
        shutil.rmtree(left)
    aside = folder / f".{target.name}.part"  # the run's folder is held by one process
    try:
        aside.mkdir(parents=True)
        _write(aside, tensors, state)
        os.replace(aside, target)
        sync(folder)
    except (OSError, SafetensorError) as error:
        raise WorkError(
            f"{folder}: a checkpoint cannot be written ({error}); make room, and --resume goes on from the last"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # of a disk that was full, nothing is to remain
    for old in found(folder)[:-keep]:
        if old.name != name_of(always or 0):
            _drop(old)
    return target


def drop_after(folder: Path, step: int) -> None:
    """Drop checkpoints of later steps: those of a run that was made longer from before its end."""
    for path in found(folder):
        if path.name > name_of(step):
            _drop(path)


def _drop(path: Path) -> None:
    shutil.rmtree(path.rename(path.with_name(f".{path.name}.part")))  # killed half-way, it must not look whole


def _write(folder: Path, tensors: Snapshot, state: TrainState) -> None:
    save_file(tensors.model, folder / _MODEL)
    save_file(tensors.moments, folder / _OPTIMIZER)
    (folder / _STATE).write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        sync(path)


def finite(model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Whether all weights and moments are finite; waits for the device once."""
    tensors = [*model.state_dict().values(), *moments(model, optimizer).values()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def found(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / _STATE).is_file())


def read_state(checkpoint: Path) -> TrainState:
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
    try:
        return TrainState(**{"order_version": 1} | data)
    except TypeError as error:
        raise InputError(f"{path}: not a checkpoint's state ({error})") from None


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
    """Load the optimiser's moments.

    Raises:
        InputError: the file is damaged, or of another model; names the moment.
    """
    path = checkpoint / _OPTIMIZER
    tensors = _tensors(path)
    own = distributed.own_part(optimizer)
    stepped = {parameter for group in own.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            shapes = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
            for key, shape in shapes.items():
                if f"{key}.{name}" not in tensors or tensors[f"{key}.{name}"].shape != shape:
                    raise InputError(f"{path}: has no {key}.{name} of shape {tuple(shape)}; {_go_back(checkpoint)}")
            if parameter in stepped:  # a fused optimiser keeps the step beside the parameter
                own.state[parameter] = {key: tensors[f"{key}.{name}"].to(parameter.device) for key in shapes}


def refuse_nonfinite(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Look at what was loaded: none is written that is not finite, but a disk or memory may be at fault.

    Raises:
        InputError: a weight or moment is not finite.
    """
    if not finite(model, optimizer):
        raise InputError(f"{checkpoint}: holds weights or moments that are not finite; {_go_back(checkpoint)}")


def refuse_changes(state: TrainState, config: TrainConfig, data: str, where: Path) -> None:
    """Compare a checkpoint with what is asked for.

    Raises:
        InputError: a field that decides the result differs, or is not known any more, or the shards hold other data;
            names the fields.
    """
    before, now = (flat(each.model_dump(mode="json")) for each in (_as_of_today(state, where), config))
    changed = [
        f"{field}: {before.get(field)!r} -> {now.get(field)!r}"
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field) and not _may_change(field) and not _longer(field, before, now)
    ]
    if changed:
        raise InputError(
            f"{where}: was trained with other settings ({'; '.join(changed)}); restore them, or give another --out"
        )
    if state.order_version != ORDER_VERSION and config.data.groups > 1:
        raise InputError(
            f"{where}: data.groups: the order of samples with groups is another one since this run was started (order "
            f"version {state.order_version}, now {ORDER_VERSION}); go on with the release that started it, or give "
            "another --out"
        )
    if state.data != data:
        raise InputError(
            f"{where}: data.shards holds other data than this run was trained on; restore it, or give another --out"
        )


def _as_of_today(state: TrainState, where: Path) -> TrainConfig:
    """The stored config read through today's model: fields that are new since then have their defaults."""
    try:
        return TrainConfig.model_validate(state.config)
    except ValidationError as error:
        fields = [f"{'.'.join(map(str, problem['loc']))}: {problem['input']!r}" for problem in error.errors()]
        raise InputError(
            f"{where}: was trained with settings that this release does not know ({'; '.join(sorted(fields))}); go on "
            "with the release that trained it, or give another --out"
        ) from None


def _may_change(field: str) -> bool:
    return any(field == free or field.startswith(f"{free}.") for free in MAY_CHANGE)


def _longer(field: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return field == "epochs" and now[field] > before[field]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as ``{"data.window": 8}``."""
    fields: dict[str, Any] = {}
    for key, value in tree.items():
        fields |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return fields


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {_go_back(path.parent)}") from None


def _go_back(checkpoint: Path) -> str:
    return f"delete {checkpoint} to go on from the checkpoint before it"


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
