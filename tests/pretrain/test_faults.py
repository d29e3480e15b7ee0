"""What goes wrong in a run of weeks: told in one line, the last checkpoint good, and gone on from exactly."""

from __future__ import annotations

import json
import random
import resource
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from imagery import MakeShards
from safetensors.torch import load_file, save_file
from small_run import Quiet, assert_equal, config, settings
from test_train import start

from curation.base.errors import InputError, WorkError
from pretrain.cli import main
from pretrain.log import Log
from pretrain.train import train


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def test_shards_of_another_format_are_refused(
    make_shards: MakeShards, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = make_shards([8])
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(settings(shards)))
    table = pq.read_table(shards / "index.parquet")
    metadata = {**table.schema.metadata, b"rscorpus.version": b"99"}
    pq.write_table(table.replace_schema_metadata(metadata), shards / "index.parquet")
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert f"{shards / 'index.parquet'}: " in told
    assert "version 99" in told
    assert main(["train", str(path), f"data.shards={tmp_path / 'nowhere'}", "--out", str(tmp_path / "run")]) == 2
    assert f"{tmp_path / 'nowhere'}" in capsys.readouterr().err


def test_another_objective_is_no_resumption(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = make_shards([8])
    train(config(shards, epochs=1), tmp_path / "run", Quiet())
    other = config(
        shards, epochs=2, objective={"name": "mae", "decoder_depth": 1, "decoder_dim": 16, "decoder_heads": 2}
    )
    with pytest.raises(InputError, match=r"objective.name: 'selective_mae' -> 'mae'"):
        train(other, tmp_path / "run", Quiet(), resume=True)


@pytest.mark.parametrize("file", ["model", "optimizer"])
def test_a_checkpoint_that_is_not_finite_is_refused(make_shards: MakeShards, tmp_path: Path, file: str) -> None:
    """As a disk or memory at fault may leave it."""
    shards, out = make_shards([12]), tmp_path / "run"
    train(config(shards, epochs=2), out, Quiet())
    path = out / "checkpoints" / "step-00000006" / f"{file}.safetensors"
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    tensors[name][1, 1] = torch.nan
    save_file(tensors, path)
    longer = config(shards, epochs=3)
    with pytest.raises(
        InputError, match=r"step-00000006: holds weights or moments that are not finite; delete .*00006"
    ):
        train(longer, out, Quiet(), resume=True)


def test_a_full_disk_ends_the_run_with_its_last_checkpoint(make_shards: MakeShards, tmp_path: Path) -> None:
    """Files of more than 20 kB cannot be written while the second checkpoint is."""
    shards, out = make_shards([12]), tmp_path / "run"
    asked = config(shards, epochs=40, save_every=3, keep_checkpoints=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Filled(Quiet):
        def say(self, text: str) -> None:
            super().say(text)
            if text.startswith("going on"):
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    train(config(shards, epochs=1, save_every=3), out, Quiet())
    try:
        with pytest.raises(WorkError, match=r"a checkpoint cannot be written .*make room, and --resume goes on"):
            train(asked, out, Filled(), resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints(out) == ["step-00000003"]
    lines = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert lines[-1] < 30  # told soon after it was known, not at the end


def last_logged(out: Path) -> int:
    return max((record["step"] for record in Log(out / "log.jsonl").records()), default=0)


@pytest.mark.soak
def test_killed_at_any_step_a_run_ends_with_the_same_losses(make_shards: MakeShards, tmp_path: Path) -> None:
    """Killed with -9 again and again, at steps and moments that a seed draws, also while a checkpoint is written."""
    shards, out, drawn = make_shards([12, 12]), tmp_path / "torn" / "run", random.Random(5)
    out.parent.mkdir()
    changes = {"epochs": 20, "save_every": 3, "log_every": 1}
    train(config(shards, **changes), tmp_path / "whole", Quiet())
    kills = 0
    for _ in range(200):
        until = last_logged(out) + drawn.randint(1, 15)
        process = start(shards, out, **changes)
        while process.poll() is None and last_logged(out) < until:
            time.sleep(0.002)
        time.sleep(drawn.uniform(0, 0.05))
        process.kill()
        process.communicate()
        kills += process.returncode == -9
        if process.returncode == 0:
            break
    assert kills > 3
    assert_equal(tmp_path / "whole", out)
    whole, torn = (
        [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "whole", out)
    )
    assert whole == torn
