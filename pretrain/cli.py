"""``rs-pretrain``: from shards to a pretrained encoder.

Exit code 0 for success, 2 for wrong input with one clear line on standard error, 1 for a failure during work.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curation import __version__
from curation.base.errors import InputError
from curation.base.terminal import Commands, Parser, Terminal, give_examples, parse, positive, run_command
from pretrain.evaluate_commands import add_evaluate, add_features

if TYPE_CHECKING:
    from pretrain.config import TrainConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parse(_parser(), arguments)

    def command() -> int | None:
        try:
            return options.command(options)
        except ModuleNotFoundError as error:
            if error.name not in ("torch", "timm", "safetensors", "matplotlib"):
                raise
            raise InputError(
                f"rs-pretrain needs {error.name}; from the project's folder: pip install '.[pretrain]'"
            ) from None

    return run_command("rs-pretrain", command, "stopped")


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(prog="rs-pretrain", description="Pretrain vision transformers on shards.")
    parser.add_argument("--version", action="version", version=f"rscorpus {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_train,
        add_evaluate,
        add_features,
        _add_visualise,
        _add_plot,
        _add_export,
        _add_push,
        _add_convert,
        _add_bench,
    ):
        add(commands)
    give_examples(commands, EXAMPLES)
    return parser


EXAMPLES = {
    "train": "rs-pretrain train demo data.shards=corpus/shards --out run",
    "evaluate": "rs-pretrain evaluate --run run --data labelled",
    "features": "rs-pretrain features --encoder run:run --data labelled --out f.npy",
    "visualise": "rs-pretrain visualise --run run --out seen.png",
    "plot": "rs-pretrain plot --run run --out loss.png",
    "export": "rs-pretrain export --run run --out encoder",
    "push": "rs-pretrain push --weights encoder --to USER/NAME",
    "convert": "rs-pretrain convert --weights encoder --to mmpretrain --out e.pth",
    "bench": "rs-pretrain bench step --threads 2",
}
"""What the help of each command ends with."""


def _add_train(commands: Commands) -> None:
    train = commands.add_parser("train", help="train, or go on training", description=_TRAIN)
    train.add_argument("config", help="a YAML file, or the name of a shipped config: " + ", ".join(_shipped()))
    train.add_argument("assignments", nargs="*", metavar="key=value", help="fields to set, e.g. optim.base_lr=1e-4")
    train.add_argument("--out", type=Path, help="folder for log, checkpoints and pictures")
    train.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in --out, if there is one"
    )
    train.add_argument(
        "--dry-run", type=positive, nargs="?", const=1, metavar="N",
        help="only say what it takes: images, steps, memory and time (on N such GPUs), measured on a few images",
    )  # fmt: skip
    train.set_defaults(command=_train, refuse=train.error)


_TRAIN = """Train on shards. On several GPUs: torchrun --nproc-per-node=N -m pretrain train ... A run that was stopped
goes on with --resume, to the same weights; a finished run is left as it is."""


def _shipped() -> list[str]:
    return sorted(path.stem for path in (Path(__file__).parent / "configs").glob("*.yaml"))


def _config_path(text: str) -> Path:
    """A file, or the name of a config in this package.

    Raises:
        InputError: neither.
    """
    path = Path(text)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path
    if text in _shipped():
        return Path(__file__).parent / "configs" / f"{text}.yaml"
    near = difflib.get_close_matches(text, _shipped(), n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"{text}: no such config; {meant}shipped: {', '.join(_shipped())}; or give a YAML file")


def _train_config(options: argparse.Namespace) -> TrainConfig:
    from curation.base import settings
    from pretrain.config import TrainConfig

    return settings.load(TrainConfig, _config_path(options.config), options.assignments)


def _train(options: argparse.Namespace) -> int:
    from pretrain.bench.utilisation import worth
    from pretrain.evaluate.watch import neighbours
    from pretrain.train import train

    config = _train_config(options)
    if options.dry_run is not None:
        from pretrain.rehearsal import rehearse, tell

        print("\n".join(tell(rehearse(config, Terminal(), options.dry_run), options.dry_run)))
        return 0
    if options.out is None:
        options.refuse("the following arguments are required: --out")
    result = train(config, options.out, Terminal(), resume=options.resume, worth=worth, watch=neighbours(config))
    if not result.finished:
        saved = "and saved " if result.step else ""
        print(f"stopped {saved}at step {result.step} of {result.total_steps}; --resume goes on", file=sys.stderr)
        return 143
    if not result.worked:
        print(f"nothing to do: {options.out} finished all {result.total_steps} steps before")
    elif int(os.environ.get("RANK", "0")) == 0:
        print(f"trained {result.total_steps} steps; next: rs-pretrain export --run {options.out} --out ENCODER")
    return 0


def _add_visualise(commands: Commands) -> None:
    visualise = commands.add_parser("visualise", help="pictures: what a run sees, rebuilds and holds for alike")
    visualise.add_argument("--run", type=Path, required=True, help="folder of a run; its newest checkpoint is taken")
    visualise.add_argument("--data", type=Path, action="append", help="other shards than those of the training")
    visualise.add_argument("--count", type=positive, default=8, help="images from the shards (default 8)")
    visualise.add_argument("--images", type=Path, nargs="+", default=[], help="image files to draw instead")
    visualise.add_argument("--kind", choices=_KINDS, help="of a single picture (default reconstruction)")
    visualise.add_argument(
        "--gallery", type=positive, default=200, help="images among which neighbours are looked for (default 200)"
    )
    visualise.add_argument(
        "--out", type=Path, required=True, help="picture to write, .png or .jpg; or a folder for all kinds and a page"
    )
    visualise.set_defaults(command=_visualise)


_KINDS = ("reconstruction", "richness", "stages", "attention", "components", "neighbours")


def _visualise(options: argparse.Namespace) -> None:
    from pretrain.evaluate.pictures import draw_kinds, write_sheets
    from pretrain.visualise import write_picture

    ending = options.out.suffix.lower()
    single = ending in (".png", ".jpg", ".jpeg")
    if ending in (".gif", ".webp", ".tif", ".tiff", ".bmp", ".svg", ".pdf", ".html"):
        raise InputError(
            f"{options.out}: pictures are written as .png or .jpg; or give a folder for all kinds and a page"
        )
    kinds = [options.kind or "reconstruction"] if single else [options.kind] if options.kind else list(_KINDS)
    sheets = draw_kinds(options.run, kinds, options.count, options.gallery, options.data, options.images)
    if single:
        write_picture(sheets[kinds[0]], options.out)
        print(f"  {options.out}")
        return
    for path in write_sheets(sheets, options.out, f"{options.run.name}: what it sees"):
        print(f"  {path}")


def _add_plot(commands: Commands) -> None:
    plot = commands.add_parser("plot", help="loss curve as PNG or SVG")
    plot.add_argument("--run", type=Path, action="append", required=True, help="folder of a run; may be given again")
    plot.add_argument(
        "--against", choices=("epochs", "steps", "images", "hours"), default="epochs",
        help="what lies on the axis (default epochs); hours are those of work, without stops",
    )  # fmt: skip
    plot.add_argument("--out", type=Path, required=True, help="picture to write, .png or .svg")
    plot.set_defaults(command=_plot)


def _plot(options: argparse.Namespace) -> None:
    from pretrain.plot import plot_runs

    plot_runs(options.run, options.out, options.against)
    print(f"  {options.out}")


def _add_export(commands: Commands) -> None:
    export = commands.add_parser("export", help="the encoder's weights for timm, with a card")
    export.add_argument("--run", type=Path, required=True, help="folder of a run; its newest checkpoint is taken")
    export.add_argument("--out", type=Path, required=True, help="folder for model.safetensors and config.json")
    export.add_argument("--results", type=Path, help="JSON of rs-pretrain evaluate --run RUN --out, for the model card")
    export.set_defaults(command=_export)


def _export(options: argparse.Namespace) -> None:
    from pretrain.export import CARD, README, TIMM_CONFIG, WEIGHTS, export

    export(options.run, options.out, options.results)
    for name in (WEIGHTS, TIMM_CONFIG, CARD, README):
        print(f"  {options.out / name}")
    print(f"timm.create_model('local-dir:{options.out}', pretrained=True) loads it")


def _add_push(commands: Commands) -> None:
    push = commands.add_parser("push", help="exported weights to the Hugging Face Hub")
    push.add_argument("--weights", type=Path, required=True, help="folder that rs-pretrain export wrote")
    push.add_argument("--to", required=True, metavar="USER/NAME", help="model repository; made, private, if need be")
    push.set_defaults(command=_push)


def _push(options: argparse.Namespace) -> None:
    from pretrain.push import push

    done = push(options.weights, options.to)
    print(f"{done.uploaded} files uploaded, {done.present} were there")
    print(f"timm.create_model('hf-hub:{options.to}', pretrained=True) loads it")


def _add_convert(commands: Commands) -> None:
    convert = commands.add_parser("convert", help="exported weights under the names of another library")
    convert.add_argument("--weights", type=Path, required=True, help="folder that rs-pretrain export wrote")
    convert.add_argument(
        "--to", required=True, choices=("torchgeo", "mmpretrain", "mmsegmentation", "mmdetection"), help="the library"
    )
    convert.add_argument("--out", type=Path, required=True, help="file to write, .pth or .ckpt")
    convert.set_defaults(command=_convert)


def _convert(options: argparse.Namespace) -> None:
    from pretrain.conversions import convert

    convert(options.weights, options.to, options.out)
    print(f"  {options.out}")


def _add_bench(commands: Commands) -> None:
    bench = commands.add_parser("bench", help="measure the speed of this machine")
    kinds = bench.add_subparsers(required=True, metavar="WHAT")
    step = kinds.add_parser(
        "step", help="training steps: MAE against SelectiveMAE", epilog=f"example: {EXAMPLES['bench']}"
    )
    step.add_argument(
        "--encoder", nargs="+", default=["vit_small_patch16_224", "vit_base_patch16_224"],
        help="names of timm models (default ViT-S and ViT-B)",
    )  # fmt: skip
    step.add_argument("--batch", type=positive, nargs="+", default=[16, 32], help="batch sizes (default 16 32)")
    step.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    step.add_argument("--repeats", type=positive, default=5, help="rounds, of which the median counts (default 5)")
    step.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    step.add_argument(
        "--compile", nargs="?", const="blocks", default="no", choices=("no", "blocks", "model", "graphs"),
        help="with torch.compile: block by block, the whole model, or that as CUDA graphs",
    )  # fmt: skip
    step.add_argument("--threads", type=positive, default=1, help="of the CPU (default 1)")
    step.add_argument("--json", type=Path, help="file for the results")
    step.set_defaults(command=_bench_step)
    whole = kinds.add_parser("train", help="a run from shards: where its time goes", epilog=f"example: {_BENCH_TRAIN}")
    loader = kinds.add_parser("data", help="the loader alone: images per second by number of processes")
    for kind in (whole, loader):
        kind.add_argument("config", help="as for rs-pretrain train")
        kind.add_argument("assignments", nargs="*", metavar="key=value", help="fields to set")
        kind.add_argument("--json", type=Path, help="file for the results")
    whole.add_argument("--steps", type=positive, default=60, help="that count, after five that do not (default 60)")
    whole.add_argument("--seconds", type=positive, default=120, help="after which fewer must do (default 120)")
    whole.set_defaults(command=_bench_train)
    loader.add_argument("--workers", type=positive, nargs="+", default=[1, 2], help="numbers to try (default 1 2)")
    loader.add_argument("--seconds", type=positive, default=20, help="for each of them (default 20)")
    loader.set_defaults(command=_bench_data)


_BENCH_TRAIN = "rs-pretrain bench train demo data.shards=corpus/shards"


def _bench_train(options: argparse.Namespace) -> None:
    from pretrain.bench.throughput import format_train, train_bench

    row = train_bench(_train_config(options), options.steps, options.seconds)
    print(format_train(row))
    _write_json(options.json, row)


def _bench_data(options: argparse.Namespace) -> None:
    from pretrain.bench.throughput import data_bench, format_data

    rows = data_bench(_train_config(options), options.workers, options.seconds)
    print(format_data(rows))
    _write_json(options.json, rows)


def _bench_step(options: argparse.Namespace) -> None:
    from pretrain.bench.step import format_table, step_bench

    rows = step_bench(
        options.encoder, options.batch, options.precision, repeats=options.repeats, device=options.device,
        compiled=options.compile, threads=options.threads,
    )  # fmt: skip
    print(format_table(rows))
    _write_json(options.json, rows)


def _write_json(path: Path | None, found: object) -> None:
    import json

    from pretrain.run import writing

    if path is None:
        return
    with writing(path) as aside:
        aside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"  {path}")
