"""Where images lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.base.errors import UnreadableImage


@dataclass(frozen=True)
class Location:
    """Where an image lies: a file below ``root``, perhaps a member of it, perhaps one file per band."""

    root: Path
    file: str
    member: str | None = None
    band_files: tuple[str, str, str] | None = None

    @classmethod
    def of(cls, root: Path, row: Mapping[str, Any]) -> Location:
        """Of a row of the listing, or one with its ``file``, ``member`` and, of bands in files, ``band_files``."""
        bands = row.get("band_files")
        return cls(root, row["file"], row["member"], tuple(bands) if bands else None)

    def path(self, file: str) -> Path:
        """Path of ``file`` below ``root``.

        Raises:
            UnreadableImage: it would lie outside.
        """
        if file.startswith("/") or ".." in file.split("/"):
            raise UnreadableImage(f"{file}: lies outside of its source's folder")
        return self.root / file
