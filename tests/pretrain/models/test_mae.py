"""MAE against the numbers of its official implementation, and what must hold whatever the weights."""

from __future__ import annotations

import pytest
import torch
from official import channels_first, encoder_part, load, tiny_encoder, weights

from curation.base.errors import InputError
from pretrain.config import EncoderConfig, MaeObjective
from pretrain.models import build_objective


def tiny(norm_pix=True, side=64, hog_weight=0.0):
    torch.manual_seed(0)
    config = MaeObjective(
        name="mae", decoder_depth=2, decoder_dim=32, decoder_heads=4, norm_pix=norm_pix, hog_weight=hog_weight
    )
    return build_objective(config, tiny_encoder(side))


def run(model, images, noise):
    return model(images, torch.ones(len(images)), noise, torch.tensor(0.0))


@pytest.fixture(scope="module")
def reference(shared):
    return load(shared, "mae_tiny")


def with_official_weights(reference, norm_pix):
    model, state = tiny(norm_pix), weights(reference)
    assert torch.allclose(model.encoder.pos_embed, state["pos_embed"], atol=1e-7)
    decoder = {k: v for k, v in state.items() if k.startswith(("mask_token", "decoder")) and k != "decoder_pos_embed"}
    missing = model.load_state_dict(encoder_part(state) | decoder, strict=False)
    assert missing.unexpected_keys == [] and set(missing.missing_keys) == {"mean", "std"}
    return model


@pytest.mark.parametrize(("norm_pix", "tag"), [(True, "normpix"), (False, "rawpix")])
def test_equals_the_official_model(reference, norm_pix, tag):
    model = with_official_weights(reference, norm_pix)
    output = run(model, channels_first(reference["images_u8"]), reference["noise"])
    assert torch.equal(output.visible_ids, reference["ids_keep"])
    rows = output.target_ids[:, :, None].expand(-1, -1, 768)
    assert torch.allclose(output.prediction, reference["pred"].gather(1, rows), atol=1e-5)
    assert torch.allclose(output.loss_per_sample.mean(), reference[f"loss_{tag}"], atol=1e-5)
    per_patch = reference[f"patch_loss_{tag}"].gather(1, output.target_ids).mean(dim=1)
    assert torch.allclose(output.loss_per_sample, per_patch, atol=1e-5)
    output.loss_per_sample.mean().backward()
    compared = 0
    for name, parameter in model.named_parameters():
        norm = reference.get(f"gradnorm_{tag}/{name.removeprefix('encoder.')}")
        if norm is not None:
            assert torch.allclose(parameter.grad.norm(), norm, atol=1e-5), name
            compared += 1
    assert compared == sum(key.startswith(f"gradnorm_{tag}/") for key in reference)


def test_latent_equals_the_official_one(reference):
    from pretrain.models.encoder import encode

    model = with_official_weights(reference, True)
    patches = model.patchify(channels_first(reference["images_u8"]))
    latent = encode(model.encoder, model.embed(patches, reference["ids_keep"]))
    assert torch.allclose(latent, reference["latent"], atol=1e-5)


def test_invisible_pixels_do_not_reach_the_prediction_nor_visible_ones_the_targets():
    model, noise = tiny(), torch.rand(2, 16)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    first = run(model, images, noise)
    patches = model.patchify(images)
    masked = first.target_ids[:, :, None].expand(-1, -1, 768)
    other = model.unpatchify(patches.scatter(1, masked, 255 - patches.gather(1, masked)))
    second = run(model, other, noise)
    assert torch.equal(first.prediction, second.prediction)
    assert not torch.allclose(first.loss_per_sample, second.loss_per_sample)


def test_every_patch_is_either_visible_or_a_target():
    output = run(tiny(), torch.zeros(3, 3, 64, 64, dtype=torch.uint8), torch.rand(3, 16))
    ids = torch.cat([output.visible_ids, output.target_ids], dim=1).sort(dim=1).values
    assert torch.equal(ids, torch.arange(16).expand(3, -1))
    assert output.visible_ids.shape == (3, 4)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_perfect_prediction_reconstructs_the_image(norm_pix):
    model = tiny(norm_pix)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    output = run(model, images, torch.rand(2, 16))
    perfect = output._replace(prediction=model.targets(model.patchify(images), output.target_ids))
    assert torch.equal(model.reconstruct(images, perfect), images)


def test_gradients_are_a_second_target_of_the_hidden_patches():
    plain, model = tiny(), tiny(hog_weight=2.0)
    images, noise = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.rand(2, 16)
    for part in (model.decoder_pred, plain.decoder_pred):
        torch.nn.init.zeros_(part.weight)
    one, both = run(plain, images, noise), run(model, images, noise)
    assert torch.equal(one.target_ids, both.target_ids) and both.prediction.shape == one.prediction.shape
    # Nothing predicted: 12 cells of unit length in 108 numbers, a mean square of 1 / 9.
    assert torch.allclose(both.loss_per_sample - one.loss_per_sample, torch.full((2,), 2 / 9), atol=1e-3)
    assert model.reconstruct(images, both).shape == images.shape


def test_gradients_need_patches_of_even_sides():
    encoder = EncoderConfig(name="vit_tiny_patch16_224", args={"img_size": 63, "patch_size": 7, "depth": 1})
    with pytest.raises(InputError, match="set objective.hog_weight to 0"):
        build_objective(MaeObjective(name="mae", hog_weight=1.0), encoder)


def test_overfits_one_batch():
    model = tiny()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    noise, optimiser = torch.rand(2, 16), torch.optim.AdamW(model.parameters(), 3e-3, fused=True)
    losses = []
    for _ in range(150):
        loss = run(model, images, noise).loss_per_sample.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_refuses_a_ratio_that_leaves_nothing_visible():
    with pytest.raises(InputError, match="mask_ratio: 0.99 leaves 0 of 16"):
        build_objective(MaeObjective(name="mae", mask_ratio=0.99), EncoderConfig(args={"img_size": 64, "depth": 1}))


@pytest.mark.parametrize(("size", "reason"), [((64, 96), "square"), (100, "no multiple of 16")])
def test_refuses_sizes_that_patches_do_not_fill(size, reason):
    with pytest.raises(InputError, match=reason):
        build_objective(MaeObjective(name="mae"), EncoderConfig(args={"img_size": size, "depth": 1}))


def test_refuses_images_of_another_size():
    with pytest.raises(ValueError, match="64"):
        run(tiny(), torch.zeros(1, 3, 96, 96, dtype=torch.uint8), torch.rand(1, 16))
