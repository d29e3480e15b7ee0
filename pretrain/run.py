"""A run's folder: what lies in it, who may write to it, and whether it is new, unfinished or finished.

OUT/config.yaml                the resolved configuration
OUT/log.jsonl                  one record per ``log_every`` steps
OUT/nonfinite.jsonl            the steps that changed nothing, with their sample ids
OUT/knn.jsonl                  accuracy of nearest neighbours while the run trains
OUT/checkpoints/step-00001000/ see :mod:`pretrain.checkpoint`
OUT/pictures/step-00001000.png reconstructions
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from curation.base import settings
from curation.base.files import atomic
from pretrain.checkpoint import TrainState, found, load_model, read_state
from pretrain.config import TrainConfig
from pretrain.errors import InputError
from pretrain.models import Objective, build_objective


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration; its presence means that a run was started here."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        """The training log."""
        return self.path / "log.jsonl"

    @property
    def nonfinite(self) -> Path:
        """Steps whose loss or gradient was not finite."""
        return self.path / "nonfinite.jsonl"

    @property
    def neighbours(self) -> Path:
        """Accuracy of nearest neighbours while the run trains."""
        return self.path / "knn.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    def picture(self, step: int) -> Path:
        """Reconstructions after a step."""
        return self.path / "pictures" / f"step-{step:08d}.png"

    def latest(self) -> tuple[Path, TrainState] | None:
        """The newest complete checkpoint and its state."""
        checkpoints = found(self.checkpoints)
        return (checkpoints[-1], read_state(checkpoints[-1])) if checkpoints else None


def open_run(path: Path, step: int | None = None) -> tuple[TrainConfig, Path, TrainState]:
    """Configuration and newest checkpoint of a run, or that of a step, for evaluation, pictures and export.

    Raises:
        InputError: there is no run, or it has no such checkpoint.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise InputError(f"{path}: no run of rs-pretrain train; give the folder that was its --out")
    latest = folder.latest()
    if latest is None:
        raise InputError(f"{path}: has no checkpoint yet; wait for the first, or set save_every lower")
    if step is not None:
        kept = {read_state(each).step: each for each in found(folder.checkpoints)}
        if step not in kept:
            raise InputError(f"{path}: has no checkpoint of step {step}; it has {', '.join(map(str, kept))}")
        latest = kept[step], read_state(kept[step])
    return settings.load(TrainConfig, folder.config), *latest


def load_run(path: Path, step: int | None = None) -> tuple[Objective, TrainConfig, TrainState]:
    """The objective with the weights of a run's newest checkpoint, its configuration and its place in training.

    Args:
        path: folder of the run.
        step: the checkpoint to take instead of the newest.

    Raises:
        InputError: there is no run, or it has no such checkpoint.
    """
    config, checkpoint, state = open_run(path, step)
    model = build_objective(config.objective, config.encoder)
    load_model(checkpoint, model)
    return model.eval(), config, state


def begin(folder: RunFolder, config: TrainConfig) -> None:
    """Make the folder and write the resolved configuration.

    Raises:
        InputError: the folder cannot be written.
    """
    with writing(folder.config) as aside:
        aside.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """:func:`curation.base.files.atomic`, for a path that the user gave.

    Raises:
        InputError: the folder cannot be made or written.
    """
    try:
        with atomic(path) as aside:
            yield aside
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); give another --out") from None
    except PermissionError:
        raise InputError(f"{path}: cannot be written; give another --out") from None
