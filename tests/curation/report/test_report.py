"""The report of a small run: what it counts, what it draws, and that its scripts do what they say in a browser."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rows_for_select import texture

from curation.base.errors import InputError
from curation.catalogue import read_table
from curation.cli import main
from curation.report.groups import groups

EVIL = "a<"
"""Folder of a file whose path, with the slash, would end the script that holds the page's data."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of forty chips: some calm, some copies, one under a hostile name, one damaged."""
    root = tmp_path_factory.mktemp("report")
    raw = root / "raw"
    (raw / EVIL).mkdir(parents=True)
    for number in range(30):
        ground = texture(number, 96) if number % 3 else texture(number, 96) // 60 + 90
        Image.fromarray(ground).save(raw / f"chip_{number:02d}.png")
    for number in range(1, 5):
        shutil.copy(raw / "chip_01.png", raw / f"copy_{number}.png")
    shutil.copy(raw / "chip_02.png", raw / EVIL / "script>.png")
    (raw / "broken.png").write_bytes((raw / "chip_04.png").read_bytes()[:900])
    Image.fromarray(texture(99, 1200)).save(raw / "scene.png")
    (root / "recipe.yaml").write_text(
        f"name: mine\nsources:\n  - {{id: mine, path: {raw}, gsd_m: 0.5}}\n"
        "slice: {mode: grid, tile: 240, whole_up_to: 600}\n"
    )
    assert main(["run", str(root / "recipe.yaml"), "--out", str(root / "out"), "--workers", "1"]) == 0
    return root / "out"


def embedded(page: Path) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    data: dict[str, Any] = json.loads(found[0])
    return data


def test_counts_beyond_any_threshold_are_those_of_the_catalogue(out: Path) -> None:
    data = embedded(out / "report.html")
    rows = read_table(out / "catalogue.parquet", "catalogue").to_pylist()
    assert data["verdicts"]["kept"] == sum(row["verdict"] == "kept" for row in rows)
    (rule,) = [each for each in data["thresholds"] if each["name"] == "min_std"]
    deviations = np.array([row["std"] for row in rows if row["kind"] == "tile"])
    assert 0 < (deviations < 2.0).sum() < len(deviations)
    for at in (20, rule["edges"].index(2.0), 130, 180):
        assert sum(rule["counts"][:at]) == (deviations < rule["edges"][at]).sum()
    nearest = sorted(deviations[deviations >= 2.0] - 2.0)[:8]
    assert [distance for _, distance in rule["near"]["passed"]] == pytest.approx(nearest, abs=1e-6)


def test_every_row_is_drawn_while_there_is_room_and_one_of_every_image_first(out: Path) -> None:
    rows = read_table(out / "catalogue.parquet", "catalogue").to_pylist()
    data = embedded(out / "report.html")
    told = {row["tile_id"] for row in rows if row["verdict"] != "sliced"}
    assert set(data["browse"]) == told
    shown = {name for name, row in data["rows"].items() if row["place"]}
    assert told - shown == {row["tile_id"] for row in rows if row["verdict"] == "unreadable"}
    few = [*command(out), "--pictures", "40"]
    assert main(few) == 0
    drawn = [data["rows"][name] for name in embedded(out / "report.html")["browse"]]
    kept = [row["image"] for row in drawn if row["verdict"] == "kept"]
    assert len(kept) == len(set(kept)) == 40 // 5  # 25 tiles of the scene do not crowd out the chips
    assert main(command(out)) == 0


def command(out: Path, *more: str) -> list[str]:
    return ["run", str(out.parent / "recipe.yaml"), "--out", str(out), "--workers", "1", *more]


