"""The write stage: encoders, and raw files that changed or vanished after the scan."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from textures import texture

from curation.cli import main
from curation.manifest import ShardRules
from curation.write import encode

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


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.unlink(), "could be read when it was scanned"),
        (lambda path: Image.fromarray(NOISE).resize((200, 200)).save(path, quality=92), "changed since it was scanned"),
    ],
)
def test_raw_files_that_change_after_the_scan_stop_the_write(tmp_path: Path, harm, said: str, capsys) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in "ab":
        texture(ord(name)).save(folder / f"{name}.jpg")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: r\nsources: [{id: mine, path: mine}]\n")
    command = ["run", str(recipe), "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 0
    harm(folder / "a.jpg")
    # Another radius: the scan stays as it is, the shards are written anew.
    assert main([*command, "deduplicate.radius=3", "--replace"]) == 1
    message = capsys.readouterr().err
    assert said in message
    assert "--relist" in message
    assert "a.jpg" in message
