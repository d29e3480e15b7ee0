"""The loop on real files: killed and resumed to the same bits, finished once, and clear about what it will not do."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from imagery import MakeShards
from small_run import ENCODER, SMALL, Quiet, assert_equal, config, settings, weights

from curation.base.errors import InputError, WorkError
from pretrain.train import train


def test_a_run_makes_what_it_says(make_shards: MakeShards, tmp_path: Path) -> None:
    out, told = tmp_path / "run", Quiet()
    result = train(config(make_shards([7, 6]), picture_every=4, epochs=2, save_every=2), out, told)
    assert (result.step, result.total_steps, result.finished) == (6, 6, True)
    assert "steps: 6 = 2 epochs of 3; last batch of each epoch: drop (1 samples)" in told.said
    assert any(line.startswith("warning: 13 samples are too few to learn") for line in told.said)
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4, 6]
    assert records[0].keys() == {
        "step", "epoch", "loss", "lr", "grad_norm", "samples_per_s", "data_wait", "mfu", "memory_mib", "time",
        "skipped", "unreadable",
    }  # fmt: skip
    assert all(0 <= record["data_wait"] <= 1 and record["memory_mib"] > 50 for record in records)
    assert [record["mfu"] for record in records] == [None] * 3  # nobody knows the peak of a CPU
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    assert sorted(path.name for path in (out / "pictures").iterdir()) == ["step-00000004.png", "step-00000006.png"]


def test_a_finished_run_is_left_alone(make_shards: MakeShards, tmp_path: Path) -> None:
    shards, out = make_shards([8]), tmp_path / "run"
    train(config(shards, epochs=1), out, Quiet())
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}
    for resume in (False, True):
        assert not train(config(shards, epochs=1, log_every=7), out, Quiet(), resume=resume).worked
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"} == before
    with pytest.raises(InputError, match=r"unfinished run \(step 2 of 4\); add --resume"):
        train(config(shards, epochs=2), out, Quiet())
    with pytest.raises(InputError, match="data.augment.vflip: 0.0 -> 1.0"):
        train(config(shards, epochs=1, data={"augment": {"vflip": 1}}), out, Quiet(), resume=True)
    with pytest.raises(InputError, match="data.shards holds other data"):
        train(config(make_shards([9], name="other"), epochs=1), out, Quiet())


def test_a_finished_run_may_be_made_longer(make_shards: MakeShards, tmp_path: Path) -> None:
    """Under a cosine from its end, by the rates of the longer run; under a constant rate as if it had never ended."""
    shards, told = make_shards([8]), Quiet()
    train(config(shards, epochs=2), tmp_path / "cosine", Quiet())
    with pytest.raises(InputError, match="epochs: 2 -> 1"):
        train(config(shards, epochs=1), tmp_path / "cosine", Quiet(), resume=True)
    longer = train(config(shards, epochs=4), tmp_path / "cosine", told, resume=True)
    assert (longer.step, longer.finished, longer.worked) == (8, True, True)
    assert "going on from step 4" in told.said
    steady = {"base_lr": 0.01, "warmup_epochs": 1, "decay_epochs": 1, "clip_grad": 1.0}
    train(config(shards, epochs=2, optim=steady, keep_checkpoints=1), tmp_path / "steady", Quiet())
    assert train(config(shards, epochs=4, optim=steady, save_every=2), tmp_path / "steady", told, resume=True).finished
    assert told.said[-1] == "going on from step 2"
    train(config(shards, epochs=4, optim=steady), tmp_path / "whole", Quiet())
    assert_equal(tmp_path / "whole", tmp_path / "steady")
    rates = [json.loads(line)["lr"] for line in (tmp_path / "steady" / "log.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([0.01 * 4 / 256 * share for share in (0.5, 1, 1, 0.5)])


def test_objectives_learn(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = make_shards([16, 16], side=(64, 64))
    learned = config(
        shards, epochs=12, global_batch=8, optim={"base_lr": 0.1, "warmup_epochs": 2},
        encoder={"name": "vit_tiny_patch16_224", "args": ENCODER["args"] | {"patch_size": 4, "embed_dim": 48}},
        objective={"name": "mae", "norm_pix": False, **SMALL, "decoder_dim": 48},
    )  # fmt: skip
    train(learned, tmp_path / "run", Quiet())
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.6 * losses[0]


def start(shards: Path, out: Path, **changes: Any) -> subprocess.Popen[str]:
    path = out.parent / "config.yaml"
    path.write_text(json.dumps(settings(shards, **changes)))
    command = [sys.executable, "-m", "pretrain", "train", str(path), "--out", str(out), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300  # a process takes minutes to start where many run
    while not list(folder.glob("checkpoints/step-*/state.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_and_resumed_gives_the_same_bits(make_shards: MakeShards, tmp_path: Path) -> None:
    """Killed with -9, stopped with SIGTERM, resumed with other workers: losses, weights, moments are a single run's."""
    shards = make_shards([12, 12])
    dropping = ENCODER | {"args": ENCODER["args"] | {"proj_drop_rate": 0.1}}
    changes = {"epochs": 25, "save_every": 7, "log_every": 1, "encoder": dropping}
    train(config(shards, **changes), tmp_path / "whole", Quiet())
    torn = tmp_path / "torn"
    killed = start(shards, torn, **changes)
    wait_for(torn, killed)
    killed.kill()
    killed.communicate()
    assert not (torn / "checkpoints" / "step-00000150").exists(), "it was to be killed before its end"
    again = start(shards, torn, **changes, data={"workers": 1})
    if starts_stepping(again, torn):
        again.send_signal(signal.SIGTERM)
    _, errors = again.communicate(timeout=300)
    assert again.returncode in (0, 143), errors
    assert train(config(shards, **changes), torn, Quiet(), resume=True).finished
    assert_equal(tmp_path / "whole", torn)
    assert logged(torn, "step") == list(range(1, 151))
    assert logged(torn, "loss") == logged(tmp_path / "whole", "loss")


