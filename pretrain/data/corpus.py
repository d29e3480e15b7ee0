"""The index of one or several folders of shards, as the trainer sees it: which samples there are, and where.

Only numeric columns of the shards in use are held in memory. The row number over all shards is the sample id.
"""

from __future__ import annotations

import errno
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.arrays import Flags, Floats
from curation.shards.format import INDEX, INDEX_FILE, open_index, read_checksums
from pretrain.data.cache import Want
from pretrain.data.order import mixed_counts
from pretrain.data.places import HERE, Access, localised, wanted
from pretrain.errors import InputError, WorkError

_LOCATION = ["image_offset", "image_size"]
MISSING = -1
"""Size of a sample whose shard could not be had."""
_RULES = ["width", "height", "gsd_m", "source"]


@dataclass(frozen=True)
class SampleRule:
    """Which samples a run can use."""

    min_side: int = 1
    """Smaller images, in pixels, are left out."""
    needs_gsd: bool = False
    gsd_missing: str | dict[str, float] = "refuse"
    """See :class:`pretrain.config.DataConfig`."""
    digests: bool = False
    """Whether rows tell their images' hashes."""


class SampleRows(NamedTuple):
    """Samples and where they lie; arrays of equal length."""

    shard: npt.NDArray[np.int32]
    sample_id: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int32]
    gsd_m: Floats
    epoch: npt.NDArray[np.int64]
    """Pass over its folder that a sample belongs to."""
    digest: npt.NDArray[np.uint64]
    """:func:`digest_of_image` as the index says; 0 where it does not, or was not asked."""

    def at(self, where: npt.NDArray[np.int64] | np.int64 | slice) -> SampleRows:
        """The chosen rows; of one row the columns are scalars."""
        return SampleRows(*[column[where] for column in self])  # type: ignore[arg-type]


def join(parts: Sequence[SampleRows]) -> SampleRows:
    """Rows of several parts, one after the other."""
    return SampleRows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Corpus:
    """Shards, opened.

    Attributes:
        paths: the tars, over all folders; those from elsewhere as they lie in the cache.
        names: file names of the tars where they come from.
        starts: (S,) sample id of each shard's first row.
        sizes: usable samples per shard.
        left_out: ``{reason: {source: samples}}`` of what is not used.
        groups: index file, its metadata and row group of each shard.
        wants: what the cache is asked for, None of a shard on this machine.
        folders: shards of each folder, by the name that the user gave it.
    """

    paths: list[Path]
    names: list[str]
    starts: list[int]
    sizes: list[int]
    left_out: dict[str, dict[str, int]]
    rule: SampleRule
    groups: list[tuple[Path, pq.FileMetaData, int]]
    wants: list[Want | None]
    folders: dict[str, range]
    access: Access = HERE

    @property
    def samples(self) -> int:
        """Usable samples."""
        return sum(self.sizes)

    def image_bytes(self) -> float:
        """Bytes of an image in the tar where they are most, in the mean."""
        most = 0.0
        for path, want, (_, metadata, group) in zip(self.paths, self.wants, self.groups, strict=True):
            with suppress(OSError):
                held = path.stat().st_size if want is None else want.bytes
                most = max(most, held / max(metadata.row_group(group).num_rows, 1))
        return most

    def rows(self, shard: int, epoch: int = 0) -> SampleRows:
        """The usable samples of a shard, in its order, as those of an epoch.

        Raises:
            OSError: the index cannot be read; names it.
            WorkError: it is another than when it was opened, or contradicts itself.
        """
        table = self._index(shard)
        usable, _ = judge_samples(table, self.rule)
        if usable.sum() != self.sizes[shard]:
            raise WorkError(
                f"{self.groups[shard][0]}: damaged, or not the one that the run began with ({usable.sum()} samples of "
                f"{self.names[shard]} can be used, not {self.sizes[shard]}); bring that one back, and --resume goes on "
                "from the last checkpoint"
            )
        gsd = fill_gsd(table, self.rule)
        ids = self.starts[shard] + np.arange(table.num_rows)
        number, epochs = np.full(table.num_rows, shard, np.int32), np.full(table.num_rows, epoch, np.int64)
        offset, size = table["image_offset"].to_numpy(), np.maximum(table["image_size"].to_numpy(), 0)
        digest = _digests(table) if self.rule.digests else np.zeros(table.num_rows, np.uint64)
        return SampleRows(number, ids, offset, size, gsd, epochs, digest).at(np.flatnonzero(usable))

    def place(self, sample_id: int) -> str:
        """Where a sample lies: ``corpus-000012.tar, sample 7`` (counted from 0)."""
        shard = bisect_right(self.starts, sample_id) - 1
        return f"{self.names[shard]}, sample {sample_id - self.starts[shard]}"

    def _index(self, shard: int) -> pa.Table:
        """Columns of a shard's rows. The file is opened each time: one held open may go stale in a run of days.

        Without Arrow's threads: one that still lets go of this file when the process ends aborts it.
        """
        path, metadata, group = self.groups[shard]
        columns = _LOCATION + _RULES + (["image_sha256"] if self.rule.digests else [])
        try:
            with path.open("rb") as source, pq.ParquetFile(source, metadata=metadata, pre_buffer=False) as file:
                return file.read_row_group(group, columns=columns, use_threads=False)
        except pa.ArrowInvalid as error:  # as of one that is just being replaced
            raise OSError(errno.EIO, str(error).splitlines()[0], str(path)) from None
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error).splitlines()[0], str(path)) from None


