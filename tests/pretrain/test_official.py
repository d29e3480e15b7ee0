"""Released weights give the released features, may start a run, and run no code."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
import timm
import torch
import yaml
from imagery import MakeShards
from official import load, tiny_encoder, weights
from small_run import Quiet, config, settings

from curation.base.errors import InputError
from curation.base.settings import validate
from pretrain.checkpoint import found
from pretrain.config import TrainConfig
from pretrain.evaluate.encoders import EncoderSpec, VitEncoder, open_encoder
from pretrain.export import export
from pretrain.models.encoder import build_encoder, encode, patch_positions
from pretrain.models.objective import gather_rows
from pretrain.models.positions import gsd_sincos_2d, sincos_2d
from pretrain.official import load_released, read_released, start_from
from pretrain.run import load_run
from pretrain.train import train

HEADS = {"num_heads": 3}


def as_released(state: dict[str, torch.Tensor], path: Path) -> Path:
    """As the releases store it: weights, optimiser and arguments in one pickle."""
    torch.save({"model": state, "epoch": 3, "args": argparse.Namespace(model="mae", lr=1e-3)}, path)
    return path


@pytest.mark.parametrize("name", ["mae_tiny", "selective_tiny", "scale_mae_targets"])
def test_the_released_encoder_gives_the_released_latent(shared: Path, tmp_path: Path, name: str) -> None:
    arrays = load(shared, name)
    vit, made, released = load_released(as_released(weights(arrays), tmp_path / "checkpoint-3.pth"), HEADS)
    part = {"selective_tiny": "a_", "scale_mae_targets": "m_"}.get(name, "")
    kept = arrays[{"selective_tiny": "a_visible_ids"}.get(name, f"{part}ids_keep")].long()
    cut = vit.patch_embed.proj(arrays[f"{part}images"])
    tokens, grid = cut.flatten(2).transpose(1, 2), tuple(cut.shape[2:])
    table = gsd_sincos_2d(grid, 48, arrays["m_input_res"]) if released.gsd_aware else patch_positions(vit)
    latent = encode(vit, gather_rows(tokens + table, kept))
    torch.testing.assert_close(latent, arrays[f"{part}latent"], atol=2e-5, rtol=0)
    assert released.gsd_aware == (name == "scale_mae_targets")
    assert made.args["patch_size"] == 16


def test_every_timm_vit_comes_in_by_its_names(tmp_path: Path) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=12, num_classes=7).eval()
    path = tmp_path / "vit.pth"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}}, path)
    encoder = open_encoder(EncoderSpec(spec=f"official:{path}", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), "token")
    assert isinstance(encoder, VitEncoder) and encoder.config.name == "vit_tiny_patch16_224"
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    expected = theirs.forward_features((images / 255 - 0.5) / 0.5)[:, 0]
    torch.testing.assert_close(encoder.features(images, torch.ones(2)), expected, atol=1e-5, rtol=0)


def test_positions_follow_another_grid(tmp_path: Path) -> None:
    small, large = (build_encoder(tiny_encoder(side)) for side in (64, 96))
    torch.save(small.state_dict(), tmp_path / "fixed.pth")
    start_from(large, tmp_path / "fixed.pth")
    torch.testing.assert_close(patch_positions(large), sincos_2d((6, 6), 48))
    with torch.no_grad():
        small.pos_embed.add_(1.0)
    torch.save(small.state_dict(), tmp_path / "learned.pth")
    start_from(large, tmp_path / "learned.pth")
    resized = timm.create_model("vit_tiny_patch16_224", num_classes=0, **tiny_encoder(64).args)
    resized.load_state_dict(small.state_dict())
    resized.set_input_size(96)
    torch.testing.assert_close(patch_positions(large), resized.pos_embed[0, 1:])


def test_a_run_starts_from_weights(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = make_shards([8])
    train(config(shards, epochs=2), tmp_path / "first", Quiet())
    export(tmp_path / "first", tmp_path / "export")
    first = load_run(tmp_path / "first")[0].encoder.state_dict()
    still = {"base_lr": 1e-12, "warmup_epochs": 0, "weight_decay": 0}
    for start in (tmp_path / "first", tmp_path / "export"):
        said, out = Quiet(), tmp_path / f"from-{start.name}"
        other = validate(TrainConfig, settings(shards, epochs=1, seed=9, optim=still, init_from=str(start)), "test")
        train(other, out, said)
        assert any(text.startswith(f"encoder: starts from {start}") for text in said.said)
        begun = load_run(out)[0].encoder.state_dict()
        torch.testing.assert_close(begun, first, atol=1e-8, rtol=0)
        assert yaml.safe_load((out / "config.yaml").read_text())["init_from"] == str(start)
    assert len(found(tmp_path / "from-first" / "checkpoints")) == 1


class Planted:
    """What an attacker would put into a file of weights."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch planted",)


def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": torch.ones(1)}, "extra": Planted()}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"bad.pth: wants posix.system while it is loaded; only tensors and argparse"):
        read_released(tmp_path / "bad.pth")
    assert not (tmp_path / "planted").exists()


def test_what_is_no_such_encoder_is_named(tmp_path: Path) -> None:
    state = build_encoder(tiny_encoder(64)).state_dict()
    cases = {
        "none": ({"weight": torch.ones(1)}, "holds 0 vision transformers"),
        "two": ({f"{who}.{name}": each for who in "ab" for name, each in state.items()}, "holds 2 vision"),
        "odd": (state | {"blocks2.0.weight": torch.ones(1)}, "holds blocks2.0.weight, which a plain ViT does not have"),
        "flat": ({"patch_embed.proj.weight": torch.ones(48, 192)}, r"proj.weight is \(48, 192\), in a plain"),
        "heads": (state, "a ViT of width 48 and depth 2; weights do not tell the number of heads"),
    }  # fmt: skip
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(InputError, match=message):
            load_released(tmp_path / f"{name}.pth")
    (tmp_path / "short.pth").write_bytes((tmp_path / "heads.pth").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"short.pth: "):
        read_released(tmp_path / "short.pth")
    # Text, and what ends within a number: as a pickle each fails in a way of its own.
    for number, content in enumerate((b"encoders:\n  ours: run\n", b"\x80\x02\x8a\x05\x01", b"\x80\x02G\x00", b"")):
        (tmp_path / f"{number}.pth").write_bytes(content)
        with pytest.raises(InputError, match=rf"{number}.pth: "):
            read_released(tmp_path / f"{number}.pth")
    other = build_encoder(tiny_encoder(64).model_copy(update={"args": tiny_encoder(64).args | {"embed_dim": 60}}))
    with pytest.raises(InputError, match=r"heads.pth: blocks.0.attn.proj.bias is \(48,\), the encoder's \(60,\)"):
        start_from(other, tmp_path / "heads.pth")