def logged(out: Path, field: str) -> list[Any]:
    return [json.loads(line)[field] for line in (out / "log.jsonl").read_text().splitlines()]


def test_garbage_is_collected_at_log_steps_alone(make_shards: MakeShards, tmp_path: Path) -> None:
    begun: list[str] = []
    collected: list[int] = []

    def collect(phase: str, told: dict[str, int]) -> None:
        if phase == "start":
            collected.append(begun.count("between"))

    gc.callbacks.append(collect)
    try:
        train(config(make_shards([12]), epochs=2, log_every=3), tmp_path / "run", Quiet(), mark=begun.append)
    finally:
        gc.callbacks.remove(collect)
    assert set(collected) - {0} == {3, 6}


def starts_stepping(process: subprocess.Popen[str], out: Path) -> bool:
    """Wait until the resumed process has logged a step of its own, or has ended."""
    before = (out / "log.jsonl").stat().st_size if (out / "log.jsonl").exists() else 0
    while process.poll() is None:
        if (out / "log.jsonl").stat().st_size > before:
            return True
        time.sleep(0.005)
    return False


def test_a_run_holds_its_folder_alone_and_saves_at_sigterm(make_shards: MakeShards, tmp_path: Path) -> None:
    shards, out = make_shards([12]), tmp_path / "run"
    process = start(shards, out, epochs=100_000, save_every=10**6, optim={"warmup_epochs": 0})
    while not (out / "log.jsonl").exists() or not (out / "log.jsonl").stat().st_size:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    with pytest.raises(InputError, match="in use by another run"):
        train(config(shards), out, Quiet(), resume=True)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143
    assert "stopped and saved at step" in errors
    assert len(list(out.glob("checkpoints/step-*"))) == 1


def test_an_unfinished_run_wants_resume(make_shards: MakeShards, tmp_path: Path) -> None:
    shards, out = make_shards([8]), tmp_path / "run"
    train(config(shards, epochs=2, save_every=1, keep_checkpoints=9), out, Quiet())
    for newest in sorted((out / "checkpoints").iterdir())[3:]:
        for path in newest.iterdir():
            path.unlink()
        newest.rmdir()
    with pytest.raises(InputError, match=r"unfinished run \(step 3 of 4\); add --resume"):
        train(config(shards, epochs=2), out, Quiet())
    with pytest.raises(InputError, match=r"optim.base_lr: 0.01 -> 0.5\); restore"):
        optim = {"base_lr": 0.5, "warmup_epochs": 1, "clip_grad": 1.0}
        train(config(shards, epochs=2, optim=optim), out, Quiet(), resume=True)
    assert train(config(shards, epochs=2), out, Quiet(), resume=True).finished


