"""What a run tells of bands: stacks that do not say which are red, green and blue, and panchromatic imagery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from textures import texture

from curation.cli import main
from curation.scan.findings import Findings
from curation.sources.source import Source

SENTINEL_2 = [f"B{band}" for band in ("01", "02", "03", "04", "05", "06", "07", "08", "8A", "09", "11", "12")]


def stack(path: Path, seed: int, bands: int, names: list[str], dtype: str = "uint16") -> None:
    """A raster whose bands share their detail, as in daylight."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=128, height=128, count=bands, dtype=dtype, photometric="minisblack"
    ) as file:
        for band in range(1, bands + 1):
            grey = np.asarray(texture(seed, 128))[..., band % 3].astype(dtype)
            file.write(grey if dtype == "uint8" else 10 * grey, band)
            if names:
                file.set_band_description(band, names[band - 1])


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for number in range(3):
        stack(tmp_path / "silent" / f"{number}.tif", number, 12, [])
        stack(tmp_path / "named" / f"{number}.tif", number, 12, SENTINEL_2)
        stack(tmp_path / "pan" / f"{number}.tif", 50 + number, 1, [], "uint8")
    path = tmp_path / "recipe.yaml"
    sources = ", ".join(f"{{id: {name}, path: {name}}}" for name in ("silent", "named", "pan"))
    path.write_text(f"name: bands\nsources: [{sources}]\n")
    return path


def test_terminal_and_report_tell_what_to_add(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = recipe.parent / "out"
    common = ["run", str(recipe), "--data", str(recipe.parent), "--out", str(out), "--workers", "1"]
    assert main(common) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    silent, *unstretched, pan = sorted(warnings, key=lambda line: ("12 bands" not in line, "one band" in line))
    assert silent.startswith("warning: silent: 3 images have 12 bands and do not say which are red, green and blue")
    assert "set, under the source, bands: [RED, GREEN, BLUE]" in silent and "Sentinel-2" in silent
    assert [line.split()[1] for line in unstretched if "stretch: {how: fixed" in line] == ["silent:", "named:"]
    assert pan.endswith("if they are panchromatic imagery set, under the source, kind: grey")
    page = (out / "report.html").read_text()
    assert "silent: 3 images have 12 bands" in page and "kind: grey" in page and "named: 3 images have" not in page
    lines = ["sources.0.bands=[4,3,2]", "sources.2.kind=grey", "--replace"]
    assert main([*common, *lines]) == 0
    told = capsys.readouterr().out
    assert "do not say which" not in told and "kind: grey" not in told
    assert "do not say which" not in (out / "report.html").read_text()


def test_some_grey_images_among_colour_are_not_taken_for_panchromatic() -> None:
    found = Findings()
    found.bands.update({1: 80, 3: 20})
    assert found.advice(Source(id="s")) == []
    found.bands.update({1: 100})
    assert len(found.advice(Source(id="s"))) == 1
    assert found.advice(Source.model_validate({"id": "s", "kind": "grey"})) == []
