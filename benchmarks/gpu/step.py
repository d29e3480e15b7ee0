"""Training steps on a GPU that has all its data already: what is the best batch, and where does the time go?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.ledger import Cell, Ledger, Result
from benchmarks.gpu.size import Size
from benchmarks.gpu.textures import textures
from pretrain.bench.arithmetic import peak_operations
from pretrain.bench.clock import PartsClock
from pretrain.bench.step import WARM_UP, Contender, prepared, time_here
from pretrain.models.hog import kernel_beyond, tensor_beyond
from pretrain.models.laplacian import Enlarging

MODES = ("blocks", "model", "graphs", "no")
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True)
class Arm:
    """What is compared: an objective with a decoder."""

    objective: str
    depth: int

    @property
    def name(self) -> str:
        """In names of cells."""
        return f"{self.objective} {self.depth}"


def arms(size: Size) -> list[Arm]:
    """SelectiveMAE's, and MAE last."""
    return [Arm("selective_mae", depth) for depth in size.depths] + [Arm("mae", size.mae_depth)]


def contender(size: Size, encoder: str, arm: Arm, batch: int, how: str) -> Contender:
    """On this device, in bf16."""
    return Contender(encoder, arm.objective, arm.depth, batch, "bf16", size.device, how, image=size.image)


def cells(size: Size, ledger: Ledger) -> list[Cell]:
    """In the order in which they are measured: what decides most comes first."""
    first, last = arms(size)[0], arms(size)[-1]
    main = size.encoders[0]
    modes = [
        Cell(mode_name(arm, how), partial(timed, size, contender(size, main, arm, size.mode_batch, how)), 60, 240)
        for how in MODES
        for arm in (first, last)
    ]
    small = [
        Cell("attention", partial(attention, size), 20),
        Cell("hog", partial(hog, size), 30),
        Cell("laplacian", partial(laplacian, size), 30),
    ]
    profiles = [
        Cell(f"profile, {arm.name}", partial(profiled, contender(size, main, arm, size.mode_batch, "blocks")), 40)
        for arm in (first, last)
    ]
    model = Arm("scale_mae", 3)
    scale = [
        Cell(
            f"scale_mae, {batch}", partial(timed, size, contender(size, size.scale_encoder, model, batch, "blocks")), 60
        )
        for batch in size.scale_batches
    ]
    rest = [cell for encoder in size.encoders[1:] for cell in _sweep(size, ledger, encoder)]
    start = [Cell("peak", partial(peak, size), 5), *modes, *_sweep(size, ledger, main)]
    return [*start, *profiles, *small, scale[0], *rest, *scale[1:]]


def _sweep(size: Size, ledger: Ledger, encoder: str) -> list[Cell]:
    """Every batch with compiled blocks, and then the best of them compiled as was fastest."""
    swept = [
        Cell(sweep_name(encoder, arm, batch), partial(timed, size, contender(size, encoder, arm, batch, "blocks")), 35)
        for batch in size.batches
        for arm in arms(size)
    ]
    return swept + [
        Cell(best_name(encoder, arm), partial(at_best, size, ledger, encoder, arm), 60, 240) for arm in arms(size)
    ]


def mode_name(arm: Arm, how: str) -> str:
    """Of a cell that tries a way to compile."""
    return f"{arm.name}, compiled {how}"


def sweep_name(encoder: str, arm: Arm, batch: int) -> str:
    """Of a cell of the sweep."""
    return f"{encoder}, {arm.name}, batch {batch}"


def best_name(encoder: str, arm: Arm) -> str:
    """Of the cell that takes the best batch."""
    return f"{encoder}, {arm.name}, batch: the best"


def at_best(size: Size, ledger: Ledger, encoder: str, arm: Arm) -> Result:
    """The best batch of the sweep, compiled in the fastest way, or what the sweep found where that is by blocks."""
    found = [ledger.result(sweep_name(encoder, arm, batch)) for batch in size.batches]
    best = max(found, key=lambda row: row.get("images_per_second", 0.0))
    how = fastest_mode(ledger, arm, size)
    if how == best["compiled"]:
        return best
    return timed(size, contender(size, encoder, arm, best["batch"], how))


def fastest_mode(ledger: Ledger, arm: Arm, size: Size) -> str:
    """How SelectiveMAE, or MAE, was fastest; ``blocks`` where nothing was measured."""
    tried = arms(size)[-1] if arm.objective == "mae" else arms(size)[0]
    rates = {how: ledger.result(mode_name(tried, how)).get("images_per_second", 0.0) for how in MODES}
    return max(rates, key=lambda how: rates[how])


