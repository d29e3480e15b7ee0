"""The search for groups of near codes, spread over workers: for catalogues whose codes do not fit one machine.

One task is one group of band tables (of one orientation): it reads the codes, finds the pairs that join what those
tables hold, and writes them to a file. The coordinator unites. The groups are those of
:func:`curation.neighbours.groups_in_orientations`; that function is the default, and faster wherever it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curation import neighbours
from curation.catalogue import atomic

Run = Callable[[Callable[["TablePart"], Path], Sequence["TablePart"]], Iterable[object]]


@dataclass(frozen=True)
class TablePart:
    """One task. All files are numpy's ``.npy``."""

    codes: Path
    """(N, K) uint64: the codes of every item in K orientations."""
    labels: Path
    """(N,) int32: what is joined already."""
    radius: int
    turn: int
    group: int
    """Number of the group of tables in the scheme for N codes."""
    out: Path
    """(E, 2) int32: pairs to join."""


def groups_spread(codes: Path, radius: int, folder: Path, run: Run = map) -> npt.NDArray[np.int64]:
    """Connected components as :func:`curation.neighbours.groups_in_orientations` defines them.

    Args:
        codes: ``.npy`` file of (N, K) uint64 that all workers can read.
        radius: 0 to 10.
        folder: where workers write what they find; tasks whose file exists are not repeated.
        run: maps a function over the tasks; :meth:`curation.executor.Executor.map_parts` for a cluster.

    Returns:
        (N,) int64: for every item the lowest index in its component.
    """
    count, turns = np.load(codes, mmap_mode="r").shape
    folder.mkdir(parents=True, exist_ok=True)
    label = neighbours.groups_within(np.load(codes, mmap_mode="r")[:, 0], 0)
    scheme = neighbours.make_scheme(count, radius)
    for number, rounds in enumerate([range(1), range(1, turns)]):
        labels = folder / f"labels-{number}.npy"
        _save(labels, label.astype(np.int32))
        parts = [
            TablePart(codes, labels, radius, turn, group, folder / f"pairs-{turn}-{group}.npy")
            for turn in rounds
            for group in range(len(scheme.groups))
        ]
        for _ in run(table_pairs, [part for part in parts if not part.out.exists()]):
            pass
        for part in parts:
            pairs = np.load(part.out)
            label = neighbours.merge_groups(label, pairs[:, 0], pairs[:, 1])
    return label


def table_pairs(part: TablePart) -> Path:
    """Find the pairs of one task, and write them."""
    codes, labels = np.load(part.codes, mmap_mode="r"), np.load(part.labels)
    upright = np.ascontiguousarray(codes[:, 0])
    scheme = neighbours.make_scheme(len(upright), part.radius)
    own = replace(scheme, groups=(scheme.groups[part.group],))
    if part.turn == 0:
        (first,) = np.nonzero(labels == np.arange(len(labels)))
        edges = neighbours.self_edges(upright[first], first.astype(np.int32), own, 1)
    else:
        turned = np.ascontiguousarray(codes[:, part.turn])
        edges = neighbours.cross_edges(upright, turned, own, 1, (labels, labels))
    found = [np.stack(pair, axis=1) for pair in edges]
    _save(part.out, np.concatenate(found) if found else np.zeros((0, 2), np.int32))
    return part.out


def _save(path: Path, values: npt.NDArray[Any]) -> None:
    with atomic(path) as aside, aside.open("wb") as file:
        np.save(file, values)
