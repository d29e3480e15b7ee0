"""Which tiles are duplicates, and of which tile: equal pixels, and near ones that a second opinion confirms.

The rule is the one that ``docs/deduplication.md`` defines. Rank all tiles by the recipe's keep rule; in that order a
tile stays unless one that stays already has equal pixels, or lies within the radius in some view and looks the
same by a second opinion (:mod:`curation.select.second_opinion`). Tiles that are removed stand for nobody, so nothing
chains. Tiles without texture have no perceptual hash worth the name; only equal pixels make them duplicates.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.base.arrays import Flags, Ints
from curation.select.rows import CatalogueRows, fixed_bytes, visit_columns
from curation.select.views import without_crop
from curation.sources.recipe import DeduplicateRules, KeepKey, ResolvedSource

if TYPE_CHECKING:
    from curation.select.second_opinion import Looks, PairVerdicts


_MANY = 20_000
"""Members up to which a component is resolved by trying every kept member."""
_FREEDOM = {"yes": 0, "noncommercial": 1, "unknown": 2, "no": 3}


@dataclass(frozen=True)
class Matches:
    """Rows that are the same as another row: one entry per row that goes."""

    row: Ints
    subject: Ints
    """The row that stands for it (leak guard: number of the benchmark's image)."""
    distance: npt.NDArray[np.int8]
    """Hamming distance; -1 where the pixels are equal."""
    view: npt.NDArray[np.int8]
    correlation: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.row)


_NONE = Matches(
    np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int8), np.zeros(0, np.int8), np.zeros(0, np.float32)
)