def test_recomputed_blocks_give_the_same_bits(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = make_shards([8])
    train(config(shards), tmp_path / "whole", Quiet())
    train(config(shards, save_every=4), tmp_path / "run", Quiet())
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000006")
    assert train(config(shards, grad_checkpointing=True), tmp_path / "run", Quiet(), resume=True).finished
    assert_equal(tmp_path / "whole", tmp_path / "run")


def test_micro_batches_add_up(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = make_shards([12])
    for name, micro in (("one", 256), ("many", 3)):
        train(config(shards, epochs=1, global_batch=12, max_batch_per_gpu=micro), tmp_path / name, Quiet())
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    for key in one:
        torch.testing.assert_close(one[key], many[key], rtol=1e-4, atol=1e-5)


@pytest.mark.soak
def test_two_processes_take_the_steps_of_one(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = make_shards([12, 12])
    changes = {"epochs": 2, "global_batch": 6, "optim": {"base_lr": 0.01, "warmup_epochs": 0}}
    train(config(shards, **changes), tmp_path / "alone", Quiet())
    (tmp_path / "config.yaml").write_text(json.dumps(settings(shards, **changes)))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pretrain", "train",
        str(tmp_path / "config.yaml"), "--out", str(tmp_path / "team"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    alone, team = weights(tmp_path / "alone"), weights(tmp_path / "team")
    for key in alone:
        torch.testing.assert_close(alone[key], team[key], rtol=1e-3, atol=1e-4)
    assert done.stdout.count("steps: 8") == 1  # only the first process speaks


def test_too_many_unreadable_samples_stop_the_run(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = make_shards([20], broken={0: {1, 2}})
    told = Quiet()
    lenient = config(shards, epochs=2, data={"max_unreadable": 0.2})
    assert train(lenient, tmp_path / "lenient", told).finished
    assert sum("unreadable: sample" in line for line in told.said) == 2
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "lenient").values())
    with pytest.raises(WorkError, match=r"of 20 samples are unreadable, more than data.max_unreadable=0.001") as told:
        train(config(shards, epochs=2, save_every=1), tmp_path / "strict", Quiet())
    assert "--resume goes on, with a greater data.max_unreadable" in str(told.value)
    assert train(lenient, tmp_path / "strict", Quiet(), resume=True).finished
    assert_equal(tmp_path / "lenient", tmp_path / "strict")


def test_scale_mae_trains_on_gsd_in_spite_of_bad_samples(make_shards: MakeShards, tmp_path: Path) -> None:
    objective = {"name": "scale_mae", **SMALL, "target_size": 128, "fcn_dim": 8}
    changes = {"objective": objective, "epochs": 1, "data": {"max_unreadable": 0.5}}
    train(config(make_shards([8], side=(80, 90), broken={0: {3}}), **changes), tmp_path / "run", Quiet())
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())
    with pytest.raises(InputError, match=r"data.gsd_missing: this objective needs the GSD.*source0 \(8\)"):
        train(config(make_shards([8], side=(80, 90), gsd_m=None, name="no"), **changes), tmp_path / "no", Quiet())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch": 64}, "global_batch: 64 is more than the 8 samples"),
        ({"data": {"groups": 2}}, "data.groups: 2 groups cannot share 1 shards"),
        ({"encoder": {"name": "vit_nonsense"}}, "encoder.name: timm has no model"),
        ({"data": {"max_upsample": 1}, "encoder": {"name": "vit_tiny_patch16_224"}}, "none of 8 samples can be used"),
    ],
)
def test_what_does_not_fit_is_named(make_shards: MakeShards, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(config(make_shards([8]), **changes), tmp_path / "run", Quiet())
    assert not (tmp_path / "run" / "config.yaml").exists()  # a mistake leaves no run behind
