"""Gradients travel while others are still computed, also where blocks are compiled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from small_run import SMALL
from torch import Tensor, nn

from pretrain.config import EncoderConfig, MaeObjective
from pretrain.distributed import Team, wrap
from pretrain.models import build_objective


@pytest.fixture
def alone_in_a_team(tmp_path: Path) -> Iterator[Team]:
    dist.init_process_group("gloo", init_method=(tmp_path / "meeting").as_uri(), rank=0, world_size=1)
    yield Team(0, 2, 2, torch.device("cpu"))
    dist.destroy_process_group()


def test_the_decoders_gradient_is_sent_before_the_encoders_is_known(
    alone_in_a_team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_without_a_compiler(module: nn.Module, **options: Any) -> None:
        module._compiled_call_impl = torch.compile(module._call_impl, backend="aot_eager", **options)

    monkeypatch.setattr(nn.Module, "compile", compile_without_a_compiler)
    encoder = EncoderConfig(name="vit_tiny_patch16_224", args={"img_size": 32, "patch_size": 8, "depth": 3})
    wide = SMALL | {"decoder_dim": 256, "decoder_depth": 2}  # over a megabyte, DDP's first bucket
    model = build_objective(MaeObjective(name="mae", **wide), encoder)
    model.parts = ()
    order: list[str] = []
    wrapped = wrap(model.compiled(True), alone_in_a_team)

    def send(state, bucket):  # DDP does not take annotations that are strings
        order.append("bucket")
        sent = torch.futures.Future()
        sent.set_result(bucket.buffer())
        return sent

    wrapped.register_comm_hook(None, send)
    embed = model.embed

    def embed_and_tell(*arguments: Any) -> Tensor:
        tokens = embed(*arguments)
        tokens.register_hook(lambda gradient: order.append("embedding"))
        return tokens

    monkeypatch.setattr(model, "embed", embed_and_tell)
    for _ in range(2):  # DDP puts its buckets into the order of the first backward pass
        order.clear()
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        noise = torch.rand(2, model.noise_size)
        wrapped(images, torch.ones(2), noise, torch.tensor(0.5)).loss_per_sample.sum().backward()
    assert order.count("bucket") >= 2
    assert order.index("bucket") < order.index("embedding")
