"""The write stage: encoders, and raw files that changed or vanished after the scan."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from textures import raster, texture

from curation.base.errors import WorkError
from curation.catalogue import read_table
from curation.cli import main
from curation.shards import write
from curation.shards.shard_plan import ShardPart
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
    again = [*command, "shards.max_samples=2", "--regenerate"]
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
    assert main([*command, "shards.max_samples=8", "--regenerate", "seed=3"]) == 1
    message = capsys.readouterr().err
    assert [name for name in ("a.jpg", "b.jpg", "c.png", "d.png") if name in message] == ["a.jpg", "c.png", "d.png"]
    assert write.say_changed([f"file {n}" for n in range(30)], tmp_path).startswith("file 0; file 1;")
    assert (tmp_path / "changed.txt").read_text().splitlines() == [f"file {n}" for n in range(30)]
    # What the message advises works.
    assert main([*command, "shards.max_samples=8", "--regenerate", "seed=3", "--relist"]) == 0
    assert main(["verify", str(tmp_path / "out/shards")]) == 0


def test_relist_opens_again_what_changed_under_an_equal_size_and_time(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "mine/e.bmp"
    texture(9).save(path)
    assert main(command) == 0
    time, size = path.stat().st_mtime_ns, path.stat().st_size
    OTHER.save(path)
    os.utime(path, ns=(time, time))
    assert path.stat().st_size == size
    again = [*command, "shards.quality=80", "--replace"]
    assert main(again) == 1
    assert main(again) == 1
    assert main([*again, "--relist"]) == 0
    assert not (tmp_path / "out/.stages/changed.json").exists()
    assert main(["verify", str(tmp_path / "out/shards")]) == 0


def test_a_raster_that_shrank_is_named_and_the_other_shards_finish(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    texture(9, 300).save(tmp_path / "mine/e.tif")
    sliced = [*command, "slice.mode=grid", "slice.tile=128", "slice.whole_up_to=200"]
    assert main(sliced) == 0
    texture(9, 100).save(tmp_path / "mine/e.tif")
    assert main([*sliced, "shards.quality=80", "--replace"]) == 1
    message = capsys.readouterr().err
    assert message.count("mine/e.tif: ") == 1
    assert "do not reach the window" in message or "other pixels" in message
    made = list((tmp_path / "out/.stages/write").glob("*.tar"))
    assert len(made) == 2  # of c.png and d.png; a.jpg and b.jpg are copied, so no quality changes them


def test_a_lost_index_is_written_again(tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 0
    before, shards = shards_of(tmp_path), tmp_path / "out/shards"
    (shards / "index.parquet").unlink()
    assert main(["index", str(shards)]) == 2
    assert "the same command again writes their index" in capsys.readouterr().err
    assert main(command) == 0
    assert shards_of(tmp_path) == before


def test_an_output_folder_among_the_images_is_refused(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    inside = [*command[:-3], str(tmp_path / "mine/out"), *command[-2:]]
    assert main(inside) == 2
    assert "lies where source mine has its images" in capsys.readouterr().err


def test_room_is_asked_for_before_a_lossless_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = ShardPart(number=0, rows="", row_group=0, samples=1, bytes=1_000_000, digest="", sources=(), encoded=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2_000_000))
    write.check_room([part], ShardRules(), tmp_path)
    with pytest.raises(WorkError, match=r"about 4.5 MB, 2.0 MB are free: 2.5 MB are missing"):
        write.check_room([part], ShardRules(encoder="png"), tmp_path)


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


def test_pixels_that_are_decoded_for_a_tile_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A picture is decoded whole, once for its nine tiles; of a raster the blocks that its tiles touch."""
    (tmp_path / "mine").mkdir()
    texture(1, 300).save(tmp_path / "mine/a.png")
    raster(tmp_path / "mine/b.tif", 2, tiled=True, blockxsize=64, blockysize=64)
    recipe = tmp_path / "r.yaml"
    rules = "slice: {mode: grid, tile: 96, whole_up_to: 16, remainder: drop}"
    recipe.write_text(f"name: r\nsources: [{{id: mine, path: mine, stretch: {{how: per_scene}}}}]\n{rules}\n")
    line = ["run", str(recipe), "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(line) == 0
    # 9 tiles of 300 x 300, 4 of 256 x 256: columns and rows 0 to 191 lie in 3 x 3 blocks of 64 x 64
    ratio = (300 * 300 + 9 * 64 * 64) / ((9 + 4) * 96 * 96)
    assert f"write: {ratio:.2f} pixels decoded for each pixel that was encoded" in capsys.readouterr().out
    rows = read_table(tmp_path / "out/catalogue.parquet", "catalogue").to_pylist()
    assert sum(row["verdict"] == "kept" for row in rows) == 13
