"""The stages in order: inventory -> scan -> select -> write -> report, each keyed, each restartable.

A stage's results lie in ``OUT/.stages/<stage>-<key>/``; the key is a digest of what the result depends on
(:mod:`curation.keys`). What exists is never made again, so running the same command again *is* the resume command, and
a changed rule runs only the stages that depend on it. Inventory and scan are keyed per source, tars one by one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from curation import keys
from curation.base.errors import InputError, WorkError
from curation.base.files import copy_changed, digest, file_digest, is_whole, place
from curation.base.locks import hold
from curation.base.progress import Observer
from curation.base.terminal import local_folder
from curation.catalogue import open_table
from curation.record import Made, note, note_changed, note_made, read_changed, read_record
from curation.run_state import Run, RunOptions, RunResult
from curation.shards.format import read_checksums
from curation.shards.shard_folder import REPLACE, ShardFolder
from curation.sources.left_out import leave_out
from curation.sources.recipe import Recipe, ResolvedSource, resolve
from curation.sources.refuse import check_apart, check_splits, check_twins, remarks, twins

__all__ = ["RunOptions", "RunResult", "run"]

if TYPE_CHECKING:
    from curation.report.page import ReportPage
    from curation.scan import parts as scan_parts
    from curation.shards import write
    from curation.shards.format import ShardInfo
    from curation.shards.shard_plan import ShardPart


def run(recipe: Recipe, data: Path | None, out: Path, options: RunOptions, observer: Observer) -> RunResult:
    """Run a recipe to shards, catalogue and report; everything that exists is reused.

    Args:
        recipe: sources and rules.
        data: folder of the raw sources.
        out: folder to write; one run at a time.
        options: workers and switches.
        observer: who is told.

    Raises:
        InputError: a source's folder is missing or empty, ``data`` or ``out`` is a URL, ``out`` cannot be written or is
            in use, shards of another key lie there and ``replace`` is off.
        WorkError: too many unreadable images, or a file changed between scan and write.
    """
    given, out = out, local_folder(out)
    data = local_folder(data) if data is not None else None
    recipe = leave_out(recipe, data, options.only, options.skip_absent)
    sources = resolve(recipe, data)
    check_splits(recipe, sources)
    check_apart(out, sources)
    if not options.dry_run and options.until is None:
        check_twins(recipe, sources, options.unguarded)
    with ExitStack() as stack:
        stack.enter_context(hold(out))
        finished = ShardFolder.open(out / "shards", options.replace)
        state = Run(recipe, sources, data, out, given, options, observer, stack, finished)
        for line, kind in remarks(recipe, sources):
            state.remark(line, kind)
        if options.dashboard is not None:
            state.executor()
        with state.timed("list"):
            listings = _drawn(state, _inventory(state), options.limit)
        if options.dry_run:
            return _dry_run(state, listings)
        with state.timed("scan"):
            plan = _plan(state, listings, options.limit)
            _refuse_early(state, plan)
            _scan(state, plan)
        with state.timed("select"):
            key, catalogue = _select(state, plan)
        if options.until == "select":
            return _trial(state, key, listings, catalogue)
        with state.timed("write"):
            infos = _write(state, key, catalogue, listings)
        _report(state, key, listings, infos)
        note(out, latest=state.needs, finished=state.needs)
        note_made(out, _made(state))
    return RunResult(
        given, _count(listings), sum(info.samples for info in infos), len(infos), tuple(dict.fromkeys(state.worked))
    )


# ------------------------------------------------------------------------------------------------ stages


def _inventory(state: Run) -> dict[str, Path]:
    from curation.sources import key_fields
    from curation.sources.changes import changed_folder
    from curation.sources.inventory import write_inventory

    listings = {}
    for source in state.sources:
        seed = [] if source.source.remote is None else [source.seed]
        listed = key_fields.listing(source.source, source.subset)
        key = keys.key("inventory", listed, str(source.root.resolve()), *seed)
        path = state.stage(f"inventory.{source.id}", key) / "images.parquet"
        if state.options.relist or not is_whole(path):
            state.worked.append("inventory")
            for listing in write_inventory([source], path, strict=state.options.strict, others=state.sources):
                state.observer.say(str(listing))
                for warning in listing.warnings:
                    state.observer.say(f"warning: {warning}")
        elif source.source.remote is None and (folder := changed_folder(path, source.root)) is not None:
            state.observer.say(
                f"warning: {source.id}: {source.root / folder} changed after it was listed; what was added, "
                "replaced or removed there is seen with --relist"
            )
        listings[source.id] = path
    return listings


def _count(listings: Mapping[str, Path]) -> int:
    return sum(open_table(path, "images").metadata.num_rows for path in listings.values())


def _drawn(state: Run, listings: Mapping[str, Path], limit: int | None) -> Mapping[str, Path]:
    """Listings of some images instead of all."""
    if limit is None:
        return listings
    from curation.start.sample import draw

    key = keys.key("draw", [file_digest(path) for path in listings.values()], limit, state.recipe.seed)
    drawn = draw(
        listings, limit, state.recipe.seed, lambda source: state.stage(f"draw.{source}", key) / "images.parquet"
    )
    if drawn is not listings:
        state.remark(f"{limit:,} of {_count(listings):,} images drawn by seed {state.recipe.seed}")
    return drawn


def _dry_run(state: Run, listings: Mapping[str, Path]) -> RunResult:
    """Scan some images, and say what the run would take."""
    from curation.sources.remote_entries import say_spools
    from curation.start.estimate import DRAWN, estimate

    plan = _plan(state, listings, state.options.limit)
    drawn = _plan(state, _drawn(state, listings, DRAWN), DRAWN)
    done = _scan(state, drawn)
    parts, sample = ([part for each in one.parts.values() for part in each] for one in (plan, drawn))
    found = estimate(_count(listings), len(parts), sample, done, state.recipe.shards)
    lines = found.lines(state.options.workers or len(os.sched_getaffinity(0)), state.out)
    for line in [*lines, *say_spools([each.source for each in state.sources], listings)]:
        state.observer.say(line)
    return RunResult(state.given, _count(listings), 0, 0, tuple(state.worked), ())


@dataclass(frozen=True)
class _Plan:
    """What the scan will make, known before any pixel is read."""

    parts: Mapping[str, list[scan_parts.Part]]
    work: Mapping[str, list[scan_parts.Part]]
    """Of the parts, those that are still to be made."""
    fingerprints: Mapping[str, Path]


def _plan(state: Run, listings: Mapping[str, Path], limit: int | None = None) -> _Plan:
    """Parts of the scan; refuses here, before hours of work, what would be refused in the end.

    Those of a ``limit`` lie apart: a folder holds the parts of one listing, and loses all others.

    Raises:
        InputError: fingerprints of a guarded benchmark are absent.
    """
    from curation.scan import afresh
    from curation.scan import parts as scan_parts
    from curation.select import guard

    recipe, options = state.recipe, state.options
    prints = options.fingerprints
    if prints is None and recipe.guard.fingerprints is None and state.data is not None:
        prints = state.data / ".fingerprints"
    known = {name for names in twins(recipe, state.sources).values() for name in names}
    fingerprints = guard.fingerprint_files(recipe, prints, [name for name in options.unguarded if name not in known])
    changed = read_changed(state.out) if options.relist else {}
    parts = {}
    for source in state.sources:
        job = scan_parts.ScanJob.of(source, recipe)
        key = keys.key("scan", job.rules(), *([] if limit is None else [limit]))
        folder = state.stage(f"scan.{source.id}", key)
        if options.relist:
            afresh.forget(folder, job.scene is not None, changed.get(source.id, ()))
        parts[source.id] = scan_parts.plan_parts(listings[source.id], folder, job)
        state.needs.scans[source.id] = key
    work = {source: scan_parts.unfinished(planned) for source, planned in parts.items()}
    return _Plan(parts, work, fingerprints)


def _refuse_early(state: Run, plan: _Plan) -> None:
    """Refuse before hours of scanning by other rules, or of another source, what would replace finished shards.

    Raises:
        InputError: shards would be replaced, and ``--replace`` was not given.
    """
    before = read_record(state.out).get("finished")
    work = [source for source, parts in plan.work.items() if parts]
    allowed = state.options.replace or state.options.until is not None
    if state.shards.done is not None and before is not None and not allowed:
        for source in work:
            if before.scans.get(source, state.needs.scans[source]) != state.needs.scans[source]:
                raise InputError(f"{state.shards.path}: holds shards of another recipe ({source}); {REPLACE}")
    if work:
        note(state.out, latest=state.needs)


def _scan(state: Run, plan: _Plan) -> list[scan_parts.PartSummary]:
    from curation.scan import findings, scan
    from curation.scan import parts as scan_parts

    work = [part for parts in plan.work.values() for part in parts]
    done = list(state.map("scan", "images", scan.scan_part, work, lambda part: part.images))
    for parts in plan.parts.values():
        scan_parts.sweep(parts)
    found = {source: findings.of(parts) for source, parts in plan.parts.items()}
    told = [line for source in state.sources for line in found[source.id].advice(source.source)]
    state.notes += told
    if work:
        state.observer.say(findings.say_verdicts(found.values()))
        state.observer.say(findings.say_speed(done))
        for line in told:
            state.observer.say(f"warning: {line}")
    for source in state.sources:
        _stop_if_too_bad(source, found[source.id].verdicts, state.recipe.exclude.max_unreadable)
    return done


def _stop_if_too_bad(source: ResolvedSource, counts: Counter[str], limit: float) -> None:
    listed, bad = counts.total(), counts["unreadable"] + counts["crashed"]
    if listed >= 20 and bad > limit * listed:
        raise WorkError(
            f"{source.id}: {bad:,} of {listed:,} images cannot be read, more than exclude.max_unreadable={limit:g} "
            f"allows; check the files in {source.root}, then run again with --relist"
        )


def _select(state: Run, plan: _Plan) -> tuple[str, Path]:
    """The catalogue and its key, which follows from what the scan found."""
    from curation.scan.parts import content_of_source
    from curation.select.select import select

    scanned = {source: content_of_source(parts) for source, parts in plan.parts.items()}
    asked = keys.select_key(state.recipe, state.sources, scanned, plan.fingerprints)
    careless = state.options.replace or state.options.until == "select"  # a trial touches nothing
    told, grown_from = keys.catalogue_keys(state.out, asked, careless, state.options.regenerate)
    catalogue = state.stage("select", told.key) / "catalogue.parquet"
    if is_whole(catalogue):
        return told.key, catalogue
    if grown_from is not None and told.ends:
        return told.key, grown_from
    state.worked.append("select")
    tiles = [part.out for parts in plan.parts.values() for part in parts]
    summary = select(
        tiles, state.recipe, state.sources, catalogue, benchmarks=plan.fingerprints,
        unguarded=state.options.unguarded, threads=state.options.workers, grown_from=grown_from, told=told,
    )  # fmt: skip
    state.observer.say(f"select: {summary}")
    return told.key, catalogue


def _write(state: Run, select_key: str, catalogue: Path, listings: Mapping[str, Path]) -> list[ShardInfo]:
    """Write the tars that are missing; the catalogue gets its public name when the shards that it describes do."""
    from curation.report import trial
    from curation.shards import shard_plan, write

    public = state.out / "catalogue.parquet"
    folder = state.stage("plan", keys.key("plan", select_key, [file_digest(path) for path in listings.values()]))
    parts = shard_plan.plan_shards(catalogue, listings, folder, state.recipe.shards)
    if not parts:
        state.shards.allow([], "", state.options.replace)
        if state.shards.done is not None:
            _trial(state, select_key, listings, catalogue)
            raise WorkError(_say_why_nothing(catalogue, state.given / trial.FOLDER) + "; the finished shards stay")
        copy_changed(catalogue, public)
        _report(state, select_key, listings, [])
        note(state.out, latest=state.needs)
        raise WorkError(_say_why_nothing(catalogue, state.given))
    job = write.WriteJob(
        state.recipe, {source.id: source for source in state.sources}, folder, state.out / ".stages" / "write"
    )
    state.needs.tars.extend(job.key(part) for part in parts)
    infos = state.shards.holds(job.key_of_all(parts))
    if infos is None:
        note(state.out, latest=state.needs)
        infos = _write_shards(state, parts, job)
    copy_changed(catalogue, public)
    return infos


def _say_why_nothing(catalogue: Path, folder: Path) -> str:
    from curation.report import trial

    counts = trial.count(catalogue)
    reasons = counts["tile"] or counts["image"]
    (reason, many), total = reasons.most_common(1)[0], reasons.total()
    what = "tiles" if counts["tile"] else "images"
    return (
        f"no tile was kept: {many:,} of {total:,} {what} are {reason}; {folder / 'report.html'} shows them, and "
        f"rs-curate why {folder} IMAGE tells of one by which rule"
    )


def _write_shards(state: Run, parts: Sequence[ShardPart], job: write.WriteJob) -> list[ShardInfo]:
    from curation.shards import write

    key = job.key_of_all(parts)
    state.shards.allow([write.written(part, job) for part in parts], key, state.options.replace)
    work = [part for part in parts if write.place_of(part, job, state.shards) is None]
    write.check_room(work, state.recipe.shards, state.out)
    changed: dict[tuple[str, str], str] = {}
    for found in state.map("write", "tiles", partial(write.make_shard, job=job), work, lambda part: part.samples):
        changed |= {(each.source, each.image): each.text for each in found}
    by_source = groupby(sorted(changed), key=itemgetter(0))
    note_changed(state.out, {source: [image for _, image in images] for source, images in by_source})
    if changed:
        raise WorkError(write.say_changed(list(changed.values()), state.out))
    if work:
        state.observer.say(f"write: {write.say_decoding(work, job)}")
    else:
        state.worked.append("write")  # renamed, fewer, or without their index
    made = [write.found(part, job, state.shards) for part in parts]
    state.shards.replace(made, key)
    return [info for info, _ in made]


def _report(state: Run, select_key: str, listings: Mapping[str, Path], infos: Sequence[ShardInfo]) -> None:
    page = _page(state, "report", select_key, state.out / "catalogue.parquet", listings, infos)
    copy_changed(page.file, state.out / page.file.name)
    page.place_sheets(state.out)


def _page(
    state: Run, name: str, select_key: str, catalogue: Path, listings: Mapping[str, Path], infos: Sequence[ShardInfo]
) -> ReportPage:
    """The report of a catalogue, made where it is not there yet; its pictures are a stage of their own."""
    from curation.report.page import REPORT_VERSION, ReportFacts, ReportPage, write_report
    from curation.report.thumbnails import PICTURES_VERSION

    how = (state.options.pictures, state.options.share)
    pictures = state.stage("pictures", keys.key("pictures", PICTURES_VERSION, select_key, *how))
    rules, shards = state.recipe.model_dump(mode="json"), digest([(info.file, info.sha256) for info in infos])
    key = keys.key(name, REPORT_VERSION, select_key, shards, rules, list(state.options.unguarded), *how, state.notes)
    file = "report-share.html" if state.options.share else "report.html"
    page = ReportPage(state.stage(name, key) / file, pictures)
    if not page.file.exists():
        state.worked.append("report")
        facts = ReportFacts(
            state.recipe, state.sources, catalogue, listings, infos, state.shards.path if infos else None,
            state.options.unguarded, *how, state.notes, state.options.command, state.seconds,
        )  # fmt: skip
        write_report(facts, page, state.pictures)
    return page


def _trial(state: Run, select_key: str, listings: Mapping[str, Path], catalogue: Path) -> RunResult:
    """Show what select decided beside what was finished before."""
    from curation.report import trial

    folder = state.out / trial.FOLDER
    page = _page(state, "trial", select_key, catalogue, listings, ())
    place(catalogue, folder / "catalogue.parquet")
    place(page.file, folder / page.file.name)
    page.place_sheets(folder)
    note(state.out, trial=state.needs)  # or clean would take its stages for waste
    counts = trial.count(catalogue)
    for line in trial.beside_release(counts, state.given / "catalogue.parquet"):
        state.observer.say(line)
    made = tuple(f"{trial.FOLDER}/{name}" for name in ("catalogue.parquet", page.file.name))
    return RunResult(state.given, counts["image"].total(), counts["tile"]["kept"], 0, tuple(state.worked), made)


def _made(state: Run) -> Made:
    from curation.sources.journal import manifest_of

    options, checksums = state.options, read_checksums(state.shards.path)
    assert checksums is not None
    return Made(
        recipe=state.recipe.model_dump(mode="json"),
        sources={each.id: manifest_of(each.source, each.root) for each in state.sources},
        data=None if state.data is None else str(state.data),
        fingerprints=None if options.fingerprints is None else str(options.fingerprints.absolute()),
        unguarded=list(options.unguarded),
        limit=options.limit,
        key=checksums.key,
    )
