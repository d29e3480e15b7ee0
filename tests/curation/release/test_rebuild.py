"""A lock and another copy of the raw sources give the same shards, byte for byte; what differs is told per sample."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import simplejpeg
from textures import raster, texture

from curation import __version__
from curation.cli import main

RECIPE = """
name: both
sources:
  - {id: photos, path: photos, licence: CC0-1.0}
  - {id: scenes, path: scenes, licence: CC0-1.0, stretch: {how: per_scene, scene: '(T[0-9]+)_'}}
slice: {mode: grid, tile: 128, whole_up_to: 200}
shards: {max_samples: 6}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over files that are copied, encoded and read by windows, and its lock."""
    root = tmp_path_factory.mktemp("release")
    photos, scenes = root / "data/photos", root / "data/scenes"
    (photos / "town").mkdir(parents=True)
    scenes.mkdir()
    for number in range(5):
        texture(number).save(photos / "town" / f"{number}.jpg", quality=90)
        texture(20 + number).save(photos / f"{number}.png")
    for name, seed in (("T1_a.tif", 40), ("T1_b.tif", 41), ("T2_a.tif", 42)):
        raster(scenes / name, seed)
    (root / "r.yaml").write_text(RECIPE)
    line = ["run", str(root / "r.yaml"), "--data", str(root / "data"), "--out", str(root / "out"), "--workers", "1"]
    assert main(line) == 0
    assert main(["lock", str(root / "out"), "--to", str(root / "lock")]) == 0
    return root


def hashes(out: Path) -> dict[str, str]:
    paths = [*sorted((out / "shards").iterdir()), out / "catalogue.parquet"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def rebuild(root: Path, data: Path, out: Path, *more: str) -> int:
    line = ["rebuild", str(root / "lock"), "--data", str(data), "--out", str(out), "--workers", "1", *more]
    return main(line)


def told(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "rebuild.parquet").to_pylist()
    return rows


def test_the_lock_says_by_what_everything_was_made(root: Path) -> None:
    assert {path.name for path in (root / "lock").iterdir()} == {
        "catalogue.parquet", "index.parquet", "checksums.json", "lock.json",
    }  # fmt: skip
    lock = json.loads((root / "lock/lock.json").read_text())
    assert lock["sources"]["scenes"]["licence"] == {"pixels": "CC0-1.0"}
    assert lock["encoder"] == {"encoder": "jpg", "quality": 92, "pass_through": True}
    assert set(lock["stretches"]["scenes"]) == {"scene T1", "scene T2"}
    assert lock["release"] == __version__ and lock["manifests"].keys() == {"photos", "scenes"}
    ((scan,), (write,)) = lock["versions"]["scan"], lock["versions"]["write"]
    assert scan == write
    assert (scan["numpy"], scan["GDAL"]) == (np.__version__, rasterio.__gdal_version__)


def test_a_lock_holds_no_folder_of_the_machine_that_wrote_it(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "out", tmp_path / "out")
    made = tmp_path / "out/.stages/made.json"
    record = json.loads(made.read_text())
    record["recipe"]["sources"][0]["path"] = str(root / "data/photos")
    record["recipe"]["guard"]["fingerprints"] = str(root / "prints")
    made.write_text(json.dumps(record))
    assert main(["lock", str(tmp_path / "out")]) == 0
    assert str(root) not in (tmp_path / "out/lock/lock.json").read_text()
    line = ["rebuild", str(tmp_path / "out/lock"), "--data", str(root / "data"), "--out", str(tmp_path / "again")]
    assert main([*line, "--workers", "1"]) == 0
    assert hashes(tmp_path / "again") == hashes(root / "out")


def test_another_copy_gives_the_same_shards(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(root / "data", tmp_path / "copy")
    assert rebuild(root, tmp_path / "copy", tmp_path / "out") == 0
    assert hashes(tmp_path / "out") == hashes(root / "out")
    assert told(tmp_path / "out") == []
    shown = capsys.readouterr().out
    assert "13 of 13 images found\n" in shown
    assert "22 same bytes" in shown  # 5 + 5 photos, 3 rasters of 256 x 256 in tiles of 128
    assert rebuild(root, tmp_path / "copy", tmp_path / "out") == 0


def test_files_under_other_folders_and_in_archives_are_found(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(root / "data/photos/town", other / "pictures/of a town")
    shutil.copytree(root / "data/scenes", other / "rasters/deep")
    (other / "rasters/deep/T1_b.tif").rename(other / "rasters/renamed.tif")
    with zipfile.ZipFile(other / "png.zip", "w") as archive:
        for path in sorted((root / "data/photos").glob("*.png")):
            archive.write(path, f"inside/{path.name}")
    assert rebuild(root, other, tmp_path / "out") == 0
    assert "13 of 13 images found, 13 of them under another path" in capsys.readouterr().out
    assert hashes(tmp_path / "out") == hashes(root / "out")


def test_what_is_changed_or_missing_is_told_per_sample_and_the_rest_is_kept(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "copy"
    shutil.copytree(root / "data", data)
    (data / "photos/town/3.jpg").unlink()
    kept = (data / "scenes/T2_a.tif").read_bytes()
    with rasterio.open(data / "scenes/T2_a.tif", "r+") as file:
        file.write(file.read(1, window=((0, 50), (0, 50))) + 900, 1, window=((0, 50), (0, 50)))
    assert rebuild(root, data, tmp_path / "out") == 1
    assert "20 same bytes, 1 changed, 1 missing" in capsys.readouterr().err
    states = Counter((row["image"], row["state"]) for row in told(tmp_path / "out"))
    assert states == {("town/3.jpg", "missing"): 1, ("T2_a.tif", "changed"): 1}  # one tile of four
    assert not (tmp_path / "out/shards").exists()
    shutil.copy(root / "data/photos/town/3.jpg", data / "back.jpg")
    (data / "scenes/T2_a.tif").write_bytes(kept)
    made = {path: path.stat().st_ino for path in (tmp_path / "out/.stages/write").glob("*.tar")}
    assert made
    assert rebuild(root, data, tmp_path / "out") == 0
    assert set(made.values()) < {path.stat().st_ino for path in (tmp_path / "out/shards").glob("*.tar")}
    assert hashes(tmp_path / "out") == hashes(root / "out")


def test_another_encoder_is_told_and_taken_only_when_it_is_asked_for(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = simplejpeg.encode_jpeg
    monkeypatch.setattr(
        simplejpeg, "encode_jpeg", lambda rgb, quality, **more: encode(rgb, quality=quality - 1, **more)
    )
    assert rebuild(root, root / "data", tmp_path / "out") == 1
    assert "5 same bytes, 17 same pixels, other encoder" in capsys.readouterr().err
    version = simplejpeg.__version__ if hasattr(simplejpeg, "__version__") else ""
    details = {row["detail"] for row in told(tmp_path / "out")}
    assert len(details) == 1 and details.pop().startswith(f"simplejpeg {version}")
    assert rebuild(root, root / "data", tmp_path / "out", "--accept-pixels") == 0
    assert main(["verify", str(tmp_path / "out"), "--workers", "1", "--decode"]) == 0
    assert hashes(tmp_path / "out").keys() == hashes(root / "out").keys()


def test_wrong_input_is_one_clear_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "x")]
    for line, told in (
        (["lock", str(tmp_path)], "made.json: no such file, so nothing says how"),
        (
            ["rebuild", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "x")],
            "rs-curate lock OUT writes",
        ),
        (["rebuild", str(root / "lock"), "--data", "nowhere", *out], "nowhere: no such folder"),
        (["diff", str(root / "lock"), "nowhere"], "nowhere: no such file"),
    ):
        assert main(line) == 2
        message = capsys.readouterr().err
        assert told in message and message.count("\n") == 1


def test_workers_are_a_number_above_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rebuild", "lock", "--data", "raw", "--out", "out", "--workers", "0"])
    assert "expected a whole number above 0" in capsys.readouterr().err
