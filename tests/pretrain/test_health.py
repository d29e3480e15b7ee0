"""No checkpoint that is not finite, by no process; unreadable samples are counted over all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from math import inf
from pathlib import Path

import pytest
import torch
from imagery import MakeShards
from safetensors.torch import load_file
from small_run import Quiet, assert_equal, config, settings
from torch import Tensor

from curation.base.errors import WorkError
from pretrain import train as room
from pretrain.models import Objective, build_objective
from pretrain.train import train

CHANGES = {"epochs": 3, "max_batch_per_gpu": 2, "save_every": 2, "log_every": 100}
"""Nine steps of two micro-batches each; the log does not look before the checkpoints do."""


def saved(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def all_finite(out: Path) -> bool:
    files = (out / "checkpoints").rglob("*.safetensors")
    return all(bool(tensor.isfinite().all()) for file in files for tensor in load_file(file).values())


def bad_gradient(value: float, micro_batch: int) -> Callable[[Objective], None]:
    """One weight's gradient becomes ``value`` in one micro-batch, counted from 1."""

    def break_it(model: Objective) -> None:
        calls = count(1)

        def hook(gradient: Tensor) -> Tensor | None:
            return torch.full_like(gradient, value) if next(calls) == micro_batch else None

        model.encoder.blocks[0].mlp.fc1.weight.register_hook(hook)

    return break_it


def bad_loss(micro_batch: int) -> Callable[[Objective], None]:
    """The loss becomes infinite in one micro-batch, its gradient does not."""

    def break_it(model: Objective) -> None:
        calls = count(1)

        def hook(module: object, inputs: object, output: object) -> object | None:
            if next(calls) != micro_batch:
                return None
            return output._replace(loss_per_sample=output.loss_per_sample + inf)

        model.register_forward_hook(hook)

    return break_it


@pytest.mark.parametrize(
    ("fault", "clip"),
    [
        (bad_gradient(inf, 7), 1.0),  # the first micro-batch of step 4, when a checkpoint is due
        (bad_gradient(inf, 8), None),
        (bad_gradient(float("nan"), 6), 1.0),  # of the step before
        (bad_gradient(1e30, 7), None),  # its square overflows: the weights stay finite, the second moment does not
        (bad_loss(7), 1.0),
    ],
    ids=["first", "last", "earlier", "overflow", "loss"],
)
def test_a_diverged_run_says_so_and_keeps_its_last_good_checkpoint(
    make_shards: MakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable, clip: float | None
) -> None:
    optim = {"base_lr": 0.01, "warmup_epochs": 1, "clip_grad": clip}
    asked = config(make_shards([12]), **CHANGES, optim=optim)

    def build(*arguments: object) -> Objective:
        model = build_objective(*arguments)
        fault(model)
        return model

    monkeypatch.setattr(room, "build_objective", build)
    with pytest.raises(WorkError, match=r"no longer finite at step 4.*--resume goes back to step 2; .*another --out"):
        train(asked, tmp_path / "run", Quiet())
    assert saved(tmp_path / "run") == ["step-00000002"]
    assert all_finite(tmp_path / "run")
    monkeypatch.undo()
    assert train(asked, tmp_path / "run", Quiet(), resume=True).finished
    train(asked, tmp_path / "whole", Quiet())
    assert_equal(tmp_path / "whole", tmp_path / "run")


def test_a_rate_that_is_too_high_is_found_by_the_log(make_shards: MakeShards, tmp_path: Path) -> None:
    wild = config(make_shards([8]), epochs=30, save_every=1, optim={"base_lr": 1e30, "warmup_epochs": 0})
    with pytest.raises(WorkError, match=r"the loss became .*lower optim.base_lr .*start in another --out"):
        train(wild, tmp_path / "run", Quiet())
    assert all_finite(tmp_path / "run")


DRIVER = """
import os, sys
from math import inf
from pretrain import train
from pretrain.cli import main

real = train.build_optimizer

def build(*arguments):
    optimizer = real(*arguments)
    def spoil(optimizer, *_):
        state = next(iter(optimizer.state.values()))
        if state["step"] == 6:
            state["exp_avg"].fill_(inf)
    if os.environ["RANK"] == "1":
        optimizer.register_step_post_hook(spoil)
    return optimizer

train.build_optimizer = build
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_agree_on_what_is_sound_and_what_is_unreadable(make_shards: MakeShards, tmp_path: Path) -> None:
    """A moment of the second process alone becomes infinite at step 6; each process meets broken samples."""
    shards = make_shards([12, 12], broken={0: {1, 5}, 1: {2, 7}})
    changes = {"epochs": 3, "global_batch": 6, "save_every": 3, "log_every": 2, "data": {"max_unreadable": 0.2}}
    (tmp_path / "config.yaml").write_text(json.dumps(settings(shards, **changes)))
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(tmp_path / "driver.py"), "train", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "team"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode != 0
    assert "no longer finite at step 6" in done.stderr
    assert saved(tmp_path / "team") == ["step-00000003"]
    assert all_finite(tmp_path / "team")
    records = [json.loads(line) for line in (tmp_path / "team" / "log.jsonl").read_text().splitlines()]
    assert [(record["step"], record["unreadable"]) for record in records][1:] == [(4, 4), (6, 4)]  # an epoch, and more
    assert done.stdout.count("unreadable: sample") >= 4
