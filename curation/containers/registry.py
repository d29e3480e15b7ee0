"""All kinds of containers. A new one is a module with a :class:`Container`, and its line here."""

from __future__ import annotations

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from curation.base.errors import UnreadableImage
from curation.containers.container import BrokenArchive, Container, Member, name_of
from curation.containers.hdf5 import HDF5
from curation.containers.parquet import PARQUET
from curation.containers.tar import TAR
from curation.containers.zip import ZIP

CONTAINERS: dict[str, Container] = {container.name: container for container in (ZIP, TAR, PARQUET, HDF5)}

DAMAGE = (
    OSError, EOFError, ValueError, IndexError, KeyError, OverflowError, NotImplementedError, RecursionError,
    MemoryError, struct.error, zlib.error, tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip
"""What the readers raise on damaged files."""


def container_of(file: str) -> Container | None:
    """The kind of container that files of this name are, None when they are none that is read in place."""
    lower = file.lower()
    return next((kind for kind in CONTAINERS.values() if lower.endswith(kind.suffixes)), None)


def list_members(path: Path, image_column: str | None = None) -> Iterator[Member]:
    """List the images in a container, in the order they are stored in. Links, devices and folders are not listed.

    Raises:
        BrokenArchive: it cannot be read, or is cut short; what was whole came before.
        InputError: a table without an image column.
    """
    container = container_of(path.name)
    if container is None:
        raise BrokenArchive(path, f"ends in none of {', '.join(_suffixes())}")
    try:
        yield from container.list(path, image_column)
    except PermissionError:
        raise BrokenArchive(path, f"no permission to read it; try: chmod u+r '{path}'") from None
    except DAMAGE as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise BrokenArchive(path, f"not a whole archive ({cause[:200]}); fetch it again") from None


def read_member(root: Path, file: str, member: str, limit: int) -> bytes:
    """Read one member's bytes.

    Args:
        root: The source's folder.
        file: The container, relative to ``root``.
        member: As inventory lists it, or the plain name.
        limit: Most uncompressed bytes to accept, checked while decompressing, whatever the header says.

    Raises:
        UnreadableImage: no such member, encrypted, damaged, or more than ``limit`` bytes; or the row that inventory
            lists for a broken archive, with its reason.
    """
    if (reason := reason_in(member)) is not None:
        raise UnreadableImage(f"{file}: {reason}")
    container = container_of(file)
    if container is None:
        raise UnreadableImage(f"{file}: ends in none of {', '.join(_suffixes())}")
    try:
        return container.read(root / file, member, limit)
    except DAMAGE as error:
        raise UnreadableImage(f"{file}: {name_of(member)}: {error or type(error).__name__}") from None


def broken_member(reason: str) -> str:
    """What stands in place of a member in the one row of an archive that cannot be listed."""
    return f"!{reason}"


def reason_in(member: str) -> str | None:
    """Why an archive cannot be listed, if the member is that of :func:`broken_member`."""
    return member[1:] if member.startswith("!") else None


def _suffixes() -> list[str]:
    return [suffix for container in CONTAINERS.values() for suffix in container.suffixes]
