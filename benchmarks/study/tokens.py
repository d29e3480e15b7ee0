"""Which tokens each variant of SelectiveMAE chooses of one image, stage by stage, as a picture.

    python -m benchmarks.study.tokens --run demo/run --out docs/assets/tokens.jpg

The run's encoder is asked by every variant, with its ratios and the same noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.study.arms import ARMS
from pretrain.models import SelectiveMAE, build_objective
from pretrain.run import load_run
from pretrain.sheet import Column, sheet, to_pixels
from pretrain.visualise import ADDED, SEED, TARGET, mark, open_images, write_picture

VARIANTS = {
    "selective": "as in the paper",
    "targets_uniform": "targets uniform",
    "seeds_targets_uniform": "as the released code runs",
    "added_content": "similarity of content",
    "random": "all random",
}
"""Of the study's arms, with what stands upon their row."""
STAGES = {"near": 0.1, "far": 0.5, "random": 0.9}
"""Shares of training in the middle of each stage of PSTS."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--image", type=int, default=0, help="which of the run's images, in a fixed order")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model, config, _ = load_run(options.run)
    images, gsd, noise = open_images(model, config, options.image + 1, None, ())
    asked = images[options.image :], gsd[options.image :], noise[options.image :]
    rows = {stage: [] for stage in STAGES}
    for name in VARIANTS:
        changes = {key: value for key, value in (ARMS[name].objective or {}).items() if key != "name"}
        variant = build_objective(config.objective.model_copy(update=changes), config.encoder)
        assert isinstance(variant, SelectiveMAE)
        variant.encoder.load_state_dict(model.encoder.state_dict())
        for stage, progress in STAGES.items():
            with torch.no_grad():
                output = variant(*asked, torch.tensor(progress))
            rows[stage].append(to_pixels(mark(asked[0], output, variant.grid[0], variant.seeds))[0])
    legend = [("seeds", SEED), ("added", ADDED), ("targets", TARGET)]
    columns = [Column(to_pixels(asked[0].expand(len(VARIANTS), -1, -1, -1)), "input", legend, list(VARIANTS.values()))]
    columns += [Column(np.stack(pictures), stage) for stage, pictures in rows.items()]
    write_picture(sheet(columns), options.out)


if __name__ == "__main__":
    main()
