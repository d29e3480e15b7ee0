"""Several processes on this machine that train together, as torchrun would start them, without its start-up time."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from small_run import Quiet

from pretrain.config import TrainConfig
from pretrain.errors import InputError, WorkError
from pretrain.evaluate.watch import neighbours
from pretrain.train import train

Prepare = Callable[[int], None]
"""Told the rank before a process trains."""


def nothing(rank: int) -> None:
    """Nothing to prepare."""


def in_double_precision(rank: int) -> None:
    """The same arithmetic with 53 bits: what differs then is not rounding."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double


def start_team(
    world: int, config: TrainConfig, out: Path, *, resume: bool = False, prepare: Prepare = nothing
) -> list[BaseProcess]:
    """Start so many processes; each says what it says into ``rank-N.txt`` beside ``out``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pretrain.train"])
    out.parent.mkdir(parents=True, exist_ok=True)
    started = []
    for rank in range(world):
        process = context.Process(target=_member, args=(rank, world, port, config, out, resume, prepare))
        process.start()
        started.append(process)
    return started


def _member(rank: int, world: int, port: int, config: TrainConfig, out: Path, resume: bool, prepare: Prepare) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    sys.stderr = (out.parent / f"rank-{rank}.txt").open("w", buffering=1)
    prepare(rank)
    told = Quiet()
    told.say = lambda text: sys.stderr.write(f"{text}\n")
    try:
        finished = train(config, out, told, resume=resume, watch=neighbours(config)).finished
    except (InputError, WorkError) as error:
        told.say(str(error))
        sys.exit(error.exit_code)
    sys.exit(0 if finished else 143)


def ended(team: Sequence[BaseProcess], seconds: float = 240) -> list[int | None]:
    """Exit codes, once all have ended."""
    for process in team:
        process.join(seconds)
    codes = [process.exitcode for process in team]
    for process in team:
        process.kill()
    return codes


def said(out: Path, rank: int) -> str:
    """What a process said."""
    path = out.parent / f"rank-{rank}.txt"
    return path.read_text(encoding="utf-8") if path.exists() else ""
