"""Does it do the same on a GPU: compiled, in bf16, from shards, stopped and resumed; and does the loop never wait?"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.gpu.ledger import Cell, Result
from benchmarks.gpu.size import Size
from benchmarks.gpu.textures import shards, textures
from curation.base.progress import Progress
from curation.base.settings import validate
from pretrain.bench.arithmetic import peak_operations
from pretrain.bench.clock import PartsClock
from pretrain.bench.step import STAGE, Contender, as_compiled, build
from pretrain.config import TrainConfig
from pretrain.data.reader import Batch
from pretrain.data.stream import batches
from pretrain.models import Objective
from pretrain.run import RunFolder
from pretrain.train import Mark, train

OBJECTIVES = ("selective_mae", "mae", "scale_mae")


def cells(size: Size, work: Path) -> list[Cell]:
    """In the order in which they are measured."""
    compare = [
        Cell(f"{objective}, {how}", partial(against_float32, size, objective, how), 40)
        for how in ("no", "blocks", "model")
        for objective in OBJECTIVES
    ]
    waits = [
        Cell(f"no waiting, {objective}", partial(no_waiting, size, work, objective), 40) for objective in OBJECTIVES
    ]
    resumed = [
        Cell(f"resume, deterministic {'on' if on else 'off'}", partial(resume, size, work, on), 60)
        for on in (True, False)
    ]
    return [
        Cell("rates", partial(rates, size), 15),
        Cell("tests of the suite", suite, 60, 240),
        *compare[:3],
        *waits,
        *compare[3:],
        *resumed,
    ]


def rates(size: Size) -> Result:
    """Operations per second of large products, and bytes per second of copies, on this device."""
    device = torch.device(size.device)
    found: Result = {"bf16_tflops": peak_operations(device, "bf16") / 1e12}
    for products in ("highest", "high"):
        torch.set_float32_matmul_precision(products)
        name = {"highest": "fp32_tflops", "high": "tf32_tflops"}[products]
        found[name] = peak_operations(device, "fp32") / 1e12
    torch.set_float32_matmul_precision("highest")
    if device.type == "cuda":
        block = torch.randint(0, 256, (1 << 30,), dtype=torch.uint8, device=device)
        found["copy_on_device_gb_per_s"] = 2 * _rate(lambda: block.clone(), block.numel(), device)
        pinned = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
        found["copy_to_device_gb_per_s"] = _rate(lambda: pinned.to(device, non_blocking=True), pinned.numel(), device)
    return found


def _rate(work: Callable[[], object], count: int, device: torch.device) -> float:
    clock = PartsClock(device)
    for _ in range(6):
        work()
        clock("copy")
    return count / min(seconds for _, seconds in clock.read()) / 1e9


def against_float32(size: Size, objective: str, how: str) -> Result:
    """bf16 (compiled as ``how``) beside float32 as it stands: which tokens are chosen, and a few losses."""
    depth = size.mae_depth if objective == "mae" else 3 if objective == "scale_mae" else size.depths[0]
    exact = Contender(size.encoders[0], objective, depth, size.smoke_batch, "fp32", size.device, image=size.image)
    half = replace(exact, precision="bf16", compiled=how)
    one, other = _trained(exact, size.smoke_steps), _trained(half, size.smoke_steps)
    apart = [abs(a - b) / abs(a) for a, b in zip(one["losses"], other["losses"], strict=True)]
    visible, targets = (_alike(one[name], other[name]) for name in ("visible", "targets"))
    return {
        "images": size.smoke_batch,
        "visible_equal": visible[0],
        "visible_tokens_equal": visible[1],
        "targets_equal": targets[0],
        "target_tokens_equal": targets[1],
        "losses_fp32": one["losses"],
        "losses_bf16": other["losses"],
        "greatest_difference": max(apart),
        "seconds_first": other["seconds"][0],
        "seconds_later": min(other["seconds"][1:]),
    }


def _trained(contender: Contender, steps: int) -> dict[str, Any]:
    """Losses of a few steps, and what the first chose."""
    bf16 = contender.precision == "bf16"
    torch.set_float32_matmul_precision("high" if bf16 else "highest")
    torch.manual_seed(0)
    model = build(contender)
    forward = as_compiled(model, contender.compiled)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    given = _inputs(model, contender)
    found: dict[str, Any] = {"losses": [], "seconds": []}
    for step in range(steps):
        started = time.perf_counter()
        with torch.autocast(contender.device, torch.bfloat16, enabled=bf16):
            output = forward(*given)
        loss = output.loss_per_sample.mean()
        torch.autograd.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        if step == 0:
            found["visible"], found["targets"] = output.visible_ids.cpu(), output.target_ids.cpu()
        found["losses"].append(float(loss.detach()))
        found["seconds"].append(time.perf_counter() - started)
    torch.set_float32_matmul_precision("highest")
    return found


def _inputs(model: Objective, contender: Contender) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images = textures(contender.batch, model.crop_size)
    noise = torch.rand(contender.batch, model.noise_size, generator=torch.Generator().manual_seed(0))
    tensors = (images, torch.ones(contender.batch), noise, torch.tensor(STAGE))
    one, two, three, four = (tensor.to(contender.device) for tensor in tensors)
    return one, two, three, four


def _alike(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Shares of the images with the same tokens all through, and of the tokens."""
    same = torch.stack([torch.isin(a, b) for a, b in zip(one, other, strict=True)])
    return float(same.all(dim=1).float().mean()), float(same.float().mean())


