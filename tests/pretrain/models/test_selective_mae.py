"""SelectiveMAE against the numbers of its official implementation, and what must hold whatever the weights."""

from __future__ import annotations

import pytest
import torch
from official import channels_first, encoder_part, load, tiny_encoder, weights

from curation.base.errors import InputError
from pretrain.config import EncoderConfig, SelectiveMaeObjective
from pretrain.models import build_objective
from pretrain.models.encoder import encode, encode_layers
from pretrain.models.selection import expand
from pretrain.models.selective_mae import token_counts


def tiny(side=96, **changes):
    torch.manual_seed(0)
    settings = {"decoder_depth": 2, "decoder_dim": 32, "decoder_heads": 4, **changes}
    return build_objective(SelectiveMaeObjective(name="selective_mae", **settings), tiny_encoder(side))


def run(model, images, noise, progress=0.1):
    return model(images, torch.ones(len(images)), noise, torch.tensor(progress))


@pytest.fixture(scope="module")
def reference(shared):
    return load(shared, "selective_tiny")


def official_names(depth=2):
    """Our decoder's parameter to the official ones whose rows it joins."""
    names = {"mask_token": ["mask_token"]}
    for kind in ("weight", "bias"):
        names[f"kv.{kind}"] = [f"decoder_blocks.{i}.cross_attn.kv.{kind}" for i in range(depth)]
        names[f"norm.{kind}"], names[f"pred.{kind}"] = [f"decoder_norm.{kind}"], [f"decoder_pred.{kind}"]
        for i in range(depth):
            block = f"decoder_blocks.{i}"
            names[f"blocks.{i}.q.{kind}"] = [f"{block}.cross_attn.q.{kind}"]
            names[f"blocks.{i}.proj.{kind}"] = [f"{block}.cross_attn.proj.{kind}"]
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                names[f"blocks.{i}.{part}.{kind}"] = [f"{block}.{part}.{kind}"]
    return names


def with_official_weights(reference, side=96, **changes):
    model, state = tiny(side, **changes), weights(reference)
    if side != 96:
        state["pos_embed"] = reference["b_pos_embed"]
    assert torch.allclose(model.encoder.pos_embed, state["pos_embed"], atol=1e-6)
    decoder = {f"decoder.{ours}": torch.cat([state[k] for k in theirs]) for ours, theirs in official_names().items()}
    missing = model.load_state_dict(encoder_part(state) | decoder, strict=False)
    assert missing.unexpected_keys == [] and set(missing.missing_keys) == {"mean", "std"}
    return model


@pytest.mark.parametrize(("norm_pix", "tag"), [(True, "normpix"), (False, "rawpix")])
def test_equals_the_official_model_for_given_tokens(reference, norm_pix, tag):
    model = with_official_weights(reference, norm_pix=norm_pix, mask_ratio=0.5)
    patches = model.patchify(channels_first(reference["a_images_u8"]))
    latent = encode(model.encoder, model.embed(patches, reference["a_visible_ids"]))
    assert torch.allclose(latent, reference["a_latent"], atol=1e-5)
    prediction = model.decoder(latent, reference["a_target_ids_sorted"])
    assert torch.allclose(prediction, reference["a_pred"], atol=1e-5)
    loss = model.pixel_loss(prediction, patches, reference["a_target_ids_sorted"])
    assert torch.allclose(loss, reference[f"a_loss_{tag}"], atol=1e-5)
    loss.mean().backward()
    parameters = dict(model.named_parameters())
    theirs = {f"decoder.{ours}": names for ours, names in official_names().items()}
    for name, parameter in parameters.items():
        if not parameter.requires_grad:
            continue
        norms = [reference[f"a_gradnorm_{tag}/{n}"] for n in theirs.get(name, [name.removeprefix("encoder.")])]
        for piece, norm in zip(parameter.grad.chunk(len(norms)), norms, strict=True):
            assert torch.allclose(piece.norm(), norm, atol=1e-5), name


@pytest.mark.parametrize(("stage", "progress"), [("near", 100 / 800), ("far", 400 / 800)])
def test_equals_the_official_expansion_and_loss_at_full_size(reference, stage, progress):
    model = with_official_weights(reference, side=224)
    get = {key.removeprefix(f"b_{stage}_"): value for key, value in reference.items() if key.startswith(f"b_{stage}_")}
    patches = model.patchify(channels_first(reference["b_images_u8"]))
    tokens = model.embed(patches, torch.arange(196).expand(2, -1))
    assert torch.allclose(tokens, reference["b_tokens"], atol=1e-5)
    noise = torch.rand(2, 196)
    visible = expand(tokens, get["initial_ids"], model.added, noise, torch.tensor(progress), model.config.borders)
    assert torch.equal(visible[:, 14:21].sort().values, get["added_step1"].sort().values)
    assert torch.equal(visible[:, 21:].sort().values, get["added_step2"].sort().values)
    target = get["target_ids"].sort(dim=1).values
    prediction = model.decoder(encode(model.encoder, model.embed(patches, get["visible_ids"])), target)
    assert torch.allclose(prediction, get["pred"], atol=1e-5)
    assert torch.allclose(model.pixel_loss(prediction, patches, target), get["loss"], atol=1e-5)