def open_corpus(places: Sequence[str | Path], rule: SampleRule, access: Access = HERE) -> Corpus:
    """Open folders of shards, here or elsewhere, and count what can be used.

    Raises:
        InputError: a folder, index or tar is absent; one is given twice; no sample can be used; or samples lack a GSD
            that is needed.
    """
    corpus = Corpus([], [], [], [], {}, rule, [], [], {}, access)
    missing: dict[str, int] = {}
    for place in places:
        _add_folder(corpus, place, missing)
    _refuse_missing_gsd(missing)
    if not corpus.samples:
        told = "; ".join(f"{reason}: {sum(counts.values())}" for reason, counts in corpus.left_out.items())
        total = sum(metadata.row_group(group).num_rows for _, metadata, group in corpus.groups)
        raise InputError(f"{', '.join(map(str, places))}: none of {total} samples can be used ({told or 'no samples'})")
    return corpus


def _add_folder(corpus: Corpus, place: str | Path, missing: dict[str, int]) -> None:
    """Add the shards of a folder; in ``missing`` are counted the samples without the GSD that is needed."""
    if str(place) in corpus.folders:
        raise InputError(f"data.shards: {place} is given twice, so that its samples would come twice; give it once")
    folder = localised(place, corpus.access)
    index, paths = open_index(folder)
    wants, first = wanted(place, folder, paths), len(corpus.paths)
    total = corpus.starts[-1] + corpus.groups[-1][1].row_group(corpus.groups[-1][2]).num_rows if first else 0
    for group, (path, want) in enumerate(zip(paths, wants, strict=True)):
        if want is None and not corpus.access.skip_missing and not path.is_file():
            raise InputError(f"{path}: listed in the index, but absent; copy it there or write the shards again")
        corpus.sizes.append(_usable(corpus, index, group, missing))
        corpus.paths.append(path if want is None else _cached(corpus.access, want))
        corpus.names.append(path.name)
        corpus.starts.append(total)
        corpus.groups.append((folder / INDEX_FILE, index.metadata, group))
        total += index.metadata.row_group(group).num_rows
    corpus.wants.extend(wants)
    corpus.folders[str(place)] = range(first, len(corpus.paths))
    index.close()


def _cached(access: Access, want: Want) -> Path:
    assert access.cache is not None, "a place elsewhere was opened without a cache"
    return access.cache.path(want.sha256)


def _usable(corpus: Corpus, index: pq.ParquetFile, group: int, missing: dict[str, int]) -> int:
    """Usable samples of a shard. Most shards are told by the least width and height that the index states of them."""
    rule, facts = corpus.rule, index.metadata.row_group(group)
    all_large = min(_least(facts, "width"), _least(facts, "height")) >= max(rule.min_side, 1)
    if all_large and not (rule.needs_gsd and _unknown_gsd(index, group)):
        return int(facts.num_rows)
    table = index.read_row_group(group, columns=_RULES)
    usable, reasons = judge_samples(table, rule)
    _count(corpus.left_out, table, reasons)
    if rule.needs_gsd and rule.gsd_missing != "drop":
        _tally(missing, table, np.isnan(fill_gsd(table, rule)) & usable)
    return int(usable.sum())


def _unknown_gsd(index: pq.ParquetFile, group: int) -> bool:
    """Whether a sample of a shard has no GSD; the statistics of a column do not tell of NaN."""
    return bool(np.isnan(_known_gsd(index.read_row_group(group, columns=["gsd_m"]))).any())


def _known_gsd(table: pa.Table) -> Floats:
    """GSD in metres, (n,), NaN where it is unknown; foreign shards may hold what is none."""
    gsd: Floats = table["gsd_m"].to_numpy()
    return np.where((gsd > 0) & (gsd < np.inf), gsd, np.float32("nan"))


def _least(facts: pq.RowGroupMetaData, column: str) -> int:
    """The least value of a column in a row group; 0 where the file does not state it."""
    statistics = facts.column(INDEX.get_field_index(column)).statistics
    return int(statistics.min) if statistics is not None and statistics.has_min_max else 0


