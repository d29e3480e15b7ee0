"""Which tiles are duplicates, and of which tile: equal pixels, and near ones that a second opinion confirms.

The rule is the one that ``docs/deduplication.md`` defines. Rank all tiles by the recipe's keep rule; in that order a
tile stays unless one that stays already has equal pixels, or lies within the radius in some orientation and agrees in
its low-frequency DCT. Tiles that are removed stand for nobody, so nothing chains. Tiles without texture have no
perceptual hash worth the name; only equal pixels make them duplicates.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curation.manifest import DeduplicateRules, KeepKey, ResolvedSource
from curation.rows import Rows, fixed_bytes, read_columns

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_FREEDOM = {"yes": 0, "unknown": 1, "no": 2}


@dataclass(frozen=True)
class Matches:
    """Rows that are the same as another row: one entry per row that goes."""

    row: Ints
    subject: Ints
    """The row that stands for it (leak guard: number of the benchmark's image)."""
    distance: npt.NDArray[np.int8]
    """Hamming distance; -1 where the pixels are equal."""
    turn: npt.NDArray[np.int8]
    correlation: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.row)


def find_duplicates(
    rows: Rows, candidates: Ints, sources: Sequence[ResolvedSource], rules: DeduplicateRules, threads: int
) -> Matches:
    """Find the duplicates among some tiles.

    Args:
        rows: all rows.
        candidates: (C,) tiles that nothing speaks against so far, ascending.
        sources: the recipe's sources, in its order (licence and priority).
        rules: radius, confirmation, keep rule.
        threads: cores to use.

    Returns:
        The tiles that go, ascending, each with the tile that stays for it.
    """
    copy, original = equal_pixels(rows, candidates, sources, rules.keep)
    single = candidates[~np.isin(candidates, copy, assume_unique=True)] if len(copy) else candidates
    near = _near(rows, textured(rows, single, rules.min_ac_energy), sources, rules, threads)
    return _with_copies(near, copy, original)


def textured(rows: Rows, tiles: Ints, min_ac_energy: float) -> Ints:
    """Those of ``tiles`` that take part in the search for near duplicates."""
    return tiles[rows.hashed[tiles] & (rows.ac_energy[tiles] >= min_ac_energy)]


def keep_order(
    rows: Rows, tiles: Ints, sources: Sequence[ResolvedSource], keep: Sequence[KeepKey], group: Ints
) -> Ints:
    """Order of ``tiles`` by ``group`` and inside a group by the keep rule, the best first; ties go to the lower id."""
    keys: list[npt.NDArray[np.generic]] = [rows.ids[tiles, 8:].copy().view(">u2")[:, 0], rows.lots()[tiles]]
    keys += [_keep_key(rows, tiles, sources, name) for name in reversed(keep)]
    return np.lexsort([*keys, group])


