from __future__ import annotations

import numpy as np

from curation.base.splitmix import published_permutation, splitmix64


def test_outputs_are_the_published_ones():
    # Rosetta Code, "Pseudo-random numbers/Splitmix64", seed 1234567; and the widely published first outputs for seed 0.
    assert splitmix64(1234567, np.arange(5)).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [f"{value:016x}" for value in splitmix64(0, np.arange(3)).tolist()] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]


def plain(seed: int, index: int) -> int:
    """The generator's definition in Python's own integers."""
    mask = 2**64 - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_the_output_of_one_counter_seeds_the_next():
    expected = [plain(plain(2**63, 3), index) for index in range(20)]
    assert splitmix64(2**63, 3, np.arange(20)).tolist() == expected


def test_permutations_are_pinned():
    assert published_permutation(0, 0, 8).tolist() == [5, 7, 2, 0, 3, 1, 6, 4]
    assert published_permutation(1, 0, 8).tolist() == [2, 4, 7, 0, 6, 5, 3, 1]
    assert published_permutation(0, 1, 8).tolist() == [3, 1, 7, 0, 6, 4, 5, 2]
