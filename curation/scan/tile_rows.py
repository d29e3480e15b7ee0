"""Rows of the scan as they come, one dict each, and the table that they make.

Fingerprints are finished in batches that stay in the processor's cache, once for an image and a tile that are the same
pixels; their columns never become Python objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.catalogue import schema_of
from curation.scan.fingerprint import Fingerprints, Reduced, finish

BATCH = 64
"""Fingerprints that are finished together: their float images take 3 MB."""


@dataclass
class TileRows:
    """Rows, and beside each what its fingerprint is made of."""

    rows: list[Mapping[str, Any]] = field(default_factory=list)
    _places: list[int | None] = field(default_factory=list)
    """Of each row, the number of its fingerprint."""
    _waiting: list[Reduced] = field(default_factory=list)
    _finished: list[Fingerprints] = field(default_factory=list)
    _last: Reduced | None = None
    _count: int = 0

    def add(self, row: Mapping[str, Any], reduced: Reduced | None) -> None:
        """Add a row: columns by name, absent ones null; those of the fingerprint come from ``reduced``."""
        self.rows.append(row)
        if reduced is not None and reduced is not self._last:
            self._last = reduced
            self._waiting.append(reduced)
            self._count += 1
            if len(self._waiting) == BATCH:
                self._finish()
        self._places.append(None if reduced is None else self._count - 1)

    def _finish(self) -> None:
        self._finished.append(finish(self._waiting))
        self._waiting = []

    def table(self) -> pa.Table:
        """The rows as a table of the scan."""
        self._finish()
        prints = self._prints()
        schema = schema_of("tiles")
        columns = [prints[name] if name in prints else self._column(schema.field(name)) for name in schema.names]
        return pa.table(columns, schema=schema)

    def _column(self, column: pa.Field) -> pa.Array:
        return pa.array([row.get(column.name) for row in self.rows], column.type)

    def _prints(self) -> dict[str, pa.Array]:
        places = pa.array(self._places, pa.int32())
        found = {}
        for column in fields(Fingerprints):
            kind = schema_of("tiles").field(column.name).type
            batches = [_arrow(getattr(batch, column.name), kind) for batch in self._finished]
            found[column.name] = pa.concat_arrays(batches).take(places)
        return found


def _arrow(values: Sequence[bytes] | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """A numpy array, one row a value, as an array of bytes, of lists or of numbers."""
    if isinstance(values, np.ndarray) and pa.types.is_fixed_size_binary(kind):
        return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, pa.py_buffer(values.tobytes())])
    if isinstance(values, np.ndarray) and pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), kind.value_type), type=kind)
    return pa.array(values, kind)
