"""Publish a finished corpus, or what rebuilds it, and prove what arrived.

``SHA256SUMS`` comes last and means: complete. While files are exchanged it is absent, and ``SHA256SUMS.unfinished``
names what was published before and what is coming, so that the same command goes on, and what no release needs any more
is removed, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from curation.base.errors import InputError, WorkError
from curation.base.files import atomic, file_digest
from curation.base.remote import Store, Upload
from curation.release import card
from curation.release.diff import catalogue_of
from curation.release.facts import CorpusFacts, check_licences, read_facts
from curation.release.footprints import write_footprints
from curation.release.lock import FILES, write_lock
from curation.release.pictures import draw_map, draw_sheet
from curation.release.pins import PINS_FILE
from curation.shards.format import CHECKSUMS, INDEX_FILE

SUMS, UNFINISHED_SUMS = "SHA256SUMS", "SHA256SUMS.unfinished"
FOLDER = "release"
"""In the run's folder: what is made to be published."""
_MAP, _SHEET = "map.png", "sheet.jpg"


@dataclass(frozen=True)
class Published:
    """What was done."""

    uploaded: int
    present: int
    removed: int


def assemble(out: Path, url: str, lock_only: bool) -> list[Upload]:
    """Make what is published beside the shards, in ``OUT/release``.

    Args:
        out: folder of a finished run.
        url: where it is going.
        lock_only: nothing with a pixel.

    Raises:
        InputError: pixels that may not be published, or a run that is not finished.
    """
    facts, folder = read_facts(out), out / FOLDER
    if not lock_only:
        check_licences(facts)
    write_lock(out, folder / "lock")
    pinned = [PINS_FILE] if (folder / "lock" / PINS_FILE).exists() else []
    items = [_item(f"lock/{name}", folder / "lock" / name) for name in (*FILES, *pinned)]
    if not lock_only:
        items += _pixels(out, facts)
    items += _footprints(out, folder)
    pictures = _pictures(out, folder, lock_only)
    items += pictures
    shown = {item.name for item in pictures}
    texts = {"README.md": card.dataset_card(facts, lock_only, shown), "ATTRIBUTION.md": card.attribution(facts)}
    if not lock_only:
        texts["croissant.json"] = card.croissant(facts, url, {item.name: item.sha256 for item in items})
    for name, text in texts.items():
        with atomic(folder / name) as aside:
            aside.write_text(text, encoding="utf-8")
    return [*items, *(_item(name, folder / name) for name in texts)]


def _pixels(out: Path, facts: CorpusFacts) -> list[Upload]:
    shards = [Upload(f"shards/{shard.file}", out / "shards" / shard.file, shard.sha256) for shard in facts.shards]
    gone = [item for item in shards if not item.path.is_file()]
    if gone:
        raise InputError(f"{gone[0].path}: no such file; rs-curate verify {out} --repair makes it again")
    beside = [_item(f"shards/{name}", out / "shards" / name) for name in (INDEX_FILE, CHECKSUMS)]
    return [*shards, *beside]


def _footprints(out: Path, folder: Path) -> list[Upload]:
    """Footprints, where any tile has a place."""
    path = folder / "footprints.parquet"
    try:
        write_footprints(catalogue_of(out), path)
    except InputError:
        return []
    return [_item(path.name, path)]


def _pictures(out: Path, folder: Path, lock_only: bool) -> list[Upload]:
    """A map, where any tile has a place, and a sheet of samples, where pixels are published."""
    made = [_MAP] if draw_map(catalogue_of(out), folder / _MAP) else []
    if not lock_only:
        draw_sheet(out / "shards", folder / _SHEET)
        made.append(_SHEET)
    return [_item(name, folder / name) for name in made]


def _item(name: str, path: Path) -> Upload:
    return Upload(name, path, file_digest(path))


def sums(items: Iterable[Upload]) -> str:
    """``SHA256SUMS``, as ``sha256sum -c`` takes it."""
    return "".join(f"{item.sha256}  {item.name}\n" for item in sorted(items, key=lambda item: item.name))


def publish(items: Sequence[Upload], store: Store, folder: Path, advance: Callable[[int], None]) -> Published:
    """Upload what the store has not, and check that it holds all of it.

    Args:
        items: what to publish.
        store: where to.
        folder: where the lists are kept on their way.
        advance: told of bytes that are there.

    Raises:
        InputError: the store is refused to us, or takes fewer files in a folder.
        WorkError: it fails, or holds something else than was sent; the same command goes on.
    """
    _check_folders(items, store)
    complete = sums(items)
    before = store.read(SUMS)
    known = {*_names(before), *_names(store.read(UNFINISHED_SUMS)), *(item.name for item in items)}
    if before is None or before.decode() != complete:
        _put(store, UNFINISHED_SUMS, "".join(f"-  {name}\n" for name in sorted(known)), folder)
        store.remove([SUMS])
    todo = [item for item in items if not _is_there(item, store, advance)]
    for first in range(0, len(todo), store.together):
        batch = todo[first : first + store.together]
        store.put(batch)
        for item in batch:
            if not _is_there(item, store, advance):
                raise WorkError(f"{store.url}/{item.name}: was uploaded and is not what was sent; run again")
    stale = known - {item.name for item in items}
    store.remove(sorted(stale))
    _put(store, SUMS, complete, folder)
    store.remove([UNFINISHED_SUMS])
    store.release(f"release-{hashlib.sha256(complete.encode()).hexdigest()[:12]}")
    return Published(len(todo), len(items) - len(todo), len(stale))


def _check_folders(items: Iterable[Upload], store: Store) -> None:
    counts = Counter(item.name.rpartition("/")[0] for item in items)
    for folder, count in counts.items():
        if count > store.per_folder:
            raise InputError(
                f"{store.url}: {folder} has {count:,} files, and {store.per_folder:,} are the most in a folder there; "
                "larger shards.max_samples and shards.max_bytes make fewer, with rs-curate run --regenerate"
            )


def _is_there(item: Upload, store: Store, advance: Callable[[int], None]) -> bool:
    there = store.holds(item)
    if there:
        advance(item.size)
    return there


def _names(listed: bytes | None) -> set[str]:
    """Names in a list of checksums."""
    return {line.partition("  ")[2] for line in (listed or b"").decode().splitlines()}


def _put(store: Store, name: str, text: str, folder: Path) -> None:
    with atomic(folder / name) as aside:
        aside.write_text(text, encoding="utf-8")
    store.put([_item(name, folder / name)])
