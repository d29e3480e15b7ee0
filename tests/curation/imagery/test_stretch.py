"""Limits of scenes, and what is said where there are none in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from textures import texture

from curation.cli import main
from curation.imagery import stretch


def test_percentiles_are_numpys_over_all_files_of_a_scene() -> None:
    files = [np.random.default_rng(seed).normal(1000, 50 * (seed + 1), (500, 3)) for seed in range(3)]
    expected = np.percentile(np.concatenate(files), (1, 99), axis=0).T.reshape(-1)
    assert stretch.percentiles(files, (1, 99)) == pytest.approx(expected.tolist())


def test_one_image_alone_needs_no_common_stretch() -> None:
    assert stretch.advice("s", np.ones((1, 6))) is None


@pytest.mark.slow
def test_chips_of_sixteen_bits_without_a_stretch_are_warned_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" / "deep"
    folder.mkdir(parents=True)
    for number in range(6):
        pixels = np.moveaxis(np.asarray(texture(number)), -1, 0).astype(np.uint16) * 10 + 300
        with rasterio.open(
            folder / f"{number}.tif", "w", driver="GTiff", width=pixels.shape[2], height=pixels.shape[1], count=3,
            dtype="uint16",
        ) as out:  # fmt: skip
            out.write(pixels)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: mine\nsources: [{id: deep, path: deep}]\n")
    arguments = [str(recipe), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(["run", *arguments]) == 0
    said = [line for line in "".join(capsys.readouterr()).splitlines() if "stretch:" in line]
    assert len(said) == 1 and "deep: 6 images" in said[0]
    told = yaml.safe_load(said[0].split("stretch: ")[1].split(" (")[0])
    assert told["how"] == "fixed" and 250 <= told["fixed"][0] < 1500 < told["fixed"][1] <= 2850
    recipe.write_text(f"name: mine\nsources: [{{id: deep, path: deep, stretch: {told}}}]\n")
    assert main(["run", *arguments, "--replace"]) == 0
    assert "stretch:" not in "".join(capsys.readouterr())
