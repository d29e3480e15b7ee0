"""Does each objective learn? kNN on frozen features after a short run, against the same encoder untrained.

    python benchmarks/learning.py DATA [--objectives MAE Scale-MAE] [--epochs 60] [--json FILE]

DATA is a folder with one folder of images per class. Half of each class, without labels, is what the encoder is trained
on and what kNN (k = 20, cosine) looks in; the other half is asked. The encoder is a ViT of 4 blocks, width 192, on
96 x 96 px in patches of 8 (Scale-MAE: 128 px in patches of 16, of each of which its decoder makes 32 px). Training sees
random crops, mirrored at random; what is asked are whole images, for which Scale-MAE is told 1 m a pixel.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from pretrain.config import EncoderConfig, MaeObjective, ScaleMaeObjective, SelectiveMaeObjective
from pretrain.data.augment import NOISE_SIZE, CropRule, crop_and_resize, crop_box, flip, gsd_after
from pretrain.data.reader import EVALUATION_FORMATS, decode
from pretrain.evaluate.encoders import Input, VitEncoder
from pretrain.evaluate.labelled import DataSet, open_dataset
from pretrain.evaluate.protocols import Knn, ask
from pretrain.models import build_objective

SIDES = {"mae": (96, 8), "selective_mae": (96, 8), "scale_mae": (128, 16)}
"""Side of the image and of a patch."""
DECODER = {"decoder_depth": 2, "decoder_dim": 128, "decoder_heads": 4}
OBJECTIVES = {
    "MAE": MaeObjective(name="mae", **DECODER),
    "SelectiveMAE 0.85/0.25": SelectiveMaeObjective(name="selective_mae", **DECODER),
    "SelectiveMAE 0.75/0.5": SelectiveMaeObjective(name="selective_mae", mask_ratio=0.75, target_ratio=0.5, **DECODER),
    "Scale-MAE": ScaleMaeObjective(name="scale_mae", target_size=256, fcn_dim=32, fcn_layers=1, high_band=8, **DECODER),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=5e-4, help="greatest learning rate of the one cycle")
    parser.add_argument("--least-crop", type=float, default=0.2, help="share of the image's area; 1: whole images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = open_dataset(DataSet(path=options.data))
    print("| objective | seconds | first loss | last loss | kNN untrained | kNN trained |\n|---|---|---|---|---|---|")
    rows = []
    for label in options.objectives:
        config = OBJECTIVES[label]
        torch.manual_seed(0)
        side, patch = SIDES[config.name]
        args = {"img_size": side, "patch_size": patch, "depth": 4}
        encoder = EncoderConfig(name="vit_tiny_patch16_224", args=args)
        model = build_objective(config, encoder)
        before = accuracy(model, encoder, side, data)
        start = time.process_time()
        losses = learn(model, side, data, options)
        seconds = time.process_time() - start
        after = accuracy(model, encoder, side, data)
        rows.append({"objective": label, "seconds": seconds, "losses": losses, "untrained": before, "trained": after})
        print(
            f"| {label} | {seconds:.0f} | {losses[0]:.3f} | {losses[-1]:.3f} | {before:.1%} | {after:.1%} |", flush=True
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def accuracy(model, config, side, data):
    shape = Input(side, tuple(model.mean.tolist()), tuple(model.std.tolist()), config.args["patch_size"])
    answer = ask(VitEncoder("", model.encoder, shape, config), data, Knn(k=20))
    model.train()
    return answer.accuracy.mean


def learn(model, side, data, options):
    """Mean loss of each epoch."""
    images = [decode(place.read(), EVALUATION_FORMATS) for place in (data.images.places[row] for row in data.train)]
    rule = CropRule(model.crop_size, (options.least_crop, 1.0), model.crop_ratio, max_upsample=8)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # One cycle of the rate, and of beta 1 against it: from 0.95 to 0.85 and back.
    optimiser = torch.optim.AdamW(trainable, lr=options.rate, betas=(0.95, 0.95), weight_decay=0.05, fused=True)
    steps = len(images) // options.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, options.rate, total_steps=steps * options.epochs, pct_start=0.1
    )
    means = []
    for epoch in range(options.epochs):
        total = 0.0
        for rows in torch.randperm(len(images))[: steps * options.batch].view(steps, options.batch):
            crops, gsd = cut([images[row] for row in rows], rule, side)
            flipped = flip(crops, torch.rand(options.batch, 2), 0.5, 0.5)
            output = model(
                flipped, gsd, torch.rand(options.batch, model.noise_size), torch.tensor(epoch / options.epochs)
            )
            loss = output.loss_per_sample.mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item()
        means.append(total / steps)
    return means


def cut(images, rule, side):
    """Random crops and their GSD; a whole image has 1 m a pixel when it is resized to the encoder's ``side``."""
    boxes = [crop_box(*image.shape[1::-1], rule, torch.rand(NOISE_SIZE).numpy()) for image in images]
    crops = [crop_and_resize(image, box, rule.size) for image, box in zip(images, boxes, strict=True)]
    sides = [min(image.shape[:2]) for image in images]
    gsd = [gsd_after(side / whole, box, rule.size) for whole, box in zip(sides, boxes, strict=True)]
    return torch.stack(crops), torch.tensor(gsd)


if __name__ == "__main__":
    main()
