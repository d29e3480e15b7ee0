"""Scale-MAE against the numbers of its official implementation."""

from __future__ import annotations

import pytest
import torch
from official import channels_first, load, tiny_encoder, weights

from curation.base.errors import InputError
from pretrain.config import ScaleMaeObjective
from pretrain.models import build_objective
from pretrain.models.laplacian import Enlarging
from pretrain.models.positions import gsd_sincos_2d
from pretrain.models.scale_mae import bands

RENAMED = {
    "fpn.fpn1.1.ln.": "laplacian.pyramid_high.1.",
    "fpn.fpn1.": "laplacian.pyramid_high.",
    "fpn.fpn2.0.": "laplacian.pyramid_low.",
    "fcn_high.": "laplacian.head_high.",
    "fcn_low.": "laplacian.head_low.",
    ".pred.0.ln.": ".enlarge.0.",
    ".pred.": ".enlarge.",
    ".conv_blocks.": ".blocks.",
    ".residual.": ".shortcut.",
}


def ours(name):
    if name.startswith(("cls_token", "patch_embed.", "blocks.", "norm.")):
        return f"encoder.{name}"
    for theirs, mine in RENAMED.items():
        name = name.replace(theirs, mine)
    return name


def tiny(**changes):
    torch.manual_seed(0)
    settings = {
        "decoder_depth": 2,
        "decoder_dim": 32,
        "decoder_heads": 4,
        "target_size": 128,
        "fcn_dim": 32,
        "high_band": 4,
    }
    return build_objective(ScaleMaeObjective(name="scale_mae", **settings | changes), tiny_encoder(64))


def run(model, images, gsd, noise):
    return model(images, gsd, noise, torch.tensor(0.0))


@pytest.fixture(scope="module")
def reference(shared):
    return load(shared, "scale_mae_targets")


@pytest.mark.parametrize("high_loss", ["l2", "l1"])
def test_equals_the_official_model(reference, high_loss):
    model, state = tiny(high_loss=high_loss), weights(reference)
    missing = model.load_state_dict({ours(name): value for name, value in state.items()}, strict=False)
    assert missing.unexpected_keys == [] and set(missing.missing_keys) == {"mean", "std", "encoder.pos_embed"}
    images = channels_first(reference["m_targets_u8"])
    # The official number is the GSD of the 64 px input; ours that of the 128 px target.
    output = run(model, images, reference["m_input_res"] / 2, reference["m_noise"])
    assert torch.equal(output.visible_ids, reference["m_ids_keep"])
    assert torch.allclose(output.low_band, reference["m_pred_low"], atol=1e-5)
    assert torch.allclose(output.prediction, reference["m_pred_high"], atol=1e-5)
    assert torch.allclose(output.loss_per_sample.mean(), reference[f"m_loss_{high_loss}"], atol=1e-5)
    output.loss_per_sample.mean().backward()
    parameters = dict(model.named_parameters())
    names = [key.split("/")[1] for key in reference if key.startswith(f"m_gradnorm_{high_loss}/")]
    assert len(names) == sum(p.requires_grad for p in parameters.values())
    close = 1e-5 if high_loss == "l2" else 2e-4  # a pixel's l1 gradient is a sign, which rounding turns where it is hit
    for name in names:
        expected = reference[f"m_gradnorm_{high_loss}/{name}"]
        assert torch.allclose(parameters[ours(name)].grad.norm(), expected, atol=close, rtol=close), name


