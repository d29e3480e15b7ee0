"""Our MAE's training step beside the released one's, interleaved in one process.

    git clone https://github.com/facebookresearch/mae
    python benchmarks/released_mae.py mae [--encoder vit_base_patch16_224] [--batch 32] [--precision fp32 bf16]

The released model runs on this environment's timm, whose blocks have fused attention: two names that newer timm and
numpy no longer have are put back first. Both take the same number of images; ours takes bytes, the released one floats
that are normalised already.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from functools import partial
from pathlib import Path

import numpy as np
import timm.models.vision_transformer as vit
import torch

from pretrain.bench.step import KEEP_MEMORY, Contender, build, inputs, stepper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clone", type=Path)
    parser.add_argument("--encoder", nargs="+", default=["vit_small_patch16_224", "vit_base_patch16_224"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not KEEP_MEMORY.items() <= os.environ.items():  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY | {"OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    released = import_released(options.clone)
    print("| encoder | precision | batch | released s/step | ours s/step | released / ours (min-max) |")
    print("|---|---|---|---|---|---|")
    rows = []
    for encoder in options.encoder:
        for precision in options.precision:
            contender = Contender(encoder, "mae", 8, options.batch, precision, "cpu", compiled="no", threads=1)
            row = compare(released, contender, options.repeats)
            rows.append({"encoder": encoder, "precision": precision, "batch": options.batch, **row})
            print(
                f"| {encoder} | {precision} | {options.batch} | {row['released']:.2f} | {row['ours']:.2f} | "
                f"{row['ratio']:.2f} ({row['least']:.2f}-{row['greatest']:.2f}) |", flush=True,
            )  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def import_released(clone: Path):
    block = vit.Block
    vit.Block = lambda *args, qk_scale=None, **named: block(*args, **named)
    vars(np)["float"] = float
    sys.path.insert(0, str(clone))
    import models_mae

    return models_mae


def compare(released, contender, repeats):
    torch.manual_seed(0)
    ours = build(contender)
    theirs = released.MaskedAutoencoderViT(
        embed_dim=ours.encoder.embed_dim, depth=len(ours.encoder.blocks),
        num_heads=ours.encoder.blocks[0].attn.num_heads, decoder_embed_dim=ours.decoder_embed.out_features,
        decoder_num_heads=ours.decoder_blocks[0].attn.num_heads,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), norm_pix_loss=True,
    )  # fmt: skip
    given = inputs(ours, contender)
    floats = (given[0].float() / 255 - ours.mean[:, None, None]) / ours.std[:, None, None]
    steps = [
        stepper(theirs, lambda: theirs(floats)[0], contender),
        stepper(ours, lambda: ours(*given).loss_per_sample.mean(), contender),
    ]
    rounds = [[step()["seconds"] for step in steps] for _ in range(repeats + 1)][1:]
    ratios = [one / other for one, other in rounds]
    middle = [statistics.median(seconds) for seconds in zip(*rounds, strict=True)]
    return {"released": middle[0], "ours": middle[1], "ratio": statistics.median(ratios)} | {
        "least": min(ratios), "greatest": max(ratios)
    }  # fmt: skip


if __name__ == "__main__":
    main()
