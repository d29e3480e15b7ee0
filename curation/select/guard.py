"""The leak guard: evaluation images, known by their fingerprints alone, are kept out of the corpus.

Three levels. A whole raw image that is a benchmark's image, in any orientation, takes all its tiles out; then every
tile is compared by itself with the benchmark's images (and with their tiles, where those are larger than one tile), and
with parts of them (:mod:`curation.select.crops`). What this cannot see: a small benchmark image in a slice of a mosaic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.base.arrays import Floats, Ints
from curation.base.errors import FormatVersionError, InputError
from curation.catalogue import open_table
from curation.select import crops
from curation.select.deduplicate import Matches, compare_looks, load_looks, textured
from curation.select.rows import CatalogueRows, fixed_bytes, numbers, read_codes
from curation.select.views import without_crop
from curation.sources.recipe import DeduplicateRules, Recipe
from curation.sources.source import as_typed

if TYPE_CHECKING:
    from curation.select.second_opinion import Looks


_COLUMNS = ["image", "kind", "content_hash", "ac_energy", "orientations", "dct16"]
_AT_ONCE = 1 << 21
"""Rows that are matched at a time, which bounds the list of candidate pairs."""


@dataclass(frozen=True)
class BenchmarkPrints:
    """E fingerprints of all guarded benchmarks."""

    names: tuple[str, ...]
    benchmark: npt.NDArray[np.int64]
    """(E,) number of the benchmark in ``names``."""
    image: list[str]
    whole: npt.NDArray[np.bool_]
    """(E,) a whole image, not a tile of one."""
    content: npt.NDArray[np.uint64]
    textured: npt.NDArray[np.bool_]
    looks: Looks
    blocks: npt.NDArray[np.int8]
    """(E, 256) ``dct16``."""
    ac_energy: Floats

    def __len__(self) -> int:
        return len(self.benchmark)

    def describe(self, entry: int) -> str:
        """``benchmark/image``."""
        return f"{self.names[self.benchmark[entry]]}/{self.image[entry]}"


def fingerprint_files(recipe: Recipe, folder: Path | None, unguarded: Sequence[str] = ()) -> dict[str, Path]:
    """The fingerprint file of every benchmark that the recipe guards.

    Args:
        recipe: names the benchmarks, and the folder where ``folder`` is null.
        folder: folder of the files, one ``<benchmark>.parquet`` each.
        unguarded: benchmarks to do without.

    Raises:
        InputError: a file is absent, of another format version or no fingerprint file, or ``unguarded`` names a
            benchmark that the recipe does not guard.
    """
    wanted = recipe.guard.benchmarks
    for name in unguarded:
        if name not in wanted:
            raise InputError(f"--unguarded {name}: the recipe guards {', '.join(wanted) or 'no benchmark'}")
    if recipe.guard.fingerprints is not None and folder is None:
        folder = Path(recipe.guard.fingerprints).expanduser()
    guarded = [name for name in wanted if name not in unguarded]
    found = {} if folder is None else {name: folder / f"{name}.parquet" for name in guarded}
    absent = [name for name in guarded if name not in found or not found[name].is_file()]
    if absent:
        raise InputError(
            f"guard.benchmarks: no fingerprints of {', '.join(absent)} ({folder or 'no folder is set'}); make them "
            f"with `rs-curate fingerprint --benchmark {' '.join(as_typed(absent))} --data DIR`, or do without: "
            f"{' '.join(f'--unguarded {name}' for name in absent)}"
        )
    for name, path in found.items():
        _check_version(name, path)
    return found


def _check_version(name: str, path: Path) -> None:
    try:
        open_table(path, "tiles").close()
    except FormatVersionError as error:
        told = str(error).partition(";")[0]
        again = f"rs-curate fingerprint --benchmark {as_typed([name])[0]} --data DIR"
        raise FormatVersionError(f"{told}; make the fingerprints again with `{again}`") from None


def load_fingerprints(files: Mapping[str, Path], rules: DeduplicateRules) -> BenchmarkPrints:
    """Read the fingerprints of some benchmarks.

    Raises:
        InputError: a file is no fingerprint file, or was written by another format version.
    """
    from curation.select import second_opinion

    tables = []
    for path in files.values():
        with open_table(path, "tiles") as file:
            tables.append(file.read(columns=_COLUMNS))
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    codes, hashed = read_codes(table, rules)
    energy = numbers(table, "ac_energy", -1)
    soft = energy < rules.soft_ac_energy
    blocks = fixed_bytes(table, "dct16", 256).view(np.int8)
    thumbs = second_opinion.thumbnails(blocks, soft)
    return BenchmarkPrints(
        names=tuple(files),
        benchmark=np.repeat(np.arange(len(tables)), [len(each) for each in tables]),
        image=table["image"].to_pylist(),
        whole=np.array([kind == "image" for kind in table["kind"].to_pylist()], np.bool_),
        content=fixed_bytes(table, "content_hash", 16).copy().view(np.uint64),
        textured=hashed & (energy >= rules.min_ac_energy),
        looks=second_opinion.Looks(codes, thumbs, soft),
        blocks=blocks,
        ac_energy=np.asarray(energy, np.float32),
    )


def find_leaks(rows: CatalogueRows, candidates: Ints, prints: BenchmarkPrints, recipe: Recipe, threads: int) -> Matches:
    """Find the tiles that show a benchmark's image.

    Args:
        rows: all rows.
        candidates: (C,) rows of images and tiles that nothing speaks against so far, ascending.
        prints: the benchmarks' fingerprints.
        recipe: radius and confirmation.
        threads: cores to use.

    Returns:
        Tiles that leak, ascending; ``subject`` is the number of the fingerprint. A tile that leaks only because its
        image does has the image's match.
    """
    near = textured(rows, candidates, recipe.deduplicate.min_ac_energy)
    found = [_same_pixels(rows, candidates, prints)]
    found += [
        _look_alike(rows, near[low : low + _AT_ONCE], prints, recipe, threads) for low in range(0, len(near), _AT_ONCE)
    ]
    if recipe.guard.crops:
        (entries,) = np.nonzero(prints.textured & (prints.ac_energy >= crops.LEAST_ENERGY))
        found.append(crops.find(rows, near, entries, prints.blocks, recipe.deduplicate, threads))
    matches = _best(found)
    return _spread(rows, candidates, matches, prints)


def _same_pixels(rows: CatalogueRows, candidates: Ints, prints: BenchmarkPrints) -> Matches:
    """Rows whose pixels equal those of a fingerprint."""
    by_hash = np.argsort(prints.content[:, 0], kind="stable")
    ordered = prints.content[by_hash]
    content = rows.content[candidates]
    place = np.searchsorted(ordered[:, 0], content[:, 0])
    inside = np.minimum(place, max(len(ordered) - 1, 0))
    equal = (
        (ordered[inside] == content).all(axis=1) & content.any(axis=1) if len(ordered) else np.zeros(len(content), bool)
    )
    row, entry = candidates[equal], by_hash[inside[equal]]
    return Matches(
        row, entry, np.full(len(row), -1, np.int8), np.zeros(len(row), np.int8), np.ones(len(row), np.float32)
    )


def _look_alike(rows: CatalogueRows, tiles: Ints, prints: BenchmarkPrints, recipe: Recipe, threads: int) -> Matches:
    """Rows within the radius of a fingerprint in some view, confirmed."""
    rules = recipe.deduplicate
    (entries,) = np.nonzero(prints.textured)
    marks = prints.looks.take(entries)
    soft = np.nonzero(rows.ac_energy[tiles] < rules.soft_ac_energy)[0]
    pairs = _candidate_pairs(rows.codes[tiles], marks.codes, recipe.guard.radius, threads)
    if rules.soft_radius > recipe.guard.radius:
        near = np.nonzero(marks.soft)[0]
        own, wanted = (without_crop(codes, rules) for codes in (rows.codes[tiles[soft]], marks.codes[near]))
        wider = _candidate_pairs(own, wanted, rules.soft_radius, threads)
        pairs = np.concatenate([pairs, np.column_stack([soft[wider[:, 0]], near[wider[:, 1]]])])
    pairs = np.unique(pairs, axis=0)
    used, which = np.unique(pairs[:, 0], return_inverse=True)
    looks = load_looks(rows, tiles[used], rules, threads)
    distance, view, correlation = compare_looks(
        looks, marks, which.reshape(-1), pairs[:, 1].copy(), recipe.guard.radius, rules
    )
    good = distance >= 0
    return Matches(tiles[pairs[good, 0]], entries[pairs[good, 1]], distance[good], view[good], correlation[good])


def _candidate_pairs(codes: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64], radius: int, threads: int) -> Ints:
    """(row, fingerprint) pairs, one of which as it is lies within the radius of the other in some view."""
    from curation.select import neighbours

    views = codes.shape[1]
    upright = neighbours.pairs_between(codes[:, 0], wanted.reshape(-1), radius, threads)
    found = [upright // [1, views]]
    found += [neighbours.pairs_between(codes[:, view], wanted[:, 0], radius, threads) for view in range(1, views)]
    return np.concatenate(found)


def _best(found: list[Matches]) -> Matches:
    """One match per row: the closest, then the first fingerprint."""
    columns = [
        np.concatenate([getattr(matches, name) for matches in found])
        for name in ("row", "subject", "distance", "view", "correlation")
    ]
    order = np.lexsort((columns[1], columns[2], columns[0]))
    row = columns[0][order]
    order = order[np.concatenate([[True], row[1:] != row[:-1]])] if len(row) else order
    return Matches(*(column[order] for column in columns))


def _spread(rows: CatalogueRows, candidates: Ints, matches: Matches, prints: BenchmarkPrints) -> Matches:
    """Drop the images' own rows, and give their matches to those of their tiles that have none."""
    tiles = candidates[rows.is_tile[candidates]]
    (of_image,) = np.nonzero(~rows.is_tile[matches.row] & prints.whole[matches.subject])
    leaking = rows.image[matches.row[of_image]]
    place = np.minimum(np.searchsorted(leaking, rows.image[tiles]), max(len(leaking) - 1, 0))
    hit = leaking[place] == rows.image[tiles] if len(leaking) else np.zeros(len(tiles), np.bool_)
    hit &= ~np.isin(tiles, matches.row)
    own = np.nonzero(rows.is_tile[matches.row])[0]
    source = np.concatenate([own, of_image[place[hit]]])
    row = np.concatenate([matches.row[own], tiles[hit]])
    order = np.argsort(row)
    source, row = source[order], row[order]
    return Matches(
        row, matches.subject[source], matches.distance[source], matches.view[source], matches.correlation[source]
    )
