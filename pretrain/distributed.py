"""Process groups: the only module that knows how many processes train together.

``torchrun`` sets the environment; without it there is one process and nothing is initialised.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from threading import Event, Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from pretrain.errors import InputError, WorkError
from pretrain.signals import pass_on_stop, was_asked

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Team:
    """The processes of a run, seen from one of them."""

    rank: int
    world: int
    local_world: int
    """Processes on this machine."""
    device: torch.device
    host: dist.ProcessGroup | None = None
    """Where numbers are exchanged between CPUs, so that no device is waited for; None alone."""

    @property
    def cores(self) -> int:
        """This process's share of the machine's cores."""
        here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        return max(1, here // self.local_world)

    @property
    def workers(self) -> int:
        """Reading processes that suit this machine: where a CPU computes as well, decoding is the smaller part."""
        if self.device.type == "cpu":
            return min(1, self.cores - 1)
        return min(8, max(1, self.cores - 1))

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0


@contextmanager
def joined(device: str, timeout_minutes: float = 10) -> Iterator[Team]:
    """Join the processes that torchrun started, or be alone.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; auto takes a GPU where there is one.
        timeout_minutes: how long processes wait for each other.

    Raises:
        InputError: ``cuda`` was asked for and there is none.
        WorkError: another process has ended, or did not answer for so long.
    """
    world, rank, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    here = device_of(device, local)
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        group = stack.enter_context(_groups(here, timedelta(minutes=timeout_minutes))) if world > 1 else None
        team = Team(rank, world, int(os.environ.get("LOCAL_WORLD_SIZE", world)), here, group)
        stack.callback(torch.set_num_threads, threads)
        if here.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            # Threads that wait for a core that a reading process holds cost more than they give.
            torch.set_num_threads(max(1, team.cores - 1))
        yield team


@contextmanager
def _groups(device: torch.device, timeout: timedelta) -> Iterator[dist.ProcessGroup]:
    """Join the others, watch them, and say in one line when one of them is gone."""
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
        with _watched(_host_group(timeout)):
            yield _host_group(timeout)
        dist.destroy_process_group()  # after an error others may be gone, and it would wait for them
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error) for word in ("gloo", "NCCL")):
            raise
        raise WorkError(_LOST + f" ({' '.join(str(error).split())[:150]})") from None


def _host_group(timeout: timedelta) -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup), "every process is in it"
    return group


_LOST = (
    "another process of this run has ended, or did not answer for timeout_minutes; its own message says why; "
    "--resume goes on from the last checkpoint"
)
_PULSE_SECONDS, _GRACE_SECONDS = 2.0, 20.0


@contextmanager
def _watched(group: dist.ProcessGroup) -> Iterator[None]:
    """End this process when another one dies while a device waits for it: from that wait no exception returns.

    A thread tells the others every two seconds that it goes on, and whether a signal asked this process to stop: one
    that waits for files then learns it. What fails in the thread fails, as a rule, also in the main one, which then has
    twenty seconds to say so.
    """
    over, ended = Event(), Event()

    def pulse() -> None:
        try:
            going = 1
            while going:
                told = torch.tensor([not over.wait(_PULSE_SECONDS), was_asked()], dtype=torch.int32)
                dist.all_reduce(told, group=group)
                going, asked = told.tolist()
                if asked:
                    pass_on_stop()
        except RuntimeError:
            if not over.is_set() and not ended.wait(_GRACE_SECONDS):
                _log.error(_LOST)
                os._exit(1)

    thread = Thread(target=pulse, name="pulse", daemon=True)
    thread.start()
    try:
        yield
        over.set()
        thread.join()
    finally:
        ended.set()


_ENVIRONMENT = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))


def device_of(name: str, local_rank: int = 0) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda`` stands for on this machine.

    Raises:
        InputError: ``cuda`` was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda was asked for, and torch finds no GPU; set device=cpu or device=auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def wrap(model: nn.Module, team: Team) -> nn.Module:
    """Average gradients over the team; alone, the model itself."""
    if team.world == 1:
        return model
    here = [team.device.index] if team.device.type == "cuda" else None
    # Buffers are constants; sending them with every forward pass would hang ranks that take unequal micro-batches.
    renamed = "forward_sync_buffers" in signature(DistributedDataParallel).parameters  # torch 2.15
    buffers: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return DistributedDataParallel(model, device_ids=here, gradient_as_bucket_view=True, **buffers)


def divided_adamw(groups: list[dict[str, Any]], team: Team, **options: Any) -> torch.optim.Optimizer:
    """AdamW whose moments and work are divided among the processes; alone, all of it.

    ZeRO, stage 1 (Rajbhandari et al. 2020): each process steps its share of the parameters and sends them around.
    """
    if team.world == 1:
        return torch.optim.AdamW(groups, **options)
    return ZeroRedundancyOptimizer(groups, torch.optim.AdamW, **options)


def own_part(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser that holds this process's moments."""
    return optimizer.optim if isinstance(optimizer, ZeroRedundancyOptimizer) else optimizer


