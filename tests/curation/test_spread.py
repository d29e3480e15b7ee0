from __future__ import annotations

from pathlib import Path

import numpy as np

from curation.executor import Executor
from curation.neighbours import groups_in_orientations
from curation.spread import groups_spread


def codes(seed: int, count: int, turns: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 2**64, (count, turns), dtype=np.uint64)
    made[count // 2 :] = made[: count - count // 2][:, rng.permutation(turns)] ^ np.uint64(0b1001 << 20)
    made[: count // 20] = made[0] ^ (np.uint64(1) << rng.integers(0, 64, (count // 20, 1), dtype=np.uint64))
    made[5:15] = made[4]
    return made


def test_two_workers_find_the_groups_that_one_process_finds(tmp_path: Path) -> None:
    made = codes(0, 3_000, 8)
    np.save(tmp_path / "codes.npy", made)
    expected = groups_in_orientations(made, 4)
    assert 1 < len(np.unique(expected)) < len(expected) * 0.6
    with Executor(2, None, tmp_path / "workers") as executor:
        found = groups_spread(tmp_path / "codes.npy", 4, tmp_path / "pairs", executor.map_parts)
    np.testing.assert_array_equal(found, expected)


def test_what_was_found_is_not_searched_again(tmp_path: Path) -> None:
    np.save(tmp_path / "codes.npy", codes(1, 500, 2))
    first = groups_spread(tmp_path / "codes.npy", 2, tmp_path / "pairs")
    tasks: list[object] = []
    again = groups_spread(tmp_path / "codes.npy", 2, tmp_path / "pairs", lambda fn, parts: tasks.extend(parts) or [])
    assert not tasks
    np.testing.assert_array_equal(first, again)
