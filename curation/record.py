"""What of ``OUT/.stages`` is still needed: by the finished output, and by the latest run, finished or not.

Kept in ``.stages/runs.json``. It tells before hours of scanning that finished shards cannot stay as they are, and tells
``rs-curate clean`` what may go. ``.stages/made.json`` says by what the finished output was made.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from curation.base.errors import InputError
from curation.base.files import atomic

_MADE, _CHANGED = "made.json", "changed.json"


@dataclass(frozen=True)
class Needs:
    """What one run needs to be resumed, or repeated."""

    stages: list[str] = field(default_factory=list)
    """Folders below ``.stages``."""
    tars: list[str] = field(default_factory=list)
    """Keys of tars."""
    scans: dict[str, str] = field(default_factory=dict)
    """Digest of the rules that each source was scanned by."""


def read_record(out: Path) -> dict[str, Needs]:
    """What was noted of an output folder.

    Raises:
        InputError: it is not what :func:`note` writes.
    """
    path = _path(out)
    try:
        return {which: Needs(**needs) for which, needs in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a record of runs ({error}); delete it and run again") from None


def note(out: Path, **needs: Needs) -> None:
    """Note what the ``latest`` or the ``finished`` run needs; a record that says so already is left alone."""
    before = read_record(out)
    after = {**before, **needs}
    if after != before:
        with atomic(_path(out)) as aside:
            text = json.dumps({which: asdict(each) for which, each in after.items()}, indent=1, sort_keys=True)
            aside.write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Made:
    """By what the finished output was made: enough to make it again."""

    recipe: dict[str, Any]
    """The recipe with all its fields, as JSON values."""
    sources: dict[str, dict[str, Any]]
    """Manifest of every source as it was resolved, in the recipe's order."""
    data: str | None
    fingerprints: str | None
    unguarded: list[str]
    limit: int | None = None
    """Images that were drawn of each source; null: all."""
    key: str = ""
    """Key of the shards, as in their checksums; empty in records of earlier releases."""


def note_changed(out: Path, images: Mapping[str, Collection[str]]) -> None:
    """Note, by source, images that are not what was scanned, so that ``--relist`` opens them again; none: forget."""
    path = out / ".stages" / _CHANGED
    if not images:
        path.unlink(missing_ok=True)
        return
    with atomic(path) as aside:
        aside.write_text(json.dumps({source: sorted(names) for source, names in images.items()}), encoding="utf-8")


def read_changed(out: Path) -> dict[str, list[str]]:
    """What :func:`note_changed` noted."""
    try:
        changed: dict[str, list[str]] = json.loads((out / ".stages" / _CHANGED).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return changed


def note_made(out: Path, made: Made) -> None:
    """Note by what the finished output was made; a file that says so already is left alone."""
    path = out / ".stages" / _MADE
    text = json.dumps(asdict(made), indent=1, ensure_ascii=False) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with atomic(path) as aside:
            aside.write_text(text, encoding="utf-8")


def read_made(out: Path) -> Made:
    """By what the finished output of a folder was made.

    Raises:
        InputError: nothing says so.
    """
    path = out / ".stages" / _MADE
    try:
        return Made(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file, so nothing says how {out} was made; run its recipe once more: rs-curate run RECIPE "
            f"--data DIR --out {out}"
        ) from None
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not what a run notes ({error}); delete it and run again") from None


def _path(out: Path) -> Path:
    return out / ".stages" / "runs.json"
