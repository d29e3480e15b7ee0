"""Nearest neighbours while a run trains: the figures of the command afterwards, whoever computes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from imagery import MakeShards, encode, picture
from small_run import Quiet, assert_equal, config
from team import ended, said, start_team

from curation.base.errors import InputError
from pretrain.cli import main
from pretrain.evaluate.watch import neighbours
from pretrain.train import train


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(40):
        path = tmp_path / "images" / ("waves", "night", "noon")[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image" if number == 7 else encode(picture(number, 40, 40) // (1 + number % 3), "png"))
    return tmp_path / "images"


def test_the_run_says_what_the_command_says(
    make_shards: MakeShards, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = make_shards([12])
    asked = config(shards, knn={"data": str(images), "every": 4, "k": 3})
    train(asked, tmp_path / "run", Quiet(), watch=neighbours(asked))
    told = [json.loads(line) for line in (tmp_path / "run" / "knn.jsonl").read_text().splitlines()]
    assert [record["step"] for record in told] == [4, 8, 9]
    train(config(shards), tmp_path / "unwatched", Quiet())
    assert_equal(tmp_path / "run", tmp_path / "unwatched")
    out = tmp_path / "found.json"
    command = ["evaluate", "--run", str(tmp_path / "run"), "--data", str(images), "--k", "3", "--solver", "none"]
    assert main([*command, "--out", str(out)]) == 0
    answer = json.loads(out.read_text())["encoders"][0]["answers"]["kNN 3"]
    assert told[-1]["knn_3"] == pytest.approx(answer["accuracy"]["mean"], abs=1e-4)
    assert told[-1]["knn_images"] == len(answer["guesses"])


@pytest.mark.slow
def test_two_processes_say_what_one_says(make_shards: MakeShards, images: Path, tmp_path: Path) -> None:
    asked = config(
        make_shards([12]), epochs=1, knn={"data": str(images), "k": 3}, optim={"base_lr": 1e-12, "warmup_epochs": 0}
    )
    for world in (1, 2):
        out = tmp_path / f"of-{world}" / "run"
        assert ended(start_team(world, asked, out)) == [0] * world, said(out, 0)
    one, two = ((tmp_path / f"of-{world}" / "run" / "knn.jsonl").read_text() for world in (1, 2))
    assert one == two
    assert json.loads(one)["knn_images"] == 20  # 21 in the test part, one of which cannot be read


def test_processes_share_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process r of three holds rows r, r + 3, ...: seven rows come back in their order."""
    from pretrain import distributed

    rows = torch.arange(14.0).view(7, 2)

    def gather(into: list[torch.Tensor], own: torch.Tensor, **_: Any) -> None:
        for rank, each in enumerate(into):
            each.zero_()[: len(rows[rank::3])] = rows[rank::3]
        assert torch.equal(into[1], own)

    monkeypatch.setattr(distributed.dist, "all_gather", gather)
    team = distributed.Team(1, 3, 3, torch.device("cpu"))
    assert torch.equal(distributed.interleaved(rows[1::3], 7, team), rows)


def test_more_neighbours_than_images_are_refused(make_shards: MakeShards, images: Path) -> None:
    with pytest.raises(InputError, match="knn.k: 30 is more than the 19 images to train on"):
        neighbours(config(make_shards([12]), knn={"data": str(images), "k": 30}))
