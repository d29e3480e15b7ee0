"""How large everything is: as on a GPU, or so small that a CPU does all of it within a minute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Of what is measured."""

    device: str
    encoders: tuple[str, ...]
    """The first is the one that modes, profiles and smoke tests take."""
    scale_encoder: str
    image: int
    depths: tuple[int, ...]
    """Blocks of SelectiveMAE's decoder."""
    mae_depth: int
    batches: tuple[int, ...]
    """In the order in which they are measured."""
    mode_batch: int
    scale_batches: tuple[int, ...]
    smoke_batch: int
    smoke_steps: int
    repeats: int
    shards: int
    per_shard: int
    side: int
    """Of the images in the shards, pixels."""
    workers: tuple[int, ...]
    """Of the loader; runs take the first three."""
    loader_seconds: float
    global_batch: int
    steps: int
    run_seconds: float


GPU = Size(
    device="cuda",
    encoders=("vit_base_patch16_224", "vit_small_patch16_224", "vit_large_patch16_224"),
    scale_encoder="vit_large_patch16_224",
    image=224,
    depths=(12, 8),
    mae_depth=8,
    batches=(1024, 512, 2048, 256),
    mode_batch=1024,
    scale_batches=(128, 256, 64),
    smoke_batch=64,
    smoke_steps=5,
    repeats=5,
    shards=32,
    per_shard=512,
    side=512,
    workers=(15, 8, 12, 16, 4, 1),
    loader_seconds=8,
    global_batch=2048,
    steps=40,
    run_seconds=25,
)

TINY = Size(
    device="cpu",
    encoders=("vit_tiny_patch16_224",),
    scale_encoder="vit_tiny_patch16_224",
    image=80,
    depths=(1,),
    mae_depth=1,
    batches=(2,),
    mode_batch=2,
    scale_batches=(1,),
    smoke_batch=2,
    smoke_steps=2,
    repeats=1,
    shards=2,
    per_shard=8,
    side=112,
    workers=(1, 0),
    loader_seconds=0.3,
    global_batch=4,
    steps=3,
    run_seconds=5,
)