def judge_samples(table: pa.Table, rule: SampleRule) -> tuple[Flags, dict[str, Flags]]:
    """Which rows can be used, and for each reason the rows that it leaves out."""
    side = np.minimum(table["width"].to_numpy(), table["height"].to_numpy())
    reasons = {
        "unreadable header": side <= 0,
        f"smaller than {rule.min_side} pixels": (side > 0) & (side < rule.min_side),
    }
    if rule.needs_gsd and rule.gsd_missing == "drop":
        reasons["no GSD"] = np.isnan(_known_gsd(table)) & (side >= max(rule.min_side, 1))
    usable = ~np.any(list(reasons.values()), axis=0)
    return usable, {reason: rows for reason, rows in reasons.items() if rows.any()}


def digest_of_image(data: bytes) -> int:
    """The first 8 bytes of an image's SHA-256: enough to see damage."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def _digests(table: pa.Table) -> npt.NDArray[np.uint64]:
    known = b"".join(value or bytes(32) for value in table["image_sha256"].to_pylist())
    return np.frombuffer(known, ">u8")[::4].astype(np.uint64)


def fill_gsd(table: pa.Table, rule: SampleRule) -> Floats:
    """GSD in metres, (n,), with the configured value of the source where the sample has none."""
    gsd = _known_gsd(table)
    if isinstance(rule.gsd_missing, dict) and np.isnan(gsd).any():
        given = np.array([rule.gsd_missing.get(name or "", np.nan) for name in table["source"].to_pylist()], np.float32)
        gsd = np.where(np.isnan(gsd), given, gsd)
    return gsd


def _count(counts: dict[str, dict[str, int]], table: pa.Table, reasons: dict[str, Flags]) -> None:
    for reason, rows in reasons.items():
        _tally(counts.setdefault(reason, {}), table, rows)


def _tally(counts: dict[str, int], table: pa.Table, rows: Flags) -> None:
    """Add the number of ``rows`` per source."""
    if not rows.any():
        return
    sources = table["source"].cast(pa.string()).filter(pa.array(rows))
    for pair in pc.value_counts(sources).to_pylist():
        name = pair["values"] or "(no source)"
        counts[name] = counts.get(name, 0) + pair["counts"]


def _refuse_missing_gsd(missing: dict[str, int]) -> None:
    if missing:
        told = ", ".join(f"{source} ({count})" for source, count in sorted(missing.items()))
        raise InputError(
            f"data.gsd_missing: this objective needs the GSD, and samples of these sources have none: {told}; "
            "set data.gsd_missing to drop, or to metres per source, for example data.gsd_missing={"
            + next(iter(missing))
            + ": 0.5}"
        )


def refuse_twice(corpus: Corpus, mixed: bool) -> None:
    """Check that no folder is taken with itself: its samples would come again before all others of it.

    Raises:
        InputError: two names, such as ``a/`` and ``./a``, a link, or URLs of equal checksums, are of one folder.
    """
    names: dict[Path, str] = {}
    for name, shards in corpus.folders.items():
        for index, _, _ in corpus.groups[shards.start : shards.stop][:1]:
            if (first := names.setdefault(index.resolve(), name)) != name:
                weight = ", with the sum of their weights in data.mix" if mixed else ""
                raise InputError(f"data.shards: {first} and {name} are the same shards; give them once{weight}")


def content_fingerprint(places: Sequence[str | Path], access: Access = HERE) -> str:
    """Hash of the shards' checksums: equal for equal data, wherever they lie.

    Raises:
        InputError: a folder, its index or its checksums are absent.
    """
    digest = hashlib.sha256()
    for place in places:
        folder = localised(place, access)
        open_index(folder)[0].close()  # names a missing folder or index before a missing checksums file
        checksums = read_checksums(folder)
        assert checksums is not None
        digest.update("".join(info.sha256 for info in checksums.shards).encode())
    return digest.hexdigest()[:16]


Say = Callable[[str], None]


def describe(corpus: Corpus, say: Say) -> None:
    """Tell what is used and what is left out, per source."""
    say(f"data: {corpus.samples:,} samples in {len(corpus.paths):,} shards")
    for reason, counts in corpus.left_out.items():
        told = ", ".join(f"{source} {count:,}" for source, count in sorted(counts.items()))
        say(f"left out, {reason}: {told}")


def describe_mix(corpus: Corpus, mix: Sequence[int], images: int, say: Say) -> None:
    """Tell how often a training of so many images goes over each folder of a mixture."""
    for (name, shards), weight, count in zip(corpus.folders.items(), mix, mixed_counts(mix, images), strict=True):
        samples = sum(corpus.sizes[shards.start : shards.stop])
        say(f"mix: {weight / sum(mix):6.1%} from {name}: {count / samples:.2f} passes over {samples:,} samples")