def test_counts_are_the_papers():
    settings = SelectiveMaeObjective(name="selective_mae")
    assert token_counts(196, settings) == (14, (7, 8), 49)


def test_more_is_seen_at_the_end():
    model = tiny(side=224, late_mask_ratio=0.5, late_share=0.05)
    images, noise = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8), torch.rand(1, model.noise_size)
    for progress, visible in ((0.0, 29), (0.949, 29), (0.95, 98), (0.2, 29)):  # of 196: 15 %, then one half
        model.enter(progress)
        output = run(model, images, noise, progress)
        assert output.visible_ids.shape == (1, visible) and output.target_ids.shape == (1, 49)


def test_an_end_that_asks_for_more_than_is_masked_is_refused_at_the_start():
    with pytest.raises(InputError, match="give 137 visible and 98 targets"):
        tiny(side=224, target_ratio=0.5, late_mask_ratio=0.3)


def test_refuses_too_few_patches():
    with pytest.raises(InputError, match="at least 3"):
        tiny(side=64)


@pytest.mark.parametrize("progress", [0.0, 0.36, 0.5, 0.74, 1.0])
def test_tokens_are_distinct_and_targets_are_masked(progress):
    model = tiny(mask_ratio=0.7)
    images = torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8)
    output = run(model, images, torch.rand(3, model.noise_size), progress)
    assert output.visible_ids.shape == (3, 10) and output.target_ids.shape == (3, 9)
    for seen, wanted in zip(output.visible_ids.tolist(), output.target_ids.tolist(), strict=True):
        assert len(set(seen + wanted)) == 19
    assert torch.equal(output.target_ids, output.target_ids.sort(dim=1).values)


def twins(count):
    """Images (count, 3, 96, 96) whose patch n + 18 has the pixels of patch n, and no two others are alike."""
    half = torch.randint(0, 256, (count, 3, 48, 96), dtype=torch.uint8)
    return torch.cat([half, half], dim=2)


def test_similarity_of_content_finds_the_same_pixels_wherever_they_lie():
    model, images = tiny(mask_ratio=0.7, seeds="uniform", added="psts_content"), twins(8)
    output = run(model, images, torch.rand(8, model.noise_size), progress=0.1)
    for row in output.visible_ids.tolist():
        seeds, first = row[:5], row[5:7]  # 10 visible: 5 seeds, then 2, then 3
        unpaired = {(seed + 18) % 36 for seed in seeds} - set(seeds)
        assert len(set(first) & unpaired) == min(2, len(unpaired))


def test_random_tokens_are_added_whatever_the_image_shows():
    model = tiny(mask_ratio=0.7, seeds="uniform", added="uniform", targets="uniform")
    noise = torch.rand(3000, model.noise_size)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    (one, _), (other, _) = (
        model.select(images[row].expand(3000, -1, -1, -1), model.patchify(images[row][None]), noise, torch.tensor(0.1))
        for row in range(2)
    )
    assert torch.equal(one, other) and all(len(set(row)) == 10 for row in one.tolist())
    counts = one[:, 5:].flatten().bincount(minlength=36).float()
    expected = 3000 * 5 / 36
    assert ((counts - expected).square() / expected).sum() < 66.6  # 0.1 % point of chi-square, 35 degrees of freedom


def test_each_decoder_block_reads_its_own_mixture_of_layers():
    """Against timm's blocks called one by one, and CrossMAE's sum, norm and projection written out block by block."""
    model = tiny(decoder_reads="mixture").requires_grad_(False)
    vit, decoder = model.encoder, model.decoder
    patches, ids = torch.randint(0, 256, (2, 36, 768), dtype=torch.uint8), torch.arange(5).expand(2, -1)
    x = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(2, -1, -1), model.embed(patches, ids)], dim=1)
    layers = [x]
    for block in vit.blocks:
        layers.append(block(layers[-1]))
    layers[-1] = vit.norm(layers[-1])
    target = torch.tensor([[6, 8, 30], [7, 9, 31]])
    y = decoder.mask_token + decoder.positions[target]
    for number, block in enumerate(decoder.blocks):
        mixed = sum(float(model.mixture.weight[number, k]) * layer for k, layer in enumerate(layers))
        normed = torch.nn.functional.layer_norm(mixed, mixed.shape[-1:], eps=1e-6)
        rows = slice(number * 64, number * 64 + 64)  # keys and values of 32 each
        both = normed @ decoder.kv.weight[rows].T + decoder.kv.bias[rows]
        key, value = (part.unflatten(2, (4, 8)).transpose(1, 2) for part in both.chunk(2, dim=2))
        y = block(y, key, value)
    expected = decoder.pred(decoder.norm(y))
    found = decoder(model.mixture(encode_layers(vit, model.embed(patches, ids))), target)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("reads", ["last", "mixture"])