def peak(size: Size) -> Result:
    """What MFU is a share of."""
    return {"tflops": peak_operations(torch.device(size.device), "bf16", 2.0) / 1e12}


def timed(size: Size, contender: Contender) -> Result:
    """A step as the training loop does it: bf16, TF32 for the rest."""
    torch.set_float32_matmul_precision("high")
    return time_here(contender, size.repeats)


def attention(size: Size) -> Result:
    """Forward and backward pass of attention alone, by backend, at the lengths that occur: seconds."""
    batch = size.mode_batch
    shapes = {
        "encoder of SelectiveMAE": (12, 30, 30, 64),
        "decoder of SelectiveMAE": (16, 49, 30, 32),
        "encoder of MAE": (12, 50, 50, 64),
        "decoder of MAE": (16, 197, 197, 32),
    }
    found: Result = {}
    for where, (heads, queries, keys, width) in shapes.items():
        query, key, value = (
            torch.randn(batch, heads, length, width, device=size.device, dtype=torch.bfloat16, requires_grad=True)
            for length in (queries, keys, keys)
        )
        for name, backend in BACKENDS.items():
            try:
                with sdpa_kernel(backend):
                    seconds = _median(lambda: _attended(query, key, value), size)  # noqa: B023 - called at once
                found[f"{where}, {name}"] = seconds
            except RuntimeError as error:
                found[f"{where}, {name}"] = str(error).splitlines()[0][:100]
        found[f"{where}, torch's choice"] = _median(lambda: _attended(query, key, value), size)  # noqa: B023
    return found


def _attended(query: Tensor, key: Tensor, value: Tensor) -> None:
    output = F.scaled_dot_product_attention(query, key, value)
    torch.autograd.grad(output, (query, key, value), torch.ones_like(output))


def hog(size: Size) -> Result:
    """HOG of one batch, seconds: as operations one by one, and compiled as in every run on a GPU."""
    images = textures(8, size.image).repeat(max(1, size.mode_batch // 8), 1, 1, 1).to(size.device)
    made = torch.compile(tensor_beyond, dynamic=False)
    found = {
        "operations": _median(lambda: tensor_beyond(images, 8), size),
        "compiled": _median(lambda: made(images, 8), size),
    }
    with torch.no_grad():
        expected = kernel_beyond(images[:4].cpu(), 8)
        apart = (made(images, 8)[:, :4].cpu() - expected).abs().max() / expected.abs().max()
    return {**found, "images": len(images), "greatest_difference_from_cpu": float(apart)}


def laplacian(size: Size) -> Result:
    """Scale-MAE's doubling, forward and backward, seconds: as a matrix product and as a transposed convolution."""
    side, width, batch = size.image // 8, 512, max(1, size.scale_batches[0] // 2)
    plane = torch.randn(batch, side, side, width, device=size.device).permute(0, 3, 1, 2).requires_grad_()
    mine = Enlarging(width, width, 2).to(size.device)
    theirs = nn.ConvTranspose2d(width, width, 2, stride=2).to(size.device)
    theirs.load_state_dict(mine.state_dict())

    def passed(layer: nn.Module) -> None:
        with torch.autocast(size.device, torch.bfloat16):
            output = layer(plane)
        torch.autograd.backward(output.float().square().mean())

    last = theirs.to(memory_format=torch.channels_last)
    return {
        "matrix product": _median(lambda: passed(mine), size),
        "transposed convolution, channels last": _median(lambda: passed(last), size),
        "images": batch,
    }


def _median(work: Any, size: Size) -> float:
    clock, repeats = PartsClock(torch.device(size.device)), 3 if size.device == "cpu" else 20
    for _ in range(2):
        work()
    clock("begin")
    for _ in range(repeats):
        work()
        clock("work")
    seconds = sorted(took for _, took in clock.read())
    return seconds[len(seconds) // 2]


def profiled(shown: Contender) -> Result:
    """The kernels that a step spends most of its time in; of compiled blocks, as a run has them."""
    torch.set_float32_matmul_precision("high")
    _, step = prepared(shown)
    for _ in range(WARM_UP):
        step()
    on_gpu = shown.device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        step()
    attribute = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = [(event.key, float(getattr(event, attribute)), event.count) for event in seen.key_averages()]
    total = sum(took for _, took, _ in rows) or 1.0
    top = sorted(rows, key=lambda row: -row[1])[:25]
    return {"kernels": [{"name": name[:110], "share": took / total, "calls": calls} for name, took, calls in top]}
