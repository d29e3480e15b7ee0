"""What a file name says: an archive, or a part of one."""

from __future__ import annotations

import re

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz")
_PART = re.compile(
    r"(?P<whole>.+\.(?:zip|7z|tar|tar\.gz|tgz|tar\.bz2|tar\.xz))\.?(?P<part>\d{3}|(?:part)?[a-z]{2})", re.I
)
DISK = re.compile(r"(?P<stem>.+)\.z(?P<part>\d{2,3})", re.I)


def archive_of(name: str) -> str | None:
    """Name of the archive that a file is, or is a part of; None when the file is no archive.

    ``a.tar.gzaa`` and ``a.tar.gzab`` are parts of ``a.tar.gz``, ``a.z01`` is a part of ``a.zip``.
    """
    if match := _PART.fullmatch(name):
        return match["whole"]
    if match := DISK.fullmatch(name):
        return f"{match['stem']}.zip"
    return name if name.lower().endswith((*TAR_SUFFIXES, ".zip", ".7z")) else None
