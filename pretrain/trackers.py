"""Where else a run's log goes: TensorBoard, Weights & Biases, MLflow, each an extra of its own behind three methods.

``log.jsonl`` is always written and is what this project reads; a tracker is told the same numbers. Keys, servers and
proxies are those of each library's own environment variables (``WANDB_MODE=offline``, ``MLFLOW_TRACKING_URI``, ...).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from pretrain.checkpoint import flat
from pretrain.config import TrackerName
from pretrain.errors import InputError
from pretrain.run import RunFolder


class Tracker(Protocol):
    """Is told what a run logs, on the process that writes files."""

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers after so many steps."""

    def picture(self, step: int, path: Path) -> None:
        """A picture that was written."""

    def close(self) -> None:
        """Nothing more comes."""


class Tracked:
    """Several trackers as one."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self.trackers = trackers

    def record(self, step: int, record: Mapping[str, Any]) -> None:
        """The numbers of a line of the log; what is null in it is left out."""
        values = {name: float(value) for name, value in record.items() if isinstance(value, int | float)}
        for tracker in self.trackers:
            tracker.record(step, values)

    def picture(self, step: int, path: Path) -> None:
        """A picture that was written."""
        for tracker in self.trackers:
            tracker.picture(step, path)

    def close(self) -> None:
        """Nothing more comes."""
        for tracker in self.trackers:
            tracker.close()


def open_trackers(names: Sequence[TrackerName], folder: RunFolder, config: Mapping[str, Any], step: int) -> Tracked:
    """Open the trackers of a run that has done so many steps.

    Args:
        names: ``tensorboard``, ``wandb``, ``mlflow``.
        folder: of the run; its name is the run's name.
        config: told once.
        step: what was told of later steps is overwritten, where the tracker can.

    Raises:
        InputError: a library is not installed.
    """
    kinds: dict[TrackerName, Callable[..., Tracker]] = {
        "tensorboard": _TensorBoard,
        "wandb": _WeightsAndBiases,
        "mlflow": _MLflow,
    }
    return Tracked([_opened(name, kinds[name], folder, flat(config), step) for name in names])


def _opened(
    name: TrackerName, kind: Callable[..., Tracker], folder: RunFolder, config: Mapping[str, Any], step: int
) -> Tracker:
    try:
        return kind(folder, config, step)
    except ModuleNotFoundError as error:
        raise InputError(
            f"track: {name} needs {error.name}; from the project's folder: pip install '.[{name}]'"
        ) from None


class _TensorBoard:
    """Event files in ``OUT/tensorboard``."""

    def __init__(self, folder: RunFolder, config: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder.path / "tensorboard"), purge_step=step + 1)  # type: ignore[no-untyped-call]
        self._writer.add_text("config", "\n".join(f"    {name}: {value}" for name, value in config.items()), step)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, path: Path) -> None:
        with Image.open(path) as image:
            self._writer.add_image("reconstructions", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of W&B, the same one after a stop; ``WANDB_MODE=offline`` keeps it below ``OUT/wandb``."""

    def __init__(self, folder: RunFolder, config: Mapping[str, Any], step: int) -> None:
        import wandb

        place, name = folder.path.resolve(), _kept(folder, "wandb", secrets.token_hex(8))
        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            dir=place, project="rscorpus", name=place.name, id=name, config=dict(config), resume="allow"
        )

    def record(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, path: Path) -> None:
        self._run.log({"reconstructions": self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """A run of MLflow, the same one after a stop, where ``MLFLOW_TRACKING_URI`` says."""

    def __init__(self, folder: RunFolder, config: Mapping[str, Any], step: int) -> None:
        import mlflow

        self._client: Any = mlflow.MlflowClient()
        name = folder.path.resolve().name
        experiment = self._client.get_experiment_by_name("rscorpus")
        number = experiment.experiment_id if experiment else self._client.create_experiment("rscorpus")
        known = _kept(folder, "mlflow", "")
        self._run = known or self._client.create_run(number, run_name=name).info.run_id
        if not known:
            _keep(folder, "mlflow", self._run)
            for field, value in config.items():
                self._client.log_param(self._run, field, value)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def picture(self, step: int, path: Path) -> None:
        self._client.log_artifact(self._run, str(path), "pictures")

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _kept(folder: RunFolder, tracker: str, otherwise: str) -> str:
    """The run's name at a tracker, from the run's folder."""
    path = folder.path / f"{tracker}-run.txt"
    if not path.exists() and otherwise:
        _keep(folder, tracker, otherwise)
    return path.read_text(encoding="utf-8").strip() if path.exists() else otherwise


def _keep(folder: RunFolder, tracker: str, name: str) -> None:
    (folder.path / f"{tracker}-run.txt").write_text(name + "\n", encoding="utf-8")
