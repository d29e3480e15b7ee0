"""Fetch sources: download what a script can, say what a person must do, check and unpack what is there.

Running the same command again is the resume command: what is whole is noted in ``.fetched`` below a source's folder and
is neither fetched nor unpacked again. One lock per folder keeps two runs from writing one file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from curation.base.errors import InputError, RscorpusError, WorkError
from curation.base.locks import hold
from curation.containers import container_of
from curation.containers.archives import archive_of
from curation.containers.unpack import LIMITS, UnpackLimits, unpack
from curation.sources.download import RETRIES, Retries, check_file, download
from curation.sources.entries import opened_in_place
from curation.sources.hosts import PUBLIC, Endpoints, Gone, Transient, size_at
from curation.sources.inventory import TOLERANCE, SourceListing, list_images
from curation.sources.journal import is_done, note_path, remember
from curation.sources.recipe import ResolvedSource
from curation.sources.repositories import choose, list_repository, pinned
from curation.sources.source import BY_SCRIPT, RemoteFile, Source, is_page
from curation.sources.subset import ALL, Subset, choose_files

RESERVE = 1 << 30
"""Bytes that stay free on the disk."""
_BATCH = 10_000


@dataclass(frozen=True)
class Event:
    """Progress of one file, for a display."""

    source: str
    file: str
    phase: Literal["download", "unpack"]
    done: int
    total: int | None


@dataclass(frozen=True)
class FetchOptions:
    """How to fetch."""

    connections: int = 4
    """Files that are downloaded at once."""
    unpack: Literal["needed", "all"] = "needed"
    """``needed`` leaves zip and plain tar archives as they are, since they are read in place."""
    keep_archives: bool = True
    """False removes an archive once it is unpacked."""
    limits: UnpackLimits = LIMITS
    ends: Endpoints = PUBLIC
    retries: Retries = RETRIES


DEFAULTS = FetchOptions()


@dataclass
class FetchResult:
    """What became of one source."""

    id: str
    root: Path
    downloaded: int = 0
    """Files that came over the network in this run."""
    unpacked: int = 0
    """Archives unpacked in this run."""
    missing: tuple[str, ...] = ()
    """Files that a person must fetch; empty when nothing is left to do."""
    instructions: str = ""
    error: str = ""
    notes: list[str] = field(default_factory=list)


def fetch(
    sources: Sequence[ResolvedSource],
    options: FetchOptions = DEFAULTS,
    progress: Callable[[Event], None] | None = None,
) -> list[FetchResult]:
    """Fetch sources one after another; a source that fails does not stop the others.

    Args:
        sources: What to fetch and into which folders.
        options: Connections, unpacking, limits.
        progress: Called from one thread at a time.

    Returns:
        One result per source; ``error`` and ``instructions`` say what is left to do.
    """
    results = []
    for resolved in sources:
        result = FetchResult(resolved.id, resolved.root)
        try:
            fetch_source(resolved.source, resolved.root, options, progress, result, resolved.subset)
        except RscorpusError as error:
            result.error = str(error)
        results.append(result)
    return results


def fetch_source(
    source: Source,
    root: Path,
    options: FetchOptions = DEFAULTS,
    progress: Callable[[Event], None] | None = None,
    result: FetchResult | None = None,
    subset: Subset = ALL,
) -> FetchResult:
    """Fetch one source, or a subset of the files that its repository lists, into its folder.

    Raises:
        InputError: no room, another run is at it, a hostile archive, or a package that is missing.
        WorkError: a file could not be fetched or unpacked.
    """
    result = result or FetchResult(source.id, root)
    tell = _one_at_a_time(progress)
    if source.remote is not None:
        result.notes.append("read where it lies, nothing to fetch")
        return result
    if source.obtain.via == "local" and not source.files:
        if not root.is_dir():
            raise InputError(f"source {source.id}: {root} does not exist, and nothing says where to fetch it from")
        result.notes.append("a folder of your own, nothing to fetch")
        return result
    if not root.exists() and source.obtain.via not in BY_SCRIPT:
        result.missing = tuple(file.name for file in source.files)
        result.instructions = instructions(source, root)
        return result
    root.mkdir(parents=True, exist_ok=True)
    with hold(root, "--data", ".fetch.lock"):
        if not source.files and _is_complete(source, root):
            result.notes.append("its images are there already")
            return result
        source = pinned(source, root, options.ends)
        files = choose_files(files_of(source, options.ends), subset, source.id)
        left = [file for file in files if not is_done(root, file)]
        if left and _is_complete(source, root):
            result.notes.append("its images are there already")
            return result
        fetchable = [file for file in left if _is_fetchable(source, file) and not (root / file.name).is_file()]
        by_hand = [file for file in left if not _is_fetchable(source, file) and not (root / file.name).is_file()]
        fetchable = _with_sizes(fetchable, options)
        _check_room(root, fetchable, options)
        _download_all(source, root, fetchable, options, tell)
        result.downloaded = len(fetchable)
        result.unpacked = _unpack_all(source, root, files, options, tell)
        if by_hand or (source.obtain.via not in BY_SCRIPT and not files and not _is_complete(source, root)):
            result.missing = tuple(file.name for file in by_hand)
            result.instructions = instructions(source, root)
    return result


def instructions(source: Source, root: Path) -> str:
    """What a person does where no script can, and where the files go."""
    lines = [f"{source.id} ({source.name}) must be fetched by hand:"]
    steps = []
    if source.homepage:
        steps.append(f"open {source.homepage}")
    if source.obtain.instructions:
        steps.append(source.obtain.instructions)
    for file in source.files:
        digest = f", sha256 {file.sha256}" if file.sha256 else f", md5 {file.md5}" if file.md5 else ""
        place = f" from {file.url}" if file.url else ""
        steps.append(f"put {file.name}{place} into {(root / file.name).parent}{digest}")
    if not source.files:
        steps.append(f"put the archives, or what they hold, into {root}")
    steps.append(f"rs-curate fetch {source.id} --data {root.parent} checks and unpacks them")
    steps.append(f"rs-curate check {source.id} --data {root.parent} counts the images")
    lines += [f"  {number}. {step}" for number, step in enumerate(steps, 1)]
    return "\n".join(lines)


def files_of(source: Source, ends: Endpoints = PUBLIC) -> list[RemoteFile]:
    """A source's files: those its manifest names, else those its repository lists and its globs want.

    Raises:
        InputError, WorkError: the repository cannot be listed.
    """
    if source.files or source.obtain.repository is None or source.obtain.via not in BY_SCRIPT:
        return list(source.files)
    try:
        wanted = source.obtain
        found = choose(source, list_repository(wanted.via, wanted.repository or "", ends, wanted.revision))
    except (Gone, Transient) as error:
        raise WorkError(f"source {source.id}: {error}") from None
    if not found:
        raise WorkError(f"source {source.id}: {source.obtain.repository} lists no file that is wanted")
    return found


def _is_complete(source: Source, root: Path) -> bool:
    """True when the images are there, however they came, by the manifest's own count."""
    if source.expected_images is None:
        return False
    listing = SourceListing(source.id)
    try:
        for _ in list_images(source, root, listing):
            pass
    except InputError:
        return False
    return listing.found >= source.expected_images * (1 - TOLERANCE)


