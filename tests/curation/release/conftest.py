"""A finished run to publish, and servers on loopback to publish it to."""

from __future__ import annotations

from pathlib import Path

import pytest
from textures import raster, texture

from curation.cli import main

RECIPE = """
name: shared
description: A few pictures.
sources:
  - {id: photos, path: photos, licence: CC-BY-4.0, redistributable: yes, citation: Somebody (2024), gsd_m: 0.5}
  - {id: scenes, path: scenes, licence: CC0-1.0, redistributable: yes, homepage: 'https://example.org'}
shards: {max_samples: 4}
"""


@pytest.fixture(scope="package")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two sources in three shards."""
    root = tmp_path_factory.mktemp("publish")
    (root / "photos").mkdir()
    (root / "scenes").mkdir()
    for number in range(8):
        texture(number).save(root / "photos" / f"{number}.jpg", quality=90)
    raster(root / "scenes/a.tif", 40)
    (root / "r.yaml").write_text(RECIPE)
    line = ["run", str(root / "r.yaml"), "--data", str(root), "--out", str(root / "out"), "--workers", "1"]
    assert main(line) == 0
    return root / "out"
