"""Checking shards: sizes and the index, every byte against its checksum, and, where it is asked, every image decoded.

Shards are checked one by one (:mod:`curation.shards.check_shard`), on as many processes as the caller has. What an
interrupted check has found is kept in a journal, so that the same command goes on; a finished check removes it, since
the next one is to find what became of the shards since.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from curation.base.errors import InputError
from curation.base.files import file_digest
from curation.shards.check_shard import Level, Problem, ShardCheck, check_shard
from curation.shards.format import CHECKSUMS, INDEX_FILE, Checksums, ShardInfo, open_index, read_checksums

MapParts = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[tuple[Any, Any]]]


def in_turn(work: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """One part after the other, in this process."""
    return ((part, work(part)) for part in parts)


def verify(
    folder: Path,
    level: Level = "bytes",
    map_parts: MapParts = in_turn,
    journal: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Problem]:
    """Check a folder of shards; an empty list means that it is sound.

    Args:
        folder: tars with ``index.parquet`` and ``checksums.json``.
        level: how much is read.
        map_parts: who checks the shards.
        journal: file in which an interrupted check is kept; a folder of it that cannot be written is no error.
        advance: told of every shard that is done.

    Raises:
        InputError: the folder, its index or its checksums are absent or cannot be read.
        FormatVersionError: they were written by another format version.
    """
    checksums = read_checksums(folder)
    assert checksums is not None
    path = folder / INDEX_FILE
    whole = not path.exists() or checksums.index == file_digest(path)
    found = (
        [] if whole or not checksums.index else [Problem("error", INDEX_FILE, "its bytes differ from checksums.json")]
    )
    try:
        index, paths = open_index(folder)
    except InputError:
        if not found:
            raise
        return found
    with index:
        found += _listings(paths, checksums, folder)
        parts = list(_parts(paths, checksums, level, whole))
        done = _Journal(journal, [level, str(folder.resolve()), checksums.index, file_digest(folder / CHECKSUMS)])
        advance(len(paths) - len(parts))
        for problems in _checked(parts, done, map_parts):
            found += problems
            advance(1)
        found += _twins(index, bool(checksums.key))
    done.remove()
    return sorted(found, key=lambda problem: problem.where)


def _listings(paths: Sequence[Path], checksums: Checksums, folder: Path) -> Iterator[Problem]:
    listed = [info.file for info in checksums.shards]
    if [path.name for path in paths] != listed:
        yield Problem("error", CHECKSUMS, "lists other shards, or another order, than index.parquet")
    for path in paths:
        if not path.is_file():
            yield Problem("error", path.name, "listed in index.parquet, but absent")
        elif path.name not in listed:
            yield Problem("error", path.name, "has no entry in checksums.json")
    for name in sorted({path.name for path in folder.glob("*.tar")} - {path.name for path in paths}):
        yield Problem("error", name, "not listed in index.parquet")


def _parts(paths: Sequence[Path], checksums: Checksums, level: Level, whole: bool) -> Iterator[ShardCheck]:
    listed = {info.file: info for info in checksums.shards}
    for number, path in enumerate(paths):
        if path.is_file() and path.name in listed:
            yield ShardCheck(path, number, listed[path.name], level, bool(checksums.key), whole)


def _checked(parts: Sequence[ShardCheck], done: _Journal, map_parts: MapParts) -> Iterator[list[Problem]]:
    """Problems of each shard; those that an interrupted check has seen, and that have not changed, are not read."""
    left = []
    for part in parts:
        known = done.problems(part.path, part.info)
        if known is None:
            left.append(part)
        else:
            yield known
    for part, problems in map_parts(check_shard, left):
        done.note(part.path, part.info, problems)
        yield problems


class _Journal:
    """Shards that a check has done, a line each: name, size, time of change, SHA-256 that it must have, problems."""

    def __init__(self, path: Path | None, context: object) -> None:
        self._path = path
        self._known: dict[tuple[Any, ...], list[Problem]] = {}
        lines = _lines(path)
        if next(lines, None) == context:
            for *key, problems in lines:
                self._known[tuple(key)] = [Problem(**problem) for problem in problems]
        else:
            self._write(context, "w")

    def problems(self, path: Path, info: ShardInfo) -> list[Problem] | None:
        return self._known.get(_key(path, info))

    def note(self, path: Path, info: ShardInfo, problems: Iterable[Problem]) -> None:
        self._write([*_key(path, info), [asdict(problem) for problem in problems]], "a")

    def _write(self, value: object, mode: str) -> None:
        if self._path is not None:
            try:
                with self._path.open(mode, encoding="utf-8") as file:
                    file.write(json.dumps(value) + "\n")
            except OSError:  # shards may lie where nothing can be written
                self._path = None

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _lines(path: Path | None) -> Iterator[Any]:
    """What a journal holds; a line that was cut short ends it."""
    try:
        for line in [] if path is None else path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)
    except (OSError, ValueError):
        return


def _key(path: Path, info: ShardInfo) -> tuple[Any, ...]:
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns, info.sha256


def _twins(index: pq.ParquetFile, ours: bool) -> Iterator[Problem]:
    """Keys, in our shards tiles, that come twice: by hashes of eight bytes, of which equal ones are confirmed."""
    what = "tile" if ours else "key"
    hashes = np.sort(np.concatenate([np.zeros(0, np.uint64), *(each for _, each in _identities(index, ours))]))
    suspects = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(suspects):
        return
    counts: Counter[str] = Counter()
    for names, own in _identities(index, ours):
        counts.update(names[at] for at in np.flatnonzero(np.isin(own, suspects)))
    for name, count in counts.items():
        if count > 1:
            yield Problem("error", INDEX_FILE, f"{what} {name!r} comes {count} times")


def _identities(index: pq.ParquetFile, ours: bool) -> Iterator[tuple[list[str], npt.NDArray[np.uint64]]]:
    """What must be unique, shard by shard, with 64-bit hashes; a row group that cannot be read was told of before."""
    for number in range(index.num_row_groups):
        try:
            names = index.read_row_group(number, columns=["key"])["key"].to_pylist()
        except (pa.ArrowException, OSError):
            continue
        if ours:
            names = [name.rpartition("-")[2] for name in names]
        hashes = (xxhash.xxh3_64_intdigest(name.encode()) for name in names)
        yield names, np.fromiter(hashes, np.uint64, len(names))


def shards_of(folder: Path) -> Path:
    """The folder of shards: the one that is given, or ``shards`` in it when it is a run's."""
    inside = folder / "shards"
    return inside if inside.is_dir() and not (folder / INDEX_FILE).exists() else folder


def journal_of(folder: Path) -> Path:
    """Where the check of a folder is kept while it lasts: in the run's ``.stages``, else beside the folder."""
    stages = folder.resolve().parent / ".stages"
    return stages / "verify.jsonl" if stages.is_dir() else stages.parent / f".{folder.resolve().name}.verify.jsonl"