# ------------------------------------------------------------------------------------------------ downloading


def _is_fetchable(source: Source, file: RemoteFile) -> bool:
    pages = any(is_page(url) for url in (file.url or "", *file.mirrors))
    return file.url is not None and not pages and source.obtain.via in BY_SCRIPT


def _with_sizes(files: list[RemoteFile], options: FetchOptions) -> list[RemoteFile]:
    """Ask the servers for the sizes that the manifest does not tell, to know whether the disk has room."""

    def size_of(file: RemoteFile) -> RemoteFile:
        """A file with the size that its host states."""
        size = size_at(file.url or "", options.ends)
        return file if size is None else file.model_copy(update={"size": size})

    unknown = [file for file in files if file.size is None]
    with ThreadPoolExecutor(max(1, options.connections)) as pool:
        asked = {file.name: known for file, known in zip(unknown, pool.map(size_of, unknown), strict=True)}
    return [asked.get(file.name, file) for file in files]


def _check_room(root: Path, files: Sequence[RemoteFile], options: FetchOptions) -> None:
    """Compare the free space with what comes, unpacked archives counted twice.

    Raises:
        InputError: it does not fit.
    """
    need = 0
    for file in files:
        part = root / f"{file.name}.part"
        need += (file.size or 0) - (part.stat().st_size if part.exists() else 0)
        if archive_of(file.name) and (options.unpack == "all" or container_of(file.name) is None):
            need += file.size or 0
    free = shutil.disk_usage(root).free - RESERVE
    if need > max(free, 0) and need > 0:
        raise InputError(
            f"{root}: {need / 1e9:.1f} GB are needed, {max(free, 0) / 1e9:.1f} GB are free; give another --data"
        )