def equal_pixels(
    rows: Rows, tiles: Ints, sources: Sequence[ResolvedSource], keep: Sequence[KeepKey]
) -> tuple[Ints, Ints]:
    """Tiles whose pixels equal those of a better one: (copies, ascending, and the best of each)."""
    content = rows.content[tiles]
    measured = content[:, 0] != 0
    suspects = _repeated(content[:, 0], measured)
    if not len(suspects):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    chosen = tiles[suspects]
    facts = np.column_stack([content[suspects], rows.width[chosen], rows.height[chosen]]).astype(np.uint64)
    _, group = np.unique(facts, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = keep_order(rows, chosen, sources, keep, group)
    grouped = group[order]
    opens = np.concatenate([[True], grouped[1:] != grouped[:-1]])
    best = order[np.maximum.accumulate(np.where(opens, np.arange(len(order)), 0))]
    copies, originals = chosen[order[~opens]], chosen[best[~opens]]
    by_row = np.argsort(copies)
    return copies[by_row], originals[by_row]


def _repeated(values: npt.NDArray[np.uint64], eligible: Flags) -> Ints:
    """Places whose value occurs more than once among the eligible."""
    (places,) = np.nonzero(eligible)
    order = np.argsort(values[places])
    ordered = values[places][order]
    same = ordered[1:] == ordered[:-1]
    twice = np.zeros(len(order), np.bool_)
    twice[1:] |= same
    twice[:-1] |= same
    return np.sort(places[order[twice]])


def _keep_key(rows: Rows, tiles: Ints, sources: Sequence[ResolvedSource], name: KeepKey) -> npt.NDArray[np.generic]:
    """One key of the keep rule: the lower the better."""
    if name == "gsd":
        gsd = rows.gsd[tiles]
        return np.where(np.isnan(gsd), np.float32(np.inf), gsd)
    if name == "area":
        return -(rows.width[tiles].astype(np.int64) * rows.height[tiles])
    if name == "bytes_per_pixel":
        return -(rows.file_bytes[tiles] / np.maximum(rows.image_pixels[tiles], 1))
    if name == "licence":
        return np.array([_FREEDOM[source.source.redistributable] for source in sources])[rows.source[tiles]]
    return -np.array([source.priority for source in sources])[rows.source[tiles]]


def _near(rows: Rows, tiles: Ints, sources: Sequence[ResolvedSource], rules: DeduplicateRules, threads: int) -> Matches:
    from curation import confirm, neighbours

    turns = 8 if rules.orientations else 1
    label = neighbours.groups_in_orientations(rows.orientations[tiles, :turns], rules.radius, threads)
    crowd = np.bincount(label, minlength=len(tiles))[label] > 1
    tiles, label = tiles[crowd], label[crowd]
    order = keep_order(rows, tiles, sources, rules.keep, label)
    tiles, label = tiles[order], label[order]
    starts = np.concatenate([np.nonzero(np.diff(label, prepend=-1))[0], [len(label)]]).astype(np.int64)
    blocks = load_blocks(rows, tiles)
    norm = np.empty(len(tiles), np.float32)
    confirm.norms(blocks, norm)
    codes = np.ascontiguousarray(rows.orientations[tiles])
    stands_in = np.empty(len(tiles), np.int64)
    distance, turn = np.zeros(len(tiles), np.int8), np.zeros(len(tiles), np.int8)
    correlation = np.zeros(len(tiles), np.float32)

    def work(low: int, high: int) -> None:
        confirm.keep_best(
            starts,
            low,
            high,
            codes,
            blocks,
            norm,
            turns,
            rules.radius,
            rules.confirm,
            stands_in,
            distance,
            turn,
            correlation,
        )

    cuts = np.unique(np.searchsorted(starts, np.linspace(0, len(tiles), 32 * threads + 1)))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda pair: work(int(pair[0]), min(int(pair[1]), len(starts) - 1)), itertools.pairwise(cuts)))
    (gone,) = np.nonzero(stands_in >= 0)
    gone = gone[np.argsort(tiles[gone])]
    return Matches(tiles[gone], tiles[stands_in[gone]], distance[gone], turn[gone], correlation[gone])


def load_blocks(rows: Rows, chosen: Ints) -> npt.NDArray[np.int8]:
    """The ``dct16`` blocks of some rows, (N, 256) int8, read row group by row group."""
    blocks = np.empty((len(chosen), 256), np.int8)
    for places, table in read_columns(rows, chosen, ["dct16"]):
        blocks[places] = fixed_bytes(table, "dct16", 256).view(np.int8)
    return blocks


def _with_copies(near: Matches, copy: Ints, original: Ints) -> Matches:
    """Add equal pixels: a copy of a tile that went has the same hashes, so what stands for that tile stands for it."""
    place = np.searchsorted(near.row, original)
    inside = np.minimum(place, max(len(near) - 1, 0))
    moved = np.zeros(len(copy), np.bool_) if not len(near) else near.row[inside] == original
    subject = original.copy()
    distance, turn = np.full(len(copy), -1, np.int8), np.zeros(len(copy), np.int8)
    correlation = np.ones(len(copy), np.float32)
    if moved.any():
        where = inside[moved]
        subject[moved], distance[moved] = near.subject[where], near.distance[where]
        turn[moved], correlation[moved] = near.turn[where], near.correlation[where]
    row = np.concatenate([near.row, copy])
    order = np.argsort(row)
    return Matches(
        row[order],
        np.concatenate([near.subject, subject])[order],
        np.concatenate([near.distance, distance])[order],
        np.concatenate([near.turn, turn])[order],
        np.concatenate([near.correlation, correlation])[order],
    )