def run_config(size: Size, work: Path, objective: str, **changes: Any) -> TrainConfig:
    """A run on generated shards."""
    scale = {"target_size": 2 * size.image} if objective == "scale_mae" else {}
    settings = {
        "encoder": {"name": size.encoders[0], "args": {"img_size": size.image}},
        "objective": {
            "name": objective,
            "decoder_depth": size.depths[0] if objective == "selective_mae" else 2,
            **scale,
        },
        "data": {"shards": str(shards(work, size)), "workers": size.workers[0], "max_upsample": 8},
        "epochs": 100,
        "global_batch": size.smoke_batch * 2,
        "max_batch_per_gpu": size.smoke_batch,
        "device": size.device,
        "picture_every": 0,
        "optim": {"warmup_epochs": 1},
    }
    return validate(TrainConfig, settings | changes, "benchmarks/gpu")


def no_waiting(size: Size, work: Path, objective: str) -> Result:
    """Twelve steps of the loop, in which all that waits for the GPU raises, from the sixth on and but for log lines."""
    watched: list[str] = []

    def mark(part: str) -> None:
        watched.append(part)
        if size.device == "cuda":
            on = part != "optimiser" and watched.count("between") > 5
            torch.cuda.set_sync_debug_mode("error" if on else "default")

    try:
        _run(run_config(size, work, objective), steps=12, mark=mark)
    finally:
        if size.device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return {"steps_watched": watched.count("optimiser") - 5, "waits": 0}


def resume(size: Size, work: Path, deterministic: bool) -> Result:
    """Eight steps at once, and four and four: are the weights the same bits? And what a step costs."""
    config = run_config(size, work, "selective_mae", deterministic=deterministic, save_every=4, log_every=1)
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder) / "whole", Path(folder) / "parts"
        _run(config, 4, out=parts)
        took = _run(config, 8, out=parts, resume=True)
        took = min(took, _run(config, 8, out=whole))
        ends = [load_file(RunFolder(out).checkpoints / "step-00000008" / "model.safetensors") for out in (whole, parts)]
    apart = max(float((ends[0][name].double() - ends[1][name].double()).abs().max()) for name in ends[0])
    return {"greatest_difference": apart, "seconds_of_a_step": took}


def _run(
    config: TrainConfig, steps: int, mark: Mark = lambda _: None, out: Path | None = None, resume: bool = False
) -> float:
    """Train up to a step, where a signal asks to stop; returns the least seconds between two steps."""
    begun: list[float] = []

    def feed(corpus: Any, plan: Any, rule: Any, start: int, stop: int, *rest: Any, **named: Any) -> Iterator[Batch]:
        for number, batch in enumerate(batches(corpus, plan, rule, start, stop, *rest, **named)):
            if number % plan.micro_batches == 0:
                begun.append(time.perf_counter())
                if start + number // plan.micro_batches == steps - 1:
                    os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with tempfile.TemporaryDirectory() as folder:
        result = train(config, out or Path(folder) / "run", Silent(), resume=resume, feed=feed, mark=mark)
    assert result.step == steps, f"stopped at step {result.step} instead of {steps}"
    return min(later - earlier for earlier, later in pairwise(begun))


class Silent:
    """An observer that is told in vain."""

    def say(self, text: str) -> None:
        """Nothing."""

    def progress(self, description: str, total: int, unit: str) -> Progress:
        """A bar that nobody sees."""
        return Progress(description, total, unit, stream=io.StringIO())


def suite() -> Result:
    """The tests of the suite that need a GPU."""
    files = [str(path) for path in Path("tests").rglob("test_*.py") if "pytest.mark.cuda" in path.read_text("utf-8")]
    plain = ["-o", "filterwarnings=", "-p", "no:cacheprovider"]  # those of the project name packages of curation
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-q", *plain, *sorted(files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    counts = {name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|skipped|errors?)", done.stdout)}
    if done.returncode not in (0, 5) or counts.get("failed"):
        raise RuntimeError(f"pytest ended with status {done.returncode}:\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}")
    return {"passed": 0, "skipped": 0} | counts
