"""Is pretraining worth its time? A linear probe on encoders of several seeds, each beside the same untrained.

    python benchmarks/gain.py RSSCN7 --out gain

RSSCN7 stands for a folder with a folder of images per class. A seed draws half of each class, which becomes shards and
trains ``small_mae`` without labels, and it draws the first weights, the order, the crops and the masks. The classifiers
learn on that half, with labels, and are asked on the other. Everything runs through the commands; what a seed has
finished stays, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.stats import t as student

from pretrain.evaluate.labelled import DataSet, open_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--side", type=int, default=64, help="of the encoder's images, in pixels")
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    answers = [answered(seed, options) for seed in options.seeds]
    print("| seed | minutes | " + " | ".join(f"{name} untrained | trained | gain" for name in answers[0][1]) + " |")
    print("|---|---|" + "---|" * (3 * len(answers[0][1])))
    for seed, (minutes, found) in zip(options.seeds, answers, strict=True):
        cells = (f"{before:.1%} | {after:.1%} | **{points(after - before)}**" for before, after in found.values())
        print(f"| {seed} | {minutes:.1f} | {' | '.join(cells)} |")
    for name in answers[0][1]:
        gains = np.array([after - before for _, found in answers for before, after in [found[name]]])
        if len(gains) > 1:
            half = student.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
            print(f"\n{name}: {points(gains.mean())} ({points(gains.mean() - half)} to {points(gains.mean() + half)})")


def points(share: float) -> str:
    return f"{100 * share:+.1f}"


def answered(seed: int, options: argparse.Namespace) -> tuple[float, dict[str, tuple[float, float]]]:
    """Minutes of training; per classifier its accuracy before and after."""
    folder = options.out / str(seed)
    if not (folder / "answers.json").is_file():
        divide(seed, options.data, folder)
        rs("curation", "run", folder / "half", "--out", folder / "corpus")
        rs(
            "pretrain", "train", "small_mae", f"data.shards={folder / 'corpus/shards'}", f"seed={seed}",
            f"encoder.args.img_size={options.side}", f"epochs={options.epochs}",
            f"optim.warmup_epochs={options.epochs / 10:g}", "data.workers=1", "picture_every=0",
            "--resume", "--out", folder / "run",
        )  # fmt: skip
        rs(
            "pretrain", "evaluate", "--run", folder / "run", "--data", options.data, "--seed", seed, "--workers", 1,
            "--train-list", folder / "train.txt", "--test-list", folder / "test.txt", "--out", folder / "answers.json",
        )  # fmt: skip
    trained, untrained = json.loads((folder / "answers.json").read_text())["encoders"]
    accuracy = {
        name: (untrained["answers"][name]["accuracy"]["mean"], answer["accuracy"]["mean"])
        for name, answer in trained["answers"].items()
    }
    images = len((folder / "train.txt").read_text().splitlines())
    return minutes(folder / "run/log.jsonl", images), accuracy


def minutes(log: Path, images: int) -> float:
    """What the log's steps took, by their speed."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    epochs = np.diff([0, *(record["epoch"] for record in records)])
    return sum(epochs / [record["samples_per_s"] for record in records]) * images / 60


def divide(seed: int, data: Path, folder: Path) -> None:
    """Half of each class into a folder, and the names of both halves into lists."""
    divided = open_dataset(DataSet(path=data, seed=seed))
    for part, rows in (("train", divided.train), ("test", divided.test)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{part}.txt").write_text("".join(f"{divided.images.places[row].name}\n" for row in rows))
    for row in divided.train:
        target = folder / "half" / divided.images.places[row].name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(divided.images.places[row].path, target)


def rs(*words: object) -> None:
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True)


if __name__ == "__main__":
    main()