def test_kept_tiles_are_shown_from_the_shards_and_rejected_ones_from_the_raw_files(out: Path) -> None:
    raw = out.parent / "raw"
    before = {name: (raw / name).read_bytes() for name in ("chip_01.png", "copy_1.png")}
    for name in before:
        Image.new("RGB", (96, 96)).save(raw / name)
    assert main(command(out, "--pictures", "4000")) == 0
    data = embedded(out / "report.html")
    for name, content in before.items():
        (raw / name).write_bytes(content)
    shown = {row["image"]: (row["verdict"], row["place"]) for row in data["rows"].values()}
    for name, verdict in (("chip_01.png", "kept"), ("copy_1.png", "duplicate")):
        told, (sheet, left, top, width, height) = shown[name]
        with Image.open(out / data["sheets"][sheet]) as pictures:
            pixels = np.asarray(pictures.crop((left, top, left + width, top + height)), float)
        assert told == verdict
        if verdict == "kept":
            assert np.abs(pixels - texture(1, 96)).mean() < 10
        else:
            assert pixels.mean() < 3
    assert main(command(out)) == 0


def test_the_page_says_what_was_typed_and_how_long_it_took(out: Path) -> None:
    page = (out / "report.html").read_text()
    assert f"<pre>rs-curate run {out.parent}/recipe.yaml --out {out} --workers 1" in page
    assert re.search(r"list \d+\.\d; scan \d+\.\d; select \d+\.\d; write \d+\.\d\. ", page)


def test_a_report_to_share_has_no_pixels_of_sources_that_may_not_be_published(out: Path) -> None:
    assert main(command(out, "--share")) == 0
    assert not any(row["place"] for row in embedded(out / "report-share.html")["rows"].values())
    assert not list((out / "report-share").glob("*")) and list((out / "report").glob("*.jpg"))


def test_groups_are_listed_with_their_files(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["groups", str(out), "--csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    largest = [line for line in lines if line["group"] == lines[0]["group"]]
    assert {line["image"] for line in largest} == {"chip_01.png", *(f"copy_{number}.png" for number in range(1, 5))}
    assert [line["size"] for line in largest] == ["5"] * 5
    assert [line["verdict"] for line in largest] == ["kept"] + ["duplicate"] * 4
    assert f"{EVIL}/script>.png" in {line["image"] for line in lines}
    assert main(["groups", str(out)]) == 0
    assert capsys.readouterr().out.startswith("5 tiles: mine/")
    with pytest.raises(InputError, match="holds no catalogue"):
        next(groups(out / "shards"))


PROBE = """<script>
const visible = () => document.querySelectorAll('#tiles .tile').length
const result = { all: visible() }
const form = document.getElementById('filters')
form.elements.verdict.value = 'duplicate'
form.dispatchEvent(new Event('input'))
result.duplicates = visible()
form.elements.text.value = 'script>'
form.dispatchEvent(new Event('input'))
result.named = visible()
document.querySelector('#tiles .tile').click()
result.story = document.querySelector('#story h3').textContent
const rule = [...document.querySelectorAll('.rule')].find((each) => each.textContent.startsWith('min_std'))
const slider = rule.querySelector('input')
slider.value = slider.max
slider.dispatchEvent(new Event('input'))
result.groups = document.querySelectorAll('#group-list .sheet').length
result.most = rule.querySelector('p').textContent
result.images = [...document.querySelectorAll('.picture')].filter((each) => each.style.backgroundImage).length
document.title = JSON.stringify(result)
</script>"""


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_in_a_browser_filters_stories_and_sliders_work_without_an_error(out: Path) -> None:
    rows = read_table(out / "catalogue.parquet", "catalogue").to_pylist()
    page = out / "probe.html"
    page.write_text((out / "report.html").read_text().replace("</body>", PROBE + "</body>"))
    line = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([*line, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    page.unlink()
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(re.findall(r"<title>(.*?)</title>", done.stdout.replace("&gt;", ">").replace("&lt;", "<"))[0])
    assert found["duplicates"] == sum(row["verdict"] == "duplicate" for row in rows)
    assert (found["named"], found["all"]) == (1, min(60, sum(row["verdict"] != "sliced" for row in rows)))
    assert found["groups"] == 1  # of two, the one with the hostile name
    assert found["story"].startswith(f"mine/{EVIL}/script>.png [0, 0, 96 x 96]")
    tiles = sum(row["kind"] == "tile" for row in rows)
    assert f"speaks against {tiles} of {tiles} tiles" in found["most"]
    assert found["images"] > 60
