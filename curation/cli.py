"""``rs-curate``: from raw public datasets to shards.

Exit code 0 for success, 2 for wrong input with one clear line on standard error, 1 for a failure during work.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from curation import __version__, release_commands, run_commands
from curation.base.terminal import (
    Commands,
    Parser,
    Terminal,
    counted,
    give_examples,
    parse,
    positive,
    refuse_urls,
    run_command,
    width,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parse(_parser(), arguments)

    def command() -> int | None:
        refuse_urls(options)
        return options.command(options)

    return run_command("rs-curate", command, "stopped; the same command goes on from here")


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="rs-curate", description="Rebuild remote-sensing pretraining corpora from raw public sources.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"rscorpus {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        run_commands.add_init, _add_sources, _add_plan, _add_probe, _add_fetch, _add_check, _add_fingerprint,
        _add_benchmark, run_commands.add_run, run_commands.add_audit, _add_why, _add_groups, _add_verify, _add_index,
        _add_clean, release_commands.add,
    ):  # fmt: skip
        add(commands)
    give_examples(commands, EXAMPLES)
    return parser


EXAMPLES = {
    "init": "rs-curate init /data/images --out mine.yaml",
    "sources": "rs-curate sources --task detection",
    "plan": "rs-curate plan opticalrs-4m",
    "probe": "rs-curate probe opticalrs-4m --out probe.json",
    "fetch": "rs-curate fetch uc_merced --data raw",
    "check": "rs-curate check uc_merced --data raw",
    "benchmark": "rs-curate benchmark uc_merced --data raw --out labelled/uc_merced",
    "fingerprint": "rs-curate fingerprint --benchmark aid --data raw",
    "run": "rs-curate run mine.yaml --out corpus",
    "audit": "rs-curate audit their_shards --out audit",
    "why": "rs-curate why corpus city/tile_1.tif",
    "groups": "rs-curate groups corpus --csv",
    "verify": "rs-curate verify corpus/shards",
    "index": "rs-curate index my_tars",
    "clean": "rs-curate clean corpus --dry-run",
    "lock": "rs-curate lock corpus",
    "rebuild": "rs-curate rebuild corpus/lock --data raw --out mine",
    "diff": "rs-curate diff corpus corpus/trial/catalogue.parquet",
    "footprints": "rs-curate footprints corpus",
    "publish": "rs-curate publish corpus s3://bucket/corpus",
}
"""What the help of each command ends with."""


def _add_sources(commands: Commands) -> None:
    sources = commands.add_parser("sources", help="which public sources are known, with licence and route")
    sources.add_argument("--task", help="only sources of this task, such as detection")
    sources.add_argument("--licence", help="only licences that contain this text, such as CC-BY")
    sources.add_argument("--redistributable", action="store_true", help="only sources whose tiles may be published")
    sources.add_argument(
        "--obtain", metavar="ROUTE", help="only this route: direct, zenodo, huggingface, s3, kaggle, ..."
    )
    sources.add_argument("--probe", type=Path, metavar="FILE", help="what `rs-curate probe` wrote: what is there today")
    sources.add_argument("--json", action="store_true", help="every field, as JSON")
    sources.set_defaults(command=_sources)


def _sources(options: argparse.Namespace) -> None:
    from curation.sources.plan import list_sources
    from curation.sources.probe import read_probe
    from curation.sources.say import format_sources

    found = list_sources(options.task, options.licence, options.redistributable, options.obtain)
    answers = read_probe(options.probe) if options.probe else None
    print(format_sources(found, options.json, width(), answers))


def _add_plan(commands: Commands) -> None:
    plan = commands.add_parser("plan", help="what a recipe takes: downloads, disk, licences, what to fetch by hand")
    plan.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    plan.add_argument("assignments", nargs="*", metavar="key=value", help="fields of the recipe to set")
    plan.add_argument("--data", type=Path, help="folder of the raw sources, for the instructions")
    plan.add_argument("--probe", type=Path, metavar="FILE", help="what `rs-curate probe` wrote: take off what is gone")
    plan.add_argument("--json", action="store_true", help="the rows as JSON")
    plan.set_defaults(command=_plan)


def _plan(options: argparse.Namespace) -> None:
    from curation.sources.plan import as_rows, make_plan
    from curation.sources.probe import read_probe
    from curation.sources.recipe import load_recipe
    from curation.sources.say import format_plan

    answers = read_probe(options.probe) if options.probe else None
    plan = make_plan(load_recipe(options.recipe, options.assignments), options.data, answers)
    told = format_plan(plan, options.recipe, options.data, width())
    print(json.dumps(as_rows(plan.rows), indent=2) if options.json else told)


def _add_probe(commands: Commands) -> None:
    ask = commands.add_parser("probe", help="ask the servers what is still there", description=_PROBE)
    ask.add_argument("target", nargs="?", metavar="RECIPE|SOURCE", help="default: all shipped sources and benchmarks")
    ask.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="JSON of all answers; updated where it exists"
    )
    ask.add_argument("--connections", type=positive, default=8, help="hosts that are asked at once (default 8)")
    ask.add_argument("--timeout", type=positive, default=20, metavar="SECONDS", help="without an answer (default 20)")
    ask.set_defaults(command=_probe)


_PROBE = """Ask for every URL of a recipe, a source or all that is shipped, without downloading: by HEAD, or for one
byte. Exit code 1 where anything is gone. `rs-curate plan RECIPE --probe FILE` reads the answers."""


def _probe(options: argparse.Namespace) -> int:
    from curation.sources.hosts import Endpoints
    from curation.sources.plan import every_manifest, targets
    from curation.sources.probe import Probe, probe, read_probe, standing, write_probe
    from curation.sources.say import format_probe

    before = read_probe(options.out) if options.out.exists() else Probe()
    asked = [each.source for each in targets(options.target, Path("DATA"))] if options.target else every_manifest()
    now = probe(asked, Endpoints(timeout=options.timeout), options.connections)
    write_probe(options.out, Probe(found={**before.found, **now.found}))
    rows = [(source.id, standing(source, now)) for source in asked]
    print(format_probe(rows, width()))
    print(f"\n{options.out}: {len(now.found):,} answers; rs-curate plan RECIPE --probe {options.out} reads them")
    return 1 if any(each.share < 1 for _, each in rows) else 0


def _add_fetch(commands: Commands) -> None:
    fetch = commands.add_parser("fetch", help="download sources; what a script cannot get is explained")
    fetch.add_argument("target", metavar="RECIPE|SOURCE", help="a recipe, or the id of a source or benchmark")
    fetch.add_argument("--data", type=Path, help="folder of the raw sources, one folder each")
    fetch.add_argument("--connections", type=positive, default=4, help="files that are downloaded at once (default 4)")
    fetch.add_argument(
        "--unpack", choices=("needed", "all"), default="needed", help="zip and tar are read in place, unless: all"
    )
    fetch.add_argument("--remove-archives", action="store_true", help="remove archives once they are unpacked")
    fetch.set_defaults(command=_fetch)


def _fetch(options: argparse.Namespace) -> int:
    from curation.base.progress import FileProgress
    from curation.sources.fetch import Event, FetchOptions, fetch
    from curation.sources.plan import targets
    from curation.sources.say import format_fetch

    wanted = targets(options.target, options.data)
    how = FetchOptions(options.connections, options.unpack, keep_archives=not options.remove_archives)
    with FileProgress() as display:

        def show(event: Event) -> None:
            """Show how far a file is."""
            display.update(f"{event.phase} {event.source}/{event.file}", event.done, event.total)

        results = fetch(wanted, how, show)
    print(format_fetch(results))
    return 1 if any(result.error for result in results) else 0


def _add_check(commands: Commands) -> None:
    check = commands.add_parser("check", help="what is there of each source: found, expected, missing, surplus")
    check.add_argument("target", metavar="RECIPE|SOURCE", help="a recipe, or the id of a source or benchmark")
    check.add_argument("--data", type=Path, help="folder of the raw sources, one folder each")
    check.add_argument("--json", action="store_true", help="the rows as JSON")
    check.set_defaults(command=_check)


def _check(options: argparse.Namespace) -> int:
    from curation.sources.plan import as_rows, check, targets
    from curation.sources.say import format_check

    rows = check(targets(options.target, options.data))
    print(json.dumps(as_rows(rows), indent=2) if options.json else format_check(rows))
    return 0 if all(row.fine for row in rows) else 1


def _add_fingerprint(commands: Commands) -> None:
    prints = commands.add_parser("fingerprint", help="fingerprint an evaluation set, so that runs keep it out")
    prints.add_argument(
        "--benchmark", required=True, nargs="+", help="id of a shipped benchmark, or a YAML file that describes one"
    )
    prints.add_argument("--data", type=Path, required=True, help="folder that holds the benchmark's folder")
    prints.add_argument("--recipe", help="a recipe whose grid cuts images that are larger than a tile")
    prints.add_argument("--out", type=Path, metavar="DIR", help="folder of fingerprints (default: DATA/.fingerprints)")
    prints.add_argument("--workers", type=positive, help="processes on this machine (default: one per core)")
    prints.set_defaults(command=_fingerprint)


def _fingerprint(options: argparse.Namespace) -> None:
    from curation.executor.executor import Executor
    from curation.select.benchmark_fingerprints import fingerprint_benchmark
    from curation.sources.recipe import load_recipe
    from curation.sources.source import load_benchmark

    benchmarks = [load_benchmark(name) for name in options.benchmark]
    slices = load_recipe(options.recipe).slice if options.recipe else None
    folder = options.out or options.data / ".fingerprints"
    with Executor(options.workers, None, folder / ".workers") as executor:
        for benchmark in benchmarks:
            out = folder / f"{benchmark.id}.parquet"
            summary = fingerprint_benchmark(benchmark, options.data / benchmark.id, out, slices, executor.map_parts)
            print(f"{out}: {summary}")


def _add_benchmark(commands: Commands) -> None:
    pack = commands.add_parser("benchmark", help="an evaluation set as shards with classes, for rs-pretrain evaluate")
    pack.add_argument("benchmark", metavar="ID", help="of a shipped benchmark, or a YAML file that describes one")
    pack.add_argument("--data", type=Path, required=True, help="folder that holds the benchmark's folder")
    pack.add_argument("--out", type=Path, required=True, help="folder for the shards")
    pack.set_defaults(command=_benchmark)


def _benchmark(options: argparse.Namespace) -> None:
    from curation.shards.benchmark import pack_benchmark
    from curation.sources.source import load_benchmark

    benchmark = load_benchmark(options.benchmark)
    terminal, root = Terminal(), options.data / benchmark.id
    packed = pack_benchmark(
        benchmark, root, options.out, lambda total: terminal.progress(benchmark.id, total, "images")
    )
    if not packed.worked:
        print(f"nothing to do: {options.out} holds these images")
        return
    for line in packed.unreadable[:10]:
        print(f"left out: {line}")
    print(f"{packed.images:,} images in {len(packed.classes)} classes; {len(packed.unreadable)} could not be read")
    print(f"  {options.out}")


def _add_why(commands: Commands) -> None:
    why = commands.add_parser("why", help="one image's or tile's story: each rule's value, verdict, twin, place")
    why.add_argument("out", type=Path, metavar="OUT", help="folder of a run")
    why.add_argument(
        "wanted", metavar="IMAGE|TILE_ID", help="an image's path in its source, a tile's id, a sample's key"
    )
    why.add_argument("--trial", action="store_true", help="ask the catalogue of `run --until select`")
    why.set_defaults(command=_why)


def _why(options: argparse.Namespace) -> None:
    from curation.report.why import why

    print(why(options.out, options.wanted, options.trial))


def _add_groups(commands: Commands) -> None:
    groups = commands.add_parser("groups", help="all groups of duplicates, the largest first")
    groups.add_argument("out", type=Path, metavar="OUT", help="folder of a run")
    groups.add_argument("--csv", action="store_true", help="one line a tile, as CSV")
    groups.set_defaults(command=_groups)


def _groups(options: argparse.Namespace) -> None:
    from curation.report.groups import groups, in_words, write_csv

    if options.csv:
        write_csv(groups(options.out), sys.stdout)
        return
    told = [in_words(rows) for rows in groups(options.out)]
    print("\n".join(told) or "no duplicates")


def _add_verify(commands: Commands) -> None:
    verify = commands.add_parser("verify", help="check shards against their index and checksums", description=_VERIFY)
    verify.add_argument("shards", type=Path, help="the shards/ folder of a run, or the run's folder")
    level = verify.add_mutually_exclusive_group()
    level.add_argument("--quick", action="store_true", help="only sizes and the index; no tar is read")
    level.add_argument("--decode", action="store_true", help="decode every image as well")
    verify.add_argument("--workers", type=positive, help="processes on this machine (default: one per core)")
    verify.add_argument("--repair", action="store_true", help="make damaged shards again from the sources of the run")
    verify.set_defaults(command=_verify)


_VERIFY = """Read every byte of the shards once and compare it with index.parquet and checksums.json. A check that was
stopped goes on from there with the same command."""


def _verify(options: argparse.Namespace) -> int:
    from curation.executor.executor import on_processes
    from curation.shards.check_shard import Level
    from curation.shards.format import open_index
    from curation.shards.verify import journal_of, shards_of, verify

    folder = shards_of(options.shards)
    level: Level = "quick" if options.quick else "decode" if options.decode else "bytes"
    with (
        on_processes(1 if options.quick else options.workers) as map_parts,
        Terminal().progress("verify", len(open_index(folder)[1]), "shards") as progress,
    ):
        problems = verify(folder, level, map_parts, journal_of(folder), progress.advance)
    for problem in problems:
        print(problem)
    errors = [problem for problem in problems if problem.level == "error"]
    if errors and options.repair:
        from curation.repair import repair

        made = repair(folder, errors, options.workers, Terminal())
        print(f"{folder}: {counted(made, 'shard')} made again from the sources; all are what they were")
        return 0
    print(f"{folder}: {counted(len(errors), 'error')}" if errors else f"{folder}: sound")
    return 1 if errors else 0


def _add_index(commands: Commands) -> None:
    index = commands.add_parser("index", help="index tars that another tool wrote", description=_INDEX)
    index.add_argument("folder", type=Path, help="folder of uncompressed .tar files")
    index.set_defaults(command=_index)


_INDEX = """Write index.parquet and checksums.json beside WebDataset tars that another tool wrote, so that they can be
trained on. The tars are read once and not changed."""


def _index(options: argparse.Namespace) -> None:
    from curation.shards.foreign import index_folder

    infos = index_folder(options.folder, lambda shards: Terminal().progress("index", shards, "shards"))
    print(f"{counted(sum(info.samples for info in infos), 'sample')} in {counted(len(infos), 'shard')}")


def _add_clean(commands: Commands) -> None:
    clean = commands.add_parser("clean", help="remove what no run needs any more from an output folder")
    clean.add_argument("out", type=Path, metavar="OUT", help="folder that a run wrote to")
    clean.add_argument("--dry-run", action="store_true", help="only say what would go")
    clean.set_defaults(command=_clean)


def _clean(options: argparse.Namespace) -> None:
    from curation.clean import clean

    waste = clean(options.out, options.dry_run)
    for each in waste:
        print(f"{each.bytes / 1e6:12,.1f} MB  {each.path}")
    total = f"{sum(each.bytes for each in waste) / 1e6:,.1f} MB"
    done = "would be freed" if options.dry_run else "freed"
    print(f"{total} {done}" if waste else "nothing to remove: all that is there is needed")


if __name__ == "__main__":
    raise SystemExit(main())
