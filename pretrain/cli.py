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

if TYPE_CHECKING:
    from pretrain.evaluate.labelled import DataSet


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
    for add in (_add_train, _add_evaluate, _add_features, _add_visualise, _add_plot, _add_export, _add_bench):
        add(commands)
    give_examples(commands, EXAMPLES)
    return parser


EXAMPLES = {
    "train": "rs-pretrain train demo data.shards=corpus/shards --out run",
    "evaluate": "rs-pretrain evaluate --run run --data labelled",
    "features": "rs-pretrain features --encoder run --data labelled --out f.npy",
    "visualise": "rs-pretrain visualise --run run --out seen.png",
    "plot": "rs-pretrain plot --run run --out loss.png",
    "export": "rs-pretrain export --run run --out encoder",
    "bench": "rs-pretrain bench step --threads 2",
}
"""What the help of each command ends with."""


def _add_train(commands: Commands) -> None:
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


def _train(options: argparse.Namespace) -> int:
    from curation.base import settings
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


def _add_evaluate(commands: Commands) -> None:
    evaluate = commands.add_parser("evaluate", help="what frozen features are worth", description=_EVALUATE)
    ours = evaluate.add_mutually_exclusive_group()
    ours.add_argument("--run", type=Path, help="folder of a run; its newest checkpoint is taken")
    ours.add_argument("--weights", type=Path, help="folder that rs-pretrain export wrote, or the weights in it")
    evaluate.add_argument("--encoder", action="append", default=[], help=_ENCODER + "; may be given again")
    _add_data(evaluate, required=False)
    evaluate.add_argument("--k", type=positive, nargs="+", default=[20], help="neighbours (default 20)")
    evaluate.add_argument("--votes", choices=("weighted", "plain"), default="weighted", help="of neighbours")
    evaluate.add_argument(
        "--scales", type=_share_or_all, nargs="+", default=[], help="shares of the images' own side, for neighbours"
    )
    evaluate.add_argument("--solver", choices=("lbfgs", "lars", "none"), default="lbfgs", help="of the linear probe")
    evaluate.add_argument("--out", type=Path, help="JSON file to write")
    evaluate.set_defaults(command=_evaluate)
    suite = evaluate.add_subparsers(metavar="suite").add_parser(
        "suite", help="encoders x data sets x protocols, as one table", description=_SUITE,
        epilog="example: rs-pretrain evaluate suite suite.yaml --out suite",
    )  # fmt: skip
    suite.add_argument("config", type=Path, help="YAML file with encoders, datasets and protocols")
    suite.add_argument("assignments", nargs="*", metavar="key=value", help="fields to set, e.g. device=cpu")
    suite.add_argument("--out", type=Path, required=True, help="folder for cells, features and tables")
    suite.set_defaults(command=_suite)


_SUITE = """Ask every encoder of a config on every data set by every protocol. The same command goes on where it
stopped, and computes only what is new."""


def _suite(options: argparse.Namespace) -> None:
    from curation.base import settings
    from pretrain.evaluate.suite import Suite, run_suite

    config = settings.load(Suite, options.config, options.assignments)
    for path in run_suite(config, options.out, Terminal()):
        print(f"  {path}")


_EVALUATE = """Classify labelled images by their nearest neighbours in feature space and by a linear probe; one of our
encoders is set beside the same before training. An image's class is its folder."""
_ENCODER = "run:DIR[@STEP], export:DIR, untrained:DIR, official:FILE, timm:NAME, random:NAME or histogram"


