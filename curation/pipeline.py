"""The stages in order: inventory -> scan -> select -> write -> report, each keyed, each restartable.

A stage's results lie in ``OUT/.stages/<stage>-<key>/``; the key is a hash of the stage's inputs, its rules and the
format version. What exists is never made again, so running the same command again *is* the resume command, and a
changed rule runs only the stages that depend on it. Inventory and scan are keyed per source: a recipe that gains a
source scans only that one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.catalogue import FORMAT_VERSION, REASONS, SLICED, atomic, open_table
from curation.errors import InputError, WorkError
from curation.locks import hold
from curation.manifest import Recipe, ResolvedSource, resolve
from curation.progress import Progress

if TYPE_CHECKING:
    from curation import scan_parts
    from curation.executor import Executor
    from curation.shards import ShardInfo


SELECT_VERSION = 2
"""Raised when the same rows and rules give another catalogue than before. 2: views of the centre."""


class Observer(Protocol):
    """Who is told what happens: the command line prints it, a test may drop it."""

    def say(self, text: str) -> None:
        """One line about what was done or found."""

    def progress(self, description: str, total: int, unit: str) -> Progress:
        """A progress display for long work."""


@dataclass(frozen=True)
class RunOptions:
    """What a run does besides its recipe; none of it changes what comes out."""

    workers: int | None = None
    scheduler: str | None = None
    replace: bool = False
    relist: bool = False
    strict: bool = False
    unguarded: tuple[str, ...] = ()
    fingerprints: Path | None = None
    performance_report: Path | None = None


@dataclass(frozen=True)
class RunResult:
    """What a run made."""

    out: Path
    images: int
    kept: int
    shards: int
    worked: tuple[str, ...]
    """Stages that did any work; empty when everything was there already."""


@dataclass
class _Run:
    """State of one run: where it writes, who works for it, what it did."""

    recipe: Recipe
    sources: list[ResolvedSource]
    data: Path | None
    out: Path
    options: RunOptions
    observer: Observer
    stack: ExitStack
    worked: list[str] = field(default_factory=list)
    _executor: Executor | None = None

    def stage(self, name: str, key: str) -> Path:
        return self.out / ".stages" / f"{name}-{key}"

    def executor(self) -> Executor:
        """Workers, started by the first stage that has work for them."""
        if self._executor is None:
            from curation.executor import Executor

            options, folder = self.options, self.out / ".stages" / "workers"
            executor = Executor(options.workers, options.scheduler, folder, options.performance_report)
            self._executor = self.stack.enter_context(executor)
            if self._executor.dashboard:
                self.observer.say(f"dashboard: {self._executor.dashboard}")
        return self._executor

    def map(
        self, what: str, unit: str, fn: Callable[[Any], Any], parts: Sequence[Any], size: Callable[[Any], int]
    ) -> Iterator[Any]:
        """Map ``fn`` over parts on the workers, showing progress; yields results as they come."""
        if not parts:
            return
        self.worked.append(what)
        with self.observer.progress(what, sum(size(part) for part in parts), unit) as progress:
            for part, result in self.executor().map_parts(fn, parts):
                progress.advance(size(part))
                yield result


def run(recipe: Recipe, data: Path | None, out: Path, options: RunOptions, observer: Observer) -> RunResult:
    """Run a recipe to shards, catalogue and report; everything that exists is reused.

    Args:
        recipe: sources and rules.
        data: folder of the raw sources.
        out: folder to write; one run at a time.
        options: workers and switches.
        observer: who is told.

    Raises:
        InputError: a source's folder is missing or empty, ``out`` cannot be written or is in use, shards of another
            key lie there and ``replace`` is off.
        WorkError: too many unreadable images, or a file changed between scan and write.
    """
    sources = resolve(recipe, data)
    with ExitStack() as stack:
        stack.enter_context(hold(out))
        state = _Run(recipe, sources, data, out, options, observer, stack)
        listings = _inventory(state)
        plan = _plan(state, listings)
        _scan(state, plan)
        catalogue = _select(state, plan)
        infos = _write(state, catalogue, plan, listings)
        images = sum(open_table(path, "images").metadata.num_rows for path in listings.values())
        _report(state, plan.write_key, listings)
    return RunResult(out, images, sum(info.samples for info in infos), len(infos), tuple(state.worked))


# ------------------------------------------------------------------------------------------------ stages


def _inventory(state: _Run) -> dict[str, Path]:
    from curation.inventory import write_inventory

    listings = {}
    for source in state.sources:
        key = _key("inventory", source.source.model_dump(mode="json"), str(source.root.resolve()))
        path = state.stage(f"inventory.{source.id}", key) / "images.parquet"
        if state.options.relist or not path.exists():
            state.worked.append("inventory")
            for listing in write_inventory([source], path, strict=state.options.strict):
                state.observer.say(f"{listing.id}: {listing.found:,} images listed")
                for warning in listing.warnings:
                    state.observer.say(f"warning: {warning}")
        listings[source.id] = path
    return listings


@dataclass(frozen=True)
class _Plan:
    """What the stages after the inventory will make, known before any pixel is read."""

    parts: Mapping[str, list[scan_parts.Part]]
    fingerprints: Mapping[str, Path]
    select_key: str
    write_key: str


def _plan(state: _Run, listings: Mapping[str, Path]) -> _Plan:
    """Parts and keys of all stages; refuses here, before hours of work, what would be refused in the end.

    Raises:
        InputError: fingerprints of a guarded benchmark are absent, or shards of another key are in the way.
    """
    from curation import guard, scan_parts, shards

    recipe, options = state.recipe, state.options
    folder = options.fingerprints
    if folder is None and recipe.guard.fingerprints is None and state.data is not None:
        folder = state.data / ".fingerprints"
    fingerprints = guard.fingerprint_files(recipe, folder, options.unguarded)
    parts, scans = {}, []
    for source in state.sources:
        job = scan_parts.ScanJob.of(source, recipe)
        stage = state.stage(f"scan.{source.id}", _key("scan", job.rules(), _digest(listings[source.id])))
        parts[source.id] = scan_parts.plan_parts(listings[source.id], stage, job)
        scans.append(stage.name)
    select_key = _key(
        "select",
        SELECT_VERSION,
        scans,
        recipe.model_dump(mode="json", include={"seed", "deduplicate", "guard", "balance", "shards", "name"}),
        [(source.id, source.priority, source.cap, source.source.redistributable) for source in state.sources],
        {name: _file_digest(path) for name, path in fingerprints.items()},
    )
    licences = {source.id: source.source.licence for source in state.sources}
    write_key = _key("write", select_key, licences, shards.FORMAT_VERSION)
    target = state.out / "shards"
    done = shards.read_checksums(target, missing_ok=True)
    if done is not None and done.key != write_key and not options.replace:
        raise InputError(
            f"{target}: holds shards of another recipe or other data; "
            "run again with --replace to replace them, or give another --out"
        )
    return _Plan(parts, fingerprints, select_key, write_key)


def _scan(state: _Run, plan: _Plan) -> None:
    from curation import scan

    work = [part for parts in plan.parts.values() for part in parts if not part.out.exists()]
    for _ in state.map("scan", "images", scan.scan_part, work, lambda part: part.images):
        pass
    counts = {source.id: _image_verdicts(plan.parts[source.id]) for source in state.sources}
    if work:
        state.observer.say(_rejected(sum(counts.values(), Counter())))
        _warn_of_stretch(state, plan)
    for source in state.sources:
        _stop_if_too_bad(source, counts[source.id], state.recipe.exclude.max_unreadable)


def _warn_of_stretch(state: _Run, plan: _Plan) -> None:
    """One line for each source whose images of more than 8 bits have no stretch in common."""
    from curation import stretch

    for source in state.sources:
        if source.source.stretch is None:
            own = np.concatenate([_own_limits(part) for part in plan.parts[source.id]])
            if text := stretch.advice(source.id, own):
                state.observer.say(f"warning: {text}")


def _own_limits(part: scan_parts.Part) -> npt.NDArray[np.float64]:
    """``(N, 6)`` limits of the images of a part that were stretched and not left out."""
    with open_table(part.out, "tiles") as file:
        rows = file.read(columns=["kind", "verdict", "stretch"])
    wanted = pc.and_(pc.equal(rows["kind"].cast(pa.string()), "image"), pc.is_null(rows["verdict"]))
    limits = rows["stretch"].filter(pc.and_(wanted, pc.is_valid(rows["stretch"]))).combine_chunks()
    return limits.flatten().to_numpy(zero_copy_only=False).reshape(-1, 6)


def _rejected(counts: Counter[str]) -> str:
    """How many raw images were left out, and why."""
    reasons = ", ".join(f"{counts[reason]:,} {reason}" for reason in REASONS if counts[reason])
    return f"scan: {counts.total():,} images, {reasons or 'none left out'}"


def _image_verdicts(parts: Sequence[scan_parts.Part]) -> Counter[str]:
    """Count verdicts of the raw images of some parts; ``sliced`` where nothing speaks against one."""
    counts: Counter[str] = Counter()
    for part in parts:
        with open_table(part.out, "tiles") as file:
            rows = file.read(columns=["kind", "verdict"])
        images = rows.filter(pc.equal(rows["kind"].cast(pa.string()), "image"))
        counts.update(images["verdict"].cast(pa.string()).fill_null(SLICED).to_pylist())
    return counts


def _stop_if_too_bad(source: ResolvedSource, counts: Counter[str], limit: float) -> None:
    listed, bad = counts.total(), counts["unreadable"] + counts["crashed"]
    if listed >= 20 and bad > limit * listed:
        raise WorkError(
            f"{source.id}: {bad:,} of {listed:,} images cannot be read, more than exclude.max_unreadable={limit:g} "
            f"allows; check the files in {source.root}, then run again with --relist"
        )


def _select(state: _Run, plan: _Plan) -> Path:
    from curation.select import select

    catalogue = state.stage("select", plan.select_key) / "catalogue.parquet"
    if not catalogue.exists():
        state.worked.append("select")
        tiles = [part.out for parts in plan.parts.values() for part in parts]
        summary = select(
            tiles, state.recipe, state.sources, catalogue, benchmarks=plan.fingerprints,
            unguarded=state.options.unguarded, threads=state.options.workers,
        )  # fmt: skip
        state.observer.say(f"select: {summary}")
    return catalogue


def _write(state: _Run, catalogue: Path, plan: _Plan, listings: Mapping[str, Path]) -> list[ShardInfo]:
    """Write what is missing; the catalogue gets its public name when the shards that it describes do."""
    from curation import shards, write

    target, public = state.out / "shards", state.out / "catalogue.parquet"
    done = shards.read_checksums(target, missing_ok=True)
    if done is not None and done.key == plan.write_key and _sizes_fit(target, done.shards):
        _publish_file(catalogue, public)
        return done.shards
    folder = state.stage("write", plan.write_key)
    rows = folder / "rows.parquet"
    parts = write.plan_shards(catalogue, list(listings.values()), rows)
    if not parts:
        _publish_file(catalogue, public)
        raise WorkError(f"no tile was kept; {public} says why, row by row")
    job = write.WriteJob(state.recipe, {source.id: source for source in state.sources}, rows, folder)
    work = [part for part in parts if write.written(part, job, target) is None]
    for _ in state.map("write", "tiles", partial(write.write_part, job=job), work, lambda part: part.samples):
        pass
    infos = [info for part in parts if (info := write.written(part, job, target)) is not None]
    _replace_shards(folder, target, infos, plan.write_key)
    _publish_file(catalogue, public)
    return infos


def _sizes_fit(folder: Path, infos: Sequence[ShardInfo]) -> bool:
    """Whether every tar is there, whole; ``rs-curate verify`` reads them, this only looks."""
    paths = [(folder / info.file, info.bytes) for info in infos]
    return all(path.exists() and path.stat().st_size == size for path, size in paths)


def _replace_shards(folder: Path, target: Path, infos: list[ShardInfo], key: str) -> None:
    """Move finished tars into place, then the index, then the checksums, whose presence means: complete."""
    from curation import shards

    target.mkdir(exist_ok=True)
    (target / shards.CHECKSUMS).unlink(missing_ok=True)
    new = {info.file for info in infos}
    for stale in target.glob("*.tar"):
        if stale.name not in new or (folder / stale.name).exists():
            stale.unlink()
    for info in infos:
        if (folder / info.file).exists():
            (folder / info.file).replace(target / info.file)
    shards.write_index(infos, target)
    shards.write_checksums(infos, target, key)


def _report(state: _Run, write_key: str, listings: Mapping[str, Path]) -> None:
    from curation.report import REPORT_VERSION, Facts, write_report

    key = _key("report", write_key, REPORT_VERSION, state.recipe.model_dump(mode="json"), list(state.options.unguarded))
    page = state.stage("report", key) / "report.html"
    if not page.exists():
        state.worked.append("report")
        write_report(Facts(state.recipe, state.sources, state.out, listings, state.options.unguarded), page)
    _publish_file(page, state.out / "report.html")


# ------------------------------------------------------------------------------------------------ keys and files


def _key(*parts: object) -> str:
    """Twelve hex digits that change when the format version or anything in ``parts`` does."""
    text = json.dumps([FORMAT_VERSION, *parts], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _digest(listing: Path) -> str:
    """Digest of the sorted listing (path, size, mtime): the input key of the scan."""
    with open_table(listing, "images") as file:
        table = file.read(columns=["image", "bytes", "mtime_ns"])
    digest = hashlib.blake2b(digest_size=16)
    for batch in table.to_batches(max_chunksize=65_536):
        digest.update(json.dumps(batch.to_pydict()).encode())
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish_file(made: Path, name: Path) -> None:
    """Give a stage's result its public name; equal files are left alone so that their time says when they changed."""
    if name.exists() and name.stat().st_size == made.stat().st_size and _file_digest(name) == _file_digest(made):
        return
    with atomic(name) as aside:
        shutil.copyfile(made, aside)
