"""Repair: damaged shards are made again from the sources, byte for byte; nothing is lost where they cannot."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from PIL import Image
from textures import texture

from curation.cli import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs that are copied and two pictures that are encoded, each in a shard of its own."""
    root = tmp_path_factory.mktemp("finished")
    (root / "data/mine").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "c.png", "d.png"):
        texture(ord(name[0])).save(root / "data/mine" / name)
    (root / "r.yaml").write_text(
        "name: r\nsources: [{id: mine, path: mine, licence: A}]\nshards: {max_samples: 1, quality: 80}\n"
    )
    line = ["run", str(root / "r.yaml"), "--data", str(root / "data"), "--out", str(root / "out"), "--workers", "1"]
    assert main([*line, "shards.quality=77"]) == 0
    return root


@pytest.fixture
def shards(finished: Path, tmp_path: Path) -> Path:
    """A copy of the output, whose record names the first copy's sources."""
    shutil.copytree(finished / "out", tmp_path / "out")
    return tmp_path / "out/shards"


def hashes(shards: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards.iterdir()}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def test_damaged_shards_are_what_they_were_after_a_repair(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = hashes(shards)
    flip(shards / "r-000000.tar")
    (shards / "r-000001.tar").write_bytes(b"")
    (shards / "r-000002.tar").unlink()
    shutil.copy(shards / "r-000003.tar", shards / "stray.tar")
    assert main(["verify", str(shards), "--workers", "1"]) == 1
    assert main(["verify", str(shards), "--workers", "1", "--repair"]) == 0
    assert "3 shards made again from the sources; all are what they were" in capsys.readouterr().out
    assert hashes(shards) == before


def test_a_run_of_a_few_images_is_repaired_as_such(finished: Path, tmp_path: Path) -> None:
    line = ["run", str(finished / "r.yaml"), "--data", str(finished / "data"), "--out", str(tmp_path), "--limit", "2"]
    assert main([*line, "--workers", "1"]) == 0
    before = hashes(tmp_path / "shards")
    flip(tmp_path / "shards/r-000001.tar")
    assert main(["verify", str(tmp_path), "--workers", "1", "--repair"]) == 0
    assert hashes(tmp_path / "shards") == before


def test_a_damaged_index_is_made_again_and_no_tar(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = hashes(shards)
    inodes = {path.name: path.stat().st_ino for path in shards.glob("*.tar")}
    flip(shards / "index.parquet")
    assert main(["verify", str(shards), "--workers", "1", "--repair"]) == 0
    assert hashes(shards) == before
    assert {path.name: path.stat().st_ino for path in shards.glob("*.tar")} == inodes


def test_what_is_damaged_is_kept_while_its_source_has_changed(
    shards: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(shards)
    for path in sorted(shards.glob("*.tar")):
        flip(path)
    harmed = {path.name: path.read_bytes() for path in shards.glob("*.tar")}
    changed = finished / "data/mine/c.png"
    kept = changed.read_bytes()
    Image.open(changed).rotate(90).save(changed)
    assert main(["verify", str(shards), "--workers", "1", "--repair"]) == 1
    assert f"{changed}: changed since it was scanned" in capsys.readouterr().err
    aside = {path.name.removeprefix(".").removesuffix(".damaged.part"): path for path in shards.glob(".*.part")}
    assert {name: path.read_bytes() for name, path in aside.items()} == harmed
    changed.write_bytes(kept)
    assert main(["verify", str(shards), "--workers", "1", "--repair"]) == 0
    assert hashes(shards) == before


def test_a_folder_without_a_record_says_what_to_type(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shards.parent / ".stages/made.json").unlink()
    flip(shards / "r-000000.tar")
    assert main(["verify", str(shards), "--workers", "1", "--repair"]) == 2
    assert "run its recipe once more: rs-curate run RECIPE --data DIR --out" in capsys.readouterr().err
