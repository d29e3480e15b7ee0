"""Processes that train together: as many as there are, the same losses; what ends one ends all, with a reason."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from imagery import MakeShards
from safetensors.torch import load_file
from small_run import SMALL, assert_equal, config, weights
from team import Prepare, ended, in_double_precision, nothing, said, start_team

from pretrain import checkpoint, distributed, loop
from pretrain import train as room
from pretrain.data.reader import Batch, Request, ShardReader
from pretrain.models import Objective, build_objective

OBJECTIVES: dict[str, dict[str, Any]] = {
    "mae": {"name": "mae", **SMALL},
    "selective_mae": {"name": "selective_mae", "mask_ratio": 0.75, **SMALL},
    "scale_mae": {"name": "scale_mae", **SMALL, "target_size": 128, "fcn_dim": 8},
}


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_to_four_processes_have_the_same_losses(make_shards: MakeShards, tmp_path: Path, name: str) -> None:
    """Twenty steps with unequal shards in two groups, a sample that cannot be read, and rows that four cannot share."""
    shards = make_shards([11, 5, 16], side=(80, 90), broken={0: {3}})
    asked = config(
        shards, objective=OBJECTIVES[name], epochs=4, global_batch=6, max_batch_per_gpu=2, log_every=1, save_every=99,
        data={"groups": 2, "max_unreadable": 0.5}, timeout_minutes=4,
    )  # fmt: skip
    found = {}
    for world in (1, 2, 3, 4):
        out = tmp_path / f"of-{world}" / "run"
        team = start_team(world, asked, out, prepare=in_double_precision)
        assert ended(team) == [0] * world, said(out, 0)
        found[world] = losses(out)
        assert [json.loads(line)["unreadable"] for line in (out / "log.jsonl").read_text().splitlines()][-1] == 1
    assert len(found[1]) == 20
    assert found[1][0] != found[1][-1]
    for world in (2, 3, 4):
        assert found[world] == pytest.approx(found[1], rel=1e-9), world


ENDLESS: dict[str, Any] = {
    "epochs": 100_000, "log_every": 1, "save_every": 2, "optim": {"warmup_epochs": 0}, "timeout_minutes": 4,
}  # fmt: skip


def until(so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 200
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def once_it_trains(out: Path) -> None:
    until(lambda: list(out.glob("checkpoints/step-*/state.json")))


def waiting_for_a_device(rank: int) -> None:
    """The first process stands still in its fourth step, as one does whose GPU waits for another's."""
    distributed._GRACE_SECONDS = 1
    if rank == 0:
        step, calls = loop._step, count(1)
        loop._step = lambda *arguments: step(*arguments) if next(calls) < 4 else time.sleep(10_000)


@pytest.mark.slow
@pytest.mark.parametrize("prepare", [nothing, waiting_for_a_device])
def test_when_a_process_is_killed_the_others_end_within_a_minute(
    make_shards: MakeShards, tmp_path: Path, prepare: Prepare
) -> None:
    out = tmp_path / "team" / "run"
    _, second = team = start_team(2, config(make_shards([12]), **ENDLESS), out, prepare=prepare)
    once_it_trains(out)
    killed = time.monotonic()
    second.kill()
    assert ended(team) == [1, -signal.SIGKILL]
    assert time.monotonic() - killed < 60
    assert "another process of this run has ended" in said(out, 0)
    assert "--resume goes on from the last checkpoint" in said(out, 0)


