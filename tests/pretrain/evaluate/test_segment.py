"""Segmentation: every pixel once, scores as torchmetrics has them, a head that learns, an encoder that stays."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

from curation.base.errors import InputError
from pretrain import checkpoint
from pretrain.evaluate.encoders import EncoderSpec, VitEncoder, open_encoder
from pretrain.evaluate.masks import UNLABELLED, Masked, MaskSet, open_masks
from pretrain.evaluate.score import bootstrap_classes, confusion, counted, f1, intersection_over_union
from pretrain.evaluate.segment import Segment, Segmented, Segmenter, segment
from pretrain.evaluate.windows import windows
from pretrain.loop import restore

CPU = torch.device("cpu")
ARGS = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
VIT = open_encoder(EncoderSpec(spec="untrained:vit_tiny_patch16_224", args=ARGS))


def write(folder: Path, count: int) -> Masked:
    """Dark images with a bright square of whole patches."""
    rng = np.random.default_rng(0)
    for number in range(count):
        top, left = 8 * rng.integers(0, 4, 2)
        mask = np.zeros((48, 40), np.uint8)
        mask[top : top + 24, left : left + 24] = 255
        rgb = np.where(mask[..., None] > 0, (220, 200, 30), (20, 60, 30)) + rng.integers(0, 20, (48, 40, 3))
        for kind, pixels in (("images", rgb), ("masks", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / kind / f"{number}.png")
    return open_masks(MaskSet(path=folder, classes={0: "ground", 255: "building"}))


@given(height=st.integers(1, 90), width=st.integers(1, 90), side=st.integers(8, 40))
def test_windows_show_every_pixel_once(height: int, width: int, side: int) -> None:
    seen = np.zeros((height, width), int)
    for window in windows(np.array([3]), {3: (height, width, 4)}, side):
        assert window.row == 3
        seen[
            window.top + window.seen_down : window.top + side, window.left + window.seen_across : window.left + side
        ] += 1
    assert (seen == 1).all()


def test_scores_are_those_of_torchmetrics() -> None:
    rng = np.random.default_rng(1)
    truth = rng.choice([0, 1, 2, UNLABELLED], (6, 500))  # class 3 is guessed and never true, class 4 neither
    guesses = np.where(rng.random((6, 500)) < 0.7, truth % UNLABELLED, rng.integers(0, 4, (6, 500)))
    tables = np.stack(
        [confusion(g[t != UNLABELLED], t[t != UNLABELLED], 5) for g, t in zip(guesses, truth, strict=True)]
    )
    answers = torch.tensor(guesses), torch.tensor(truth)
    for ours, theirs in ((intersection_over_union, multiclass_jaccard_index), (f1, multiclass_f1_score)):
        expected = float(theirs(*answers, num_classes=5, average="macro", ignore_index=UNLABELLED))
        interval = bootstrap_classes(counted(tables), ours)
        assert interval.mean == pytest.approx(expected, abs=1e-6)
        assert interval.low < interval.mean < interval.high
        alike = bootstrap_classes(counted(tables), ours, counted(tables))
        assert alike == (0, 0, 0)  # an encoder differs from itself by nothing, whichever images are drawn


@pytest.mark.parametrize("tune", [False, True])
def test_it_learns_and_leaves_the_encoder_as_it_was(tmp_path: Path, tune: bool) -> None:
    data, before = write(tmp_path, 16), VIT.identity
    (tmp_path / "masks" / "3.png").write_bytes(b"no mask")
    answer = segment(VIT, data, Segment(tune=tune, epochs=30, batch=4, rate=1e-2 if not tune else 2e-3), CPU)
    assert answer.scores["mIoU"].mean > 0.75
    assert answer.scores["mF1"].mean > answer.scores["mIoU"].mean  # F1 = 2 IoU / (1 + IoU)
    assert answer.details["losses"][-1] < answer.details["losses"][0] / 2
    assert (answer.unreadable, answer.train_images + answer.test_images) == (["images/3.png"], 15)
    assert np.sum(answer.confusion) == answer.test_images * 48 * 40
    assert VIT.identity == before
    again = Segmented.from_json(answer.as_json())
    assert again == answer
    assert answer.minus(again) == (0, 0, 0)


def test_features_that_memory_does_not_hold_are_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, recipe = write(tmp_path, 8), Segment(epochs=3, batch=4)
    held = segment(VIT, data, recipe, CPU)
    monkeypatch.setattr("pretrain.evaluate.segment.HELD_BYTES", 0)
    again = segment(VIT, data, recipe, CPU, workers=1)
    assert again.details["losses"] == pytest.approx(held.details["losses"], abs=2e-3)  # held in half precision


def test_a_killed_cell_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, recipe = write(tmp_path / "towns", 16), Segment(tune=True, epochs=20, batch=2)
    (tmp_path / "suite.yaml").write_text(json.dumps({
        "encoders": {"vit": {"spec": "untrained:vit_tiny_patch16_224", "args": ARGS}},
        "masks": {"towns": {"path": str(tmp_path / "towns"), "classes": data.values}},
        "protocols": {"heads": recipe.model_dump(mode="json")}, "device": "cpu", "workers": 0,
    }))  # fmt: skip
    whole = segment(VIT, data, recipe, CPU)
    command = [sys.executable, "-m", "pretrain", "evaluate", "suite", str(tmp_path / "suite.yaml")]
    cell = subprocess.Popen([*command, "--out", str(tmp_path / "out")], stdout=subprocess.DEVNULL)
    features = tmp_path / "out" / "features"
    while not list(features.glob("segment-*/checkpoints/step-*/state.json")):
        assert cell.poll() is None
        time.sleep(0.005)
    cell.kill()
    cell.wait()
    (folder,) = features.glob("segment-*")
    reached = checkpoint.read_state(checkpoint.found(folder / "checkpoints")[-1]).step
    assert reached < 20 * 16, "it was to be killed before its end"
    starts = []

    def noting(*arguments: Any) -> int:
        starts.append(restore(*arguments))
        return starts[-1]

    monkeypatch.setattr("pretrain.evaluate.tuning.restore", noting)
    rest = segment(VIT, data, recipe, CPU, folder=folder)
    assert starts == [reached]
    assert (rest.details, rest.confusion) == (whole.details, whole.confusion)
    assert not folder.exists()


def test_what_is_trained(tmp_path: Path) -> None:
    assert isinstance(VIT, VitEncoder)
    frozen, tuned = (Segmenter(VIT, 3, tune=tune) for tune in (False, True))
    assert {name for name, each in frozen.named_parameters() if each.requires_grad} == {
        "probe.1.weight",
        "probe.1.bias",
    }
    assert not any("vit" in name for name in frozen.learned.state_dict())  # checkpoints of a head are small
    fixed = {name for name, each in tuned.named_parameters() if not each.requires_grad}
    assert fixed == {"vit.pos_embed"}  # the sin-cos table
    assert not frozen.train().vit.training
    maps = frozen.maps(torch.zeros(2, 3, 32, 48, dtype=torch.uint8), 1.0)
    assert maps.shape == (2, 24, 4, 6)
    torch.testing.assert_close(
        maps.mean((2, 3)), VIT.features(torch.zeros(2, 3, 32, 48, dtype=torch.uint8), torch.ones(2))
    )


def test_what_cannot_be_segmented_is_told(tmp_path: Path) -> None:
    data = write(tmp_path, 2)
    with pytest.raises(InputError, match="colour histogram: has no features of patches"):
        segment(open_encoder(EncoderSpec(spec="histogram")), data, Segment(), CPU)
    for path in (tmp_path / "masks").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="0 images to train on and 0 .* images/.*: its mask cannot be decoded"):
        segment(VIT, data, Segment(), CPU)


def test_masks_of_other_values_than_the_classes_are_refused(tmp_path: Path) -> None:
    """255 for 1 is the usual slip; means over no class would be no number."""
    write(tmp_path, 2)
    data = open_masks(MaskSet(path=tmp_path, classes={1: "ground", 2: "building"}))
    with pytest.raises(InputError, match=r"masks/.*png: no pixel, nor one of the other masks', is 1, 2; give classes"):
        segment(VIT, data, Segment(), CPU)