def gathered(held: dict[str, Tensor], like: dict[str, Tensor], team: Team) -> dict[str, Tensor]:
    """On the first process, what any process holds of the tensors with the names, shapes and types of ``like``."""
    if team.world == 1:
        return held
    mine = torch.tensor([name in held for name in like])
    everyones = [torch.empty_like(mine) for _ in range(team.world)]
    dist.all_gather(everyones, mine, group=team.host)
    for name, owners in zip(like, torch.stack(everyones).T.tolist(), strict=True):
        owner = owners.index(True) if any(owners) else 0
        if owner and team.leads:
            held[name] = torch.empty_like(like[name], device="cpu")
            dist.recv(held[name], owner, group=team.host)
        elif owner == team.rank != 0:
            dist.send(held[name].detach().cpu(), 0, group=team.host)
    return held


def interleaved(values: Tensor, total: int, team: Team) -> Tensor:
    """Rows (total, D) of which process r of W holds the rows r, r + W, r + 2W, ..., on the CPU of every process."""
    if team.world == 1:
        return values
    own = torch.zeros(-(-total // team.world), values.shape[1], dtype=values.dtype)
    own[: len(values)] = values
    everyones = [torch.empty_like(own) for _ in range(team.world)]
    dist.all_gather(everyones, own, group=team.host)
    return torch.stack(everyones, 1).flatten(0, 1)[:total]


def accumulating(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Context of a micro-batch: gradients are exchanged only with the last one of a step."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def summed(values: Tensor, team: Team) -> Tensor:
    """Sum over the team, on every process."""
    if team.world > 1:
        dist.all_reduce(values)
    return values


def greatest(value: Tensor, team: Team) -> Tensor:
    """The greatest of the team's values, on every process and without waiting for the device."""
    if team.world > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def agreed(good: bool, team: Team) -> bool:
    """Whether it is so on every process: what one of them raises, all must raise, or the others wait for ever."""
    return not summed(torch.tensor(float(not good), device=team.device), team)


def united(values: set[int], team: Team) -> set[int]:
    """Non-negative numbers that any process holds, on every process."""
    if team.world == 1:
        return values
    most = torch.tensor(len(values), device=team.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    if not most:
        return values
    own = torch.full((int(most),), -1, dtype=torch.int64, device=team.device)
    own[: len(values)] = torch.tensor(sorted(values), dtype=torch.int64)
    everyones = [torch.empty_like(own) for _ in range(team.world)]
    dist.all_gather(everyones, own)
    return set(torch.cat(everyones).tolist()) - {-1}


class Vote:
    """Each step's most urgent wish of any process, known to all of them at the same later step."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._sent: tuple[Tensor, Any] | None = None

    def cast(self, wish: int) -> int:
        """Give this step's wish; returns the greatest of the step before (alone: of this one).

        Numbers travel between the CPUs while the step is computed, so that nobody waits, least of all for a device.
        """
        if self._team.world == 1:
            return wish
        result, number = self.settle(), torch.tensor(wish)
        self._sent = number, dist.all_reduce(number, dist.ReduceOp.MAX, group=self._team.host, async_op=True)
        return result

    def settle(self) -> int:
        """The greatest wish of the last vote; none is under way afterwards."""
        if self._sent is None:
            return 0
        (number, work), self._sent = self._sent, None
        work.wait()
        return int(number)


def wait(team: Team) -> None:
    """Wait until every process is here."""
    if team.world > 1:
        dist.barrier()