@pytest.mark.soak
def test_when_a_process_does_not_answer_the_others_end(make_shards: MakeShards, tmp_path: Path) -> None:
    out, shards = tmp_path / "team" / "run", make_shards([12])
    patience = {"timeout_minutes": 0.5, "data": {"retry_seconds": 5}}
    first, second = start_team(2, config(shards, **ENDLESS | patience), out)
    once_it_trains(out)
    os.kill(second.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    assert ended([first]) == [1]
    assert 20 < time.monotonic() - stopped < 90
    assert "did not answer for timeout_minutes" in said(out, 0)
    assert "--resume goes on from the last checkpoint" in said(out, 0)
    second.kill()


@pytest.mark.slow
def test_a_stop_that_one_process_is_asked_for_is_agreed_on(make_shards: MakeShards, tmp_path: Path) -> None:
    out = tmp_path / "team" / "run"
    team = start_team(2, config(make_shards([12]), **ENDLESS | {"log_every": 10**6, "save_every": 3}), out)
    once_it_trains(out)
    os.kill(team[1].pid, signal.SIGTERM)
    assert ended(team) == [143, 143]
    (record,) = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert (out / "checkpoints" / f"step-{record['step']:08d}").is_dir()


def away_from_the_start(rank: int) -> None:
    """The second process waits for a shard in the first step."""
    _away(rank, 1)


def away_from_the_fifth_step(rank: int) -> None:
    """The second process waits for a shard in the fifth step."""
    _away(rank, 5)


def away_in_the_last_step(rank: int) -> None:
    """The sixth; the second process waits for a shard."""
    _away(rank, 6)


def asked_before_it_is_away(rank: int) -> None:
    """The first process is asked to stop in its fourth step, in the next the second waits for a shard."""
    _away(rank, 5)
    if rank == 0:
        step, calls = loop._step, count(1)

        def asked(*arguments: Any) -> Any:
            if next(calls) == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(*arguments)

        loop._step = asked


def _away(rank: int, first: int) -> None:
    if rank == 1:
        serve, calls = ShardReader.serve, count(1)

        def gone(reader: ShardReader, request: Request) -> Batch:
            if next(calls) >= first:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", "t-000000.tar")
            return serve(reader, request)

        ShardReader.serve = gone  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepare", "told", "done"),
    [
        (away_from_the_start, 0, 0),
        (away_from_the_fifth_step, 0, 4),
        (away_in_the_last_step, 1, 5),
        (asked_before_it_is_away, None, 4),
    ],
)
def test_a_stop_while_one_process_waits_for_a_shard_comes_within_seconds(
    make_shards: MakeShards, tmp_path: Path, prepare: Prepare, told: int | None, done: int
) -> None:
    """Whoever is told, also one that stands in an exchange of gradients; gone on from, it ends as if nothing was."""
    asked = config(make_shards([12]), epochs=2, log_every=1, save_every=99, data={"retry_seconds": 200})
    out = tmp_path / "torn" / "run"
    team = start_team(2, asked, out, prepare=prepare)
    until(lambda: "trying again for 200 s" in said(out, 1))
    began = time.monotonic()
    if told is not None:
        os.kill(team[told].pid, signal.SIGTERM)
    assert ended(team) == [143, 143], said(out, 0)
    assert time.monotonic() - began < 30
    assert [path.name for path in out.glob("checkpoints/*")] == ([f"step-{done:08d}"] if done else [])
    assert len(losses(out)) == done
    assert "not finite" not in said(out, 0)
    assert ended(start_team(2, asked, out, resume=True)) == [0, 0], said(out, 0)
    assert ended(start_team(2, asked, tmp_path / "whole" / "run")) == [0, 0]
    assert_equal(out, tmp_path / "whole" / "run")
    assert losses(out) == losses(tmp_path / "whole" / "run")


@pytest.mark.slow
def test_three_processes_go_on_with_the_bits_of_an_unbroken_run(make_shards: MakeShards, tmp_path: Path) -> None:
    """A sum of three depends on how gradients are laid out, and DistributedDataParallel does that after a pass."""
    whole, torn = (tmp_path / name / "run" for name in ("whole", "torn"))
    asked = config(
        make_shards([14, 14]), epochs=2, global_batch=7, max_batch_per_gpu=2, log_every=1, save_every=4,
        keep_checkpoints=2,
    )  # fmt: skip
    assert ended(start_team(3, asked, whole)) == [0] * 3, said(whole, 0)
    shutil.copytree(whole, torn)
    shutil.rmtree(torn / "checkpoints" / "step-00000008")
    assert ended(start_team(3, asked, torn, resume=True)) == [0] * 3, said(torn, 0)
    assert "going on from step 4" in said(torn, 0)
    assert losses(torn) == losses(whole)
    assert_equal(torn, whole)


def ten_seconds_without_a_shard(rank: int) -> None:
    """Of the second process, from its third step on."""
    serve, calls = ShardReader.serve, count(1)
    back: list[float] = []

    def gone(reader: ShardReader, request: Request) -> Batch:
        if next(calls) >= 3 and rank == 1:
            back.append(time.monotonic() + 10)
            if time.monotonic() < back[0]:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", "t-000000.tar")
        return serve(reader, request)

    ShardReader.serve = gone  # type: ignore[method-assign]


@pytest.mark.slow
def test_a_shard_that_one_process_lacks_for_ten_seconds_costs_ten_seconds(
    make_shards: MakeShards, tmp_path: Path
) -> None:
    asked = config(make_shards([12]), log_every=1, epochs=2)
    for name, prepare in (("whole", nothing), ("torn", ten_seconds_without_a_shard)):
        out = tmp_path / name / "run"
        assert ended(start_team(2, asked, out, prepare=prepare)) == [0, 0], said(out, 1)
        assert ("trying again for 120 s" in said(out, 1)) is (name == "torn")
    assert_equal(tmp_path / "whole" / "run", tmp_path / "torn" / "run")
    assert losses(tmp_path / "whole" / "run") == losses(tmp_path / "torn" / "run")


def a_disk_that_fills(rank: int) -> None:
    """The first process can write no file of more than 20 kB once it has written its first checkpoint."""
    save = checkpoint.save

    def filled(*arguments: Any, **options: Any) -> Path:
        path = save(*arguments, **options)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return path

    checkpoint.save = filled


