"""``rs-pretrain``: from shards to a pretrained encoder.

Exit code 0 for success, 2 for wrong input with one clear line on standard error, 1 for a failure during work.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from curation import __version__
from curation.errors import OpticalrsError
from curation.progress import Progress

Commands = argparse._SubParsersAction


class Terminal:
    """Tells a person what happens: results on standard output, progress on standard error."""

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, flush=True)

    def progress(self, description: str, total: int, unit: str) -> Progress:
        """Show progress of long work."""
        return Progress(description, total, unit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        return int(options.command(options) or 0)
    except OpticalrsError as error:
        print(f"rs-pretrain: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of a table (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("rs-pretrain: stopped", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse; ``key=value`` may stand anywhere after the command, which argparse alone takes only before the options."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    loose = [word for word in rest if "=" in word and not word.startswith("-")]
    if unknown := [word for word in rest if word not in loose]:
        parser.error(f"unknown: {' '.join(unknown)}; see rs-pretrain --help")
    if loose and "assignments" not in options:
        parser.error(f"{loose[0]}: this command takes no key=value")
    if loose:
        options.assignments += loose
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rs-pretrain", description="Pretrain vision transformers on shards.")
    parser.add_argument("--version", action="version", version=f"opticalrs {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_train, _add_index):
        add(commands)
    return parser


def _add_train(commands: Commands[argparse.ArgumentParser]) -> None:
    train = commands.add_parser("train", help="train, or go on training", description=_TRAIN)
    train.add_argument("config", help="a YAML file, or the name of a shipped config: " + ", ".join(_shipped()))
    train.add_argument("assignments", nargs="*", metavar="key=value", help="fields to set, e.g. optim.base_lr=1e-4")
    train.add_argument("--out", type=Path, required=True, help="folder for log, checkpoints and pictures")
    train.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in --out, if there is one"
    )
    train.set_defaults(command=_train)


_TRAIN = """Train on shards. On several GPUs: torchrun --nproc-per-node=N -m pretrain train ... A run that was stopped
goes on with --resume, to the same weights; a finished run is left as it is."""


def _shipped() -> list[str]:
    return sorted(path.stem for path in (Path(__file__).parent / "configs").glob("*.yaml"))


def _config_path(text: str) -> Path:
    """A file, or the name of a config in this package."""
    shipped = Path(__file__).parent / "configs" / f"{text}.yaml"
    return shipped if shipped.is_file() and not Path(text).exists() else Path(text)


def _train(options: argparse.Namespace) -> int:
    from curation import settings
    from pretrain.config import TrainConfig
    from pretrain.train import train

    config = settings.load(TrainConfig, _config_path(options.config), options.assignments)
    result = train(config, options.out, Terminal(), resume=options.resume)
    if not result.finished:
        print(f"stopped and saved at step {result.step} of {result.total_steps}; --resume goes on", file=sys.stderr)
        return 143
    if not result.worked:
        print(f"nothing to do: {options.out} finished all {result.total_steps} steps before")
    elif int(os.environ.get("RANK", "0")) == 0:
        print(f"trained {result.total_steps} steps; next: rs-pretrain export --run {options.out} --out ENCODER")
    return 0


def _add_index(commands: Commands[argparse.ArgumentParser]) -> None:
    index = commands.add_parser("index", help="index tars that another tool wrote", description=_INDEX)
    index.add_argument("folder", type=Path, help="folder of uncompressed .tar files")
    index.set_defaults(command=_index)


_INDEX = """Write index.parquet and checksums.json beside WebDataset tars that another tool wrote, so that they can be
trained on. The tars are read once and not changed."""


def _index(options: argparse.Namespace) -> None:
    from curation.errors import InputError
    from curation.shards import read_checksums, write_checksums, write_index
    from curation.tars import index_tar

    tars = sorted(options.folder.glob("*.tar"))
    if not tars:
        raise InputError(f"{options.folder}: holds no .tar file; give the folder in which they lie")
    held = read_checksums(options.folder, missing_ok=True)
    if held is not None and held.key:
        raise InputError(f"{options.folder}: these shards have the index that rs-curate wrote; there is nothing to do")
    with Terminal().progress("index", len(tars), "shards") as progress:
        infos = []
        for tar in tars:
            infos.append(index_tar(tar))
            progress.advance(1)
    write_index(infos, options.folder)
    write_checksums(infos, options.folder)
    print(f"{sum(info.samples for info in infos):,} samples in {len(infos):,} shards")
