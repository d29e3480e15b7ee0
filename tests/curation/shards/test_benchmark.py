"""A benchmark becomes shards whose sidecars hold class and split: nothing is changed, nothing silently lost."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from curation.cli import main
from pretrain.evaluate.labelled import DataSet, open_dataset

MANIFEST = """
id: scenes
name: Scenes
task: classification
licence: CC-BY-4.0
obtain: {via: local}
images: ['train/*/*', 'test/*/*']
label_from: parent
splits: {train: ['train/**'], test: ['test/**']}
gsd_m: 0.3
"""


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number, part in enumerate(("train", "train", "test")):
        for label in ("field", "town"):
            folder = tmp_path / "raw" / "scenes" / part / label
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            if number == 0:
                with rasterio.open(folder / "a.tif", "w", "GTiff", 50, 40, 3, dtype="uint8") as raster:
                    raster.write(pixels.transpose(2, 0, 1))
            else:
                Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
    (tmp_path / "scenes.yaml").write_text(MANIFEST)
    return tmp_path


def pack(scenes: Path) -> list[str]:
    return ["benchmark", str(scenes / "scenes.yaml"), "--data", str(scenes / "raw"), "--out", str(scenes / "shards")]


def test_classes_and_splits_stand_in_the_sidecars(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scenes / "raw" / "scenes" / "test" / "town" / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    assert main(pack(scenes)) == 0
    told = capsys.readouterr().out
    assert "6 images in 2 classes; 1 could not be read" in told
    assert "left out: test/town/bad.jpg: " in told
    with tarfile.open(scenes / "shards" / "scenes-000000.tar") as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}
    about = {name: json.loads(data) for name, data in members.items() if name.endswith(".json")}
    found = {(each["image"], each["label"], each["split"]) for each in about.values()}
    assert ("test/town/2.jpg", "town", "test") in found and ("train/field/a.tif", "field", "train") in found
    for name, each in about.items():
        raw = scenes / "raw" / "scenes" / each["image"]
        if raw.suffix == ".jpg":  # byte for byte
            assert members[name.replace(".json", ".jpg")] == raw.read_bytes()
        else:  # pixel for pixel
            with Image.open(io.BytesIO(members[name.replace(".json", ".png")])) as kept, rasterio.open(raw) as raster:
                assert np.array_equal(np.asarray(kept), raster.read().transpose(1, 2, 0))
    assert main(["verify", str(scenes / "shards")]) == 0


def test_the_trainer_reads_classes_and_splits(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(pack(scenes)) == 0
    data = open_dataset(DataSet(path=scenes / "shards"))
    assert data.classes == ["field", "town"]
    assert [data.images.places[row].name for row in data.test] == ["test/field/2.jpg", "test/town/2.jpg"]
    assert len(data.train) == 4
    assert data.images.gsd.tolist() == pytest.approx([0.3] * 6)
    capsys.readouterr()
    assert main(pack(scenes)) == 0
    assert "nothing to do" in capsys.readouterr().out
    (scenes / "raw" / "scenes" / "test" / "town" / "2.jpg").unlink()
    assert main(pack(scenes)) == 2
    assert "shards of other images lie there; give another --out" in capsys.readouterr().err


def test_a_benchmark_without_classes_is_told(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = scenes / "scenes.yaml"
    path.write_text(MANIFEST.replace("label_from: parent\n", ""))
    assert main(pack(scenes)) == 2
    assert "benchmark scenes: its manifest does not say which class an image has" in capsys.readouterr().err
