"""What a device wants: what ``auto`` stands for, copies equal to plain ones, the same bits, no waiting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_run import Quiet, config

from pretrain.data.noise import torch_uniform, uniform
from pretrain.device import computing, fused, mover, settled
from pretrain.models.hog import richness
from pretrain.train import train

CPU = torch.device("cpu")


def test_auto_is_plain_on_a_cpu_and_what_is_set_stays(tmp_path):
    plain = settled(config(tmp_path), CPU)
    assert (plain.precision, plain.compile) == ("fp32", False)
    asked = settled(config(tmp_path, precision="bf16", compile="model"), CPU)
    assert (asked.precision, asked.compile) == ("bf16", "model")


@pytest.mark.parametrize(("capability", "precision", "compiled"), [((7, 5), "fp32", False), ((8, 0), "bf16", True)])
def test_auto_on_a_gpu_follows_what_it_computes_in(tmp_path, monkeypatch, capability, precision, compiled):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    on_gpu = settled(config(tmp_path), torch.device("cuda"))
    assert (on_gpu.precision, on_gpu.compile) == (precision, compiled)


def test_products_of_float32_are_rounded_in_bf16_runs_on_a_gpu_only(tmp_path):
    before = torch.get_float32_matmul_precision()
    for device, precision, expected in (("cuda", "bf16", "high"), ("cuda", "fp32", before), ("cpu", "bf16", before)):
        with computing(config(tmp_path, precision=precision), torch.device(device)):
            assert torch.get_float32_matmul_precision() == expected
        assert torch.get_float32_matmul_precision() == before


def test_a_deterministic_run_refuses_kernels_that_add_in_any_order(tmp_path):
    with computing(config(tmp_path, deterministic=True), CPU):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_on_a_cpu_batches_are_taken_as_they_are_and_functions_too():
    tensors = [torch.arange(3), torch.rand(2, 2)]
    assert all(one is other for one, other in zip(mover(CPU)(tensors), tensors, strict=True))
    assert fused(torch_uniform, tensors[0]) is torch_uniform


@pytest.mark.cuda
def test_copies_on_a_side_stream_are_equal_while_the_device_is_busy():
    device = torch.device("cuda")
    move, busy = mover(device), torch.rand(4096, 4096, device=device)
    sums = []
    batches = [torch.randint(0, 256, (64, 3, 224, 224), dtype=torch.uint8).pin_memory() for _ in range(4)]
    for number in range(40):
        busy = busy @ busy
        busy = busy / busy.norm()
        (moved,) = move([batches[number % 4]])
        sums.append(moved.sum(dtype=torch.int64))
        del moved
    expected = [int(batches[number % 4].sum(dtype=torch.int64)) for number in range(40)]
    assert torch.stack(sums).tolist() == expected


@pytest.mark.cuda
def test_fused_noise_has_the_bits_of_numpy():
    ids, epoch = torch.arange(257, device="cuda"), torch.full((257,), 3, device="cuda")
    ours = torch_uniform(2**62 + 5, 5, epoch, ids, 588)
    np.testing.assert_array_equal(ours.cpu().numpy(), uniform(2**62 + 5, 5, 3, np.arange(257), 588))


@pytest.mark.cuda
def test_compiled_richness_is_that_of_the_cpu():
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(richness(images.cuda(), 16).cpu(), richness(images, 16), rtol=1e-4)


@pytest.mark.cuda
def test_the_loop_waits_for_the_gpu_at_log_steps_only(make_shards, tmp_path):
    steps = []

    def mark(part):
        steps.extend(["step"] if part == "between" else [])
        watched = part != "optimiser" and len(steps) > 5  # kernels are chosen and memory is taken in the first
        torch.cuda.set_sync_debug_mode("error" if watched else "default")

    given = config(make_shards([9, 7]), device="cuda", compile=False, log_every=4)
    try:
        assert train(given, tmp_path / "run", Quiet(), mark=mark).finished
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == 12
