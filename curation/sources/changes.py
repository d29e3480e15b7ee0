"""Whether a source's folders changed since they were listed: a look at the folders, not at their files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pyarrow.compute as pc

from curation.catalogue import open_table

MOST = 5_000
"""Folders that are looked at: a call each, which on a busy file system takes a millisecond."""


def changed_folder(listing: Path, root: Path) -> str | None:
    """A folder that files were added to, removed from or replaced in after its listing was made; None where none is.

    A file that was written over in place changes no folder, and is not seen.

    Args:
        listing: the ``images`` table of the source.
        root: the source's folder.
    """
    made, seen = listing.stat().st_mtime_ns, set[str]()
    for folder in _folders(listing):
        if folder not in seen:
            seen.add(folder)
            with suppress(OSError):  # one that is gone shows in the folder above
                if (root / folder).stat().st_mtime_ns > made:
                    return folder
        if len(seen) >= MOST:
            break
    return None


def _folders(listing: Path) -> Iterator[str]:
    """Folders of the listed files, and those above them."""
    with open_table(listing, "images") as file:
        for group in range(file.num_row_groups):
            files = file.read_row_group(group, columns=["file"])["file"]
            for folder in pc.unique(pc.replace_substring_regex(files, r"/?[^/]*$", "")).to_pylist():
                yield from (str(each) for each in (PurePosixPath(folder), *PurePosixPath(folder).parents))
