"""Generations: a corpus grows, and what was finished stays where it is.

A tile that an earlier catalogue keeps ranks before all that are new, among duplicates and under caps, and stays in its
shard at its position; new tiles fill new shards behind the last one. A tile that is kept no more leaves a hole, so that
no other moves. The catalogue tells of its generations in its metadata: it is all that the next one needs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.catalogue import KEPT, open_table
from curation.select.rows import CatalogueRows, column, decode_ids, numbers

METADATA = b"rscorpus.generations"


@dataclass(frozen=True)
class Generations:
    """What a catalogue says of how it came about."""

    asked: str = ""
    """Key of the rows and rules that were asked for; empty in catalogues of earlier releases."""
    key: str = ""
    """Key of the catalogue: ``asked``, and the catalogue that it grew from, if any."""
    ends: tuple[int, ...] = ()
    """Number after the last shard of every generation, the first one first."""

    def as_json(self) -> bytes:
        """As stored."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def grown(self, shards: int) -> tuple[int, ...]:
        """``ends`` with a generation of so many new shards; without any there is none."""
        return (*self.ends, self.ends[-1] + shards) if shards else self.ends

    def of(self, shards: Sequence[int]) -> list[int]:
        """Generation, from 1, of every shard by number."""
        return [1 + int(at) for at in np.searchsorted(self.ends, shards, side="right")]


def read_generations(catalogue: Path) -> Generations:
    """What a catalogue tells; that of an earlier release is one generation.

    Raises:
        InputError: it is no catalogue of this format version.
    """
    with open_table(catalogue, "catalogue") as file:
        stored = (file.schema_arrow.metadata or {}).get(METADATA)
        if stored is not None:
            told = json.loads(stored)
            return Generations(told["asked"], told["key"], tuple(told["ends"]))
        return Generations(ends=(_shards(file),))


def _shards(file: pq.ParquetFile) -> int:
    last = [pc.max(file.read_row_group(n, columns=["shard"])["shard"]).as_py() for n in range(file.num_row_groups)]
    return max((number + 1 for number in last if number is not None), default=0)


@dataclass(frozen=True)
class Earlier:
    """Where an earlier catalogue has N rows."""

    told: Generations
    generation: npt.NDArray[np.int16]
    """(N,) 0 for the first; of rows that it did not keep, one more than its last."""
    shard: npt.NDArray[np.int32]
    """(N,) -1 where it did not keep the row."""
    position: npt.NDArray[np.int32]
    withdrawn: npt.NDArray[np.bool_]
    """(N,) rows that were taken out: they rank first, so that their copies stay out, and have no place."""


def earlier_places(rows: CatalogueRows, catalogue: Path) -> Earlier | None:
    """Look up all rows in an earlier catalogue; None where it keeps none of them, so that nothing has to stay."""
    told = read_generations(catalogue)
    known, shards, positions = _kept(catalogue)
    at = pc.index_in(_binary(rows.ids), value_set=_binary(known)).fill_null(-1).to_numpy()
    shard, position = (np.where(at < 0, np.int32(-1), values[at]) for values in (shards, positions))
    if not (shard >= 0).any():
        return None
    generation = np.searchsorted(told.ends, shard, side="right").astype(np.int16)
    generation[at < 0] = len(told.ends)
    return Earlier(told, generation, shard, position, (at >= 0) & (shard < 0))


def _kept(catalogue: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Ids (M, 10) of tiles that are kept or withdrawn, their shards and positions, -1 where withdrawn."""
    ids, places = [np.zeros((0, 10), np.uint8)], [np.zeros((0, 2), np.int32)]
    with open_table(catalogue, "catalogue") as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=["tile_id", "verdict", "shard", "position"])
            verdict = pc.is_in(table["verdict"].cast(pa.string()), pa.array([KEPT, "withdrawn"]))
            table = table.filter(verdict).combine_chunks()
            ids.append(decode_ids(column(table, "tile_id"), catalogue))
            places.append(np.stack([numbers(table, name, -1) for name in ("shard", "position")], axis=1))
    both = np.concatenate(places)
    return np.concatenate(ids), both[:, 0].copy(), both[:, 1].copy()


def _binary(ids: npt.NDArray[np.uint8]) -> pa.Array:
    """Ids (N, 10) as an array of Arrow."""
    return pa.Array.from_buffers(pa.binary(10), len(ids), [None, pa.py_buffer(np.ascontiguousarray(ids))])