def find_duplicates(
    rows: CatalogueRows, candidates: Ints, sources: Sequence[ResolvedSource], rules: DeduplicateRules, threads: int
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
    if rules.method == "off":
        candidates = candidates[:0]
    copy, original = equal_pixels(rows, candidates, sources, rules.keep)
    if rules.method == "exact":
        return _with_copies(_NONE, copy, original)
    single = candidates[~np.isin(candidates, copy, assume_unique=True)] if len(copy) else candidates
    near = _near(rows, textured(rows, single, rules.min_ac_energy), sources, rules, threads)
    return _with_copies(near, copy, original)


def textured(rows: CatalogueRows, tiles: Ints, min_ac_energy: float) -> Ints:
    """Those of ``tiles`` that take part in the search for near duplicates."""
    return tiles[rows.hashed[tiles] & (rows.ac_energy[tiles] >= min_ac_energy)]


def keep_order(
    rows: CatalogueRows, tiles: Ints, sources: Sequence[ResolvedSource], keep: Sequence[KeepKey], group: Ints
) -> Ints:
    """Order of ``tiles`` by ``group`` and inside a group by the keep rule, the best first; ties go to the lower id.

    Before the keep rule comes the generation: what is finished stays.
    """
    keys: list[npt.NDArray[np.generic]] = [rows.ids[tiles, 8:].copy().view(">u2")[:, 0], rows.lots()[tiles]]
    keys += [_keep_key(rows, tiles, sources, name) for name in reversed(keep)]
    keys += [] if rows.generation is None else [rows.generation[tiles]]
    return np.lexsort([*keys, group])


def equal_pixels(
    rows: CatalogueRows, tiles: Ints, sources: Sequence[ResolvedSource], keep: Sequence[KeepKey]
) -> tuple[Ints, Ints]:
    """Tiles whose pixels equal those of a better one: (copies, ascending, and the best of each)."""
    content = rows.content[tiles]
    measured = content[:, 0] != 0
    suspects = _repeated(content[:, 0], measured)
    if not len(suspects):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    chosen = tiles[suspects]
    by_hash = np.lexsort((content[suspects, 1], content[suspects, 0]))
    hashes = content[suspects[by_hash]]
    group = np.empty(len(suspects), np.int64)
    group[by_hash] = np.cumsum(np.concatenate([[False], (hashes[1:] != hashes[:-1]).any(axis=1)]))
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


def _keep_key(
    rows: CatalogueRows, tiles: Ints, sources: Sequence[ResolvedSource], name: KeepKey
) -> npt.NDArray[np.generic]:
    """One key of the keep rule: the lower the better."""
    if name == "gsd":
        # In steps of 2 %: a measured 0.10003 m is no coarser than a nominal 0.1 m, and must not decide.
        steps = np.round(np.log(rows.gsd[tiles].astype(np.float64)) / np.log(1.02))
        return np.where(np.isnan(steps), np.inf, steps)
    if name == "area":
        return -(rows.width[tiles].astype(np.int64) * rows.height[tiles])
    if name == "bytes_per_pixel":
        return -(rows.file_bytes[tiles] / np.maximum(rows.image_pixels[tiles], 1))
    if name == "licence":
        return np.array([_FREEDOM[source.source.redistributable] for source in sources])[rows.source[tiles]]
    return -np.array([source.priority for source in sources])[rows.source[tiles]]


def _near(
    rows: CatalogueRows, tiles: Ints, sources: Sequence[ResolvedSource], rules: DeduplicateRules, threads: int
) -> Matches:
    label = _components(rows, tiles, rules, threads)
    crowd = np.bincount(label, minlength=len(tiles))[label] > 1
    tiles, label = tiles[crowd], label[crowd]
    order = keep_order(rows, tiles, sources, rules.keep, label)
    tiles, label = tiles[order], label[order]
    looks = load_looks(rows, tiles, rules, threads)
    stands_in, left = _keep_few(looks, label, rules, threads)
    _keep_many(looks, np.nonzero(left)[0], rules, threads, stands_in)
    (gone,) = np.nonzero(stands_in >= 0)
    gone = gone[np.argsort(tiles[gone])]
    kept = stands_in[gone]
    return Matches(tiles[gone], tiles[kept], *compare_looks(looks, looks, kept, gone, rules.radius, rules))


def _components(rows: CatalogueRows, tiles: Ints, rules: DeduplicateRules, threads: int) -> Ints:
    """Label of each tile's component: what lies in another component is no candidate."""
    from curation.select import neighbours

    label = neighbours.groups_in_views(rows.codes[tiles], rules.radius, threads)
    (soft,) = np.nonzero(rows.ac_energy[tiles] < rules.soft_ac_energy)
    if rules.soft_radius <= rules.radius or not len(soft):
        return label
    wider = neighbours.groups_in_views(without_crop(rows.codes[tiles[soft]], rules), rules.soft_radius, threads)
    return neighbours.merge_groups(label, soft, soft[wider])


def load_looks(rows: CatalogueRows, chosen: Ints, rules: DeduplicateRules, threads: int) -> Looks:
    """Read the looks of some rows."""
    from curation.select import second_opinion

    pixels, norms = np.empty((len(chosen), 2 * second_opinion.PIXELS), np.int8), np.empty((len(chosen), 7), np.float32)
    soft = rows.ac_energy[chosen] < rules.soft_ac_energy

    def visit(places: Ints, table: pa.Table) -> None:
        """Thumbnails of one unit's tiles."""
        blocks = fixed_bytes(table, "dct16", 256).view(np.int8)
        pixels[places], norms[places] = second_opinion.thumbnails(blocks, soft[places])

    visit_columns(rows, chosen, ["dct16"], visit, threads)
    return second_opinion.Looks(rows.codes[chosen], second_opinion.Thumbnails(pixels, norms), soft)


def compare_looks(a: Looks, b: Looks, i: Ints, j: Ints, radius: int, rules: DeduplicateRules) -> PairVerdicts:
    """How the pairs (``a[i]``, ``b[j]``) compare."""
    from curation.select import second_opinion

    found = second_opinion.PairVerdicts(
        np.empty(len(i), np.int8), np.empty(len(i), np.int8), np.empty(len(i), np.float32)
    )
    second_opinion.compare_pairs(a, b, i, j, second_opinion.criteria_of(rules, radius), found)
    return found


def _keep_few(looks: Looks, label: Ints, rules: DeduplicateRules, threads: int) -> tuple[Ints, Flags]:
    """Who stands for whom where every kept member can be tried, and which members lie in other components.

    Components lie together, their members in rank order.
    """
    from curation.select import keep_rule, second_opinion

    starts = np.concatenate([np.nonzero(np.diff(label, prepend=-1))[0], [len(label)]]).astype(np.int64)
    sizes = np.diff(starts)
    few = sizes <= _MANY
    for large in np.flatnonzero(~few).tolist():
        few[large] = _crowded(looks.codes[starts[large] : starts[large + 1], 0], rules.radius)
    stands_in = np.full(len(label), -1, np.int64)
    criteria = second_opinion.criteria_of(rules, rules.radius)

    def work(low: int, high: int) -> None:
        """Decide a range of groups."""
        keep_rule.keep_best(starts, few, low, high, looks, criteria, stands_in)

    cuts = np.unique(np.searchsorted(starts, np.linspace(0, len(label), 32 * threads + 1)))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda pair: work(int(pair[0]), int(pair[1])), itertools.pairwise(cuts)))
    return stands_in, np.repeat(~few, sizes)


