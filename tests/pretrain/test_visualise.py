"""Pictures: right size, chosen patches framed in the colour of their role, and equal for equal runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from imagery import MakeShards, encode, picture
from PIL import Image
from small_run import Quiet, config

from curation.base.errors import InputError
from pretrain.models.output import Output
from pretrain.train import train
from pretrain.visualise import ADDED, SEED, TARGET, draw_run, mark, write_picture


def test_patches_are_framed_by_their_role() -> None:
    images = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    output = Output(torch.zeros(1), torch.zeros(1), torch.tensor([[0, 5]]), torch.tensor([[10]]))
    marked = mark(images, output, grid=4, seeds=1)[0].permute(1, 2, 0)
    assert tuple(marked[0, 0].tolist()) == SEED
    assert tuple(marked[4, 4].tolist()) == ADDED
    assert tuple(marked[8, 8].tolist()) == TARGET
    assert marked[1, 1].tolist() == marked[5, 5].tolist() == [100] * 3  # seen as they are
    assert marked[9, 9].tolist() == marked[15, 15].tolist() == [30] * 3  # unseen ones are darkened


@pytest.mark.parametrize("objective", ["mae", "selective_mae"])
def test_a_run_is_drawn(make_shards: MakeShards, tmp_path: Path, objective: str) -> None:
    small = {"name": objective, "mask_ratio": 0.75, "decoder_depth": 1, "decoder_dim": 16, "decoder_heads": 2}
    shards = make_shards([8], broken={0: {1}})
    changes = {"objective": small, "epochs": 1, "data": {"max_unreadable": 1.0}}
    train(config(shards, **changes), tmp_path / "run", Quiet())
    sheet = draw_run(tmp_path / "run", 3)
    assert np.array_equal(np.asarray(sheet), np.asarray(draw_run(tmp_path / "run", 3)))
    write_picture(sheet, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as written:
        assert written.size == sheet.size
    (tmp_path / "own.png").write_bytes(encode(picture(1, 70, 50), "png"))
    own = draw_run(tmp_path / "run", 3, files=[tmp_path / "own.png"])
    assert own.height < sheet.height
    with pytest.raises(InputError, match=r"gone.png"):
        draw_run(tmp_path / "run", 1, files=[tmp_path / "gone.png"])
