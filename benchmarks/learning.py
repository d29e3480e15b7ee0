"""Does each objective learn? kNN on frozen features after a short run, against the same encoder untrained.

    python benchmarks/learning.py DATA [--objectives MAE Scale-MAE] [--epochs 40] [--json FILE]

DATA is a folder with one folder of images per class. Half of each class, without labels, is what the encoder is trained
on and what kNN (k = 20, cosine) looks in; the other half is asked. The encoder is a ViT of 4 blocks, width 192, on
96 x 96 px in patches of 8 (Scale-MAE: 128 px in patches of 16, of each of which its decoder makes 32 px); whole images,
mirrored at random.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from pretrain.augment import flip, resize_whole
from pretrain.config import EncoderConfig, MaeObjective, ScaleMaeObjective, SelectiveMaeObjective
from pretrain.evaluate.features import Preparation, extract, open_labelled, split
from pretrain.evaluate.knn import knn_accuracy
from pretrain.models import build_objective
from pretrain.reader import EVALUATION_FORMATS, decode

SIDES = {"mae": (96, 8), "selective_mae": (96, 8), "scale_mae": (128, 16)}
"""Side of the image and of a patch."""
DECODER = {"decoder_depth": 2, "decoder_dim": 128, "decoder_heads": 4}
OBJECTIVES = {
    "MAE": MaeObjective(name="mae", **DECODER),
    "SelectiveMAE 0.85/0.25": SelectiveMaeObjective(name="selective_mae", **DECODER),
    "SelectiveMAE 0.75/0.5": SelectiveMaeObjective(name="selective_mae", mask_ratio=0.75, target_ratio=0.5, **DECODER),
    "Scale-MAE": ScaleMaeObjective(name="scale_mae", target_size=256, fcn_dim=32, fcn_layers=1, high_band=4, **DECODER),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train, test = split(open_labelled(options.data), 0.5)
    print("| objective | seconds | first loss | last loss | kNN untrained | kNN trained |\n|---|---|---|---|---|---|")
    rows = []
    for label in options.objectives:
        config = OBJECTIVES[label]
        torch.manual_seed(0)
        side, patch = SIDES[config.name]
        args = {"img_size": side, "patch_size": patch, "depth": 4}
        encoder = EncoderConfig(name="vit_tiny_patch16_224", args=args)
        model = build_objective(config, encoder)
        before = accuracy(model, side, train, test)
        start = time.process_time()
        losses = learn(model, side, train, options.epochs, options.batch)
        seconds = time.process_time() - start
        after = accuracy(model, side, train, test)
        rows.append({"objective": label, "seconds": seconds, "losses": losses, "untrained": before, "trained": after})
        print(
            f"| {label} | {seconds:.0f} | {losses[0]:.3f} | {losses[-1]:.3f} | {before:.1%} | {after:.1%} |", flush=True
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def accuracy(model, side, train, test):
    prepare = Preparation(side, model.mean.tolist(), model.std.tolist())
    known, asked = (extract([model.encoder], part, prepare)[0] for part in (train, test))
    model.train()
    labels, answers = torch.from_numpy(train.labels), torch.from_numpy(test.labels)
    return knn_accuracy(known, labels, asked, answers, [20])[20]


def learn(model, side, train, epochs, batch):
    """Mean loss of each epoch."""
    images = torch.stack(
        [resize_whole(decode(place.read(), EVALUATION_FORMATS), model.crop_size) for place in train.places]
    )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    steps = len(images) // batch
    gsd = torch.full((batch,), side / model.crop_size)  # 1 m a pixel of the encoder's input, as evaluation has it
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps * epochs, pct_start=0.1)
    means = []
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(images))[: steps * batch].view(steps, batch):
            progress = torch.tensor(epoch / epochs)
            flipped = flip(images[rows], torch.rand(batch, 2), 0.5, 0.5)
            output = model(flipped, gsd, torch.rand(batch, model.noise_size), progress)
            loss = output.loss_per_sample.mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item()
        means.append(total / steps)
    return means


if __name__ == "__main__":
    main()
