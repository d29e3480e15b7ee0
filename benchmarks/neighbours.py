"""Time and memory of the search for near codes, against a plain multi-index hash.

    python benchmarks/neighbours.py [--codes 13.2e6] [--radius 4] [--orientations] [--threads 2] [--out neighbours.json]

Codes: most spread at random, 5 % within 0 to 6 bits of ten centres, 8 % planted 0 to 4 bits from another code. The
alternative, interleaved with ours (A B A B ...), is multi-index hashing as it is usually written: for every choice of
bands sort all codes by those bands, compare inside runs, unite (6 bands choose 2 for radius 4, 11 choose 3 for 8); it
runs on one thread. ``--orientations`` gives every item eight codes, as the eight orientations of a picture do.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import itertools
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

from curation.select import neighbours

ODD_COLUMNS, ODD_ROWS = np.uint64(0x5555555555555555), np.uint64(0x00FF00FF00FF00FF)


def flipped(codes: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Codes with 0 to ``most`` bits changed."""
    count = rng.integers(0, most + 1, len(codes))
    for flips in range(most):
        bit = np.uint64(1) << rng.integers(0, 64, len(codes), dtype=np.uint64)
        codes = np.where(flips < count, codes ^ bit, codes)
    return codes


def make_codes(count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**64, count, dtype=np.uint64)
    crowd, planted = count * 5 // 100, count * 8 // 100
    centres = rng.integers(0, 2**64, 10, dtype=np.uint64)
    codes[:crowd] = flipped(centres[rng.integers(0, 10, crowd)], 6, rng)
    codes[crowd : crowd + planted] = flipped(codes[rng.integers(crowd + planted, count, planted)], 4, rng)
    return codes[rng.permutation(count)]


def transposed(codes: np.ndarray) -> np.ndarray:
    """The 8x8 bits of every code with rows and columns exchanged (Warren, Hacker's Delight, 7-3)."""
    for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        swap = (codes ^ (codes >> np.uint64(shift))) & np.uint64(mask)
        codes = codes ^ swap ^ (swap << np.uint64(shift))
    return codes


def orientations_of(codes: np.ndarray) -> np.ndarray:
    """(N, 8): mirroring changes the sign of odd frequencies, turning exchanges the axes as well."""
    exchanged = transposed(codes)
    both = ODD_ROWS ^ ODD_COLUMNS
    columns = [codes, exchanged ^ ODD_ROWS, codes ^ both, exchanged ^ ODD_COLUMNS]
    columns += [codes ^ ODD_COLUMNS, exchanged, codes ^ ODD_ROWS, exchanged ^ both]
    return np.stack(columns, axis=1)


# ------------------------------------------------------------------------------------------------ the alternative


@numba.njit(cache=True)
def _root(parent, item):
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


@numba.njit(cache=True)
def _runs(keys, order, codes, parent, radius):
    start = 0
    for place in range(1, len(order) + 1):
        if place < len(order) and keys[order[place]] == keys[order[start]]:
            continue
        for a in range(start, place):
            for b in range(a + 1, place):
                difference = codes[order[a]] ^ codes[order[b]]
                count = 0
                while difference and count <= radius:
                    difference &= difference - np.uint64(1)
                    count += 1
                if count <= radius:
                    i, j = _root(parent, order[a]), _root(parent, order[b])
                    if i != j:
                        parent[max(i, j)] = min(i, j)
        start = place


def plain(codes: np.ndarray, radius: int) -> np.ndarray:
    unique, inverse = np.unique(codes, return_inverse=True)
    bands, chosen = {4: (6, 2), 8: (11, 3)}[radius]
    edges = [64 * band // bands for band in range(bands + 1)]
    parent = np.arange(len(unique), dtype=np.int32)
    for combination in itertools.combinations(range(bands), chosen):
        mask = np.uint64(sum(((1 << (edges[b + 1] - edges[b])) - 1) << edges[b] for b in combination))
        keys = unique & mask
        _runs(keys, np.argsort(keys), unique, parent, radius)
    roots = np.array([_root(parent, item) for item in range(len(unique))]) if len(unique) < 1000 else _all_roots(parent)
    return roots[inverse]


@numba.njit(cache=True)
def _all_roots(parent):
    return np.array([_root(parent, item) for item in range(len(parent))])


# ------------------------------------------------------------------------------------------------ measuring


def measured(what: Callable[[], np.ndarray]) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    groups = what()
    seconds = {"wall_s": round(time.perf_counter() - wall, 2), "cpu_s": round(time.process_time() - cpu, 2)}
    return seconds | {"groups": len(np.unique(groups))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=float, default=13.2e6)
    parser.add_argument("--radius", type=int, default=4)
    parser.add_argument("--orientations", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--alternative", action="store_true", help="time the plain version too")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    codes = make_codes(int(options.codes))
    methods: dict[str, Callable[[], np.ndarray]] = {}
    if options.orientations:
        orientations = orientations_of(codes)
        methods["ours"] = lambda: neighbours.groups_in_views(orientations, options.radius, options.threads)
    else:
        methods["ours"] = lambda: neighbours.groups_within(codes, options.radius, options.threads)
    if options.alternative:
        plain(codes[:2000], options.radius)
        methods["plain"] = lambda: plain(codes, options.radius)
    neighbours.groups_within(codes[:1000], options.radius)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    rows = [{"method": name, **measured(what)} for _ in range(options.rounds) for name, what in methods.items()]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    facts = {"codes": len(codes), "radius": options.radius, "threads": options.threads}
    result = facts | {"orientations": options.orientations, "peak_mib": peak, "before_mib": before, "runs": rows}
    print(json.dumps(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
