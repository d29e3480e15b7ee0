"""What is not finite changes nothing and is not saved, by no process; unreadable samples are counted over all."""

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
from pretrain.data.order import epoch_order
from pretrain.models import Objective, build_objective
from pretrain.train import train


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
    """One sample's loss becomes infinite in one micro-batch, its gradient does not."""

    def break_it(model: Objective) -> None:
        calls = count(1)

        def hook(module: object, inputs: object, output: object) -> object | None:
            if next(calls) != micro_batch:
                return None
            return output._replace(loss_per_sample=output.loss_per_sample + torch.tensor([0, inf]))

        model.register_forward_hook(hook)

    return break_it


def build_with(fault: Callable[[Objective], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*arguments: object) -> Objective:
        model = build_objective(*arguments)
        fault(model)
        return model

    monkeypatch.setattr(room, "build_objective", build)


@pytest.mark.parametrize(
    ("fault", "clip"),
    [
        (bad_gradient(inf, 7), 1.0),  # the first micro-batch of step 4
        (bad_gradient(inf, 8), None),
        (bad_gradient(float("nan"), 7), 1.0),
        (bad_gradient(1e30, 7), None),  # its square overflows, which would spoil the second moment
        (bad_loss(8), 1.0),
    ],
    ids=["first", "last", "nan", "overflow", "loss"],
)
def test_a_step_that_is_not_finite_changes_nothing_and_is_told(
    make_shards: MakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable, clip: float | None
) -> None:
    """Step 4 of four: weights, moments and their counts stay those after step 3, bit for bit."""
    optim = {"base_lr": 0.01, "warmup_epochs": 0, "clip_grad": clip}
    changes = {"epochs": 1, "global_batch": 3, "max_batch_per_gpu": 2, "save_every": 1, "keep_checkpoints": 9,
               "optim": optim}  # fmt: skip
    out, told = tmp_path / "run", Quiet()
    build_with(fault, monkeypatch)
    assert train(config(make_shards([12]), **changes), out, told).finished
    two, three, four = (load_checkpoint(out, step) for step in (2, 3, 4))
    assert all(torch.equal(three[key], four[key]) for key in four)
    assert not all(torch.equal(two[key], three[key]) for key in four)
    (line,) = [line for line in told.said if line.startswith("not finite: step 4 changed nothing, for ")]
    (record,) = (json.loads(line) for line in (out / "nonfinite.jsonl").read_text().splitlines())
    (window,) = epoch_order([12], seed=3, epoch=0, window=2)
    assert record["step"] == 4
    assert sorted(sample_id for sample_id, _ in record["batch"]) == sorted(window.permutation[9:])
    if "the loss of" in line:
        (bad,) = record["losses"]
        assert line.endswith(f"sample {bad} (t-000000.tar, sample {bad})")
    assert [json.loads(line)["skipped"] for line in (out / "log.jsonl").read_text().splitlines()] == [0, 1]


def load_checkpoint(out: Path, step: int) -> dict[str, Tensor]:
    folder = out / "checkpoints" / f"step-{step:08d}"
    return load_file(folder / "model.safetensors") | load_file(folder / "optimizer.safetensors")


def test_too_many_such_steps_stop_the_run_with_its_last_good_checkpoint(
    make_shards: MakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 3 on nothing is finite: told with the log of step 4, too many with that of step 6, nothing saved."""
    asked = config(make_shards([12]), epochs=3, save_every=1, log_every=2, max_nonfinite=3)
    build_with(every_gradient_from(3), monkeypatch)
    with pytest.raises(WorkError, match=r"^4 steps were not finite .*max_nonfinite=3 .*goes back to step 2; .*another"):
        train(asked, tmp_path / "run", Quiet())
    assert saved(tmp_path / "run") == ["step-00000001", "step-00000002"]
    monkeypatch.undo()
    assert train(asked, tmp_path / "run", Quiet(), resume=True).finished
    train(asked, tmp_path / "whole", Quiet())
    assert_equal(tmp_path / "whole", tmp_path / "run")
    assert (tmp_path / "run" / "nonfinite.jsonl").read_text() == ""


def every_gradient_from(micro_batch: int) -> Callable[[Objective], None]:
    def break_it(model: Objective) -> None:
        calls = count(1)
        bias = model.encoder.blocks[0].mlp.fc1.bias
        bias.register_hook(lambda gradient: gradient / 0 if next(calls) >= micro_batch else None)

    return break_it


def test_weights_that_are_not_finite_are_never_saved(
    make_shards: MakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate makes infinite weights out of finite gradients."""
    asked = config(make_shards([12]), epochs=3, save_every=2, max_nonfinite=99)

    def overflow(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if next(iter(optimizer.state.values()))["step"] == 4:
            optimizer.param_groups[0]["params"][0].data.fill_(inf)

    def build_optimizer(*arguments: object) -> torch.optim.Optimizer:
        optimizer = real(*arguments)
        optimizer.register_step_post_hook(overflow)
        return optimizer

    real = room.build_optimizer
    monkeypatch.setattr(room, "build_optimizer", build_optimizer)
    with pytest.raises(WorkError, match=r"no longer finite at step 4.*--resume goes back to step 2; .*another --out"):
        train(asked, tmp_path / "run", Quiet())
    assert saved(tmp_path / "run") == ["step-00000002"]
    assert all_finite(tmp_path / "run")


def test_a_rate_that_is_too_high_ends_the_run(make_shards: MakeShards, tmp_path: Path) -> None:
    optim = {"base_lr": 1e30, "warmup_epochs": 0}
    wild = config(make_shards([8]), epochs=30, save_every=1, max_nonfinite=0, optim=optim)
    with pytest.raises(WorkError, match=r"not finite .*lower optim.base_lr .*start in another --out"):
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
