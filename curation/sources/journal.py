"""What a fetch remembers in a source's folder, and the lock that keeps two runs from writing one file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from curation.sources.source import RemoteFile, Source

_REVISION = "revision"


def note_path(root: Path, name: str) -> Path:
    """Where it is noted that a file is right, or an archive unpacked."""
    return root / ".fetched" / f"{quote(name, safe='')}.json"


def is_done(root: Path, file: RemoteFile) -> bool:
    """True when the file was found right before, and is unchanged, or was unpacked and removed since.

    Of a file without checksum the size is all that could be noted, so that no note is kept of it.
    """
    if _needs_no_note(file) and (root / file.name).is_file():
        return (root / file.name).stat().st_size == file.size
    try:
        note = json.loads(note_path(root, file.name).read_text())
    except (OSError, ValueError):
        return False
    path = root / file.name
    if not path.exists():
        return bool(note.get("removed"))
    status = path.stat()
    same = (note.get("size"), note.get("mtime_ns")) == (status.st_size, status.st_mtime_ns)
    return same and (note.get("md5"), note.get("sha256")) == (file.md5, file.sha256)


def remember(root: Path, file: RemoteFile, *, removed: bool = False) -> None:
    """Note that a file is the one that was wanted; ``removed``: and that it may be absent from now on."""
    if _needs_no_note(file) and not removed:
        return
    note = note_path(root, file.name)
    note.parent.mkdir(exist_ok=True)
    status = (root / file.name).stat()
    facts = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "md5": file.md5, "sha256": file.sha256}
    aside = note.with_suffix(".part")
    aside.write_text(json.dumps({**facts, "removed": removed}))
    os.replace(aside, note)


def note_revision(root: Path, revision: str) -> None:
    """Note the commit of a repository that a source's files are of."""
    place = root / ".fetched" / _REVISION
    place.parent.mkdir(exist_ok=True)
    aside = place.with_suffix(".part")
    aside.write_text(f"{revision}\n", encoding="utf-8")
    os.replace(aside, place)


def noted_revision(root: Path) -> str | None:
    """What :func:`note_revision` noted; null where a fetch of ours did not bring the files."""
    try:
        return (root / ".fetched" / _REVISION).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def manifest_of(source: Source, root: Path) -> dict[str, Any]:
    """A source's manifest as JSON values, with the revision that was fetched into its folder."""
    told: dict[str, Any] = source.model_dump(mode="json", exclude_unset=True)
    revision = noted_revision(root)
    return told if revision is None else {**told, "obtain": {**told.get("obtain", {}), "revision": revision}}


def _needs_no_note(file: RemoteFile) -> bool:
    return file.size is not None and not file.md5 and not file.sha256
