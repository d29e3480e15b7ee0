"""What a training would take, from its data, its model and a few passes of it: nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from curation.base.progress import Observer
from pretrain import distributed
from pretrain.config import TrainConfig
from pretrain.data.corpus import Corpus
from pretrain.data.reader import Batch
from pretrain.data.stream import StreamPlan, batches
from pretrain.data.unpack import refuse_decoder
from pretrain.device import computing, settled
from pretrain.layout import announce, check_sizes, corpus_of, crop_rule, stream_plan
from pretrain.models import Objective, build_objective
from pretrain.schedule import build_optimizer
from pretrain.train import mask_noise

_PASSES = 3
_FEW = 8
"""Images of a pass on a CPU, where a whole micro-batch would take minutes."""
_STATE, _MOMENTS = 16, 8
"""Bytes a parameter: weight, gradient and two moments in float32; and of these the moments'."""


@dataclass(frozen=True)
class Rehearsal:
    """Figures of one process."""

    total_steps: int
    images_per_step: int
    """Of this process."""
    micro_batch: int
    parameters: int
    kept_bytes: float
    """What a forward pass keeps for the backward pass, per image."""
    peak_bytes: int | None
    """Most that was allocated on the GPU, with gradients and moments."""
    measured: int
    """Images of a pass."""
    compute_seconds: float
    """Per image, forward and backward."""
    optimizer_seconds: float
    read_seconds: float
    """Per image, to read, decode and crop it in one process."""
    workers: int
    sharing: int = 1
    """Processes among which the moments are divided."""

    @property
    def state_bytes(self) -> float:
        """Per parameter."""
        return _STATE - _MOMENTS * (1 - 1 / self.sharing)

    @property
    def memory_bytes(self) -> float:
        """Of a process: measured on a GPU, less what others then hold of the moments; counted otherwise."""
        if self.peak_bytes is not None:
            return self.peak_bytes - (_STATE - self.state_bytes) * self.parameters
        return self.state_bytes * self.parameters + self.kept_bytes * self.micro_batch

    @property
    def seconds(self) -> float:
        """Of the whole training: a step computes or waits for its images, whichever takes longer."""
        compute = self.images_per_step * self.compute_seconds + self.optimizer_seconds
        read = self.images_per_step * self.read_seconds / max(self.workers, 1)
        return self.total_steps * (max(compute, read) if self.workers else compute + read)


def rehearse(config: TrainConfig, observer: Observer, processes: int = 1) -> Rehearsal:
    """Open the data, build the model, and do a few passes of one of so many equal processes.

    Raises:
        InputError: the config does not fit the data or the model.
    """
    with distributed.joined(config.device) as team:
        config = settled(config, team.device)
        refuse_decoder(config.data.decode, team.device)
        torch.manual_seed(config.seed)
        model = build_objective(config.objective, config.encoder).to(team.device)
        model.set_grad_checkpointing(config.grad_checkpointing)
        corpus = corpus_of(config, model)
        plan = stream_plan(config, 0, processes)
        check_sizes(config, corpus, plan)
        announce(config, corpus, model, team.device, observer.say)
        with computing(config, team.device):
            found = _measured(config, model, corpus, plan, team)
            return replace(found, sharing=processes if config.shard_optimizer else 1)


def _measured(
    config: TrainConfig, model: Objective, corpus: Corpus, plan: StreamPlan, team: distributed.Team
) -> Rehearsal:
    rows = len(plan.rows) * plan.crops
    micro_batch = -(-rows // plan.micro_batches)
    few = replace(plan, micro_batch=min(micro_batch, _FEW) if team.device.type == "cpu" else micro_batch)
    began = time.perf_counter()
    (batch,) = islice(batches(corpus, few, crop_rule(config, model), 0, 1, device=team.device), 1)
    read = (time.perf_counter() - began) / len(batch.images)
    batch = batch.to(team.device)
    kept = _kept_bytes(config, model, batch) if team.device.type == "cpu" else 0
    model.compiled(config.compile)
    optimizer = build_optimizer(model, config.optim)
    passes = [_timed_pass(config, model, optimizer, batch) for _ in range(_PASSES + 1)][1:]
    per_epoch = plan.steps_per_epoch(corpus)
    return Rehearsal(
        total_steps=config.epochs * per_epoch,
        images_per_step=rows,
        micro_batch=micro_batch,
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        kept_bytes=kept / len(batch.images),
        peak_bytes=torch.cuda.max_memory_allocated(team.device) if team.device.type == "cuda" else None,
        measured=len(batch.images),
        compute_seconds=min(computed for computed, _ in passes) / len(batch.images),
        optimizer_seconds=min(stepped for _, stepped in passes),
        read_seconds=read,
        workers=team.workers if config.data.workers is None else config.data.workers,
    )


def _loss(config: TrainConfig, model: Objective, batch: Batch) -> Tensor:
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        progress = torch.zeros((), device=batch.images.device)
        loss: Tensor = model(batch.images, batch.gsd, mask_noise(config.seed, model, batch), progress)[0]
    return loss.mean()


def _kept_bytes(config: TrainConfig, model: Objective, batch: Batch) -> int:
    """Bytes of all tensors that a forward pass saves, each storage once, the parameters' left out."""
    seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    total = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss(config, model, batch)
    return total


def _timed_pass(
    config: TrainConfig, model: Objective, optimizer: torch.optim.Optimizer, batch: Batch
) -> tuple[float, float]:
    """Seconds of forward and backward pass, and of the optimiser."""
    times = [_now(batch)]
    torch.autograd.backward(_loss(config, model, batch))
    times.append(_now(batch))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    times.append(_now(batch))
    return times[1] - times[0], times[2] - times[1]


def _now(batch: Batch) -> float:
    if batch.images.is_cuda:
        torch.cuda.synchronize(batch.images.device)
    return time.perf_counter()


def tell(found: Rehearsal, processes: int) -> list[str]:
    """The figures in words, with how they were found."""
    if found.peak_bytes is not None:
        how = f"the most that {found.measured} images a pass took on this GPU"
        how += f", with a {found.sharing}th of the moments" if found.sharing > 1 else ""
    else:
        how = (
            f"counted: {found.state_bytes:.3g} bytes for each of {found.parameters:,} parameters, and "
            f"{_size(found.kept_bytes)} for each of {found.micro_batch} images at a time"
        )
    hours, minutes = divmod(round(found.seconds / 60), 60)
    crowd = f" with {processes} processes like this one, what they exchange not counted" if processes > 1 else ""
    compute, optimizer, read = (
        f"{1000 * seconds:.3g} ms" for seconds in (found.compute_seconds, found.optimizer_seconds, found.read_seconds)
    )
    return [
        f"memory: {_size(found.memory_bytes)} a process, {how}",
        f"time: {hours} h {minutes:02} min{crowd}, from {_PASSES} passes of {found.measured} images: {compute} an "
        f"image, {optimizer} a step for the optimiser, {read} to read an image, with {found.workers} reading processes",
        "nothing was written",
    ]


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
