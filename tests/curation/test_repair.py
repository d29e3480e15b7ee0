"""Repair: damaged shards are made again from the sources, byte for byte; nothing is lost where they cannot."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
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


# ------------------------------------------------------------------------------------------------ fifty faults


def flipped(shards: Path, tar: Path, rng: np.random.Generator) -> None:
    data = bytearray(tar.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    tar.write_bytes(data)


def truncated(shards: Path, tar: Path, rng: np.random.Generator) -> None:
    tar.write_bytes(tar.read_bytes()[: int(rng.integers(tar.stat().st_size))])


def missing(shards: Path, tar: Path, rng: np.random.Generator) -> None:
    tar.unlink()


def members(tar: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(tar) as file:
        return [(each, file.extractfile(each).read()) for each in file]  # type: ignore[union-attr]


def packed(tar: Path, content: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as file:
        for head, data in content:
            head.size = len(data)
            file.addfile(head, io.BytesIO(data))


def duplicate_key(shards: Path, tar: Path, rng: np.random.Generator) -> None:
    packed(tar, members(tar) + members(tar)[:2])


def swapped_json(shards: Path, tar: Path, rng: np.random.Generator) -> None:
    content = members(tar)
    content[1], content[3] = (content[1][0], content[3][1]), (content[3][0], content[1][1])
    packed(tar, content)


def wrong_index(shards: Path, tar: Path, rng: np.random.Generator) -> None:
    path = shards / "index.parquet"
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
        schema = file.schema_arrow
    number = int(tar.stem[2:])
    groups[number] = groups[number].take(rng.permutation(len(groups[number]))[::-1])
    with pq.ParquetWriter(path, schema) as writer:
        for group in groups:
            writer.write_table(group)


FAULTS = [flipped, truncated, missing, duplicate_key, swapped_json, wrong_index]


@pytest.mark.slow
def test_fifty_faults_are_found_and_the_bytes_restored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten shards, each with another fault, five times over; images of two tiles and more to a shard."""
    (tmp_path / "data/mine").mkdir(parents=True)
    for number in range(40):
        texture(number).save(tmp_path / "data/mine" / f"{number}.{'jpg' if number % 3 else 'png'}")
    (tmp_path / "r.yaml").write_text("name: r\nsources: [{id: mine, path: mine}]\nshards: {max_samples: 4}\n")
    run = ["run", str(tmp_path / "r.yaml"), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main([*run, "--workers", "1", "--pictures", "0"]) == 0
    shards, struck = tmp_path / "out/shards", 0
    before = hashes(shards)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        expected = []
        for number, tar in enumerate(sorted(shards.glob("*.tar"))):
            fault = FAULTS[(seed + number) % len(FAULTS)]
            fault(shards, tar, rng)
            struck += 1
            expected.append("index.parquet" if fault is wrong_index else tar.name)
        capsys.readouterr()
        assert main(["verify", str(shards), "--workers", "1"]) == 1
        told = capsys.readouterr().out
        assert [name for name in expected if f"error: {name}" not in told] == []
        assert main(["verify", str(shards), "--workers", "1", "--repair"]) == 0
        assert hashes(shards) == before
    assert struck == 50
