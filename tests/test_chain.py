"""The demo's chain at its smallest: raw files in, shards out, an encoder that timm loads at the end."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from PIL import Image
from safetensors.torch import load_file

from curation.catalogue import ledger, read_table
from curation.cli import main as rs_curate
from pretrain.cli import main as rs_pretrain

SMALL = [
    "encoder.args={img_size: 48, patch_size: 8, depth: 1}",
    "objective.decoder_depth=1",
    "epochs=1",
    "optim.base_lr=1e-3",
    "optim.warmup_epochs=0.1",
    "global_batch=64",
    "log_every=2",
    "picture_every=5",
    "data.workers=0",
]


@pytest.fixture(scope="module")
def made(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the demo makes, from its own recipe and config."""
    out = tmp_path_factory.mktemp("demo")
    data = repository / "manifests/demo"
    run, corpus = ["--run", str(out / "run")], str(out / "corpus")
    recipe, config = str(repository / "manifests/recipes/demo.yaml"), str(repository / "pretrain/configs/demo.yaml")
    guarded, prints = str(data / "labelled.yaml"), str(out / "fingerprints")
    here = ["--data", str(data), "--workers", "1"]
    assert rs_curate(["fingerprint", "--benchmark", guarded, "--out", prints, *here]) == 0
    assert rs_curate(["run", recipe, "--fingerprints", prints, "--out", corpus, *here]) == 0
    assert rs_pretrain(["train", config, f"data.shards={corpus}/shards", *SMALL, "--out", str(out / "run")]) == 0
    labelled, report = str(data / "labelled"), str(out / "evaluation.json")
    assert rs_pretrain(["evaluate", *run, "--data", labelled, "--out", report]) == 0
    assert rs_pretrain(["visualise", *run, "--out", str(out / "reconstructions.png")]) == 0
    assert rs_pretrain(["plot", *run, "--out", str(out / "loss.png")]) == 0
    assert rs_pretrain(["export", *run, "--out", str(out / "encoder")]) == 0
    return out


def test_every_planted_fault_is_caught_with_its_reason(made: Path) -> None:
    catalogue = read_table(made / "corpus/catalogue.parquet", "catalogue")
    rows = {(row["source"], row["image"], row["kind"]): row for row in catalogue.to_pylist()}
    # manifests/demo/SOURCES.md, "Planted faults"
    assert rows["neon_chips", "web/yell_007.jpg", "tile"]["verdict"] == "duplicate"
    assert (
        rows["neon_chips", "web/yell_007.jpg", "tile"]["subject"]
        == rows["neon_chips", "YELL/yell_007.jpg", "tile"]["tile_id"]
    )
    assert rows["neon_chips", "web/yell_020_turned.jpg", "tile"]["verdict"] == "duplicate"
    assert rows["neon_chips", "YELL/yell_031.jpg", "image"]["verdict"] == "unreadable"
    assert rows["neon_chips", "labels/yell_020_mask.png", "image"]["verdict"] == "not_optical"
    assert rows["neon_chips", "labels/yell_020_mask.jpg", "image"]["verdict"] == "not_optical"
    assert rows["blue_marble", "relief/etopo1_andes_grey.png", "image"]["verdict"] == "not_optical"
    for image, shown in (("pines_turned", "forest/forest_010"), ("grass_part", "meadow/meadow_023")):
        leak = rows["neon_chips", f"web/{image}.jpg", "tile"]
        assert (leak["verdict"], leak["subject"]) == ("leak", "labelled") and f"{shown}.jpg" in leak["detail"]


def test_the_catalogue_has_what_the_table_of_planted_faults_says(made: Path, repository: Path) -> None:
    rows = read_table(made / "corpus/catalogue.parquet", "catalogue").to_pylist()
    with (repository / "manifests/demo/planted.csv").open(newline="") as file:
        planted = {(row["file"], row["verdict"]) for row in csv.DictReader(file) if "OSBS_029" not in row["file"]}
    images = {(f"{row['source']}/{row['image']}", row["verdict"]) for row in rows}
    assert len(planted) == 8 and planted <= images
    assert sum(row["verdict"] == "nodata" for row in rows if row["source"] == "neon_16bit") >= 4
    assert sum(row["verdict"] == "blank" for row in rows if row["source"] == "blue_marble") >= 10
    pairs = [row for row in rows if row["verdict"] == "duplicate" and Path(row["image"]).stem == "OSBS_029"]
    assert len(pairs) == 9  # 400 pixels are three tiles of 128 each way; the last 16 are too few for one more
    upright = [row for row in rows if row["image"] == "camera/frame_0001.jpg" and row["kind"] == "tile"]
    assert [(row["width"], row["height"], row["verdict"]) for row in upright] == [(96, 144, "kept")]


def test_the_demo_says_what_it_found_and_that_nothing_else_was_left_out(made: Path, repository: Path) -> None:
    line = [sys.executable, str(repository / "docs/demo_faults.py"), str(made / "corpus/catalogue.parquet")]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert "Planted faults: 9 of 9 found" in told
    assert "Wrongly left out: none of the other 47 images" in told


def test_the_ledger_balances(made: Path, repository: Path) -> None:
    catalogue = read_table(made / "corpus/catalogue.parquet", "catalogue")
    images = sum(sum(counts["image"].values()) for counts in ledger(catalogue).values())
    suffixes = {".jpg", ".png", ".tif"}
    files = [path for path in (repository / "manifests/demo").rglob("*") if path.suffix in suffixes]
    assert images == len([path for path in files if "labelled" not in path.parts])
    kept = sum(counts["tile"]["kept"] for counts in ledger(catalogue).values())
    shards = json.loads((made / "corpus/shards/checksums.json").read_text())["shards"]
    assert kept == sum(shard["samples"] for shard in shards)


def test_timm_takes_the_weights_strictly(made: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, img_size=48, patch_size=8)
    model.load_state_dict(load_file(made / "encoder/model.safetensors"), strict=True)


def test_pictures_log_and_evaluation_are_there(made: Path) -> None:
    for name in ("reconstructions.png", "loss.png"):
        with Image.open(made / name) as picture:
            picture.verify()
    assert list((made / "run/pictures").glob("*.png"))
    log = [json.loads(line) for line in (made / "run/log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] > 1
    assert log[-1]["loss"] < log[0]["loss"]
    assert json.loads((made / "evaluation.json").read_text())


def test_a_finished_demo_has_nothing_left_to_do(
    made: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(repository / "pretrain/configs/demo.yaml")
    shards = f"data.shards={made}/corpus/shards"
    assert rs_pretrain(["train", config, shards, *SMALL, "--out", str(made / "run"), "--resume"]) == 0
    assert "nothing to do" in capsys.readouterr().out
