"""Digests of rows: what changes them and what does not, for every type that a table of ours has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.scan.row_digest import content, row_digests, together

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("count", pa.int32()),
        ("share", pa.float32()),
        ("yes", pa.bool_()),
        ("hash", pa.uint64()),
        ("bytes", pa.binary(4)),
        ("list", pa.list_(pa.float64())),
        ("fixed", pa.list_(pa.uint64(), 2)),
        ("files", pa.list_(pa.string())),
    ]
)
ROWS = st.fixed_dictionaries(
    {
        "name": st.none() | st.text(max_size=20),
        "kind": st.none() | st.sampled_from(["image", "tile"]),
        "count": st.none() | st.integers(-5, 5),
        "share": st.none() | st.sampled_from([0.0, 0.5, 1.0]),
        "yes": st.none() | st.booleans(),
        "hash": st.none() | st.integers(0, 2**64 - 1),
        "bytes": st.none() | st.binary(min_size=4, max_size=4),
        "list": st.none() | st.lists(st.sampled_from([0.0, 1.0]), max_size=3),
        "fixed": st.none() | st.lists(st.integers(0, 3), min_size=2, max_size=2),
        "files": st.none() | st.lists(st.none() | st.text(max_size=9), max_size=3),
    }
)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROWS, max_size=12), st.randoms(), st.integers(0, 12))
def test_neither_order_nor_cuts_nor_dictionaries_matter(rows: list[dict[str, Any]], luck: Any, cut: int) -> None:
    whole = table(rows)
    shuffled = list(rows)
    luck.shuffle(shuffled)
    assert content(table(shuffled)) == content(whole)
    assert together([content(whole[:cut]), content(whole[cut:])]) == content(whole)  # slices keep offset and dictionary
    assert content(pa.concat_tables([table(rows[:cut]), table(rows[cut:])])) == content(whole)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, ROWS)
def test_rows_have_equal_digests_when_they_are_equal_only(first: dict[str, Any], second: dict[str, Any]) -> None:
    one, other = row_digests(table([first, second])).tolist()
    assert (one == other) == (first == second)


@pytest.mark.parametrize(
    ("column", "one", "other"),
    [
        ("name", None, ""), ("name", "a", "a\0"), ("kind", "image", "tile"), ("kind", None, "tile"), ("count", 0, None),
        ("share", 0.5, 0.25), ("yes", False, None), ("hash", 2**63, 2**63 + 1), ("bytes", b"abcd", b"abce"),
        ("list", [], None), ("list", [1.0], [1.0, 1.0]), ("fixed", [1, 2], [2, 1]), ("files", ["ab"], ["a", "b"]),
        ("files", [None], []),
    ],
)  # fmt: skip
def test_every_value_counts(column: str, one: Any, other: Any) -> None:
    empty = dict.fromkeys(SCHEMA.names)
    assert content(table([empty | {column: one}])) != content(table([empty | {column: other}]))


def test_a_value_counts_in_its_column() -> None:
    twins = pa.table({"a": ["x", "y"], "b": ["y", "x"]})
    first, second = row_digests(twins).tolist()
    assert first != second
    assert content(twins) != content(pa.table({"a": ["x", "x"], "b": ["y", "y"]}))


def test_a_row_twice_is_not_a_row_once() -> None:
    twice = pa.table({"a": [1, 1]})
    assert content(twice) != content(twice[:1]) and int(content(twice), 16) != 0


def test_names_that_are_alike_have_digests_that_are_not() -> None:
    names = pa.table({"image": [f"folder/{number}.jpg" for number in range(200_000)]})
    found = row_digests(names)
    assert len(np.unique(found)) == len(found)
    assert abs((found < np.uint64(1 << 63)).mean() - 0.5) < 0.01
