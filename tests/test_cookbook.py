"""The cookbook, executed: every recipe and every command, on small files of the kind that each section is about."""

from __future__ import annotations

import io
import re
import shlex
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import rasterio
from PIL import Image
from range_server import range_server
from rasterio.transform import from_origin
from remote_scenes import picture, scene
from textures import texture

from curation import cli as curate
from curation.catalogue import read_table
from pretrain import cli as pretrain

YAML = re.compile(r'^```yaml title="(?P<name>[^"]+)"\n(?P<text>.*?)^```', re.MULTILINE | re.DOTALL)
SMALL = ["epochs=1", "optim.warmup_epochs=0", "global_batch=4", "max_batch_per_gpu=4", "data.workers=0", "device=cpu"]
"""What makes the page's training a matter of seconds."""


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    return {title: text for title, _, text in (part.partition("\n") for part in parts)}


def commands(text: str) -> list[list[str]]:
    """Indented lines that call one of the two programs; what stands behind ``  #`` is a comment."""
    return [shlex.split(line, comments=True) for line in re.findall(r"^    (rs-[a-z]+ .*)$", text, re.MULTILINE)]


def raster(path: Path, bands: list[np.ndarray], driver: str = "GTiff", **options: object) -> None:
    """A raster of 16-bit or 8-bit bands with a place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    high, wide = bands[0].shape
    with rasterio.open(
        path, "w", driver=driver, width=wide, height=high, count=len(bands), dtype=bands[0].dtype, crs="EPSG:32631",
        transform=from_origin(500_000, 5_000_000, 10, 10), **options,
    ) as file:  # fmt: skip
        file.write(np.stack(bands))


def deep(seed: int, side: int = 192) -> list[np.ndarray]:
    """Red, green, blue as digital numbers of 16 bits: 500 to 2,500."""
    return list(np.asarray(texture(seed, side), np.uint16).transpose(2, 0, 1) * 8 + 500)


def encoded(seed: int, kind: str = "jpeg") -> bytes:
    file = io.BytesIO()
    texture(seed).save(file, kind)
    return file.getvalue()


def chips(folder: Path, seeds: range, suffix: str = "jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        texture(seed).save(folder / f"{seed}.{suffix}")


# ------------------------------------------------------------------------------------------------ what lies in raw


def stacks(raw: Path) -> None:
    dark = np.full((192, 192), 300, np.uint16)
    for seed in range(2):
        red, green, blue = deep(seed)
        raster(raw / f"s2_stacks/{seed}.tif", [dark, blue, green, red, *[dark] * 8], photometric="minisblack")


def band_files(raw: Path) -> None:
    for band, values in zip(("B04", "B03", "B02", "B08"), [*deep(0), deep(1)[0]], strict=True):
        place = raw / f"s2_scenes/T31/T31_20220601_{band}_10m.jp2"
        raster(place, [values], "JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")


def panchromatic(raw: Path) -> None:
    for seed in range(2):
        raster(raw / f"pan/{seed}.tif", [deep(seed)[0]])


def aerial(raw: Path) -> None:
    """Nine tiles, of which the flight misses a quarter of the three at the right."""
    red, green, blue = np.maximum(np.asarray(texture(0, 1536)).transpose(2, 0, 1), 1)
    bands = [red, green, blue, red // 2]
    for band in bands:
        band[:, 1408:] = 0
    raster(raw / "aerial/a.tif", bands, "COG", nodata=0, blocksize=256)


def packed(raw: Path) -> None:
    (raw / "zips").mkdir()
    (raw / "tars").mkdir()
    with zipfile.ZipFile(raw / "zips/part_1.zip", "w") as archive:
        archive.writestr("images/a.jpg", encoded(0))
        archive.writestr("labels/a.png", encoded(1, "png"))
    with tarfile.open(raw / "tars/part_2.tar", "w") as archive:
        member = tarfile.TarInfo("b.jpg")
        member.size = len(encoded(2))
        archive.addfile(member, io.BytesIO(encoded(2)))


def labelled(raw: Path) -> None:
    for number, split in enumerate(("train", "test")):
        chips(raw / f"labelled/{split}/images", range(2 * number, 2 * number + 2), "png")
        chips(raw / f"labelled/{split}/masks", range(2 * number, 2 * number + 2), "png")
        Image.new("L", (192, 192)).save(raw / f"labelled/{split}/{number}_label.png")


def series(raw: Path) -> None:
    """Three days of one place: two of equal pixels, one a grey level brighter."""
    (raw / "series").mkdir()
    first = np.asarray(texture(0), np.uint8)
    for day, values in enumerate((first, first, np.minimum(first, 254) + 1)):
        Image.fromarray(values).save(raw / f"series/{day}.png")


def hub(raw: Path) -> None:
    root = raw / "datasets--me--tiles"
    chips(root / "blobs", range(2))
    (root / "snapshots/0123abc").mkdir(parents=True)
    for seed in range(2):
        (root / f"snapshots/0123abc/{seed}.jpg").symlink_to(f"../../blobs/{seed}.jpg")


def evaluation(raw: Path) -> None:
    city(raw)
    (raw / "my_test").mkdir()
    Image.open(raw / "city/3.jpg").transpose(Image.Transpose.ROTATE_90).resize((160, 160)).save(raw / "my_test/t.jpg")


def city(raw: Path) -> None:
    """Six chips, the first of them in haze: its light deviates by about 5 grey levels, not by 30."""
    chips(raw / "city", range(6))
    haze = 128 + 0.15 * (np.asarray(texture(0), float) - 128)
    Image.fromarray(haze.astype(np.uint8)).save(raw / "city/0.jpg", quality=95)


# ------------------------------------------------------------------------------------------------ what comes out

CASES = {
    "Sentinel-2: all bands in one file": (stacks, {"corpus_s2": {"kept": 2}}),
    "Sentinel-2: one file per band": (band_files, {"corpus_s2_bands": {"kept": 1}}),
    "Panchromatic": (panchromatic, {"corpus_pan": {"kept": 2}}),
    "Aerial COGs": (aerial, {"corpus_aerial": {"kept": 6, "nodata": 3}}),
    "Zips and tars": (packed, {"corpus_packed": {"kept": 2}}),
    "Masks beside images": (labelled, {"corpus_labelled": {"kept": 2}}),
    "Time series": (series, {"corpus_series": {"kept": 3}, "corpus_exact": {"kept": 2, "duplicate": 1}}),
    "A snapshot of the Hugging Face Hub": (hub, {"corpus_hub": {"kept": 2}}),
    "An evaluation set of your own, kept out": (evaluation, {"corpus_guarded": {"kept": 5, "leak": 1}}),
    "No GPU": (city, {"corpus_city": {"kept": 6}}),
}
"""Section -> the files it is about, and the verdicts of all tiles."""
FAR = "Aerial COGs that stay on their server"


@pytest.fixture(scope="module")
def page(repository: Path) -> dict[str, str]:
    return sections((repository / "docs/cookbook.md").read_text(encoding="utf-8"))


def verdicts(out: Path) -> dict[str, int]:
    rows = read_table(out / "catalogue.parquet", "catalogue")
    tiles = rows.filter(pc.equal(rows["kind"].cast("string"), "tile"))["verdict"].cast("string")
    return {each["values"]: each["counts"] for each in pc.value_counts(tiles).to_pylist()}


def follow(text: str) -> None:
    """Write a section's recipes and type its commands."""
    for name, recipe in YAML.findall(text):
        Path(name).write_text(recipe)
    for program, *words in commands(text):
        code = curate.main(words) if program == "rs-curate" else pretrain.main([*words, *SMALL])
        assert code == 0, words