def _crowded(codes: npt.NDArray[np.uint64], radius: int) -> bool:
    """Whether so many pairs are near each other that listing them costs more than trying every kept member."""
    from curation.select import neighbour_kernels

    sample = codes[:: max(1, len(codes) // 2_000)].copy()
    near: int = neighbour_kernels.count_near(sample, radius)
    return near > 1e-4 * len(sample) ** 2


def _keep_many(looks: Looks, many: Ints, rules: DeduplicateRules, threads: int, stands_in: Ints) -> None:
    """The same for larger components: their candidates are found anew, confirmed on the spot, and seldom hold."""
    from curation.select import keep_rule

    if not len(many):
        return
    better, worse = [], []
    for chosen, radius in ((many, rules.radius), (many[looks.soft[many]], rules.soft_radius)):
        pairs = _confirmed(looks, chosen, radius, rules, threads)
        better.append(chosen[pairs.min(axis=1)])
        worse.append(chosen[pairs.max(axis=1)])
    first, second = np.concatenate(better), np.concatenate(worse)
    order = np.lexsort((first, second))
    keep_rule.keep_first(first[order], second[order], stands_in)


def _confirmed(looks: Looks, chosen: Ints, radius: int, rules: DeduplicateRules, threads: int) -> Ints:
    """Pairs of chosen tiles within the radius that the second opinion confirms."""
    from curation.select import neighbours, second_opinion

    own, criteria = looks.take(chosen), second_opinion.criteria_of(rules, radius)

    def agree(i: npt.NDArray[np.int32], j: npt.NDArray[np.int32], column: int) -> Flags:
        """Which pairs look alike in one view ``(N,)``."""
        same = np.empty(len(i), np.bool_)
        second_opinion.agree(own.thumbs, i, j, int(criteria.views[column]), criteria.least, same)
        return same

    return neighbours.pairs_in_views(own.codes, radius, agree, threads)


def _with_copies(near: Matches, copy: Ints, original: Ints) -> Matches:
    """Add equal pixels: a copy of a tile that went has the same hashes, so what stands for that tile stands for it."""
    place = np.searchsorted(near.row, original)
    inside = np.minimum(place, max(len(near) - 1, 0))
    moved = np.zeros(len(copy), np.bool_) if not len(near) else near.row[inside] == original
    subject = original.copy()
    distance, view = np.full(len(copy), -1, np.int8), np.zeros(len(copy), np.int8)
    correlation = np.ones(len(copy), np.float32)
    if moved.any():
        where = inside[moved]
        subject[moved], distance[moved] = near.subject[where], near.distance[where]
        view[moved], correlation[moved] = near.view[where], near.correlation[where]
    row = np.concatenate([near.row, copy])
    order = np.argsort(row)
    return Matches(
        row[order],
        np.concatenate([near.subject, subject])[order],
        np.concatenate([near.distance, distance])[order],
        np.concatenate([near.view, view])[order],
        np.concatenate([near.correlation, correlation])[order],
    )
