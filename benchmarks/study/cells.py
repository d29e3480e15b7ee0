"""One cell of the study: an arm, a seed, a budget. Trained, asked, and kept as JSON when it is done."""

from __future__ import annotations

import io
import json
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.arms import ARMS, Arm, Preset, train_config
from benchmarks.study.cost import seconds_per_image
from benchmarks.study.curve import QUARTERS, Quarters
from curation.base.progress import Progress
from pretrain.config import NeighboursConfig, TrainConfig
from pretrain.errors import WorkError
from pretrain.evaluate.encoders import EncoderSpec, FrozenEncoder, open_encoder
from pretrain.evaluate.features import Work
from pretrain.evaluate.finetune import Finetune
from pretrain.evaluate.labelled import Divided
from pretrain.evaluate.protocols import Answer, AnyProtocol, ask
from pretrain.log import Log
from pretrain.loop import TrainResult
from pretrain.run import RunFolder
from pretrain.train import Feed, train

CURVE = 40
"""Points of a learning curve at most."""
LOG = logging.getLogger("study")


class Stopped(Exception):
    """A signal ended a run; the same command goes on."""


class Quietly:
    """Training's lines go to the log."""

    def say(self, text: str) -> None:
        """One line."""
        LOG.debug(text)

    def progress(self, description: str, total: int, unit: str) -> Progress:
        """A display that nobody sees."""
        return Progress(description, total, unit, stream=io.StringIO())


@dataclass(frozen=True)
class Study:
    """What all cells share."""

    name: str
    """Of the preset."""
    preset: Preset
    sets: dict[str, Divided]
    shards: Path
    samples: int
    """In the shards."""
    out: Path
    """Folder of runs, which are removed when they were asked."""
    results: Path
    """Folder of the cells' JSON."""
    feed: Feed
    workers: int = 0
    """Processes that decode; with none, CPU seconds hold everything."""


