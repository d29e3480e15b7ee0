"""What a device wants: what ``auto`` stands for, copies that are equal to plain ones, noise with the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_run import config

from pretrain.data.noise import torch_uniform, uniform
from pretrain.device import computing, fused, mover, settled

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