@pytest.mark.parametrize(
    ("side", "band", "tag"),
    [(64, 4, "band4_64"), (64, 7, "band7_56"), (224, 7, "band7_56"), (448, 14, "band14_224")],
)
def test_targets_equal_the_official_ones(reference, side, band, tag):
    image = tiny().normalise_images(channels_first(reference[f"t_img{side}_u8"]))
    low, high = bands(image, side // 2, band)
    assert torch.allclose(low, reference[f"t_img{side}_{tag}_low"], atol=1e-5)
    assert torch.allclose(high, reference[f"t_img{side}_{tag}_high"], atol=1e-5)


def test_the_scale_of_the_ground_changes_the_prediction_and_one_metre_is_the_exported_table():
    model = tiny()
    images, noise = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8), torch.rand(2, 16)
    fine, coarse = (run(model, images, torch.full((2,), gsd), noise) for gsd in (0.5, 5.0))
    assert not torch.allclose(fine.prediction, coarse.prediction, atol=1e-4)
    table = gsd_sincos_2d((4, 4), model.encoder.embed_dim, torch.ones(1))[0]
    assert torch.allclose(model.encoder.pos_embed[0, 1:], table, atol=1e-6)


def test_invisible_pixels_do_not_reach_the_prediction_nor_visible_ones_the_targets():
    model = tiny()
    images, noise = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8), torch.rand(2, 16)
    first = run(model, images, torch.ones(2), noise)
    hidden = torch.zeros(2, 16).scatter(1, first.target_ids, 1.0).view(2, 1, 4, 4)
    hidden = hidden.repeat_interleave(32, 2).repeat_interleave(32, 3) > 0
    second = run(model, torch.where(hidden, 255 - images, images), torch.ones(2), noise)
    assert torch.equal(first.prediction, second.prediction) and torch.equal(first.low_band, second.low_band)
    # Predictions of visible areas, and so their errors, are not in the loss.
    target = model.normalise_images(images)
    seen = ~hidden[:, :1]
    low, high = first.low_band, first.prediction
    moved = high + 9 * seen, low + 9 * seen[..., ::2, ::2]
    loss = model.band_loss(moved[1], moved[0], target, first.target_ids)
    assert torch.allclose(loss, first.loss_per_sample, atol=1e-6)


def test_declares_the_crop_it_needs():
    model = tiny()
    assert (model.crop_size, model.crop_ratio, model.uses_gsd, model.noise_size) == (128, (1.0, 1.0), True, 16)


def test_a_perfect_prediction_reconstructs_the_image():
    model = tiny()
    small = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    images = small.repeat_interleave(16, 2).repeat_interleave(16, 3)
    output = run(model, images, torch.ones(2), torch.rand(2, 16))
    low, high = bands(model.normalise_images(images), 64, 4)
    perfect = output._replace(prediction=high, low_band=low)
    assert torch.equal(model.reconstruct(images, perfect), images)


def test_overfits_one_batch():
    model = tiny()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    noise, optimiser = torch.rand(2, 16), torch.optim.AdamW(model.parameters(), 3e-3, fused=True)
    losses = []
    for _ in range(60):
        loss = run(model, images, torch.tensor([0.5, 2.0]), noise).loss_per_sample.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_recomputing_the_heads_changes_no_gradient():
    model = tiny()
    images, noise = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8), torch.rand(2, 16)
    gradients = []
    for recompute in (False, True):
        model.set_grad_checkpointing(recompute)
        model.zero_grad()
        run(model, images, torch.ones(2), noise).loss_per_sample.mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad])
    for plain, again in zip(*gradients, strict=True):
        assert torch.allclose(plain, again, atol=1e-6)


def test_refuses_a_target_of_another_size():
    with pytest.raises(InputError, match=r"target_size: 448.*need 128"):
        tiny(target_size=448)


@pytest.mark.parametrize("factor", [2, 4])
def test_enlarging_is_torchs_transposed_convolution(factor):
    torch.manual_seed(0)
    enlarging = Enlarging(6, 5, factor)
    planes = [torch.randn(2, 6, 3, 4).requires_grad_() for _ in range(2)]
    planes[1].data.copy_(planes[0].data)
    results = [
        enlarging(planes[0]),
        torch.nn.functional.conv_transpose2d(planes[1], enlarging.weight, enlarging.bias, stride=factor),
    ]
    assert torch.allclose(*results, atol=1e-6)
    pull = torch.randn_like(results[1])
    gradients = [torch.autograd.grad(result, [plane, *enlarging.parameters()], pull)
                 for result, plane in zip(results, planes, strict=True)]  # fmt: skip
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