def test_every_section_is_tried(page: dict[str, str]) -> None:
    assert set(page) == {*CASES, FAR, "Trying a threshold"}


@pytest.mark.parametrize("title", CASES)
def test_a_section_is_true(page: dict[str, str], title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fill, wanted = CASES[title]
    (tmp_path / "raw").mkdir()
    fill(tmp_path / "raw")
    follow(page[title])
    assert {out: verdicts(tmp_path / out) for out in wanted} == wanted
    if title.startswith("Sentinel-2"):
        _colours_are_right(tmp_path / next(iter(wanted)) / "shards")


def _colours_are_right(shards: Path) -> None:
    """Samples show the bands that the recipe names, 0 to 3,000 as 0 to 255."""
    with tarfile.open(next(shards.glob("*.tar"))) as tar:
        names = [name for name in tar.getnames() if name.endswith("jpg")]
        shown = [np.asarray(Image.open(tar.extractfile(name)), float) for name in names]
    wanted = [np.stack(deep(seed), axis=-1) / 3000 * 255 for seed in range(2)]
    assert all(min(np.abs(one - each).mean() for each in wanted) < 3 for one in shown)


def test_scenes_on_a_server_are_read_where_they_lie(
    page: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    with range_server() as server:
        for number in (1, 2):
            server.files[f"/cogs/{number}.tif"] = scene(tmp_path, picture(number, 2048))
        follow(page[FAR].replace("https://imagery.example.org", server.url("")))
        assert server.sent < 0.8 * sum(map(len, server.files.values()))
    assert verdicts(tmp_path / "corpus_far") == {"kept": 12}


def test_a_threshold_is_tried_before_it_is_used(
    page: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    city(tmp_path / "raw")
    (tmp_path / "city.yaml").write_text(dict(YAML.findall(page["No GPU"]))["city.yaml"])
    first, trial, diff, why, last = commands(page["Trying a threshold"])
    told = []
    for _, *words in (first, trial, diff, why):
        assert curate.main(words) == 0, words
        told.append(capsys.readouterr().out)
    shards = tmp_path / "corpus_city/shards"
    before = {path: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert "tiles: kept 6 -> 5 (-1), blank 0 -> 1 (+1)" in told[1]
    assert re.search(r"^city +lost +1 +blank$", told[2], re.MULTILINE)
    assert re.search(r"blank: min_std: [45]\.\d+ grey levels, at least 6$", told[3], re.MULTILINE)
    assert verdicts(tmp_path / "corpus_city") == {"kept": 6}
    assert verdicts(tmp_path / "corpus_city/trial") == {"kept": 5, "blank": 1}
    assert before == {path: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert curate.main(last[1:-1]) == 2  # without --replace
    assert curate.main(last[1:]) == 0
    assert verdicts(tmp_path / "corpus_city") == {"kept": 5, "blank": 1}
