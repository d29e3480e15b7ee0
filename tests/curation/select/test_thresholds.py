"""A threshold moved beside finished shards: what runs, what changes, and what one image's story says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from textures import texture

from curation.catalogue import ledger, read_table, table_from_rows
from curation.cli import main


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chips, a copy, a mask of four tiles, a strip and a broken file, run to shards."""
    root = tmp_path_factory.mktemp("thresholds")
    folder = root / "data" / "mine"
    folder.mkdir(parents=True)
    for number in range(6):
        texture(number).save(folder / f"chip_{number}.jpg", quality=90)
    texture(3).resize((150, 150), 3).save(folder / "copy_of_3.jpg", quality=70)
    texture(9, 256).crop((0, 0, 256, 40)).save(folder / "strip.png")
    blocks = np.random.default_rng(0).integers(0, 2, (8, 8, 1)) * np.array([200, 160, 130]) + 30
    Image.fromarray(np.kron(blocks, np.ones((32, 32, 1))).astype(np.uint8)).save(folder / "mask.png")
    (folder / "broken.jpg").write_bytes((folder / "chip_5.jpg").read_bytes()[:900])
    (root / "recipe.yaml").write_text(
        "name: mine\nsources: [{id: mine, path: mine, gsd_m: 0.5}]\n"
        "slice: {mode: grid, tile: 128, whole_up_to: 200}\nshards: {max_samples: 4}\n"
    )
    assert main(run(root)) == 0
    return root


def run(root: Path, *more: str) -> list[str]:
    folders = ["--data", str(root / "data"), "--out", str(root / "out"), "--workers", "1"]
    return ["run", str(root / "recipe.yaml"), *folders, *more]


def verdicts(catalogue: Path) -> dict[str, dict[str, int]]:
    return ledger(read_table(catalogue, "catalogue"))["mine"]


def stamps(out: Path) -> dict[Path, int]:
    files = [*out.glob("shards/*"), out / "catalogue.parquet", out / "report.html", *out.glob(".stages/scan*/*")]
    return {path: path.stat().st_mtime_ns for path in files}


def test_an_image_that_is_left_out_gives_its_tiles_its_verdict_and_the_ledger_balances(tree: Path) -> None:
    found = verdicts(tree / "out/catalogue.parquet")
    assert found["image"] == {"sliced": 7, "not_optical": 1, "too_small": 1, "unreadable": 1}
    # the mask is cut into 2 x 2 tiles, the strip (256 x 40, tiles of 128) into 2
    assert found["tile"] == {"kept": 6, "duplicate": 1, "not_optical": 4, "too_small": 2}
    rows = read_table(tree / "out/catalogue.parquet", "catalogue").to_pylist()
    details = {(row["image"], row["kind"]): row["detail"] for row in rows}
    assert details["strip.png", "image"] == "min_side: 40 pixels, at least 64"
    assert details["strip.png", "tile"] == "its image: min_side: 40 pixels, at least 64"
    assert details["mask.png", "tile"] == f"its image: {details['mask.png', 'image']}"


