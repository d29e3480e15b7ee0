"""The training step's speed: forward, backward and fused AdamW, every contender of a round after the other.

Each contender lives in a process of its own, so that its peak memory is its own and all share one allocator setting. On
a CPU the parent asks them in turn for one step, since other jobs come and go; on a GPU they live one after the other,
since each may need all of its memory. Seconds are wall time, on a GPU between synchronisations; with one thread of a
CPU they are process time, which other jobs disturb least.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from pretrain.bench.arithmetic import multiply_adds, peak_operations
from pretrain.bench.clock import PartsClock
from pretrain.config import EncoderConfig, ObjectiveConfig
from pretrain.errors import WorkError
from pretrain.models import Objective, SelectiveMAE, build_objective
from pretrain.models.encoder import build_encoder
from pretrain.models.hog import richness

logger = logging.getLogger(__name__)

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
"""Stops glibc from returning every large buffer to the kernel and faulting it in again in the next step."""

DECODERS = {"vit_small_patch16_224": (256, 8)}
"""Decoder width and heads where they differ from 512 and 16 (the SelectiveMAE release)."""

Steps = list[dict[str, float]]

STAGE = 0.1
"""Share of training at which steps are timed: similarity decides, near tokens are added."""

WARM_UP = 3
"""Steps before the first that counts: kernels are compiled, chosen and loaded, and memory is taken."""

TOGETHER = 10
"""Steps of a GPU that are timed together, so that it never waits for the next one to be asked for."""

LABELS = {"mae": "MAE", "selective_mae": "SelectiveMAE, {} blocks", "scale_mae": "Scale-MAE"}


@dataclass(frozen=True)
class Contender:
    """One thing that is timed."""

    encoder: str
    objective: str
    decoder_depth: int
    batch: int
    precision: str
    device: str
    compiled: str = "no"
    """``no``, ``blocks``, ``model`` or ``graphs`` (of the model, replayed as CUDA graphs)."""
    threads: int = 1
    image: int = 224
    """Side of the encoder's input, pixels."""

    @property
    def label(self) -> str:
        """Name in tables."""
        return LABELS[self.objective].format(self.decoder_depth)


def step_bench(
    encoders: Sequence[str] = ("vit_small_patch16_224", "vit_base_patch16_224"),
    batches: Sequence[int] = (16, 32),
    precisions: Sequence[str] = ("fp32", "bf16"),
    repeats: int = 5,
    device: str = "cpu",
    compiled: str = "no",
    threads: int = 1,
) -> list[dict[str, Any]]:
    """Time MAE (8 blocks) and SelectiveMAE (12 and 8 blocks), interleaved, for every combination of the arguments.

    Returns:
        One row per contender: its fields, ``seconds`` (median over rounds), ``fastest``, ``slowest``, ``optimiser``,
        ``selection`` (HOG and choosing), ``hog``, ``embedding`` (all patches, for similarity), ``compute`` (the rest),
        ``images_per_second``, ``peak_mib``, ``parameters``, ``gmac`` (forward multiply-adds per image in 10^9),
        ``tflops`` (10^12 operations per second, counted as in :mod:`pretrain.bench.arithmetic`), ``mfu`` (those over
        what the GPU's large matrix products reach; None on a CPU) and ``speedup`` (median over rounds of MAE's seconds
        over its own; None where MAE was left out).

    A contender whose process dies, for instance for lack of memory, is named in a warning and left out, so that batch
    sizes can be swept up to what the device holds.

    Raises:
        InputError: an encoder cannot be pretrained here.
        WorkError: nothing could be timed.
    """
    for encoder in encoders:
        with torch.device("meta"):  # no weights: only to refuse what the processes would refuse
            build_encoder(EncoderConfig(name=encoder))
    if device == "cpu" and "bf16" in precisions and torch.backends.cpu.get_cpu_capability() == "AVX2":
        logger.warning("this CPU has no bf16 instructions: bf16 is emulated, several times slower than fp32")
    rows: list[dict[str, Any]] = []
    for encoder in encoders:
        for precision in precisions:
            for batch in batches:
                shared = (batch, precision, device, compiled, threads)
                group = [Contender(encoder, "mae", 8, *shared)]
                group += [Contender(encoder, "selective_mae", depth, *shared) for depth in (12, 8)]
                rows += _time_group(group, repeats)
    if not rows:
        raise WorkError("nothing could be timed; the warnings say why")
    return rows