@pytest.mark.slow
def test_a_full_disk_ends_all_processes_with_the_last_checkpoint(make_shards: MakeShards, tmp_path: Path) -> None:
    out = tmp_path / "team" / "run"
    asked = config(make_shards([12]), **ENDLESS | {"save_every": 3, "log_every": 10**6})
    assert ended(start_team(2, asked, out, prepare=a_disk_that_fills)) == [1, 1]
    assert "a checkpoint cannot be written" in said(out, 0) and "make room, and --resume goes on" in said(out, 0)
    assert "the first process could not write a checkpoint; it says why" in said(out, 1)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]


def telling_what_it_draws(rank: int) -> None:
    in_double_precision(rank)
    draw = room.draw_columns

    def told(model: Objective, images: torch.Tensor, *rest: Any) -> Any:
        sys.stderr.write(f"draws {len(images)}\n")
        return draw(model, images, *rest)

    room.draw_columns = told


@pytest.mark.slow
def test_processes_share_a_picture_and_draw_that_of_one(make_shards: MakeShards, tmp_path: Path) -> None:
    """Images 0 to 3 and 5 to 8 of ten, of each its first crop; three processes have 0 to 2, 3 to 5 and 6 to 9."""
    shards = make_shards([12, 8])
    asked = config(shards, epochs=1, global_batch=20, max_batch_per_gpu=6, picture_every=1, data={"crops_per_image": 2})
    drawn = {}
    for world, shares in ((1, [8]), (2, [4, 4]), (3, [3, 2, 3])):
        out = tmp_path / f"of-{world}" / "run"
        assert ended(start_team(world, asked, out, prepare=telling_what_it_draws)) == [0] * world, said(out, 0)
        drawn[world] = {path.name: path.read_bytes() for path in (out / "pictures").iterdir()}
        for rank, share in enumerate(shares):
            assert said(out, rank).count("draws ") == said(out, rank).count(f"draws {share}\n") == 2
    assert len(drawn[1]) == len(set(drawn[1].values())) == 2
    assert drawn[2] == drawn[3] == drawn[1]


def one_infinite_loss(rank: int) -> None:
    """The second process alone has an infinite loss, with a finite gradient, in its fourth step."""
    if rank == 1:
        calls = count(0)  # before the first step there is a pass that weighs nothing

        def hook(module: object, inputs: object, output: Any) -> Any:
            return output._replace(loss_per_sample=output.loss_per_sample + inf) if next(calls) == 4 else None

        def build(*arguments: Any) -> Any:
            model = build_objective(*arguments)
            model.register_forward_hook(hook)
            return model

        room.build_objective = build


@pytest.mark.slow
def test_what_is_not_finite_in_one_process_changes_nothing_in_any(make_shards: MakeShards, tmp_path: Path) -> None:
    """Step 4 of four; the processes hold equal weights then, or the next step would tell."""
    out = tmp_path / "team" / "run"
    asked = config(make_shards([16]), epochs=1, save_every=1, keep_checkpoints=9, optim={"warmup_epochs": 0})
    assert ended(start_team(2, asked, out, prepare=one_infinite_loss)) == [0, 0], said(out, 0)
    three, four = (load_file(out / "checkpoints" / f"step-{step:08d}" / "optimizer.safetensors") for step in (3, 4))
    assert all(torch.equal(three[key], four[key]) for key in three)
    (record,) = [json.loads(line) for line in (out / "nonfinite.jsonl").read_text().splitlines()]
    assert record["step"] == 4
    assert len(record["batch"]) == 4
    assert len(record["losses"]) == 2  # those of the second process


@pytest.mark.slow
def test_divided_moments_give_the_same_checkpoint(make_shards: MakeShards, tmp_path: Path) -> None:
    """Two processes that divide them, two that do not; one goes on alone from what two have divided, and vice versa."""
    shards = make_shards([12])
    for name, divided in (("divided", True), ("whole", False)):
        out, asked = tmp_path / name / "run", config(shards, shard_optimizer=divided, keep_checkpoints=9)
        assert ended(start_team(2, asked, out, prepare=in_double_precision)) == [0, 0], said(out, 0)
    assert_equal(tmp_path / "divided" / "run", tmp_path / "whole" / "run")
    before = weights(tmp_path / "whole" / "run")
    for name, world in (("divided", 1), ("whole", 2)):
        out, asked = tmp_path / name / "run", config(shards, shard_optimizer=name == "whole")
        for step in (6, 9):
            shutil.rmtree(out / "checkpoints" / f"step-{step:08d}")
        team = start_team(world, asked, out, resume=True, prepare=in_double_precision)
        assert ended(team) == [0] * world, said(out, 0)
        assert "going on from step 3" in said(out, 0)
        for key, value in weights(out).items():
            torch.testing.assert_close(value, before[key], rtol=1e-9, atol=1e-12)