def test_every_parameter_gets_a_gradient(reads):
    model = tiny(decoder_reads=reads, hog_weight=1.0)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    run(model, images, torch.rand(2, model.noise_size)).loss_per_sample.mean().backward()
    missing = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert not missing


def test_gradients_are_a_second_target_of_the_same_tokens():
    plain, model = tiny(), tiny(hog_weight=2.0)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    noise = torch.rand(2, model.noise_size)
    for part in (model.decoder.pred, plain.decoder.pred):
        torch.nn.init.zeros_(part.weight)
    one, both = run(plain, images, noise), run(model, images, noise)
    assert torch.equal(one.target_ids, both.target_ids) and both.prediction.shape == (2, 9, 768)
    # Nothing predicted: 12 cells of unit length in 108 numbers, a mean square of 1 / 9.
    assert torch.allclose(both.loss_per_sample - one.loss_per_sample, torch.full((2,), 2 / 9), atol=1e-3)


def test_weights_average_the_errors_of_the_targets():
    model = tiny(targets="hog_sample", target_weights="inverse")
    patches = model.patchify(torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8))
    ids, weights = torch.tensor([[3, 9]]), torch.tensor([[1.0, 3.0]])
    one, other = (model.pixel_loss(torch.zeros(1, 1, 768), patches, ids[:, n : n + 1]) for n in range(2))
    both = model.pixel_loss(torch.zeros(1, 2, 768), patches, ids, weights)
    assert torch.allclose(both, (one + 3 * other) / 4)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    noise = torch.rand(2, model.noise_size)
    plain = tiny(targets="hog_sample")
    assert torch.equal(run(model, images, noise).target_ids, run(plain, images, noise).target_ids)
    assert not torch.allclose(run(model, images, noise).loss_per_sample, run(plain, images, noise).loss_per_sample)


def test_loss_ignores_patches_that_are_neither_visible_nor_targets():
    model = tiny(seeds="uniform", targets="uniform")
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    noise = torch.rand(2, model.noise_size)
    first = run(model, images, noise, progress=1.0)
    used = torch.cat([first.visible_ids, first.target_ids], dim=1)
    idle = torch.ones(2, 36, dtype=torch.bool).scatter(1, used, False)
    patches = model.patchify(images)
    other = model.unpatchify(torch.where(idle[:, :, None], 255 - patches, patches))
    second = run(model, other, noise, progress=1.0)
    assert torch.equal(first.visible_ids, second.visible_ids)
    assert torch.equal(first.loss_per_sample, second.loss_per_sample)


def test_target_pixels_do_not_reach_the_prediction():
    model = tiny(seeds="uniform", targets="uniform")
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    noise = torch.rand(2, model.noise_size)
    first = run(model, images, noise, progress=1.0)
    wanted = torch.zeros(2, 36, dtype=torch.bool).scatter(1, first.target_ids, True)
    patches = model.patchify(images)
    other = model.unpatchify(torch.where(wanted[:, :, None], 255 - patches, patches))
    second = run(model, other, noise, progress=1.0)
    assert torch.equal(first.prediction, second.prediction)
    assert not torch.equal(first.loss_per_sample, second.loss_per_sample)


def test_patches_of_odd_sides_need_a_choice_without_hog():
    encoder = EncoderConfig(args={"img_size": 70, "patch_size": 7, "depth": 1, "embed_dim": 24, "num_heads": 2})
    small = {"decoder_depth": 1, "decoder_dim": 16, "decoder_heads": 2}
    with pytest.raises(InputError, match="objective.seeds and objective.targets to uniform"):
        build_objective(SelectiveMaeObjective(name="selective_mae", **small), encoder)
    model = build_objective(
        SelectiveMaeObjective(name="selective_mae", seeds="uniform", targets="uniform", **small), encoder
    )
    images = torch.randint(0, 256, (2, 3, 70, 70), dtype=torch.uint8)
    assert run(model, images, torch.rand(2, model.noise_size)).loss_per_sample.isfinite().all()


def test_half_flat_images_are_rebuilt_where_there_is_texture():
    model = tiny(mask_ratio=0.7)
    images = torch.full((4, 3, 96, 96), 90, dtype=torch.uint8)
    images[..., 48:] = torch.randint(0, 256, (4, 3, 96, 48), dtype=torch.uint8)
    output = run(model, images, torch.rand(4, model.noise_size))
    textured = torch.arange(36) % 6 >= 3
    # Column 2 touches the edge: central differences see one pixel of it.
    assert (output.target_ids % 6 >= 2).all()
    assert textured[output.target_ids].float().mean() > 0.7


def test_overfits_one_batch():
    model = tiny(mask_ratio=0.5)
    images = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    noise, optimiser = torch.rand(2, model.noise_size), torch.optim.AdamW(model.parameters(), 3e-3, fused=True)
    losses = []
    for _ in range(150):
        loss = run(model, images, noise, progress=1.0).loss_per_sample.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
