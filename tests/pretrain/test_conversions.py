"""Other libraries load what is converted, strictly, and give the features that timm gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from imagery import MakeShards
from safetensors.torch import load_file
from small_run import Quiet, config

from pretrain.cli import main
from pretrain.conversions import LIBRARIES, convert, renamed
from pretrain.export import export
from pretrain.train import train

ARGS = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def exported(make_shards: MakeShards, tmp_path: Path) -> Path:
    encoder = {"name": "vit_tiny_patch16_224", "args": ARGS}
    train(config(make_shards([8]), epochs=1, encoder=encoder), tmp_path / "run", Quiet())
    export(tmp_path / "run", tmp_path / "encoder")
    return tmp_path / "encoder"


# The tensors of mmpretrain 1.2's VisionTransformer with one layer, by its own state_dict().
MMPRETRAIN = {
    "cls_token", "pos_embed", "patch_embed.projection.weight", "patch_embed.projection.bias",
    "layers.0.ln1.weight", "layers.0.ln1.bias", "layers.0.attn.qkv.weight", "layers.0.attn.qkv.bias",
    "layers.0.attn.proj.weight", "layers.0.attn.proj.bias", "layers.0.ln2.weight", "layers.0.ln2.bias",
    "layers.0.ffn.layers.0.0.weight", "layers.0.ffn.layers.0.0.bias", "layers.0.ffn.layers.1.weight",
    "layers.0.ffn.layers.1.bias", "ln1.weight", "ln1.bias",
}  # fmt: skip


def test_names_of_other_libraries() -> None:
    state = timm.create_model("vit_tiny_patch16_224", **ARGS | {"depth": 1}, num_classes=0).state_dict()
    assert set(renamed(state, "mmpretrain")) == MMPRETRAIN
    # mmsegmentation's attention is torch.nn.MultiheadAttention (tools/model_converters/vit2mmseg.py).
    theirs = {"attn.qkv.": "attn.attn.in_proj_", "attn.proj.": "attn.attn.out_proj."}
    torchs = set(MMPRETRAIN)
    for ours, other in theirs.items():
        torchs = {name.replace(ours, other) for name in torchs}
    assert set(renamed(state, "mmsegmentation")) == torchs
    assert set(renamed(state, "mmdetection")) == set(state)


def test_the_command_and_its_files(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = sorted(tensor.shape for tensor in load_file(exported / "model.safetensors").values())
    for library in LIBRARIES:
        out = tmp_path / f"{library}.pth"
        command = ["convert", "--weights", str(exported), "--to", library, "--out", str(out)]
        if library == "torchgeo":
            assert main(command) == 2
            assert "torchgeo's tasks make vit_tiny_patch16_224 as timm does" in capsys.readouterr().err
            continue
        assert main(command) == 0
        held = torch.load(out, weights_only=True)
        # mmdetection, projects/ViTDet/vitdet/vit.py: ckpt["model"]
        tensors = held["model" if library == "mmdetection" else "state_dict"]
        assert sorted(tensor.shape for tensor in tensors.values()) == stored


def test_torchgeo(make_shards: MakeShards, tmp_path: Path) -> None:
    trainers = pytest.importorskip("torchgeo.trainers")
    path = whole_export(make_shards, tmp_path)
    convert(path, "torchgeo", tmp_path / "torchgeo.ckpt")
    task = trainers.ClassificationTask(
        model="vit_tiny_patch16_224", weights=str(tmp_path / "torchgeo.ckpt"), num_classes=4, in_channels=3
    )
    loaded, stored = task.model.state_dict(), load_file(path / "model.safetensors")
    assert {name for name in loaded if name not in stored} == {"head.weight", "head.bias"}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())


def whole_export(make_shards: MakeShards, tmp_path: Path) -> Path:
    """A ViT as timm makes it by name."""
    train(
        config(make_shards([4]), epochs=1, encoder={"name": "vit_tiny_patch16_224"}, data={"max_upsample": 8}),
        tmp_path / "whole",
        Quiet(),
    )
    export(tmp_path / "whole", tmp_path / "whole_encoder")
    return tmp_path / "whole_encoder"


def test_terratorch(exported: Path) -> None:
    registry = pytest.importorskip("terratorch.registry")
    model = registry.BACKBONE_REGISTRY.build(
        "timm_vit_tiny_patch16_224", pretrained=True, out_indices=[-1],
        pretrained_cfg_overlay={"file": str(exported / "model.safetensors")}, **ARGS,
    )  # fmt: skip
    timms = timm.create_model(f"local-dir:{exported}", pretrained=True, features_only=True, out_indices=[-1])
    torch.testing.assert_close(model.eval()(IMAGES)[-1], timms.eval()(IMAGES)[-1], atol=1e-5, rtol=0)


def test_mmpretrain(exported: Path, tmp_path: Path) -> None:
    models = pytest.importorskip("mmpretrain.models")
    convert(exported, "mmpretrain", tmp_path / "weights.pth")
    arch = {"embed_dims": 24, "num_layers": 2, "num_heads": 2, "feedforward_channels": 96}
    model = models.VisionTransformer(arch=arch, img_size=32, patch_size=8, out_type="featmap")
    model.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True)["state_dict"], strict=True)
    model.eval()
    timms = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    tokens = timms.forward_features(IMAGES)[:, 1:]
    torch.testing.assert_close(model(IMAGES)[-1].flatten(2).transpose(1, 2), tokens, atol=1e-5, rtol=0)
