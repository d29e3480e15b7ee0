"""The encoder is timm's own model: strict export, its own forward pass, refusals by name."""

from __future__ import annotations

import pytest
import timm
import torch

from curation.base.errors import InputError
from pretrain.config import EncoderConfig
from pretrain.models.encoder import build_encoder, embed_patches, encode, patch_positions

SMALL = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}


def patches_of(images, p=16):
    side = images.shape[2] // p
    blocks = images.reshape(-1, 3, side, p, side, p).permute(0, 2, 4, 1, 3, 5)
    return blocks.reshape(len(images), side * side, -1)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("vit_tiny_patch16_224", SMALL),
        ("vit_tiny_patch16_224", SMALL | {"reg_tokens": 4, "init_values": 0.1}),
        ("vit_tiny_patch16_224", SMALL | {"reg_tokens": 2, "no_embed_class": True, "pre_norm": True}),
    ],
)
def test_all_patches_give_timms_own_result_and_load_strictly(name, args):
    torch.manual_seed(0)
    vit = build_encoder(EncoderConfig(name=name, args=args)).eval()
    images = torch.randn(2, 3, 64, 64)
    ours = encode(vit, embed_patches(vit, patches_of(images)) + patch_positions(vit))
    plain = timm.create_model(name, num_classes=0, global_pool="token", fc_norm=False, **args).eval()
    plain.load_state_dict(vit.state_dict(), strict=True)
    assert torch.allclose(ours, plain.forward_features(images), atol=1e-5)


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large", "huge"])
def test_every_size_is_accepted(size):
    patch = 14 if size == "huge" else 16
    vit = build_encoder(EncoderConfig(name=f"vit_{size}_patch{patch}_224", args={"depth": 1}))
    assert len(vit.blocks) == 1 and not vit.pos_embed.requires_grad
    assert not vit.pos_embed[0, 0].any() and vit.pos_embed[0, 1:].any(dim=1).all()


@pytest.mark.parametrize(
    ("name", "args", "reason"),
    [
        ("vit_base_patch16_siglip_224", {}, "siglip_224' pools by attention"),
        ("vit_base_patch16_rope_224", {}, "uses rotary positions"),
        ("vit_relpos_small_patch16_224", {}, "is no plain ViT .VisionTransformerRelPos"),
        ("vit_tiny_patch16_224", {"fc_norm": True}, "normalises after pooling"),
        ("vit_tiny_patch16_224", {"embed_dim": 90}, "width 90, no multiple of 4"),
        ("vit_tiny_patch16_224", {"pos_embed": "none"}, "no absolute position"),
        ("vit_tiny_patch16_224", {"patch_drop_rate": 0.5}, "drops patches"),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, "no class token"),
        ("vit_tiny_patch16_224", {"in_chans": 4}, "plain RGB"),
        ("resnet18", {}, "is no plain ViT .ResNet"),
        ("vit_enormous", {}, "timm has no model 'vit_enormous'"),
        ("vit_tiny_patch16_224", {"heads": 3}, "cannot make"),
    ],
)
def test_refuses_by_name(name, args, reason):
    with pytest.raises(InputError, match=reason):
        build_encoder(EncoderConfig(name=name, args=args))


def test_initialisation_is_maes():
    torch.manual_seed(0)
    vit = build_encoder(EncoderConfig(name="vit_tiny_patch16_224", args=SMALL | {"reg_tokens": 64}))
    bound = (6 / (768 + 48)) ** 0.5
    assert vit.patch_embed.proj.weight.abs().max() <= bound
    assert vit.patch_embed.proj.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert vit.blocks[0].attn.qkv.weight.abs().max() <= (6 / (48 + 144)) ** 0.5
    assert not vit.blocks[0].mlp.fc1.bias.any()
    assert vit.reg_token.std().item() == pytest.approx(0.02, rel=0.1)


def test_recomputing_changes_no_gradient():
    torch.manual_seed(0)
    vit, tokens = build_encoder(EncoderConfig(args=SMALL)), torch.randn(2, 5, 48)
    encode(vit, tokens).square().sum().backward()
    kept = [p.grad.clone() for p in vit.blocks.parameters()]
    vit.zero_grad()
    vit.set_grad_checkpointing()
    encode(vit, tokens).square().sum().backward()
    for before, parameter in zip(kept, vit.blocks.parameters(), strict=True):
        assert torch.allclose(before, parameter.grad, atol=1e-6)
