"""The commands that ask encoders: ``rs-pretrain evaluate``, ``evaluate suite`` and ``features``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from curation.base.errors import InputError
from curation.base.terminal import Commands, Terminal, positive

if TYPE_CHECKING:
    from pretrain.evaluate.labelled import DataSet
    from pretrain.evaluate.masks import MaskSet
    from pretrain.evaluate.protocols import AnyProtocol


def add_evaluate(commands: Commands) -> None:
    """``evaluate``, and ``evaluate suite``."""
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
    evaluate.add_argument(
        "--masks", choices=("folders", "loveda", "spacenet"), help="segment: how images and masks lie in --data"
    )
    evaluate.add_argument(
        "--classes", type=_class, nargs="+", metavar="VALUE=NAME", default=[], help="of masks, as 255=building"
    )
    evaluate.add_argument("--window", type=positive, help="side of the windows that are segmented, in pixels")
    evaluate.add_argument("--tune", action="store_true", help="train the encoder too, not only a head on its patches")
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
        Terminal().say(f"  {path}")


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


def _mask_set(options: argparse.Namespace) -> MaskSet:
    from curation.base.settings import validate
    from pretrain.evaluate.masks import MaskSet

    return validate(
        MaskSet,
        {"path": options.data, "layout": options.masks, "train_share": options.train_share, "seed": options.seed,
         "gsd_m": options.gsd, "classes": dict(options.classes)},
        "the data options",
    )  # fmt: skip


def _protocols(options: argparse.Namespace) -> dict[str, AnyProtocol]:
    from curation.base.settings import validate
    from pretrain.evaluate.protocols import Knn, LinearProbe
    from pretrain.evaluate.segment import Segment

    if options.masks:
        name = "segment, tuned" if options.tune else "segment"
        told = {"tune": options.tune, "window": options.window, "seed": options.seed}
        return {name: validate(Segment, told, "the segmentation options")}
    kinds: dict[str, AnyProtocol] = {
        f"kNN {k}": Knn(k=k, votes=options.votes, pool=options.pool, scales=options.scales) for k in options.k
    }
    if options.solver != "none":
        kinds["linear"] = LinearProbe(solver=options.solver, pool=options.pool)
    return kinds


_OF_MASKS: dict[str, object] = {"classes": [], "window": None, "tune": False}
_OF_CLASSES: dict[str, object] = {
    "test_data": None, "train_list": None, "test_list": None, "scales": [], "k": [20], "votes": "weighted",
    "solver": "lbfgs", "pool": "mean",
}  # fmt: skip
"""Option to what it is where nobody gave it."""


def _refuse_unused(options: argparse.Namespace) -> None:
    """Refuse options of the other kind of data; they would change nothing."""
    for name, default in (_OF_CLASSES if options.masks else _OF_MASKS).items():
        if getattr(options, name) != default:
            what = "is of images with classes, --masks of images with masks" if options.masks else "needs --masks"
            also = "; rs-pretrain evaluate suite tunes on classes: {name: finetune}" if name == "tune" else ""
            raise InputError(f"--{name.replace('_', '-')}: {what}{also}")


def _evaluate(options: argparse.Namespace) -> None:
    from pretrain.evaluate.compare import chosen_encoders, compare
    from pretrain.evaluate.features import Work
    from pretrain.evaluate.protocols import open_any

    _refuse_unused(options)
    encoders = chosen_encoders(options.run, options.weights, options.encoder, options.pool, options.seed)
    if not encoders:
        raise InputError(f"no encoder to evaluate; give --run DIR, --weights DIR or --encoder with {_ENCODER}")
    if options.data is None:
        raise InputError("no images to evaluate on; give --data with a folder per class, shards, or a CSV list")
    dataset, kinds = _mask_set(options) if options.masks else _dataset(options), _protocols(options)
    data = open_any(dataset)
    views = len(set(options.scales)) + (options.solver != "none") if options.scales and not options.masks else 1
    with Terminal().progress("evaluate", len(data) * len(encoders) * views, "images") as progress:
        result = compare(
            encoders, data, kinds, Work(workers=options.workers, cache=options.cache, done=progress.advance)
        )
    for line in result.lines():
        Terminal().say(line)
    if options.out:
        result.write(options.out, dataset, kinds)
        Terminal().say(f"  {options.out}")


def add_features(commands: Commands) -> None:
    """``features``."""
    features = commands.add_parser("features", help="frozen features of labelled images, as Parquet or npy")
    features.add_argument("--encoder", required=True, help=_ENCODER)
    _add_data(features)
    features.add_argument("--out", type=Path, required=True, help="file to write, .parquet or .npy")
    features.set_defaults(command=_features)


def _features(options: argparse.Namespace) -> None:
    from pretrain.evaluate.encoders import EncoderSpec, open_encoder
    from pretrain.evaluate.features import Work, check_ending, extract, write_features
    from pretrain.evaluate.labelled import open_dataset
    from pretrain.evaluate.words import in_words

    check_ending(options.out)
    encoder = open_encoder(EncoderSpec(spec=options.encoder, seed=options.seed), options.pool)
    images = open_dataset(_dataset(options)).marked()
    with Terminal().progress("features", len(images.places), "images") as progress:
        work = Work(workers=options.workers, cache=options.cache, done=progress.advance)
        features = extract(encoder, images, work=work)
    about = {"encoder": encoder.name, "identity": encoder.identity, "input": in_words(encoder)}
    paths = write_features(features, images, options.out, about)
    Terminal().say(f"{encoder.name}: {about['input']}")
    for row, why in list(features.unreadable.items())[:10]:
        Terminal().say(f"left out: {images.places[row].path}: {why}")
    rows, width = features.values.shape
    Terminal().say(f"{rows:,} x {width}, of which {len(features.unreadable)} unreadable")
    for path in paths:
        Terminal().say(f"  {path}")


def _class(text: str) -> tuple[str, str]:
    value, _, name = text.partition("=")
    if not value.isdigit() or not name:
        raise argparse.ArgumentTypeError(f"{text!r}: expected VALUE=NAME, as 255=building")
    return value, name


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
