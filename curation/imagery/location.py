"""Where images lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from curation.base.errors import UnreadableImage
from curation.containers.registry import reason_in
from curation.remote.access import RemoteImagery
from curation.remote.reader import RemoteMember, reader


class Location(NamedTuple):
    """Where an image lies: a file below ``root``, perhaps a member of it, perhaps one file per band."""

    root: Path
    file: str
    member: str | None = None
    band_files: tuple[str, str, str] | None = None
    access: RemoteImagery | None = None
    """How ``file``, then a URL, is read; null for files below ``root``."""

    @classmethod
    def of(cls, root: Path, row: Mapping[str, Any], access: RemoteImagery | None = None) -> Location:
        """Of a row of the listing, or one with its ``file``, ``member`` and, of bands in files, ``band_files``."""
        bands = row.get("band_files")
        return cls(root, row["file"], row["member"], tuple(bands) if bands else None, access)

    def remote_member(self, limit: int) -> RemoteMember:
        """Bytes of a member of a remote file.

        Raises:
            UnreadableImage: it is not given, has changed, or is larger than ``limit`` bytes.
            WorkError: the server does not answer.
        """
        assert self.access is not None  # the caller has asked
        assert self.member is not None  # every line of a remote listing has one
        if (reason := reason_in(self.member)) is not None:
            raise UnreadableImage(reason)
        return reader(self.root, self.access).read(self.file, self.member, limit)

    def name(self, file: str) -> str:
        """Name of ``file`` below ``root``, for the kernel: a path takes longer to make than a chip to open.

        Raises:
            UnreadableImage: it would lie outside.
        """
        if file.startswith("/") or ".." in file.split("/"):
            raise UnreadableImage(f"{file}: lies outside of its source's folder")
        return f"{self.root}/{file}"

    def path(self, file: str) -> Path:
        """:meth:`name` as a path."""
        return Path(self.name(file))