def kept(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def keep(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(value, separators=(",", ":")) + "\n", encoding="utf-8")
    aside.replace(path)
    return value


def cell(study: Study, name: str, arm: Arm, seed: int, budget: str) -> dict[str, Any]:
    """The cell's JSON, made now unless it lies there whole; that a run diverged is a result too."""
    trained = arm.objective is not None
    path = study.results / f"{study.name}-{budget if trained else 'any'}-{name}-seed{seed}.json"
    rate = best_rate(study, name, arm, budget) if trained else None
    if (known := kept(path)) is not None and is_whole(known, rate, study.preset.asks(name)):
        return known
    about: dict[str, Any] = {
        "preset": study.name, "budget": budget if trained else "any", "arm": name, "words": arm.words, "seed": seed
    }  # fmt: skip
    run = study.out / "runs" / path.stem
    if trained:
        assert rate is not None
        about |= {"rate": rate}
        try:
            epochs = epochs_of(study, name, arm, budget)
            about |= pretrained(study, arm, seed, epochs, rate, run, on_the_way=name in study.preset.whole)
        except WorkError as error:
            LOG.warning("%s: %s", path.stem, error)
            forget(run)
            return keep(path, about | {"failed": str(error), "answers": {}})
    answers = asked(study, spec_of(study, name, arm, seed, run), study.preset.asks(name), seed, run)
    forget(run)
    return keep(path, about | {"answers": answers})


def is_whole(told: dict[str, Any], rate: float | None, protocols: dict[str, AnyProtocol]) -> bool:
    """Whether a cell was trained at this rate and asked by all these protocols, or diverged at this rate."""
    return told.get("rate") == rate and all(protocols.keys() <= by.keys() for by in told["answers"].values())


def forget(run: Path) -> None:
    """Remove a run that was asked, and its clock."""
    shutil.rmtree(run, ignore_errors=True)
    clock_of(run).unlink(missing_ok=True)


def clock_of(run: Path) -> Path:
    """Where the seconds of a run lie that was stopped, or was not asked yet."""
    return run.parent / f"{run.name}.json"


def spec_of(study: Study, name: str, arm: Arm, seed: int, run: Path) -> EncoderSpec:
    """The encoder that is asked."""
    if arm.objective is not None:
        return EncoderSpec(spec=f"run:{run}")
    if name == "histogram":
        return EncoderSpec(spec="histogram")
    config = study.preset.encoder_of(arm)
    return EncoderSpec(spec=f"untrained:{config.name}", args=config.args, seed=seed)


def pretrained(
    study: Study, arm: Arm, seed: int, epochs: int, rate: float, run: Path, *, on_the_way: bool = False
) -> dict[str, Any]:
    """Train in the folder ``run``, or go on, and ask at its quarters if wanted; what it cost and its learning curve.

    Raises:
        Stopped: by a signal; its CPU seconds are noted.
        WorkError: the loss is no longer finite.
    """
    clock = clock_of(run)
    spent = kept(clock)
    if spent is None:  # never begun, or killed: its seconds are not known
        shutil.rmtree(run, ignore_errors=True)
    before = spent or {"cpu_seconds": 0.0, "wall_seconds": 0.0}
    clock.unlink(missing_ok=True)
    cpu, wall = time.process_time(), time.perf_counter()
    config = train_config(study.preset, arm, str(study.shards), seed, epochs, rate)
    watch = quarters(study, config) if on_the_way else None
    if watch is not None:
        config = config.model_copy(update={"knn": NeighboursConfig(data=study.shards, every=watch.every)})
    result = train(config, run, Quietly(), resume=spent is not None, feed=study.feed, watch=watch)
    asking = watch.cpu_seconds if watch is not None else 0.0
    after = {
        "cpu_seconds": round(before["cpu_seconds"] + time.process_time() - cpu - asking, 1),
        "wall_seconds": round(before["wall_seconds"] + time.perf_counter() - wall, 1),
    }
    keep(clock, after)
    if not result.finished:
        raise Stopped(run.name)
    return after | {"epochs": epochs, **summary(result, study.preset.batch, run)}


def summary(result: TrainResult, batch: int, run: Path) -> dict[str, Any]:
    """Images seen and the learning curve: pairs of images and the mean loss since the point before."""
    records = [
        (record["step"] * batch, record["loss"])
        for record in Log(RunFolder(run).log).records()
        if record["loss"] is not None
    ]
    groups = np.array_split(np.array(records), min(CURVE, len(records)))
    curve = [[int(group[-1, 0]), round(float(group[:, 1].mean()), 4)] for group in groups]
    told = {"images": result.total_steps * batch, "curve": curve}
    asked = [(record.pop("step") * batch, record) for record in Log(RunFolder(run).neighbours).records()]
    found = [[images, accuracies] for images, accuracies in asked if accuracies]
    return told | ({"quarters": found} if found else {})


def quarters(study: Study, config: TrainConfig) -> Quarters:
    """What asks at the quarters of a run."""
    steps = config.epochs * (study.samples // config.global_batch)
    return Quarters(config, study.sets, study.preset.asks("histogram"), max(1, steps // QUARTERS))


def asked(study: Study, spec: EncoderSpec, protocols: dict[str, AnyProtocol], seed: int, run: Path) -> dict[str, Any]:
    """Data set to protocol to accuracy, each with the test images that were classified rightly."""
    work = Work(workers=study.workers, device=study.preset.settings.get("device", "cpu"), cache=run / "asked")
    answers: dict[str, Any] = {}
    for dataset, data in study.sets.items():
        for protocol, how in protocols.items():
            if isinstance(how, Finetune):
                how = how.model_copy(update={"seed": seed})
            encoder: FrozenEncoder = open_encoder(spec, how.pool)
            answers.setdefault(dataset, {})[protocol] = brief(ask(encoder, data, how, work))
    return answers


def brief(answer: Answer) -> dict[str, Any]:
    right = np.array(answer.right, dtype=bool)
    return {
        "accuracy": round(answer.accuracy.mean, 5), "right": np.packbits(right).tobytes().hex(), "images": len(right),
        "seconds": round(answer.feature_seconds + answer.classifier_seconds, 1),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ budgets and rates


def epochs_of(study: Study, name: str, arm: Arm, budget: str) -> int:
    """Whole epochs that the budget pays for, at least one."""
    per_image = 1.0 if budget == "images" else cost(study, name)
    images = study.samples // study.preset.batch * study.preset.batch
    return max(1, round(study.preset.budgets[budget] / (per_image * images)))


def cost(study: Study, name: str) -> float:
    """Seconds per image of an arm; measured once, beside MAE, whose first measurement is the scale for all."""
    path = study.results / f"{study.name}-cost.json"
    known: dict[str, float] = kept(path) or {}
    if name not in known:
        wanted = {each: ARMS[each] for each in {"mae", name}}
        configs = {
            each: train_config(study.preset, arm, str(study.shards), study.preset.sweep_seed, 1, study.preset.rate)
            for each, arm in wanted.items()
        }
        fresh = seconds_per_image(configs, study.feed)
        scale = known.get("mae", fresh["mae"]) / fresh["mae"]
        known |= {each: seconds * scale for each, seconds in fresh.items()}
        keep(path, known)
    return known[name]


def best_rate(study: Study, name: str, arm: Arm, budget: str) -> float:
    """The learning rate of the highest linear accuracy, mean of the sets, on the seed that is not reported."""
    if name not in study.preset.whole or not study.preset.rates:
        return study.preset.rate
    budget = study.preset.sweep_budget or budget
    path = study.results / f"{study.name}-{budget}-sweep-{name}.json"
    scores: dict[str, float] = kept(path) or {}
    for rate in study.preset.rates:
        if str(rate) not in scores:
            scores[str(rate)] = swept(study, name, arm, budget, rate)
            keep(path, scores)
    return max(study.preset.rates, key=lambda rate: scores[str(rate)])


def swept(study: Study, name: str, arm: Arm, budget: str, rate: float) -> float:
    """Linear accuracy of one trial; 0 where it diverged."""
    run, seed = study.out / "runs" / f"{study.name}-{budget}-sweep-{name}-{rate}", study.preset.sweep_seed
    try:
        pretrained(study, arm, seed, epochs_of(study, name, arm, budget), rate, run)
    except WorkError:
        return 0.0
    how = study.preset.protocols["linear"]
    encoder = open_encoder(EncoderSpec(spec=f"run:{run}"), how.pool)
    answers = [ask(encoder, data, how, Work(workers=study.workers)) for data in study.sets.values()]
    forget(run)
    return float(np.mean([answer.accuracy.mean for answer in answers]))