def _add_data(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Options of labelled images and of how their features are computed."""
    command.add_argument("--data", type=Path, required=required, help="a folder per class, shards, or a CSV list")
    command.add_argument("--test-data", type=Path, help="the same, for testing; by default --data is split")
    command.add_argument("--train-list", type=Path, help="text file with a training image's name per line")
    command.add_argument("--test-list", type=Path, help="the same for test images")
    command.add_argument(
        "--train-share", type=_share, default=0.5, help="share of each class to train on (default 0.5)"
    )
    command.add_argument("--seed", type=int, default=0, help="of the split and of random weights (default 0)")
    command.add_argument("--gsd", type=float, help="metres per pixel of the raw images, where the data does not say")
    command.add_argument("--pool", choices=("mean", "token", "both"), default="mean", help="patch mean or class token")
    command.add_argument("--cache", type=Path, help="folder in which features are kept")
    command.add_argument("--workers", type=int, help="decoding processes")


def _dataset(options: argparse.Namespace) -> DataSet:
    from curation.base.settings import validate
    from pretrain.evaluate.labelled import DataSet

    return validate(
        DataSet,
        {"path": options.data, "test_path": options.test_data, "train_list": options.train_list,
         "test_list": options.test_list, "train_share": options.train_share, "seed": options.seed,
         "gsd_m": options.gsd},
        "the data options",
    )  # fmt: skip


def _evaluate(options: argparse.Namespace) -> None:
    from pretrain.evaluate.compare import chosen_encoders, compare
    from pretrain.evaluate.features import Work
    from pretrain.evaluate.labelled import open_dataset
    from pretrain.evaluate.protocols import Knn, LinearProbe

    encoders = chosen_encoders(options.run, options.weights, options.encoder, options.pool, options.seed)
    if not encoders:
        raise InputError(f"no encoder to evaluate; give --run DIR, --weights DIR or --encoder with {_ENCODER}")
    if options.data is None:
        raise InputError("no images to evaluate on; give --data with a folder per class, shards, or a CSV list")
    dataset = _dataset(options)
    data = open_dataset(dataset)
    kinds: dict[str, Knn | LinearProbe] = {
        f"kNN {k}": Knn(k=k, votes=options.votes, pool=options.pool, scales=options.scales) for k in options.k
    }
    if options.solver != "none":
        kinds["linear"] = LinearProbe(solver=options.solver, pool=options.pool)
    views = len(set(options.scales)) + (options.solver != "none") if options.scales else 1
    total = len(data.images.places) * len(encoders) * views
    with Terminal().progress("evaluate", total, "images") as progress:
        result = compare(
            encoders, data, kinds, Work(workers=options.workers, cache=options.cache, done=progress.advance)
        )
    for line in result.lines():
        print(line)
    if options.out:
        result.write(options.out, dataset, kinds)
        print(f"  {options.out}")


def _add_features(commands: Commands) -> None:
    features = commands.add_parser("features", help="frozen features of labelled images, as Parquet or npy")
    features.add_argument("--encoder", required=True, help=_ENCODER)
    _add_data(features)
    features.add_argument("--out", type=Path, required=True, help="file to write, .parquet or .npy")
    features.set_defaults(command=_features)


def _features(options: argparse.Namespace) -> None:
    from pretrain.evaluate.compare import in_words
    from pretrain.evaluate.encoders import EncoderSpec, open_encoder
    from pretrain.evaluate.features import Work, extract, write_features
    from pretrain.evaluate.labelled import open_dataset

    encoder = open_encoder(EncoderSpec(spec=options.encoder, seed=options.seed), options.pool)
    images = open_dataset(_dataset(options)).marked()
    with Terminal().progress("features", len(images.places), "images") as progress:
        work = Work(workers=options.workers, cache=options.cache, done=progress.advance)
        features = extract(encoder, images, work=work)
    about = {"encoder": encoder.name, "identity": encoder.identity, "input": in_words(encoder)}
    write_features(features, images, options.out, about)
    print(f"{encoder.name}: {about['input']}")
    for row, why in list(features.unreadable.items())[:10]:
        print(f"left out: {images.places[row].path}: {why}")
    rows, width = features.values.shape
    print(f"{rows:,} x {width}, of which {len(features.unreadable)} unreadable\n  {options.out}")


def _add_visualise(commands: Commands) -> None:
    visualise = commands.add_parser("visualise", help="picture: original, chosen tokens, reconstruction")
    visualise.add_argument("--run", type=Path, required=True, help="folder of a run; its newest checkpoint is taken")
    visualise.add_argument("--data", type=Path, action="append", help="other shards than those of the training")
    visualise.add_argument("--count", type=positive, default=8, help="images from the shards (default 8)")
    visualise.add_argument("--images", type=Path, nargs="+", default=[], help="image files to draw instead")
    visualise.add_argument("--out", type=Path, required=True, help="picture to write, .png or .jpg")
    visualise.set_defaults(command=_visualise)


def _visualise(options: argparse.Namespace) -> None:
    from pretrain.visualise import draw_run, write_picture

    write_picture(draw_run(options.run, options.count, options.data, options.images), options.out)
    print(f"  {options.out}")


def _add_plot(commands: Commands) -> None:
    plot = commands.add_parser("plot", help="loss curve as PNG or SVG")
    plot.add_argument("--run", type=Path, action="append", required=True, help="folder of a run; may be given again")
    plot.add_argument("--out", type=Path, required=True, help="picture to write, .png or .svg")
    plot.set_defaults(command=_plot)


def _plot(options: argparse.Namespace) -> None:
    from pretrain.plot import plot_runs

    plot_runs(options.run, options.out)
    print(f"  {options.out}")


def _add_export(commands: Commands) -> None:
    export = commands.add_parser("export", help="the encoder's weights for timm, with a card")
    export.add_argument("--run", type=Path, required=True, help="folder of a run; its newest checkpoint is taken")
    export.add_argument("--out", type=Path, required=True, help="folder for model.safetensors and config.json")
    export.set_defaults(command=_export)


def _export(options: argparse.Namespace) -> None:
    from pretrain.export import CARD, README, TIMM_CONFIG, WEIGHTS, export

    export(options.run, options.out)
    for name in (WEIGHTS, TIMM_CONFIG, CARD, README):
        print(f"  {options.out / name}")
    print(f"timm.create_model('local-dir:{options.out}', pretrained=True) loads it")


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
    step.add_argument("--compile", action="store_true", help="with torch.compile")
    step.add_argument("--threads", type=positive, default=1, help="of the CPU (default 1)")
    step.add_argument("--json", type=Path, help="file for the results")
    step.set_defaults(command=_bench_step)


def _bench_step(options: argparse.Namespace) -> None:
    import json

    from pretrain.bench import format_table, step_bench
    from pretrain.run import writing

    rows = step_bench(
        options.encoder, options.batch, options.precision, repeats=options.repeats, device=options.device,
        compiled=options.compile, threads=options.threads,
    )  # fmt: skip
    print(format_table(rows))
    if options.json:
        with writing(options.json) as aside:
            aside.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(f"  {options.json}")


def _share(text: str) -> float:
    share = _share_or_all(text)
    if share == 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number between 0 and 1")
    return share


def _share_or_all(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0, at most 1")
    return share
