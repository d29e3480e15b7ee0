"""What every kind of container is made of, and how a member is found again.

Inventory writes a member as ``@<a>+<b> <name>``: in an archive, where its header begins in the file and how many bytes
it takes there. So a read is one seek; opening an archive of a million members anew for each would take seconds each
time. A plain member name works too and is looked up. Of a Parquet table the two numbers are row group and row, and the
name is the column; of HDF5 they are index and 0, and the name is the dataset.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from curation.base.errors import InputError

_LOCATED = re.compile(r"@(\d{1,19})\+(\d{1,19}) (.*)", re.DOTALL)


class Member(NamedTuple):
    """One file in a container: its name, its uncompressed size, and how ``read`` finds it again."""

    name: str
    bytes: int
    """Of a Parquet table: the mean of its row group, since the footer tells no more and pixels are not read to list."""
    locator: str


@dataclass(frozen=True)
class Container:
    """One kind of container. Its functions may raise any of :data:`curation.containers.registry.DAMAGE`."""

    name: str
    """What a manifest says under ``container``."""
    suffixes: tuple[str, ...]
    list: Callable[[Path, str | None], Iterator[Member]]
    """Members in the order they are stored in, without links, devices and folders; of a table, of one column."""
    read: Callable[[Path, str, int], bytes]
    """Bytes of the member of a locator or name, at most so many, whatever a header says."""
    is_table: bool = False
    """Whether members are rows that only have numbers, so that globs on names of images do not apply."""
    is_readable: Callable[[Path], bool] = lambda path: True
    """Whether all members of this file can be read in place; if not, fetch unpacks it."""


class BrokenArchive(InputError):
    """A container that cannot be listed, or not to its end. ``reason`` does not name the file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def locate(member: str) -> tuple[int, int, str] | None:
    """The two numbers and the name of a locator; None for a plain name."""
    located = _LOCATED.fullmatch(member)
    return (int(located[1]), int(located[2]), located[3]) if located else None


def name_of(member: str) -> str:
    """Name in a locator, or the plain name."""
    located = _LOCATED.fullmatch(member)
    return located[3] if located else member


def within(size: int, limit: int) -> int:
    """``size``.

    Raises:
        ValueError: more than ``limit``.
    """
    if size > limit:
        raise ValueError(f"{size} bytes, the limit is {limit}")
    return size
