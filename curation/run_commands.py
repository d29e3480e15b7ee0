"""``rs-curate init`` and ``run``: from a folder, or a recipe, to shards."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from curation.base.errors import InputError
from curation.base.terminal import Commands, Terminal, counted, natural, positive, width


def add_init(commands: Commands) -> None:
    """Add ``init``."""
    init = commands.add_parser("init", help="look at a folder and write the recipe that follows", description=_INIT)
    init.add_argument("folder", type=Path, metavar="FOLDER", help="folder with your imagery, unpacked or in archives")
    init.add_argument("--out", type=Path, default=Path("recipe.yaml"), help="recipe to write (default: recipe.yaml)")
    init.set_defaults(command=_init)


_INIT = """Look at a folder for at most some twenty seconds, however large it is, and write a recipe in which every
line has the fact that it follows from: what are images, bands, bits, GSD, masks, splits, and what is not read."""


def _init(options: argparse.Namespace) -> None:
    from curation.start.init import init

    Terminal().say(init(options.folder, options.out, width=width()))
    run = f"rs-curate run {shlex.quote(str(options.out))} --out CORPUS"
    Terminal().say(f"\nNext, after a look at {options.out}:\n  {run} --dry-run\n  {run}")


def add_run(commands: Commands) -> None:
    """Add ``run``; long, since it is a list of options and nothing else."""
    run = commands.add_parser("run", help="raw files in, shards, catalogue and report out", description=_RUN)
    run.add_argument(
        "recipe",
        metavar="RECIPE|FOLDER",
        help="a YAML file, the name of a shipped recipe, or a folder, for which `init` writes OUT/recipe.yaml",
    )
    run.add_argument(
        "assignments", nargs="*", metavar="key=value", help="fields of the recipe to set, e.g. slice.tile=256"
    )
    run.add_argument("--data", type=Path, help="folder of the raw sources, one folder each")
    run.add_argument("--out", type=Path, required=True, help="folder for shards/, catalogue.parquet and report.html")
    where = run.add_mutually_exclusive_group()
    where.add_argument("--workers", type=positive, help="processes on this machine (default: one per core)")
    where.add_argument(
        "--scheduler", metavar="ADDRESS", help="a Dask scheduler, e.g. tcp://host:8786, instead of this machine"
    )
    run.add_argument(
        "--replace", action="store_true", help="let finished shards change that another recipe or other data touch"
    )
    run.add_argument(
        "--regenerate", action="store_true",
        help="lay all shards out anew, as in an empty OUT, instead of growing behind the finished ones",
    )  # fmt: skip
    run.add_argument(
        "--relist", action="store_true", help="list the sources anew: files were added, changed or removed"
    )
    run.add_argument(
        "--strict", action="store_true", help="stop when a source lists far fewer or more images than expected"
    )
    run.add_argument(
        "--fingerprints",
        type=Path,
        metavar="DIR",
        help="fingerprints of the benchmarks to guard (default: DATA/.fingerprints)",
    )
    run.add_argument(
        "--unguarded",
        action="append",
        default=[],
        metavar="BENCHMARK",
        help="go on without guarding this benchmark; the report says so",
    )
    run.add_argument(
        "--until", choices=("select",), metavar="STAGE",
        help="select: make catalogue and report in OUT/trial, compare them with the finished ones, touch no shard",
    )  # fmt: skip
    run.add_argument(
        "--pictures", type=natural, default=5_000, metavar="N", help="about how many the report shows (default 5,000)"
    )
    run.add_argument(
        "--share", action="store_true",
        help="make report-share.html, without pixels of sources that may not be redistributed",
    )  # fmt: skip
    run.add_argument("--only", nargs="+", default=[], metavar="SOURCE", help="run only these sources of the recipe")
    run.add_argument(
        "--skip-absent", action="store_true", help="leave out sources whose folder is missing or empty, and say so"
    )
    run.add_argument("--limit", type=positive, metavar="N", help="take N images, drawn by the seed, instead of all")
    run.add_argument(
        "--dry-run", action="store_true", help="list, scan some images, and say what the run would take; then stop"
    )
    run.add_argument(
        "--dashboard", type=_host_and_port, metavar="[HOST:]PORT",
        help="show Dask's dashboard there, from the start on (default: a free port, once there is work); HOST is "
        "127.0.0.1 unless it is named",
    )  # fmt: skip
    run.add_argument("--performance-report", type=Path, metavar="FILE", help="write Dask's performance report (HTML)")
    run.set_defaults(command=_run)


def _host_and_port(text: str) -> tuple[str, int]:
    """``8787`` or ``HOST:8787``."""
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port such as 8787, or HOST:8787")
    return host or "127.0.0.1", int(port)


_RUN = """Run a recipe: list, scan, select, write, report. What exists is never made again: running the same command
again resumes, and after a change only what depends on it is done anew."""


def _run(options: argparse.Namespace) -> None:
    from curation.pipeline import RunOptions, run
    from curation.sources.recipe import load_recipe
    from curation.start.init import recipe_of

    if options.dashboard and options.scheduler:
        raise InputError("--dashboard: with --scheduler the dashboard is the scheduler's; leave one of the two out")
    path, summary = recipe_of(options.recipe, options.out, width())
    if summary:
        Terminal().say(f"{summary}\n\nrecipe: {path}")
    recipe = load_recipe(path, options.assignments)
    result = run(
        recipe,
        options.data,
        options.out,
        RunOptions(
            workers=options.workers,
            scheduler=options.scheduler,
            replace=options.replace or options.regenerate,
            regenerate=options.regenerate,
            relist=options.relist,
            strict=options.strict,
            unguarded=tuple(options.unguarded),
            fingerprints=options.fingerprints,
            performance_report=options.performance_report,
            dashboard=options.dashboard,
            until=options.until,
            pictures=options.pictures,
            share=options.share,
            only=tuple(options.only),
            skip_absent=options.skip_absent,
            limit=options.limit,
            dry_run=options.dry_run,
            command=options.typed,
        ),
        Terminal(),
    )
    if options.dry_run:
        return
    if not result.worked:
        Terminal().say(
            "nothing to do: everything was made before (--relist looks for files that were added, changed or removed)"
        )
    shards = "; no shard was touched" if options.until else f" in {counted(result.shards, 'shard')}"
    Terminal().say(f"{result.images:,} images -> {result.kept:,} tiles{shards}")
    for name in result.made:
        Terminal().say(f"  {result.out / name}")


def add_audit(commands: Commands) -> None:
    """Add ``audit``."""
    audit = commands.add_parser("audit", help="what a corpus that another tool made holds", description=_AUDIT)
    audit.add_argument("corpus", type=Path, metavar="CORPUS", help="a folder with images or archives, or one archive")
    audit.add_argument("--out", type=Path, required=True, help="folder for the catalogue and the report")
    audit.add_argument(
        "--guard", nargs="+", default=[], metavar="BENCHMARK",
        help="evaluation sets to look for (default: all that have a file in --fingerprints)",
    )  # fmt: skip
    audit.add_argument("--fingerprints", type=Path, metavar="DIR", help="what `rs-curate fingerprint` wrote")
    audit.add_argument("--workers", type=positive, help="processes on this machine (default: one per core)")
    audit.add_argument("--relist", action="store_true", help="list the corpus anew: files were added or changed")
    audit.add_argument("--limit", type=positive, metavar="N", help="ask about N images, drawn at random, not all")
    audit.add_argument(
        "--pictures", type=natural, default=5_000, metavar="N", help="about how many the report shows (default 5,000)"
    )
    audit.set_defaults(command=_audit)


_AUDIT = """Ask about every image of a folder, an archive or WebDataset shards: can it be read, is it optical imagery,
is it there twice, does it show an image of an evaluation set. No shard is made; the same command goes on where it
stopped."""


def _audit(options: argparse.Namespace) -> None:
    from curation.audit import audit
    from curation.pipeline import RunOptions

    switches = RunOptions(
        workers=options.workers,
        relist=options.relist,
        fingerprints=options.fingerprints,
        limit=options.limit,
        pictures=options.pictures,
        command=options.typed,
    )
    found = audit(options.corpus, options.out, options.guard, switches, Terminal())
    Terminal().say(found.text(width()))
    for path in (found.report, found.catalogue):
        Terminal().say(f"  {path}")
