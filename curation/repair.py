"""Make damaged shards again: by the recipe that the run's record holds, from the sources, and proved by checksum.

What is damaged is set aside under another name until what takes its place is proved, so that nothing is lost where the
sources are gone or have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from curation.base.errors import InputError, WorkError
from curation.base.files import UNFINISHED, sync_folder
from curation.base.locks import hold
from curation.base.progress import Observer
from curation.pipeline import RunOptions, run
from curation.record import Made, read_made
from curation.shards.check_shard import Problem
from curation.shards.format import CHECKSUMS, INDEX_FILE, Checksums, read_checksums
from curation.shards.verify import in_turn, verify
from curation.sources.recipe import Recipe

_ASIDE = f".damaged{UNFINISHED}"


def repair(shards: Path, errors: Sequence[Problem], workers: int | None, observer: Observer) -> int:
    """Make again what a check found damaged; returns how many tars.

    Args:
        shards: the ``shards`` folder of a run's output.
        errors: what is wrong with it.
        workers: processes on this machine.
        observer: who is told.

    Raises:
        InputError: nothing says how the shards were made.
        WorkError: a source is gone or has changed, or what was made again has other bytes.
    """
    made, before = read_made(shards.resolve().parent), read_checksums(shards)
    assert before is not None
    out = shards.resolve().parent
    damaged = sorted({error.where.partition(":")[0] for error in errors} - {INDEX_FILE, CHECKSUMS})
    with hold(out, option="OUT"):
        for name in damaged:
            _set_aside(shards / name)
        if any(error.where in (INDEX_FILE, CHECKSUMS) for error in errors):
            _set_aside(shards / CHECKSUMS)  # what is there counts only for the bytes that are read of it
        sync_folder(shards)
    _run_again(made, out, workers, observer)
    _prove(shards, before, damaged)
    for path in shards.glob(f".*{_ASIDE}"):
        path.unlink()
    listed = {info.file for info in before.shards}
    return sum(name in listed for name in damaged)


def _set_aside(path: Path) -> None:
    if path.exists():
        path.replace(path.with_name(f".{path.name}{_ASIDE}"))


def _run_again(made: Made, out: Path, workers: int | None, observer: Observer) -> None:
    options = RunOptions(
        workers=workers,
        unguarded=tuple(made.unguarded),
        fingerprints=None if made.fingerprints is None else Path(made.fingerprints),
        limit=made.limit,
    )
    run(Recipe.model_validate(made.recipe), None if made.data is None else Path(made.data), out, options, observer)


def _prove(shards: Path, before: Checksums, damaged: Sequence[str]) -> None:
    after = read_checksums(shards)
    assert after is not None
    if before.key != after.key:
        raise InputError(
            f"{shards}: its checksums are of other shards than the record's; what was damaged is kept as .*{_ASIDE}"
        )
    now = {info.file: info.sha256 for info in after.shards}
    other = [info.file for info in before.shards if now.get(info.file) != info.sha256]
    if other:
        raise WorkError(
            f"{shards}: made again, {', '.join(other)} have other bytes than before: encoded by other versions of the "
            f"libraries; rs-curate verify {shards} holds them against their new checksums, and what was damaged is "
            f"kept as .*{_ASIDE}"
        )

    def made_again(work: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        return in_turn(work, [part for part in parts if part.path.name in damaged])

    if errors := [each for each in verify(shards, map_parts=made_again) if each.level == "error"]:
        raise WorkError(f"{shards}: after the repair: {errors[0]}")
