"""Commands that let a corpus leave the house: lock, rebuild, diff, footprints, publish."""

from __future__ import annotations

import argparse
from pathlib import Path

from curation.base.terminal import Commands, Terminal, counted, positive


def add(commands: Commands) -> None:
    """Add all of them."""
    for each in (_add_lock, _add_rebuild, _add_diff, _add_footprints, _add_publish):
        each(commands)


def _add_lock(commands: Commands) -> None:
    lock = commands.add_parser("lock", help="write what another copy of the sources needs to become the same shards")
    lock.add_argument("out", type=Path, metavar="OUT", help="folder of a finished run")
    lock.add_argument("--to", type=Path, metavar="DIR", help="folder of the lock (default: OUT/lock)")
    lock.set_defaults(command=_lock)


def _lock(options: argparse.Namespace) -> None:
    from curation.release.lock import write_lock

    Terminal().say(f"{write_lock(options.out, options.to or options.out / 'lock')}")


def _add_rebuild(commands: Commands) -> None:
    rebuild = commands.add_parser("rebuild", help="make the shards of a lock from another copy of the sources")
    rebuild.add_argument("lock", type=Path, metavar="LOCK", help="folder that rs-curate lock wrote")
    rebuild.add_argument("--data", type=Path, required=True, help="folder of the raw sources")
    rebuild.add_argument("--out", type=Path, required=True, help="folder for shards/ and catalogue.parquet")
    rebuild.add_argument("--accept-pixels", action="store_true", help="take other bytes of the same pixels")
    rebuild.add_argument("--replace", action="store_true", help="let shards of an earlier lock change")
    rebuild.add_argument("--workers", type=positive, help="processes on this machine (default: one per core)")
    rebuild.set_defaults(command=_rebuild)


def _rebuild(options: argparse.Namespace) -> None:
    from curation.executor.executor import on_processes
    from curation.release.lock import read_lock
    from curation.release.rebuild import check, rebuild

    lock, terminal = read_lock(options.lock), Terminal()
    with on_processes(options.workers) as map_parts:
        rebuilt = rebuild(
            lock, options.data.absolute(), options.out.absolute(), map_parts, terminal.say, terminal.progress,
            options.accept_pixels, options.replace,
        )  # fmt: skip
    check(rebuilt, options.out)
    terminal.say(f"{options.out / 'shards'}: {counted(len(lock.checksums.shards), 'shard')}, {rebuilt}")


def _add_diff(commands: Commands) -> None:
    diff = commands.add_parser("diff", help="compare two catalogues: tiles kept, moved, lost and new")
    diff.add_argument("first", type=Path, metavar="A", help="a run's folder, a lock or a catalogue")
    diff.add_argument("second", type=Path, metavar="B", help="another")
    diff.add_argument("--rows", type=Path, metavar="FILE", help="write the tiles that differ as Parquet")
    diff.set_defaults(command=_diff)


def _diff(options: argparse.Namespace) -> None:
    from curation.release.diff import counts, diff, say, write_rows

    rows = diff(options.first, options.second)
    Terminal().say(say(counts(rows)))
    if options.rows is not None:
        write_rows(rows, options.rows)


def _add_footprints(commands: Commands) -> None:
    footprints = commands.add_parser("footprints", help="where every tile lies on the Earth, as GeoParquet")
    footprints.add_argument("out", type=Path, metavar="OUT", help="a run's folder, a lock or a catalogue")
    footprints.add_argument("--to", type=Path, metavar="FILE", help="file to make (default: footprints.parquet in OUT)")
    footprints.set_defaults(command=_footprints)


def _footprints(options: argparse.Namespace) -> None:
    from curation.release.diff import catalogue_of
    from curation.release.footprints import write_footprints

    catalogue = catalogue_of(options.out)
    path = options.to or catalogue.parent / "footprints.parquet"
    written, unknown = write_footprints(catalogue, path)
    Terminal().say(f"{path}: {counted(written, 'tile')}; of {unknown:,} no place is known")


def _add_publish(commands: Commands) -> None:
    publish = commands.add_parser("publish", help="upload a finished corpus, or what rebuilds it, and prove it")
    publish.add_argument("out", type=Path, metavar="OUT", help="folder of a finished run")
    publish.add_argument("url", metavar="URL", help="file:///a/folder, s3://bucket/prefix or hf://datasets/owner/name")
    publish.add_argument("--lock-only", action="store_true", help="no pixel: lock, footprints, card")
    publish.set_defaults(command=_publish)


def _publish(options: argparse.Namespace) -> None:
    from curation.base.remote import open_store
    from curation.release.publish import FOLDER, assemble, publish

    store, terminal = open_store(options.url), Terminal()
    items = assemble(options.out, options.url, options.lock_only)
    with terminal.progress("publish", sum(item.size for item in items), "bytes") as progress:
        done = publish(items, store, options.out / FOLDER, progress.advance)
    removed = f", {counted(done.removed, 'file')} of earlier releases removed" if done.removed else ""
    uploaded = f"{counted(done.uploaded, 'file')} uploaded, {done.present:,} were there"
    terminal.say(f"{store.url}: {uploaded}{removed}; all have their checksums")
