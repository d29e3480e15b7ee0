"""What a device wants of a training run: its precision, compiled parts, and copies beside the computation."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from pretrain.config import TrainConfig

Given = ParamSpec("Given")
Result = TypeVar("Result")

Mover = Callable[[Sequence[Tensor]], list[Tensor]]
"""Copies tensors to the device of a run."""


def settled(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The config with what ``auto`` stands for on this device: bf16 and compiled blocks from Ampere on."""
    able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    meant: dict[str, object] = {"precision": "bf16" if able else "fp32", "compile": able}
    return config.model_copy(update={name: value for name, value in meant.items() if getattr(config, name) == "auto"})


@contextmanager
def computing(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """How a run computes on a device, put back afterwards.

    In a bf16 run on a GPU, what stays float32 (the embedding that tokens are chosen by) is multiplied as TF32.
    ``deterministic`` leaves only kernels that give the same bits each time.
    """
    products, strict = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    if device.type == "cuda" and config.precision == "bf16":
        torch.set_float32_matmul_precision("high")
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.use_deterministic_algorithms(strict)


@contextmanager
def whole_products() -> Iterator[None]:
    """Matrix products of float32 with all their bits, whatever a run computes in."""
    products = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)


def most_memory(device: torch.device) -> int:
    """The most MiB that this process has taken so far: of the GPU, or of the machine's where it computes on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def mover(device: torch.device) -> Mover:
    """How batches get to a device."""
    return SideCopies(device) if device.type == "cuda" else lambda tensors: [value.to(device) for value in tensors]


class SideCopies:
    """Copies from pinned memory on a stream of their own, so that they run while the step before computes.

    The loop is ahead of the GPU by up to ``log_every`` steps, so a copy is asked for long before it is needed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Start the copies; what computes on the current stream afterwards waits for them."""
        with torch.cuda.stream(self.stream):
            moved = [value.to(self.device, non_blocking=True) for value in tensors]
        here = torch.cuda.current_stream(self.device)
        here.wait_stream(self.stream)
        for value in moved:
            value.record_stream(here)  # else the allocator would give its memory to the next copy too early
        return moved


def fused(function: Callable[Given, Result], where: Tensor) -> Callable[Given, Result]:
    """``function`` as one or a few kernels where it would be many small ones: on a GPU, outside of a compiled graph."""
    if where.device.type != "cuda" or torch.compiler.is_compiling() or find_spec("triton") is None:
        return function
    return cast("Callable[Given, Result]", _compiled_once(function))


@cache
def _compiled_once(function: Callable[..., object]) -> Callable[..., object]:
    return torch.compile(function, dynamic=False)
