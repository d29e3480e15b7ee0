"""The loader alone, and whole runs from shards."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.ledger import Cell, Result
from benchmarks.gpu.size import Size
from benchmarks.gpu.smoke import run_config
from benchmarks.gpu.textures import shards
from pretrain.bench.step import DECODERS
from pretrain.bench.throughput import data_bench, model_and_plan, train_bench
from pretrain.config import TrainConfig
from pretrain.data.reader import ShardReader
from pretrain.data.stream import batches, requests
from pretrain.layout import corpus_of, crop_rule


def data_cells(size: Size, work: Path) -> list[Cell]:
    """The loader, by number of processes."""
    return [
        Cell("shards", partial(made, size, work), 60),
        *(
            Cell(f"{count} workers", partial(loaded, size, work, count), size.loader_seconds + 15)
            for count in size.workers
        ),
        Cell("decoders apart", partial(decoders_apart, size, work), 30),
        Cell("time of a worker", partial(time_of_a_worker, size, work), 15),
        *(
            Cell(f"{count} workers, decode gpu", partial(unpacked, size, work, count), size.loader_seconds + 15)
            for count in size.workers[:3]
        ),
    ]


def made(size: Size, work: Path) -> Result:
    """Generated shards."""
    folder = shards(work, size)
    total = sum(path.stat().st_size for path in folder.glob("*.tar"))
    return {
        "images": size.shards * size.per_shard,
        "side": size.side,
        "kib_per_image": total / 1024 / size.shards / size.per_shard,
    }


def loaded(size: Size, work: Path, workers: int) -> Result:
    """Images per second."""
    return dict(data_bench(run_config(size, work, "selective_mae"), [workers], size.loader_seconds)[0])


def unpacked(size: Size, work: Path, workers: int) -> Result:
    """Images per second where the device decodes."""
    config = _decoding(size, work, "gpu")
    return dict(data_bench(config, [workers], size.loader_seconds, torch.device(size.device))[0])


def _decoding(size: Size, work: Path, decoder: str) -> TrainConfig:
    config = run_config(size, work, "selective_mae")
    return config.model_copy(update={"data": config.data.model_copy(update={"decode": decoder})})


def decoders_apart(size: Size, work: Path) -> Result:
    """Grey levels between crops that the device decodes and exact ones, and whether it gives the same bits again."""
    exact, once, again = (_crops(_decoding(size, work, decoder), size) for decoder in ("exact", "gpu", "gpu"))
    apart = (once - exact).abs()
    return {
        "crops": len(apart),
        "greatest": int(apart.max()),
        "mean": float(apart.float().mean()),
        "above_2": float((apart > 2).float().mean()),
        "same_again": torch.equal(once, again),
    }


def time_of_a_worker(size: Size, work: Path) -> Result:
    """Microseconds of a processor that it has to do with an image, by who decodes it."""
    return {f"us_{decoder}": 1e6 * _serving(_decoding(size, work, decoder)) for decoder in ("exact", "gpu")}


def _serving(config: TrainConfig) -> float:
    """Seconds per image of four steps, after one that does not count."""
    model, plan = model_and_plan(config)
    corpus = corpus_of(config, model)
    reader = ShardReader(corpus.paths, crop_rule(config, model), corpus.names)
    first, *asked = requests(corpus, plan, 0, 5)
    reader.serve(first)
    began = time.process_time()
    images = sum(len(reader.serve(request).sample_id) for request in asked)
    return (time.process_time() - began) / images


def _crops(config: TrainConfig, size: Size) -> torch.Tensor:
    """Of one step, (B, 3, S, S) int32."""
    model, plan = model_and_plan(config)
    found = batches(corpus_of(config, model), plan, crop_rule(config, model), 0, 1, device=torch.device(size.device))
    return torch.cat([batch.images.cpu().int() for batch in found])


def train_cells(size: Size, work: Path) -> list[Cell]:
    """Whole runs: the first encoder with each number of workers, then the others."""
    most, *fewer = size.workers[:3]
    depths = {"selective_mae": size.depths[0], "mae": size.mae_depth}
    main = size.encoders[0]

    def cell(encoder: str, objective: str, workers: int, **changes: Any) -> Cell:
        told = "".join(f", {name} {value}" for name, value in changes.items())
        name = f"{encoder}, {objective} {depths[objective]}, {workers} workers{told}"
        measure = partial(trained, size, work, objective, depths[objective], encoder, workers, **changes)
        return Cell(name, measure, size.run_seconds + 40, 240)

    return [
        cell(main, "selective_mae", most),
        cell(main, "selective_mae", most, compile="model"),
        *(cell(main, "selective_mae", count) for count in fewer),
        *([cell(main, "selective_mae", most, decode="gpu")] if size.device == "cuda" else []),
        cell(main, "mae", most),
        *(cell(encoder, objective, most) for encoder in size.encoders[1:] for objective in depths),
    ]


def _config(
    size: Size,
    work: Path,
    objective: str,
    depth: int,
    encoder: str,
    workers: int,
    decode: str = "exact",
    **changes: Any,
) -> TrainConfig:
    config = run_config(
        size,
        work,
        objective,
        global_batch=size.global_batch,
        max_batch_per_gpu=min(size.global_batch, size.mode_batch),
        **changes,
    )
    width, heads = DECODERS.get(encoder, (512, 16))
    decoder = {"decoder_depth": depth, "decoder_dim": width, "decoder_heads": heads}
    return config.model_copy(
        update={
            "encoder": config.encoder.model_copy(update={"name": encoder}),
            "objective": config.objective.model_copy(update=decoder),
            "data": config.data.model_copy(update={"workers": workers, "decode": decode}),
        }
    )


def trained(size: Size, work: Path, objective: str, depth: int, encoder: str, workers: int, **changes: Any) -> Result:
    """One run from shards."""
    return train_bench(_config(size, work, objective, depth, encoder, workers, **changes), size.steps, size.run_seconds)