def format_table(rows: Iterable[dict[str, Any]]) -> str:
    """Rows of :func:`step_bench` as a Markdown table; seconds, shares of the step, MiB."""
    lines = [
        "| encoder | precision | batch | objective | s/step (min-max) | images/s | TFLOP/s | MFU | MAE / this | "
        "arithmetic | HOG | choosing | embedding | optimiser | peak MiB |",
        "|" + 15 * "---|",
    ]
    base: dict[str, Any] = {}
    for row in rows:
        base = row if row["objective"] == "mae" else base
        against = ["-", "-"]
        if row["speedup"] is not None:
            against = [f"{row['speedup']:.2f}", f"{base['gmac'] / row['gmac']:.2f}"]
        shares = (row["hog"], row["selection"] - row["hog"], row["embedding"], row["optimiser"])
        percent = " | ".join(f"{100 * part / row['seconds']:.1f} %" for part in shares)
        used = "-" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %"
        lines.append(
            f"| {row['encoder']} | {row['precision']} | {row['batch']} | {row['label']} | "
            f"{row['seconds']:.3g} ({row['fastest']:.3g}-{row['slowest']:.3g}) | {row['images_per_second']:.1f} | "
            f"{row['tflops']:.3g} | {used} | {' | '.join(against)} | {percent} | "
            f"{row['peak_mib']:.0f} |"
        )
    return "\n".join(lines)


def _time_group(group: list[Contender], repeats: int) -> list[dict[str, Any]]:
    together = [[contender] for contender in group] if group[0].device == "cuda" else [group]
    timed = [pair for some in together for pair in _time_together(some, repeats)]
    base = next((steps for contender, steps, _ in timed if contender.objective == "mae"), None)
    return [_row(contender, steps, summary, base) for contender, steps, summary in timed]


def _time_together(group: list[Contender], repeats: int) -> list[tuple[Contender, Steps, dict[str, float]]]:
    """Steps of contenders that are alive together, and their summaries; the first steps of each only warm up."""
    with ExitStack() as stack:
        workers = {contender: stack.enter_context(_started(contender)) for contender in group}
        steps: dict[Contender, Steps] = {contender: [] for contender in group}
        for question in ["step"] * (WARM_UP + repeats) + ["summary"]:
            for contender, worker in list(workers.items()):
                try:
                    steps[contender].append(_ask(worker, question))
                except WorkError as error:
                    logger.warning(
                        "%s, %s, batch %s, %s: left out (%s)",
                        contender.encoder, contender.precision, contender.batch, contender.label, error,
                    )  # fmt: skip
                    del workers[contender]
        return [(contender, steps[contender][WARM_UP:-1], steps[contender][-1]) for contender in workers]


def _row(contender: Contender, steps: Steps, summary: dict[str, float], base: Steps | None) -> dict[str, Any]:
    seconds = [step["seconds"] for step in steps]
    middle = statistics.median(seconds)
    parts = {"optimiser": statistics.median(step["optimiser"] for step in steps), **summary}
    parts["compute"] = middle - parts["optimiser"] - parts["selection"] - parts["embedding"]
    ratios = [one["seconds"] / other for one, other in zip(base, seconds, strict=True)] if base else None
    rate = parts.pop("operations") * contender.batch / middle
    peak = parts.pop("peak")
    return {
        **asdict(contender), "label": contender.label, "seconds": middle, "fastest": min(seconds),
        "slowest": max(seconds), "images_per_second": contender.batch / middle, **parts,
        "tflops": rate / 1e12,
        "mfu": rate / peak if peak else None,
        "speedup": statistics.median(ratios) if ratios else None,
    }  # fmt: skip


@contextmanager
def _started(contender: Contender) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": str(contender.threads)}
    command = [sys.executable, "-m", "pretrain.bench.step", json.dumps(asdict(contender))]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process
    finally:
        with suppress(BrokenPipeError):  # it died with a question unread
            process.stdin.close()
        process.wait()
        process.stdout.close()


def _ask(worker: subprocess.Popen[str], question: str) -> dict[str, float]:
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdin.write(question + "\n")
        worker.stdin.flush()
    except BrokenPipeError:
        raise WorkError(f"a benchmark process ended with status {worker.wait()}; try a smaller batch") from None
    answer = worker.stdout.readline()
    if not answer:
        raise WorkError(f"a benchmark process ended with status {worker.wait()}; try a smaller batch")
    numbers: dict[str, float] = json.loads(answer)
    return numbers


def _serve(contender: Contender) -> None:
    """Answer questions from the parent until it closes the pipe."""
    model, step = prepared(contender)
    answers: dict[str, Callable[[], dict[str, float]]] = {"step": step, "summary": lambda: _summary(model, contender)}
    for question in sys.stdin:
        sys.stdout.write(json.dumps(answers[question.strip()]()) + "\n")
        sys.stdout.flush()


def time_here(contender: Contender, repeats: int) -> dict[str, Any]:
    """One row of :func:`step_bench` measured in this process, without the ratio, the shares of selection and MFU.

    Raises:
        OutOfMemoryError: of torch, where the batch is too large.
    """
    if contender.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    model, step = prepared(contender)
    steps = [step() for _ in range(WARM_UP + repeats)]
    return _row(contender, steps[WARM_UP:], _summary(model, contender, detailed=False), None)


