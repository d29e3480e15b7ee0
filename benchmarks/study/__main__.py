"""What the methods are worth: arms x seeds at equal cost, each trained, asked and kept; the same command goes on.

    python -m benchmarks.study --data DIR --out DIR --preset pilot                       # 13 arms, three seeds: hours
    python -m benchmarks.study --data DIR --out DIR --preset pilot --arms mae selective --seeds 1
    python -m benchmarks.study --data DIR --out DIR --budget images                      # full size: days
    python -m benchmarks.study --data DIR --out DIR --preset gpu --arms mae selective random --threads 4   # an hour
    python -m benchmarks.study --page                                                    # only the page, from the JSON

DIR of --data holds RSSCN7_256 and UCMerced_256, each with one folder of images per class. Half of each class is trained
on without labels, the other half is asked. Results go to docs/benchmarks/study/, the page to docs/benchmarks/study.md.
Seeds are the outer loop, so that all arms have as many seeds as there was time for.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from benchmarks.study.arms import ARMS, PRESETS
from benchmarks.study.cells import Stopped, Study, cell
from benchmarks.study.corpus import build, open_sets
from benchmarks.study.page import write_page
from benchmarks.study.resident import Resident
from curation.shards.format import open_index
from pretrain.data.stream import batches

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"


def main() -> None:
    options = parse()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("study").setLevel(logging.INFO)
    if not options.page:
        torch.set_num_threads(options.threads)
        work(options)
    write_page(options.results, DOCS / "study.md")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks.study"
    )
    parser.add_argument("--data", type=Path, help="folder of the labelled sets")
    parser.add_argument("--out", type=Path, help="folder for shards and unfinished runs")
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument(
        "--budget", choices=["seconds", "half", "images"], default="seconds", help="what is equal for all arms"
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=DOCS / "study")
    parser.add_argument("--page", action="store_true", help="write the page and do nothing else")
    options = parser.parse_args()
    if not options.page and (options.data is None or options.out is None):
        parser.error("give --data and --out, or --page")
    if PRESETS[options.preset].sweep_seed in (options.seeds or ()):
        parser.error(f"seed {PRESETS[options.preset].sweep_seed} chooses rates and is not reported; give others")
    return options


def work(options: argparse.Namespace) -> None:
    preset, sets = PRESETS[options.preset], open_sets(options.data)
    shards = build(options.data, sets, options.out)
    samples = open_index(shards)[0].metadata.num_rows
    feed = Resident(torch.device("cuda")) if preset.resident else batches
    study = Study(options.preset, preset, sets, shards, samples, options.out, options.results, feed)
    seeds = options.seeds or preset.seeds
    for seed in seeds:
        for name in options.arms:
            if name == "histogram" and seed != seeds[0]:
                continue  # nothing in it is drawn
            if name == "selective_plain" and not preset.rates:
                continue  # the same as the published arm, where no rate is swept
            try:
                told = cell(study, name, ARMS[name], seed, options.budget)
            except Stopped as stopped:
                raise SystemExit(f"{stopped} was stopped; the same command goes on") from None
            logging.getLogger("study").info("%s, seed %d: %s", name, seed, in_words(told))


def in_words(told: dict) -> str:
    if "failed" in told:
        return told["failed"]
    means = {
        protocol: sum(each[protocol]["accuracy"] for each in told["answers"].values()) / len(told["answers"])
        for protocol in next(iter(told["answers"].values()))
    }
    spent = f"{told['images']:,} images, {told['cpu_seconds']:.0f} s, " if "images" in told else ""
    return spent + ", ".join(f"{protocol} {mean:.1%}" for protocol, mean in means.items())


if __name__ == "__main__":
    main()
