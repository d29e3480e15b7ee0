"""Rows of the scan as they come, and the table that they make.

What an image and its tiles share is held, and made a column, once. Fingerprints are finished in batches that stay in
the processor's cache, once for an image and a tile that are the same pixels; their columns never become Python objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.catalogue import MEASUREMENTS, STATISTICS, schema_of
from curation.scan.fingerprint import Fingerprints, Reduced, finish
from curation.scan.measurements import columns as measured

BATCH = 64
"""Fingerprints that are finished together: their float images take 3 MB."""

FACTS = (
    "image_width", "image_height", "bands", "dtype", "format", "file_bytes", "crs", "affine", "raw_sha256",
    "gsd_m", "gsd_from", "west", "south", "east", "north", "stretch",
)  # fmt: skip
"""Columns that an image and its tiles share, or tiles of one place."""


_MEASURED = tuple(name for name in MEASUREMENTS["image"] if name not in STATISTICS)


class Row(NamedTuple):
    """One row: columns by name, absent ones null."""

    own: Mapping[str, Any]
    """Those of an image may hold its :class:`curation.scan.measurements.Statistics` as ``statistics``."""
    facts: Mapping[str, Any]
    """Those of :data:`FACTS`; one object for all rows that share them."""
    reduced: Reduced | None = None
    """What the columns of the fingerprint come from."""


@dataclass
class _Shared:
    """Objects of which successive rows share one, each kept once, and of each row the number of its own."""

    kept: list[Any] = field(default_factory=list)
    """Those that were not taken away."""
    places: list[int | None] = field(default_factory=list)
    _last: Any = None
    _count: int = 0

    def add(self, item: Any) -> None:
        """Take a row's object, which may be null."""
        if item is not None and item is not self._last:
            self._last = item
            self._count += 1
            self.kept.append(item)
        self.places.append(None if item is None else self._count - 1)


@dataclass
class TileRows:
    """Rows, and beside each what its fingerprint is made of."""

    rows: list[Mapping[str, Any]] = field(default_factory=list)
    """Columns of their own."""
    _facts: _Shared = field(default_factory=_Shared)
    _images: _Shared = field(default_factory=_Shared)
    """Rows of images, by themselves: the only ones that are measured."""
    _prints: _Shared = field(default_factory=_Shared)
    _finished: list[Fingerprints] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Add a row."""
        own, facts, reduced = row
        self.rows.append(own)
        self._facts.add(facts)
        self._images.add(own if own["kind"] == "image" else None)
        self._prints.add(reduced)
        if len(self._prints.kept) == BATCH:
            self._finish()

    def _finish(self) -> None:
        self._finished.append(finish(self._prints.kept))
        self._prints.kept = []

    def table(self) -> pa.Table:
        """The rows as a table of the scan."""
        self._finish()
        schema = schema_of("tiles")
        columns = self._fingerprints(schema) | self._statistics()
        for names, shared in ((FACTS, self._facts), (_MEASURED, self._images)):
            places = pa.array(shared.places, pa.int32())
            columns |= {name: _column(shared.kept, schema.field(name)).take(places) for name in names}
        ordered = [
            columns[name] if name in columns else _column(self.rows, schema.field(name)) for name in schema.names
        ]
        return pa.table(ordered, schema=schema)

    def _statistics(self) -> dict[str, pa.Array]:
        found = [row.get("statistics") for row in self._images.kept]
        unknown = np.array([one is None for one in found], bool)
        places = pa.array(self._images.places, pa.int32())
        return {name: pa.array(values, mask=unknown).take(places) for name, values in measured(found).items()}

    def _fingerprints(self, schema: pa.Schema) -> dict[str, pa.Array]:
        places = pa.array(self._prints.places, pa.int32())
        found = {}
        for column in fields(Fingerprints):
            kind = schema.field(column.name).type
            batches = [_arrow(getattr(batch, column.name), kind) for batch in self._finished]
            found[column.name] = pa.concat_arrays(batches).take(places)
        return found


def _column(rows: Sequence[Mapping[str, Any]], column: pa.Field) -> pa.Array:
    return pa.array([row.get(column.name) for row in rows], column.type)


def _arrow(values: Sequence[bytes] | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """A numpy array, one row a value, as an array of bytes, of lists or of numbers."""
    if isinstance(values, np.ndarray) and pa.types.is_fixed_size_binary(kind):
        return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, pa.py_buffer(values.tobytes())])
    if isinstance(values, np.ndarray) and pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), kind.value_type), type=kind)
    return pa.array(values, kind)
