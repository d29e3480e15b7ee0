"""Encoders by name: what they are, and what a name that is none is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from imagery import MakeShards, picture
from small_run import SMALL, Quiet, config

from curation.base.errors import InputError
from pretrain.evaluate.encoders import EncoderSpec, TimmEncoder, VitEncoder, open_encoder
from pretrain.export import export
from pretrain.models.positions import gsd_sincos_2d
from pretrain.run import load_run
from pretrain.train import train


def test_a_histogram_counts_colours_as_numpy_does() -> None:
    images = np.stack([picture(n, 20, 12) for n in range(3)])
    ours = (
        open_encoder(EncoderSpec(spec="histogram"))
        .features(torch.from_numpy(images).permute(0, 3, 1, 2), torch.ones(3))
        .numpy()
    )
    for image, found in zip(images, ours, strict=True):
        counts, _ = np.histogramdd(image.reshape(-1, 3), bins=8, range=[(0, 256)] * 3)
        np.testing.assert_allclose(found**2, counts.ravel() / 240, atol=1e-6)


def test_a_run_its_steps_and_its_export(make_shards: MakeShards, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(config(make_shards([8, 4]), epochs=2, save_every=3), out, Quiet())
    export(out, tmp_path / "export")
    images = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    opened = {spec: open_encoder(EncoderSpec(spec=spec)) for spec in (
        f"run:{out}", f"run:{out}@6", f"run:{out}@3", f"export:{tmp_path / 'export'}", f"untrained:{out}"
    )}  # fmt: skip
    newest, same, _, exported, _ = opened.values()
    assert newest.identity == same.identity == exported.identity
    assert len({each.identity for each in opened.values()}) == 3
    trained, _, _ = load_run(out)
    mean, std = trained.mean[:, None, None], trained.std[:, None, None]
    expected = trained.encoder.forward_features((images / 255 - mean) / std)[:, 1:].mean(1)
    torch.testing.assert_close(newest.features(images, torch.ones(2)), expected)
    with pytest.raises(InputError, match="has no checkpoint of step 5; it has 3, 6"):
        open_encoder(EncoderSpec(spec=f"run:{out}@5"))


def test_scale_mae_is_told_metres(make_shards: MakeShards, tmp_path: Path) -> None:
    small = SMALL | {"name": "scale_mae", "target_size": 128, "fcn_dim": 8, "high_band": 4}
    train(config(make_shards([8]), objective=small, epochs=1, data={"max_upsample": 8}), tmp_path / "run", Quiet())
    encoder = open_encoder(EncoderSpec(spec=f"run:{tmp_path / 'run'}"))
    assert isinstance(encoder, VitEncoder) and encoder.input.size == 32
    gsd = torch.tensor([0.3, 10.0])
    torch.testing.assert_close(encoder.positions((2, 3), gsd), gsd_sincos_2d((2, 3), 24, gsd))
    images = torch.randint(0, 255, (1, 3, 32, 32), dtype=torch.uint8).expand(2, -1, -1, -1)
    near, far = encoder.features(images, gsd)
    assert (near - far).abs().max() > 1e-3


def test_other_timm_models_pool_as_timm_does() -> None:
    encoder = open_encoder(EncoderSpec(spec="random:resnet10t"))
    assert isinstance(encoder, TimmEncoder)
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in encoder.input[1:3])
    expected = encoder.model.forward_features((images / 255 - mean) / std).mean((2, 3))
    torch.testing.assert_close(encoder.features(images, torch.ones(2)), expected)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "resnet18: no such encoder; give one of export, histogram"),
        ("histogram:x", "no such encoder"),
        ("run:", "no such encoder"),
        ("random:resnt18", "timm has no model 'resnt18'"),
        ("run:nowhere", "nowhere: no run of rs-pretrain train"),
    ],
)
def test_names_that_are_none(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_encoder(EncoderSpec(spec=spec))


def test_fields_that_would_change_nothing_are_refused(make_shards: MakeShards, tmp_path: Path) -> None:
    train(config(make_shards([4]), epochs=1), tmp_path / "run", Quiet())
    for spec in (f"run:{tmp_path / 'run'}", f"untrained:{tmp_path / 'run'}", "histogram"):
        with pytest.raises(InputError, match=r"takes no args \(img_size\)"):
            open_encoder(EncoderSpec(spec=spec, args={"img_size": 64}))
    with pytest.raises(InputError, match="histogram: takes no mean and std"):
        open_encoder(EncoderSpec(spec="histogram", mean=(0.5, 0.5, 0.5)))
