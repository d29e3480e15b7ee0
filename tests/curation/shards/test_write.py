"""The write stage: encoders, and raw files that changed or vanished after the scan."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from textures import texture

from curation.catalogue import read_table
from curation.cli import main
from curation.shards import write
from curation.shards.write import encode
from curation.sources.recipe import ShardRules

NOISE = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("encoder", ["png", "webp"])
def test_lossless_encoders_keep_every_pixel(encoder: str) -> None:
    data = encode(NOISE, ShardRules.model_validate({"encoder": encoder}))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), NOISE)


def test_jpeg_quality_and_size_are_what_the_rules_say() -> None:
    high, low = (encode(NOISE, ShardRules(quality=quality)) for quality in (95, 30))
    assert len(low) < len(high) / 2
    image = Image.open(io.BytesIO(high))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 64))
    assert encode(NOISE, ShardRules(quality=95)) == high


OTHER = Image.fromarray(NOISE).resize((192, 192))


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Two photographs that are copied and two pictures that are encoded, each in a shard of its own."""
    (tmp_path / "mine").mkdir()
    for name in ("a.jpg", "b.jpg", "c.png", "d.png"):
        texture(ord(name[0])).save(tmp_path / "mine" / name)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: r\nsources: [{id: mine, path: mine, licence: A}]\nshards: {max_samples: 1}\n")
    return ["run", str(recipe), "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1"]


def shards_of(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "out/shards").iterdir()}


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("a.jpg", Path.unlink, "could be read when it was scanned, and cannot now"),
        ("c.png", Path.unlink, "could be read when it was scanned, and cannot now"),
        ("a.jpg", lambda path: OTHER.save(path, quality=92), "changed since it was scanned (other bytes)"),
        ("c.png", OTHER.save, "changed since it was scanned (other pixels)"),
    ],
)
def test_only_what_was_scanned_gets_into_a_shard(
    tmp_path: Path, command: list[str], name: str, harm: Callable[[Path], None], said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A raw file that changed stops its own shard: the others are finished, and what was there before stays."""
    assert main(command) == 0
    before = shards_of(tmp_path)
    kept = (tmp_path / "mine" / name).read_bytes()
    harm(tmp_path / "mine" / name)
    again = [*command, "shards.max_samples=2", "--replace"]
    assert main(again) == 1
    message = capsys.readouterr().err
    assert f"{tmp_path / 'mine' / name}: {said}" in message
    assert "run again with --relist to take the files as they are" in message
    assert shards_of(tmp_path) == before
    (made,) = (tmp_path / "out/.stages/write").glob("*.tar")
    inode = made.stat().st_ino
    (tmp_path / "mine" / name).write_bytes(kept)
    assert main(again) == 0
    assert main(["verify", str(tmp_path / "out/shards")]) == 0
    assert inode in {path.stat().st_ino for path in (tmp_path / "out/shards").glob("*.tar")}


def test_every_changed_file_is_named(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*command, "shards.max_samples=9"]) == 0
    OTHER.save(tmp_path / "mine/a.jpg")
    OTHER.save(tmp_path / "mine/c.png")
    (tmp_path / "mine/d.png").unlink()
    assert main([*command, "shards.max_samples=8", "--replace", "seed=3"]) == 1
    message = capsys.readouterr().err
    assert [name for name in ("a.jpg", "b.jpg", "c.png", "d.png") if name in message] == ["a.jpg", "c.png", "d.png"]
    assert write.say_changed([f"file {n}" for n in range(30)], tmp_path).startswith("file 0; file 1;")
    assert (tmp_path / "changed.txt").read_text().splitlines() == [f"file {n}" for n in range(30)]
    # What the message advises works.
    assert main([*command, "shards.max_samples=8", "--replace", "seed=3", "--relist"]) == 0
    assert main(["verify", str(tmp_path / "out/shards")]) == 0


def test_only_tars_that_differ_are_made_again(tmp_path: Path, command: list[str]) -> None:
    def tars() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in sorted((tmp_path / "out/shards").glob("*.tar"))}

    assert main(command) == 0
    first, shown = tars(), json.loads((tmp_path / "out/shards/checksums.json").read_text())
    rows = read_table(tmp_path / "out/catalogue.parquet", "catalogue").to_pylist()
    copied = {row["shard"] for row in rows if row["pass_through"] and row["verdict"] == "kept"}
    assert len(copied) == 2
    # The quality matters to what is encoded alone.
    assert main([*command, "shards.quality=70", "--replace"]) == 0
    second = tars()
    assert {int(name[2:8]) for name in first if first[name] == second[name]} == copied
    # The name of the recipe is in no tar: all are moved.
    assert main([*command, "shards.quality=70", "name=other", "--replace"]) == 0
    assert sorted(tars().values()) == sorted(second.values())
    assert {name[:5] for name in tars()} == {"other"}
    assert main(["verify", str(tmp_path / "out/shards")]) == 0
    assert main([*command, "--replace"]) == 0
    assert json.loads((tmp_path / "out/shards/checksums.json").read_text()) == shown


def test_a_disk_without_room_is_told_before_the_first_shard(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "shards.bytes_per_pixel=1e9"]) == 1  # two pictures of 192 x 192 pixels
    message = capsys.readouterr().err
    assert "the shards need about 73,728.0 GB" in message
    assert f"rs-curate clean {tmp_path / 'out'}" in message
    assert not (tmp_path / "out/shards").exists()
