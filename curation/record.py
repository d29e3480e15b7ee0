"""What of ``OUT/.stages`` is still needed: by the finished output, and by the latest run, finished or not.

Kept in ``.stages/runs.json``. It tells before hours of scanning that finished shards cannot stay as they are, and tells
``rs-curate clean`` what may go.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from curation.base.errors import InputError
from curation.base.files import atomic


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


def _path(out: Path) -> Path:
    return out / ".stages" / "runs.json"
