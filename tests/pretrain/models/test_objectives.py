"""What all objectives promise: one graph under torch.compile, bf16, recomputation, gradients for all parameters."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from official import tiny_encoder
from torch._dynamo.testing import CompileCounterWithBackend

from pretrain.config import MaeObjective, ScaleMaeObjective, SelectiveMaeObjective
from pretrain.models import SelectiveMAE, build_objective

SMALL = {"decoder_depth": 2, "decoder_dim": 32, "decoder_heads": 4}
CONFIGS = {
    "mae": MaeObjective(name="mae", **SMALL),
    "selective_mae": SelectiveMaeObjective(name="selective_mae", mask_ratio=0.7, **SMALL),
    "scale_mae": ScaleMaeObjective(name="scale_mae", target_size=192, fcn_dim=32, **SMALL),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    return build_objective(CONFIGS[request.param], tiny_encoder(96))


def batch(model, size=2, progress=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    side = model.crop_size
    images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
    noise = torch.rand(size, model.noise_size, generator=generator)
    return images, torch.rand(size, generator=generator) + 0.5, noise, torch.tensor(progress)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_compiles_to_one_graph_once_for_all_stages(model):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=counter)
    for progress in (0.0, 0.36, 0.5, 0.74, 1.0):
        plain, fast = model(*batch(model, progress=progress)), compiled(*batch(model, progress=progress))
        assert torch.equal(plain.visible_ids, fast.visible_ids) and torch.equal(plain.target_ids, fast.target_ids)
        assert torch.allclose(plain.loss_per_sample, fast.loss_per_sample, atol=1e-5)
        fast.loss_per_sample.sum().backward()
    assert counter.frame_count == 1


def test_compiled_in_parts_alike_blocks_share_a_graph(model, monkeypatch):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    plain = model(*batch(model))
    plain.loss_per_sample.sum().backward()
    expected = gradients(model)
    model.zero_grad()
    model.set_grad_checkpointing(isinstance(model, SelectiveMAE))
    assert model.compiled(True) is model
    for _ in range(2):  # nothing is compiled twice
        model.zero_grad()
        fast = model(*batch(model))
        fast.loss_per_sample.sum().backward()
    assert torch.equal(plain.visible_ids, fast.visible_ids) and torch.equal(plain.target_ids, fast.target_ids)
    assert torch.allclose(plain.loss_per_sample, fast.loss_per_sample, atol=1e-5)
    for name, gradient in gradients(model).items():
        assert torch.allclose(gradient, expected[name], rtol=1e-4, atol=1e-5), name
    kinds = {"MAE": 2, "SelectiveMAE": 2, "ScaleMAE": 2 + 4}[type(model).__name__]  # encoder, decoder; bands' parts
    assert counter.frame_count == kinds + len(model.parts) - ("hog_loss" in model.parts)
    assert len(model.blocks()) > kinds - 4
    assert not any("orig_mod" in name for name in model.state_dict())


def test_compiles_in_bf16_with_recomputation(model):
    torch._dynamo.reset()
    model.set_grad_checkpointing()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        output = compiled(*batch(model))
    output.loss_per_sample.sum().backward()
    assert output.loss_per_sample.dtype == torch.float32 and torch.isfinite(output.loss_per_sample).all()


def test_recomputation_changes_no_gradient(model):
    model(*batch(model)).loss_per_sample.sum().backward()
    kept = gradients(model)
    model.zero_grad()
    model.set_grad_checkpointing()
    model(*batch(model)).loss_per_sample.sum().backward()
    again = gradients(model)
    assert kept.keys() == again.keys()
    for name, gradient in kept.items():
        assert torch.allclose(gradient, again[name], rtol=1e-4, atol=1e-5), name


def test_bf16_keeps_ids_and_a_float32_loss(model):
    exact = model(*batch(model))
    with torch.autocast("cpu", torch.bfloat16):
        half = model(*batch(model))
    assert half.loss_per_sample.dtype == torch.float32
    assert torch.equal(exact.visible_ids, half.visible_ids) and torch.equal(exact.target_ids, half.target_ids)
    assert torch.allclose(exact.loss_per_sample, half.loss_per_sample, rtol=0.05)


def test_every_trainable_parameter_gets_a_gradient(model):
    model(*batch(model)).loss_per_sample.sum().backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []


def test_samples_do_not_depend_on_their_batch(model):
    together = model(*batch(model, size=3))
    images, gsd, noise, progress = batch(model, size=3)
    for i in range(3):
        alone = model(images[i : i + 1], gsd[i : i + 1], noise[i : i + 1], progress)
        assert torch.equal(alone.visible_ids[0], together.visible_ids[i])
        assert torch.allclose(alone.loss_per_sample[0], together.loss_per_sample[i], atol=1e-5)


def test_statistics_travel_with_the_weights(model):
    state = model.state_dict()
    assert torch.allclose(state["mean"], torch.tensor([0.485, 0.456, 0.406]))
    assert torch.allclose(state["std"], torch.tensor([0.229, 0.224, 0.225]))


def test_pictures_are_uint8_of_the_images_shape(model):
    images, *rest = batch(model)
    picture = model.reconstruct(images, model(images, *rest))
    assert picture.dtype == torch.uint8 and picture.shape == images.shape


def fill_by_formula(model):
    """Weights that any machine makes alike, whatever its random numbers."""
    with torch.no_grad():
        for k, (name, parameter) in enumerate(sorted(model.named_parameters())):
            if parameter.requires_grad:
                wave = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * 0.37 + k).view_as(parameter)
                parameter.copy_(0.05 * wave + ("norm" in name and name.endswith("weight")))


GOLDEN = {
    "mae": [1.289353, 1.300075],
    "selective_mae": [1.376115, 1.365756],
    "scale_mae": [6.184242, 6.172075],
}


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_are_those_recorded_when_the_official_numbers_were_met(name):
    model = build_objective(CONFIGS[name], tiny_encoder(96))
    fill_by_formula(model)
    side = model.crop_size
    pixels = torch.arange(2 * 3 * side * side, dtype=torch.int64).view(2, 3, side, side)
    images = ((pixels * 7919 + pixels // 31 * 104_729) % 256).to(torch.uint8)
    noise = ((torch.arange(2 * model.noise_size) * 7919 % 10_007).float() / 10_007).view(2, -1)
    losses = model(images, torch.tensor([0.5, 3.0]), noise, torch.tensor(0.1)).loss_per_sample
    assert losses.tolist() == pytest.approx(GOLDEN[name], rel=1e-4)
