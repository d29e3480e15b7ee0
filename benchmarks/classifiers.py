"""How long nearest neighbours and the linear probe take on features of the size of a benchmark.

    python benchmarks/classifiers.py [--train 10000] [--test 2000] [--width 768] [--classes 45] [--threads 2]

Features of a class lie normally distributed about its mean; seconds are wall-clock, the median of the repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from pretrain.evaluate.knn import knn_scores
from pretrain.evaluate.linear import fit, fit_swept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--test", type=int, default=2_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=45)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sweep", action="store_true", help="the linear probe with its sweep as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(options.classes, options.width, generator=generator)
    train, labels = features(means, options.train, generator)
    test, _ = features(means, options.test, generator)
    timed("kNN, k = 20", options.repeats, lambda: knn_scores(train, labels, test, 20, options.classes))
    if options.sweep:
        timed("linear, one penalty", 1, lambda: fit(train, labels, options.classes, 1e-2))
        timed("linear, swept", 1, lambda: fit_swept(train, labels, options.classes))


def features(means, number, generator):
    labels = torch.randint(0, len(means), (number,), generator=generator)
    return means[labels] + 8 * torch.randn(number, means.shape[1], generator=generator), labels


def timed(label, repeats, work):
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    print(f"{label}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} - {max(seconds):.2f})", flush=True)


if __name__ == "__main__":
    main()