def test_a_trial_reads_no_pixel_and_touches_nothing_that_is_finished(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, hidden = stamps(tree / "out"), tree / "data/hidden"
    pictures = [path for path in (tree / "data/mine").iterdir() if path.name != "strip.png"]
    hidden.mkdir()
    for path in pictures:  # whatever would read a pixel before the report's pictures fails
        path.rename(hidden / path.name)
    capsys.readouterr()
    assert main(run(tree, "--until", "select", "exclude.min_side=40", "exclude.max_flat=1")) == 0
    for path in pictures:
        (hidden / path.name).rename(path)
    told = capsys.readouterr().out
    trial = tree / "out/trial"
    found = verdicts(trial / "catalogue.parquet")
    assert found["image"] == {"sliced": 9, "unreadable": 1}
    assert found["tile"] == {"kept": 12, "duplicate": 1}
    assert "kept 6 -> 12 (+6)" in told and "too_small 2 -> 0 (-2)" in told and "not_optical 4 -> 0 (-4)" in told
    assert "no shard was touched" in told and str(trial / "report.html") in told
    assert "A trial: no shard was written." in (trial / "report.html").read_text()
    assert stamps(tree / "out") == before


def test_a_trial_of_what_is_finished_changes_nothing(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run(tree, "--until", "select")) == 0
    assert capsys.readouterr().out.count("as many of every verdict") == 2
    tried, finished = (read_table(tree / place / "catalogue.parquet", "catalogue") for place in ("out/trial", "out"))
    assert tried.equals(finished)


def test_paths_are_told_as_they_were_typed_and_a_dashboard_first(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    assert main(["run", "recipe.yaml", "--data", "data", "--out", "out", "--until", "select", "--dashboard", "0"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"dashboard: http://127\.0\.0\.1:\d+/status \(Progress: .*\)", first)
    assert others[-2:] == ["  out/trial/catalogue.parquet", "  out/trial/report.html"]
    assert "against out/catalogue.parquet:" in others


def test_a_trial_beside_a_catalogue_of_another_version_is_not_compared(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = tree / "out/catalogue.parquet"
    whole = finished.read_bytes()
    old = {"rscorpus.table": "catalogue", "rscorpus.version": "1"}
    pq.write_table(table_from_rows("catalogue", []).replace_schema_metadata(old), finished)
    try:
        assert main(run(tree, "--until", "select")) == 0
        assert "not compared: " in (told := capsys.readouterr().out) and "format version 1" in told
    finally:
        finished.write_bytes(whole)


def test_a_moved_threshold_is_refused_beside_finished_shards_and_the_trial_is_named(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = sorted(row["std"] for row in rows(tree, kind="tile", verdict="kept"))
    assert main(run(tree, f"exclude.min_std={values[len(values) // 2]}")) == 2
    assert "--until select" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ why


def why(tree: Path, capsys: pytest.CaptureFixture[str], wanted: str, *more: str) -> str:
    capsys.readouterr()
    assert main(["why", str(tree / "out"), wanted, *more]) == 0
    return capsys.readouterr().out


def rows(tree: Path, **wanted: Any) -> list[dict[str, Any]]:
    table = read_table(tree / "out/catalogue.parquet", "catalogue").to_pylist()
    return [row for row in table if all(row[name] == value for name, value in wanted.items())]


def test_why_shows_every_rule_with_its_value_and_threshold(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = why(tree, capsys, "mask.png")
    (image,) = rows(tree, image="mask.png", kind="image")
    assert f"not_optical: {image['detail']}" in told
    assert re.search(rf"against +max_flat: {image['flat']:.3f} .*at most 0.65", told)
    assert re.search(r"passed +max_aspect: 1.0, at most 8", told)
    assert re.search(r"not asked +values: not measured", told)
    assert "tiles: 4 not_optical" in told


def test_why_names_twin_and_place(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy,), (kept,) = (rows(tree, image=name, kind="tile") for name in ("copy_of_3.jpg", "chip_3.jpg"))
    for wanted in ("copy_of_3.jpg", "mine/copy_of_3.jpg", copy["tile_id"]):
        told = why(tree, capsys, wanted)
        assert "duplicate: phash distance" in told and f"of mine/chip_3.jpg [0, 0, 192 x 192] {kept['tile_id']}" in told
    key = f"{kept['shard']:06d}{kept['position']:05d}-{kept['tile_id']}"
    place = f"kept in mine-{kept['shard']:06d}.tar at position {kept['position']} as {key}"
    for wanted in (kept["tile_id"], key):
        told = why(tree, capsys, wanted)
        assert place in told
        assert re.search(rf"passed +min_std: {kept['std']:.2f} grey levels, at least 2\n", told)
        assert "its image:\n  sliced" in told


def test_why_tells_of_an_image_that_was_not_read(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = why(tree, capsys, "broken.jpg")
    assert "unreadable: JPEG" in told and "900 bytes, not opened to its end" in told and "tiles:" not in told


def test_why_asks_the_trial(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run(tree, "--until", "select", "exclude.min_side=40")) == 0
    assert re.search(r"passed +min_side: 40 pixels, at least 40", why(tree, capsys, "strip.png", "--trial"))
    assert re.search(r"against +min_side: 40 pixels, at least 64", why(tree, capsys, "strip.png"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["out", "chip_33.jpg"], "no image, tile or sample is named 'chip_33.jpg'; did you mean chip_3.jpg"),
        (["out", "other/chip_3.jpg"], "did you mean chip_3.jpg"),
        (["out", "0" * 20], "no image, tile or sample is named '00000000000000000000'"),
        (["data", "chip_3.jpg"], "data: holds no catalogue.parquet; rs-curate run makes it"),
        (["data", "chip_3.jpg", "--trial"], "data: holds no trial/catalogue.parquet; --until select makes it"),
    ],
)
def test_why_of_what_is_not_there(
    tree: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["why", str(tree / arguments[0]), *arguments[1:]]) == 2
    assert said in capsys.readouterr().err


def test_why_finds_an_image_in_many_row_groups_and_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rows_for_select import image_row, random_tile, recipe, write

    from curation.select import write_catalogue
    from curation.select.select import select

    rng = np.random.default_rng(0)
    made, sources = recipe("b", "a")
    images = [(source, f"{folder}/{n:03d}.tif") for source in "ba" for folder in "xyz" for n in range(40)]
    given = [row for s, name in images for row in (image_row(s, name), random_tile(rng, s, name))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_catalogue, "_ROW_GROUP", 16)
        select([write(tmp_path / "t.parquet", given)], made, sources, tmp_path / "out/catalogue.parquet")
    assert pq.ParquetFile(tmp_path / "out/catalogue.parquet").num_row_groups == 30
    assert main(["why", str(tmp_path / "out"), "y/007.tif"]) == 2
    assert "'y/007.tif' is in several sources; say b/y/007.tif or a/y/007.tif" in capsys.readouterr().err
    assert main(["why", str(tmp_path / "out"), "a/y/007.tif"]) == 0
    assert "a/y/007.tif" in capsys.readouterr().out
    assert main(["why", str(tmp_path / "out"), given[101]["tile_id"]]) == 0
    assert f"{given[101]['source']}/{given[101]['image']}" in capsys.readouterr().out
