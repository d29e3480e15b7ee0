"""Learning rates by hand calculation, and what is decayed."""

from __future__ import annotations

import pytest

from pretrain.config import EncoderConfig, MaeObjective, OptimConfig
from pretrain.models import build_objective
from pretrain.schedule import build_optimizer, decay_begins, learning_rate, peak_rate


def test_published_rates() -> None:
    mae = OptimConfig(base_lr=1.5e-4, warmup_epochs=40)
    assert peak_rate(mae, 4096) == pytest.approx(2.4e-3)  # MAE, table 8: 1.5e-4 x 4096 / 256
    selective = OptimConfig(base_lr=1.5e-4, lr_scale=0.25 / 0.85)
    assert peak_rate(selective, 2048) == pytest.approx(3.53e-4, rel=1e-3)  # the release at 8 x 256 images


def test_warm_up_and_half_cosine() -> None:
    config = OptimConfig(base_lr=1.0, warmup_epochs=10, min_lr=0.1)

    def rate(epoch: float) -> float:
        return learning_rate(config, 256, round(epoch * 4), 4, 110)

    assert [rate(0), rate(2.5), rate(5), rate(10)] == pytest.approx([0, 0.25, 0.5, 1.0])
    assert rate(60) == pytest.approx(0.55)  # half way: the middle of 1.0 and 0.1
    assert rate(35) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + 2**-0.5))  # a quarter: cos 45 degrees
    assert rate(110) == pytest.approx(0.1)
    assert rate(10.25) < rate(10)  # it changes every step, not every epoch


def test_a_constant_rate_falls_in_a_straight_line_at_the_end() -> None:
    config = OptimConfig(base_lr=1.0, warmup_epochs=10, decay_epochs=20, min_lr=0.2)

    def rate(epoch: float, epochs: int = 100) -> float:
        return learning_rate(config, 256, round(epoch * 4), 4, epochs)

    assert [rate(5), rate(10), rate(50), rate(80)] == pytest.approx([0.5, 1, 1, 1])
    assert [rate(85), rate(90), rate(100)] == pytest.approx([0.8, 0.6, 0.2])
    assert [rate(80, 200), rate(190, 200)] == pytest.approx([1, 0.6])  # a longer run only goes on
    assert (decay_begins(config, 4, 100), decay_begins(OptimConfig(), 4, 100)) == (320, None)


def test_no_warm_up_starts_at_the_peak() -> None:
    assert learning_rate(OptimConfig(base_lr=0.5, warmup_epochs=0), 256, 0, 5, 10) == 0.5


def test_decay_spares_biases_norms_tokens_and_positions() -> None:
    encoder = EncoderConfig(
        name="vit_tiny_patch16_224",
        args={"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2, "reg_tokens": 2},
    )
    model = build_objective(MaeObjective(name="mae", decoder_depth=1, decoder_dim=16, decoder_heads=2), encoder)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.05))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert "encoder.patch_embed.proj.weight" in decayed
    assert {"encoder.cls_token", "encoder.reg_token", "mask_token", "encoder.norm.weight"} <= spared
    assert all(name.endswith(".weight") and "norm" not in name for name in decayed)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"encoder.pos_embed"} == {n for n, _ in model.named_parameters()} - decayed - spared
