"""What the study trains on and asks: halves of labelled sets; the guard keeps the asked halves out of the shards."""

from __future__ import annotations

from pathlib import Path

import yaml

from curation.cli import main as rs_curate
from pretrain.evaluate.labelled import DataSet, Divided, open_dataset

SETS = {"RSSCN7": ("RSSCN7_256", 1.0), "UCMerced": ("UCMerced_256", 0.3)}
"""Name to folder and metres a pixel; RSSCN7 has four scales that nobody states, so its metre is a placeholder."""


def open_sets(data: Path) -> dict[str, Divided]:
    """Each set, half of every class for training, half for testing."""
    return {name: open_dataset(DataSet(path=data / folder, gsd_m=gsd)) for name, (folder, gsd) in SETS.items()}


def build(data: Path, sets: dict[str, Divided], out: Path) -> Path:
    """The folder of shards of all training halves, made once.

    The images are read in place, through links. What shows an image of a test half, also turned or re-encoded, is a
    leak and stays out; duplicates within the training halves too: RSSCN7 has near duplicates.
    """
    raw, shards = out / "raw", out / "corpus" / "shards"
    if (shards / "checksums.json").is_file():
        return shards
    for name, divided in sets.items():
        for part, rows in (("train", divided.train), ("test", divided.test)):
            for row in rows.tolist():
                place = divided.images.places[row]
                link = raw / f"{name}_{part}".lower() / place.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(place.path.resolve())
    for name in sets:
        told = {"id": f"{name}_test".lower(), "follow_links": str(data.resolve())}
        run("fingerprint", "--benchmark", write_yaml(out / f"{told['id']}.yaml", told), "--data", raw, "--workers", "1")
    recipe = write_yaml(out / "study.yaml", recipe_of(data, sets))
    run("run", recipe, "--data", raw, "--out", out / "corpus", "--workers", "1")
    return shards


def recipe_of(data: Path, sets: dict[str, Divided]) -> dict[str, object]:
    """Both training halves; both test halves are guarded."""
    ids = {name: f"{name}_train".lower() for name in sets}
    sources = [
        {"id": each, "path": each, "gsd_m": SETS[name][1], "follow_links": str(data.resolve())}
        for name, each in ids.items()
    ]
    return {"name": "study", "sources": sources, "guard": {"benchmarks": [f"{name}_test".lower() for name in sets]}}


def write_yaml(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
    return path


def run(*arguments: object) -> None:
    """One command of ``rs-curate``."""
    if code := rs_curate([str(argument) for argument in arguments]):
        raise SystemExit(code)