def prepared(contender: Contender) -> tuple[Objective, Callable[[], dict[str, float]]]:
    """A contender's model, and a function that does its steps."""
    torch.set_num_threads(contender.threads)
    torch.manual_seed(0)
    model = build(contender)
    forward = as_compiled(model, contender.compiled)
    given = inputs(model, contender)
    return model, stepper(model, lambda: forward(*given).loss_per_sample.mean(), contender)


def as_compiled(model: Objective, how: str) -> nn.Module:
    """The model as it is called: see :class:`Contender`."""
    if how == "graphs":
        graphs: nn.Module = torch.compile(model, dynamic=False, mode="reduce-overhead")  # type: ignore[assignment]
        return graphs
    return model.compiled("model" if how == "model" else how == "blocks")


def build(contender: Contender) -> Objective:
    """The model of a contender, on its device."""
    width, heads = DECODERS.get(contender.encoder, (512, 16))
    sizes = {"decoder_depth": contender.decoder_depth, "decoder_dim": width, "decoder_heads": heads}
    settings = {"name": contender.objective, **sizes}
    if contender.objective == "scale_mae":
        settings["target_size"] = 2 * contender.image
    objective = TypeAdapter[ObjectiveConfig](ObjectiveConfig).validate_python(settings)
    encoder = EncoderConfig(name=contender.encoder, args={"img_size": contender.image})
    return build_objective(objective, encoder).to(contender.device)


def inputs(model: Objective, contender: Contender) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch for ``forward``: random images, GSD, noise and progress, the same each time."""
    size, side = contender.batch, model.crop_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
    noise = torch.rand(size, model.noise_size, generator=generator)
    tensors = (images, torch.ones(size), noise, torch.tensor(STAGE))
    one, two, three, four = (tensor.to(contender.device) for tensor in tensors)
    return one, two, three, four


def stepper(model: nn.Module, loss: Callable[[], Tensor], contender: Contender) -> Callable[[], dict[str, float]]:
    """A function that does one training step on ``loss`` and says how long it took, all in all and in the optimiser."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=1e-4, betas=(0.9, 0.95), fused=True)
    clock = PartsClock(torch.device(contender.device), alone=contender.threads == 1)

    def once() -> None:
        clock("between")
        if contender.compiled == "graphs":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch.autocast(contender.device, torch.bfloat16, enabled=contender.precision == "bf16"):
            value = loss()
        torch.autograd.backward(value)
        clock("model")
        optimiser.step()
        optimiser.zero_grad()
        clock("optimiser")

    def steps() -> dict[str, float]:
        count = TOGETHER if contender.device == "cuda" else 1
        for _ in range(count):
            once()
        took = clock.read()
        optimising = sum(seconds for part, seconds in took if part == "optimiser") / count
        return {"seconds": sum(seconds for _, seconds in took) / count, "optimiser": optimising}

    return steps


def _summary(model: Objective, contender: Contender, detailed: bool = True) -> dict[str, float]:
    """Peak memory so far, then (``detailed``) what the step spends on selection, timed on its own."""
    if contender.device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    else:
        peak = torch.cuda.max_memory_allocated() / 2**20
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    times = {"selection": 0.0, "hog": 0.0, "embedding": 0.0}
    if detailed and isinstance(model, SelectiveMAE):
        images, _, noise, progress = inputs(model, contender)
        patches = model.patchify(images)
        plain = contender.compiled == "no"
        as_timed: Callable[[Any], Any] = (lambda part: part) if plain else partial(torch.compile, dynamic=False)
        tokens, hog, select = as_timed(model.tokens), as_timed(richness), as_timed(model.select)
        times["embedding"] = _median_time(lambda: tokens(patches), contender)
        times["hog"] = _median_time(lambda: hog(images, model.patch_size), contender)
        whole = _median_time(lambda: select(images, patches, noise, progress), contender)
        times["selection"] = whole - times["embedding"]
    count, here = multiply_adds(model), torch.device(contender.device)
    return {
        "peak_mib": peak, "parameters": float(parameters), "gmac": sum(count) / 1e9,
        "operations": count.training_operations,
        "peak": peak_operations(here, contender.precision) if detailed and here.type == "cuda" else 0.0, **times,
    }  # fmt: skip


def _median_time(work: Callable[[], object], contender: Contender, repeats: int = 5) -> float:
    clock, times = _clock(contender), []
    for _ in range(repeats + 1):
        start = clock()
        work()
        times.append(clock() - start)
    return statistics.median(times[1:])


def _clock(contender: Contender) -> Callable[[], float]:
    if contender.device == "cpu":
        return time.process_time if contender.threads == 1 else time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


if __name__ == "__main__":
    _serve(Contender(**json.loads(sys.argv[1])))