def _download_all(
    source: Source, root: Path, files: Sequence[RemoteFile], options: FetchOptions, tell: Callable[[Event], None]
) -> None:
    """Download files, a bounded number at once.

    Raises:
        WorkError: one of them failed; the others were finished first.
    """
    stop = threading.Event()

    def one(file: RemoteFile) -> str | None:
        """Download one file; what went wrong, if anything."""

        def on_bytes(done: int) -> None:
            """Report progress, and stop where another file failed."""
            if stop.is_set():
                raise WorkError(f"{file.name}: stopped")
            tell(Event(source.id, file.name, "download", done, file.size))

        try:
            download(file, root / file.name, ends=options.ends, retries=options.retries, progress=on_bytes)
        except WorkError as error:
            return str(error)
        remember(root, file)
        return None

    problems: list[str] = []
    with ThreadPoolExecutor(max(1, options.connections)) as pool:
        for start in range(0, len(files), _BATCH):
            futures = [pool.submit(one, file) for file in files[start : start + _BATCH]]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:  # Ctrl-C as well: the other downloads must end before it is passed on
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
            problems += [problem for future in futures if (problem := future.result())]
    if problems:
        more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
        raise WorkError(f"source {source.id}: {problems[0]}{more}; the same command goes on from here")


# ------------------------------------------------------------------------------------------------ unpacking


def _unpack_all(
    source: Source, root: Path, files: Sequence[RemoteFile], options: FetchOptions, tell: Callable[[Event], None]
) -> int:
    """Check what a person put there, and unpack every archive whose parts are all here.

    Raises:
        InputError: a file is not the one that was wanted, or is hostile.
        WorkError: damaged.
    """
    listed = list(files) or _dropped(root)
    for file in listed:
        if (root / file.name).is_file() and not is_done(root, file):
            try:
                check_file(root / file.name, file)
            except Gone as wrong:
                raise InputError(f"source {source.id}: {wrong}; remove it and fetch it again") from None
            remember(root, file)
    groups: dict[str, list[RemoteFile]] = defaultdict(list)
    for file in listed:
        if archive := archive_of(file.name):
            groups[archive].append(file)
    return sum(_unpack_one(source, root, name, parts, options, tell) for name, parts in sorted(groups.items()))


def _dropped(root: Path) -> list[RemoteFile]:
    """Archives that a person put into the folder of a source whose manifest names none."""
    names = sorted(item.name for item in os.scandir(root) if item.is_file() and not item.name.startswith("."))
    return [RemoteFile(name=name) for name in names if archive_of(name)]


def _unpack_one(
    source: Source,
    root: Path,
    name: str,
    files: list[RemoteFile],
    options: FetchOptions,
    tell: Callable[[Event], None],
) -> bool:
    """Unpack one archive unless that was done, or is not needed; True when it was unpacked now."""
    files = sorted(files, key=_part_order)
    parts = [root / file.name for file in files]
    done = note_path(root, f"{name}.unpacked")
    stamp = json.dumps([[file.name, file.md5 or file.sha256 or file.size] for file in files])
    if done.exists() and done.read_text() == stamp:
        return False
    if not all(part.is_file() for part in parts):
        return False
    kind = container_of(name)
    in_place = len(parts) == 1 and kind is not None and opened_in_place(source, name) and kind.is_readable(parts[0])
    if options.unpack == "needed" and in_place:
        return False
    size = sum(part.stat().st_size for part in parts)
    tell(Event(source.id, name, "unpack", 0, size))
    free = max(shutil.disk_usage(root).free - RESERVE, 0)
    into = root / files[0].into
    unpack(parts, into, UnpackLimits(min(options.limits.bytes, free), options.limits.ratio, options.limits.ratio_from))
    if not options.keep_archives:
        for file in files:
            remember(root, file, removed=True)
            (root / file.name).unlink()
    done.parent.mkdir(exist_ok=True)
    done.write_text(stamp)
    tell(Event(source.id, name, "unpack", size, size))
    return True


def _part_order(file: RemoteFile) -> tuple[bool, int, str]:
    """Parts in order; of a zip in disks the ``.zip`` is the last, and ``.z100`` follows ``.z99``."""
    number = re.search(r"(\d+)$", file.name)
    return file.name.lower().endswith(".zip"), int(number[1]) if number else 0, file.name


def _one_at_a_time(progress: Callable[[Event], None] | None) -> Callable[[Event], None]:
    lock = threading.Lock()

    def tell(event: Event) -> None:
        """One event at a time."""
        if progress is not None:
            with lock:
                progress(event)

    return tell
