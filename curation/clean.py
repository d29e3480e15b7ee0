"""Remove what no run needs any more from an output folder.

Needed is what the finished output, the latest run and the latest trial stand on (:mod:`curation.record`): their stage
folders, so that
the same command has nothing to do again or goes on, and tars that were made and are not in place yet. The rest below
``.stages`` is of recipes that were given up, and files that end in ``.part`` are of writers that died. The lock of the
folder is held meanwhile, so that no run is at work.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from curation.base.errors import InputError
from curation.base.files import UNFINISHED
from curation.base.locks import hold
from curation.record import read_record

_OWN = ("runs.json", "workers", "write")
"""What lies in ``.stages`` and is no stage's folder."""


@dataclass(frozen=True)
class Waste:
    """Something that may go."""

    path: Path
    bytes: int


def clean(out: Path, dry_run: bool = False) -> list[Waste]:
    """Remove what no present key needs; returns what it was.

    Args:
        out: the folder that a run wrote to.
        dry_run: only say what would go.

    Raises:
        InputError: no run wrote there, or one is at work.
    """
    if not (out / ".stages").is_dir():
        raise InputError(f"{out}: no output of rs-curate run; give the folder that was its --out")
    with hold(out, option="OUT"):
        record = read_record(out)
        if not record:
            raise InputError(f"{out}: nothing says what its last run needs; give rs-curate run its recipe again first")
        stages = {name for needs in record.values() for name in needs.stages}
        tars = {key for needs in record.values() for key in needs.tars}
        waste = [Waste(path, _size(path)) for path in _unneeded(out, stages, tars)]
        for each in () if dry_run else waste:
            shutil.rmtree(each.path) if each.path.is_dir() else each.path.unlink()
    return waste


def _unneeded(out: Path, stages: set[str], tars: set[str]) -> Iterator[Path]:
    """Files and folders that may go, none within another."""
    for path in sorted((out / ".stages").iterdir()):
        if path.is_dir() and path.name not in _OWN and path.name not in stages:
            yield path
        elif path.is_dir():
            yield from _unfinished(path)
    yield from (path for path in sorted((out / ".stages" / "write").glob("[!.]*")) if path.stem not in tars)
    for folder in (out, out / ".stages", out / "shards"):
        yield from sorted(folder.glob(f".*{UNFINISHED}"))


def _unfinished(stage: Path) -> Iterator[Path]:
    """What dead writers left in a stage's folder: files, and folders of files."""
    yield from sorted(path for path in stage.iterdir() if path.name.endswith(UNFINISHED))


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())
