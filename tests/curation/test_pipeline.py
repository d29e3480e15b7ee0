"""The curation chain on small real trees: what comes out, what a second run does, what a killed run leaves."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from textures import texture

from curation.catalogue import ledger, read_table
from curation.cli import main


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder a user might have: chips, a larger scene, a copy, a broken file, a text file."""
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    for number in range(12):
        texture(number).save(folder / f"chip_{number:02d}.jpg", quality=90)
    texture(99, 768).save(folder / "scene.png")
    texture(3).resize((150, 150), 3).save(folder / "copy_of_03.jpg", quality=70)
    whole = (folder / "chip_05.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not an image")
    return tmp_path


@pytest.fixture
def recipe(tree: Path) -> Path:
    """The smallest recipe: a name, a folder, a grid."""
    path = tree / "recipe.yaml"
    path.write_text(
        "name: mine\n"
        "sources: [{id: mine, path: mine, gsd_m: 0.5}]\n"
        "slice: {mode: grid, tile: 128, whole_up_to: 200}\n"
        "shards: {max_samples: 12}\n"
    )
    return path


def command(recipe: Path, out: str = "out", *more: str) -> list[str]:
    root = recipe.parent
    return ["run", str(recipe), "--data", str(root / "data"), "--out", str(root / out), "--workers", "2", *more]


def embedded(page: Path) -> dict[str, Any]:
    """What a report's scripts show."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def shard_hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("shards/*"))}


def test_raw_files_in_shards_out(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = recipe.parent / "out"
    assert main(command(recipe)) == 0
    catalogue = read_table(out / "catalogue.parquet", "catalogue")
    counts = ledger(catalogue)["mine"]
    # 12 chips, the scene, the copy: sliced; the truncated file: rejected; the text file: never listed
    assert counts["image"] == {"sliced": 14, "unreadable": 1}
    rows = {(row["image"], row["verdict"]): row for row in catalogue.to_pylist() if row["kind"] == "tile"}
    copy = rows["copy_of_03.jpg", "duplicate"]
    assert copy["subject"] == rows["chip_03.jpg", "kept"]["tile_id"]
    # 768 px in 128 px tiles: 6 x 6, and 12 chips passed through
    assert counts["tile"] == {"kept": 36 + 12, "duplicate": 1}
    report = (out / "report.html").read_text()
    for shown in ("broken.jpg", "unreadable", "copy_of_03.jpg", "phash distance"):
        assert shown in report

    tars = sorted((out / "shards").glob("*.tar"))
    samples = list(webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False))
    assert len(samples) == 48
    assert [sample["__key__"] for sample in samples] == sorted(sample["__key__"] for sample in samples)
    by_image = {json.loads(sample["json"])["image"]: sample for sample in samples}
    assert by_image["chip_01.jpg"]["jpg"] == (recipe.parent / "data/mine/chip_01.jpg").read_bytes()
    assert json.loads(by_image["chip_01.jpg"]["json"])["gsd_m"] == 0.5
    assert pq.ParquetFile(out / "shards/index.parquet").num_row_groups == len(tars) == 4
    assert main(["verify", str(out / "shards")]) == 0


def test_a_second_run_has_nothing_to_do(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(recipe)) == 0
    before = {
        path: path.stat().st_mtime_ns
        for path in (recipe.parent / "out").rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    capsys.readouterr()
    assert main(command(recipe)) == 0
    assert "nothing to do" in capsys.readouterr().out
    after = {
        path: path.stat().st_mtime_ns
        for path in (recipe.parent / "out").rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    assert after == before


def test_a_changed_rule_needs_replace_and_repeats_only_what_depends_on_it(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(recipe)) == 0
    assert main(command(recipe, "out", "shards.quality=80")) == 2
    assert "--replace" in capsys.readouterr().err
    scans = sorted((recipe.parent / "out/.stages").glob("scan*"))
    assert main(command(recipe, "out", "shards.quality=80", "--replace")) == 0
    assert sorted((recipe.parent / "out/.stages").glob("scan*")) == scans


def test_a_new_listing_opens_what_changed_and_makes_what_a_new_run_makes(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, mine = recipe.parent / "out", recipe.parent / "data/mine"
    assert main(command(recipe)) == 0
    assert "scan: opened 15 images" in capsys.readouterr().out
    before = shard_hashes(out)
    for path in mine.iterdir():
        os.utime(path, ns=(5, 5))
    assert main(command(recipe, "out", "--relist")) == 0  # without --replace: no shard depends on a time
    assert "scan: opened 15 images" in capsys.readouterr().out
    assert shard_hashes(out) == before
    texture(500).save(mine / "chip_04.jpg", quality=90)
    (mine / "chip_07.jpg").unlink()
    texture(501).save(mine / "new.jpg", quality=90)
    assert main(command(recipe, "out", "--relist", "--regenerate")) == 0
    assert "scan: opened 3 images" in capsys.readouterr().out  # and the one that could not be read
    assert main(command(recipe, "fresh")) == 0
    fresh = recipe.parent / "fresh"
    assert (out / "catalogue.parquet").read_bytes() == (fresh / "catalogue.parquet").read_bytes()
    assert shard_hashes(out) == shard_hashes(fresh)


def test_what_is_told_of_a_source_scans_nothing(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(recipe)) == 0
    recipe.write_text(recipe.read_text().replace("gsd_m: 0.5}", "gsd_m: 0.5, citation: Somebody (2026), facts: seen}"))
    capsys.readouterr()
    assert main(command(recipe)) == 0
    told = capsys.readouterr().out
    assert "images listed" not in told and "scan:" not in told


def test_there_and_back_again_gives_the_first_shards(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tar counts only under the key that made it: seed 0 and 1 give tars of one name and often of one size."""
    out = recipe.parent / "out"
    assert main(command(recipe)) == 0
    first = shard_hashes(out)
    assert main(command(recipe, "out", "seed=1", "--regenerate")) == 0
    second = shard_hashes(out)
    assert first.keys() == second.keys() and first != second
    assert main(["verify", str(out / "shards")]) == 0
    assert main(command(recipe, "out", "seed=0", "--regenerate")) == 0
    assert main(["verify", str(out / "shards")]) == 0
    assert shard_hashes(out) == first
    # What a kill leaves while shards are exchanged: tars of two keys, and no checksums.
    (out / "shards/checksums.json").unlink()
    assert main(command(recipe, "out", "seed=1", "--regenerate")) == 0
    assert shard_hashes(out) == second
    (out / "shards/checksums.json").unlink()
    inodes = {path.name: path.stat().st_ino for path in (out / "shards").glob("*.tar")}
    assert main(command(recipe, "out", "seed=1", "--regenerate")) == 0
    assert {path.name: path.stat().st_ino for path in (out / "shards").glob("*.tar")} == inodes


def test_a_rule_that_needs_a_new_scan_is_refused_before_it(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = recipe.parent / "out"
    assert main(command(recipe)) == 0
    parts = sorted((out / ".stages").glob("scan*/*"))
    assert main(command(recipe, "out", "slice.tile=96")) == 2
    message = capsys.readouterr().err
    assert "holds shards of another recipe (mine); run again with --replace" in message
    assert sorted((out / ".stages").glob("scan*/*")) == parts


def test_equal_tars_need_no_replace_and_have_equal_checksums(recipe: Path) -> None:
    """Neither times of modification nor another folder, nor words that enter no shard, change anything."""
    root = recipe.parent
    assert main(command(recipe)) == 0
    before = shard_hashes(root / "out")
    inodes = {path.name: path.stat().st_ino for path in (root / "out/shards").iterdir()}
    for path in (root / "data/mine").iterdir():
        os.utime(path, (1, 1))
    assert main(command(recipe, "out", "--relist")) == 0
    assert {path.name: path.stat().st_ino for path in (root / "out/shards").iterdir()} == inodes
    assert main(command(recipe, "other", "sources.0.citation=someone", "description=words")) == 0
    assert shard_hashes(root / "other") == before
    assert (root / "other/catalogue.parquet").read_bytes() == (root / "out/catalogue.parquet").read_bytes()


@pytest.mark.parametrize("left", [0, 0.5])
def test_what_a_power_cut_left_is_made_again(recipe: Path, left: float) -> None:
    """Files whose names were on disk before their bytes: as earlier releases, or other tools, leave them."""
    out = recipe.parent / "out"
    assert main(command(recipe)) == 0
    before = shard_hashes(out)
    parts = sorted((out / ".stages").rglob("*.parquet"))
    kinds = {path.parent.name.partition("-")[0] for path in parts}
    assert kinds == {"inventory.mine", "scan.mine", "select", "plan", "write"}
    for path in parts:
        path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    shutil.rmtree(out / "shards")
    assert main(command(recipe)) == 0
    assert shard_hashes(out) == before


DEADLY = """
import os
import simplejpeg

decode = simplejpeg.decode_jpeg


def fragile(data, *args, **kwargs):
    if b"always deadly" in bytes(data) or b"deadly later" in bytes(data) and os.path.exists(os.environ["LATER"]):
        os.abort()
    return decode(data, *args, **kwargs)


simplejpeg.decode_jpeg = fragile
"""
"""A decoder that aborts, as C code does on what it did not foresee; every process of a run imports it first."""


def test_a_decoder_that_aborts_costs_a_row_on_every_run_and_never_the_report(recipe: Path) -> None:
    root = recipe.parent
    (root / "fragile").mkdir()
    (root / "fragile/sitecustomize.py").write_text(DEADLY)
    chip = (root / "data/mine/chip_04.jpg").read_bytes()
    (root / "data/mine/chip_04.jpg").write_bytes(chip + b"always deadly")
    for number in (1, 2, 9):  # the page shows these
        with (root / f"data/mine/chip_{number:02d}.jpg").open("ab") as file:
            file.write(b"deadly later")
    path = f"{root / 'fragile'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": path, "LATER": str(root / "later")}

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "curation", *command(recipe, "out", *more)]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)

    def shown() -> set[str]:
        rows = embedded(root / "out/report.html")["rows"].values()
        return {row["image"] for row in rows if row["place"]}

    first = run()
    assert (first.returncode, first.stderr) == (0, first.stderr)
    rows = {row["image"]: row for row in read_table(root / "out/catalogue.parquet", "catalogue").to_pylist()}
    assert (rows["chip_04.jpg"]["verdict"], rows["chip_04.jpg"]["kind"]) == ("crashed", "image")
    before = shown()
    again = run()
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)
    (root / "later").touch()
    late = run("description=another page", "--pictures", "999")
    assert (late.returncode, late.stderr) == (0, late.stderr)
    assert "another page" in (root / "out/report.html").read_text()
    lost = {"chip_01.jpg", "chip_02.jpg", "chip_09.jpg"}
    assert lost < before
    assert shown() == before - lost


def test_relist_opens_again_what_could_not_be_read(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chip = recipe.parent / "data/mine/chip_02.jpg"
    good, time = chip.read_bytes(), chip.stat().st_mtime_ns
    chip.write_bytes(good[: len(good) // 2].ljust(len(good), b"x"))
    os.utime(chip, ns=(time, time))
    assert main(command(recipe)) == 0

    def verdict() -> str:
        rows = read_table(recipe.parent / "out/catalogue.parquet", "catalogue").to_pylist()
        return next(str(row["verdict"]) for row in rows if row["image"] == "chip_02.jpg" and row["kind"] == "image")

    assert verdict() == "unreadable"
    chip.write_bytes(good)  # a mended disk: as long and as old as before
    os.utime(chip, ns=(time, time))
    capsys.readouterr()
    assert main(command(recipe, "out", "--relist", "--replace")) == 0
    assert "opened 2 images" in capsys.readouterr().out  # this one, and the one that is still broken
    assert verdict() == "sliced"


def test_clean_removes_what_no_run_needs(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = recipe.parent
    out = root / "out"
    assert main(["clean", str(out)]) == 2
    assert "no output of rs-curate run" in capsys.readouterr().err
    assert main(command(recipe)) == 0
    old = set((out / ".stages").iterdir())
    assert main(command(recipe, "out", "slice.tile=96", "--replace")) == 0
    (out / ".stages/write/.x.tar.0123.part").write_bytes(bytes(3_000_000))
    (out / "shards/.index.parquet.0123.part").touch()
    made = shard_hashes(out)
    capsys.readouterr()
    before = sorted(out.rglob("*"))
    assert main(["clean", str(out), "--dry-run"]) == 0
    assert sorted(out.rglob("*")) == before
    told = capsys.readouterr().out
    assert main(["clean", str(out)]) == 0
    assert capsys.readouterr().out.replace("freed", "would be freed") == told
    assert ".x.tar.0123.part" in told and "3.0 MB" in told
    gone = {path.name.partition("-")[0] for path in old if not path.exists()}
    assert gone == {"scan.mine", "select", "plan", "pictures", "report"}  # the listing is that of the present recipe
    assert not list(out.rglob("*.part"))
    assert len(list((out / ".stages/write").iterdir())) == len(list((out / "shards").glob("*.tar")))
    assert {name: made[name] for name in made if not name.endswith(".part")} == shard_hashes(out)
    assert main(command(recipe, "out", "slice.tile=96")) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["clean", str(out)]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    import fcntl

    with (out / ".lock").open("r+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert main(["clean", str(out)]) == 2
    assert "in use by another run" in capsys.readouterr().err


def test_shards_do_not_depend_on_workers_or_place(recipe: Path) -> None:
    assert main(command(recipe)) == 0
    moved = recipe.parent / "elsewhere"
    (recipe.parent / "data").rename(moved)
    assert (
        main(["run", str(recipe), "--data", str(moved), "--out", str(recipe.parent / "other"), "--workers", "1"]) == 0
    )
    assert shard_hashes(recipe.parent / "out") == shard_hashes(recipe.parent / "other")


def processes_of(out: Path) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(out).encode() in (entry / "cmdline").read_bytes():
                    yield int(entry.name)
            except OSError:
                continue


@pytest.mark.parametrize("appears", ["inventory.*/images.parquet", "scan.*/*.parquet", "write/*.tar"])
def test_kill_9_and_the_same_command_again(recipe: Path, appears: str) -> None:
    for number in range(24):
        texture(1000 + number, 300).save(recipe.parent / f"data/mine/more_{number:02d}.png")
    assert main(command(recipe, "whole")) == 0
    out = recipe.parent / "out"
    run = subprocess.Popen([sys.executable, "-m", "curation", *command(recipe)], start_new_session=True)
    deadline = time.monotonic() + 60
    while not list((out / ".stages").glob(appears)) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert main(command(recipe)) == 0
    assert shard_hashes(out) == shard_hashes(recipe.parent / "whole")
    assert (out / "catalogue.parquet").read_bytes() == (recipe.parent / "whole/catalogue.parquet").read_bytes()


def test_evaluation_images_are_kept_out_in_any_orientation(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = recipe.parent
    (root / "data/exam").mkdir()
    texture(7).transpose(Image.Transpose.ROTATE_90).save(root / "data/exam/turned_07.png")
    (root / "exam.yaml").write_text("id: exam\n")
    guarded = command(recipe, "out", "guard.benchmarks=[exam]")
    assert main(guarded) == 2
    assert "rs-curate fingerprint --benchmark exam.yaml --data DIR" in capsys.readouterr().err
    exam = str(root / "exam.yaml")
    assert main(["fingerprint", "--benchmark", exam, "--data", str(root / "data"), "--workers", "1"]) == 0
    assert "1 fingerprints of 1 images" in capsys.readouterr().out
    assert main(guarded) == 0
    rows = read_table(root / "out/catalogue.parquet", "catalogue").to_pylist()
    leaks = [(row["image"], row["kind"], row["subject"]) for row in rows if row["verdict"] == "leak"]
    assert ("chip_07.jpg", "tile", "exam") in leaks
    assert {image for image, _, _ in leaks} == {"chip_07.jpg"}
    assert "Leaks" in (root / "out/report.html").read_text()
    assert main(command(recipe, "bare", "guard.benchmarks=[exam]", "--unguarded", "exam")) == 0
    assert "Not guarded against leaks, as asked for: exam" in (root / "bare/report.html").read_text()


def test_one_run_at_a_time(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    out = recipe.parent / "out"
    out.mkdir()
    with (out / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.write("process 1 on somewhere")
        handle.flush()
        assert main(command(recipe)) == 2
    assert "in use by another run (process 1 on somewhere)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "none.yaml", "--data", "data", "--out", "out"], "none.yaml: no such file"),
        (["run", "recipe.yaml", "--data", "nowhere", "--out", "out"], "nowhere"),
        (["run", "recipe.yaml", "--out", "out"], "--data"),
        (["run", "empty.yaml", "--data", "data", "--out", "out"], "is empty; put its images there"),
        (["run", "file.yaml", "--data", "data", "--out", "out"], "is a file; give the folder"),
        (["run", "typo.yaml", "--data", "data", "--out", "out"], "did you mean 'sources'"),
        (["run", "recipe.yaml", "--data", "data", "--out", "recipe.yaml"], "is a file"),
        (["run", "recipe.yaml", "--data", "data", "--out", "out", "slice.tiel=64"], "did you mean 'tile'"),
        (["run", "recipe.yaml", "--data", "data", "--out", "/proc/out"], "/proc/out: cannot be written"),
        (["verify", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_clear_line(
    recipe: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = recipe.parent
    monkeypatch.chdir(root)
    (root / "data/empty").mkdir()
    (root / "data/file").write_text("a file")
    (root / "empty.yaml").write_text("name: a\nsources: [{id: empty, path: empty}]\n")
    (root / "file.yaml").write_text("name: a\nsources: [{id: file, path: file}]\n")
    (root / "typo.yaml").write_text("name: a\nsoruces: [{id: mine}]\n")
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert "Traceback" not in message


def test_too_much_bad_input_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data/mine"
    folder.mkdir(parents=True)
    for number in range(20):
        (folder / f"bad_{number:02d}.jpg").write_bytes(b"\xff\xd8\xff no image")
    texture(1).save(folder / "good.jpg")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: mine\nsources: [{id: mine, path: mine}]\n")
    assert main(command(recipe)) == 1
    told = capsys.readouterr()
    assert "scan: 21 images, 20 unreadable" in told.out
    assert "20 of 21 images cannot be read, more than exclude.max_unreadable=0.5" in told.err
    assert main(command(recipe)) == 1
    assert "20 of 21" in capsys.readouterr().err
    assert main(command(recipe, "out", "exclude.max_unreadable=1")) == 0


def test_nothing_kept_beside_finished_shards_is_told_in_the_trial_and_leaves_them(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = recipe.parent / "out"
    assert main(command(recipe)) == 0
    before, catalogue = shard_hashes(out), (out / "catalogue.parquet").read_bytes()
    assert main(command(recipe, "out", "exclude.min_std=127", "--replace")) == 1
    told = capsys.readouterr().err
    assert "no tile was kept: 49 of 49 tiles are blank" in told and "the finished shards stay" in told
    assert (shard_hashes(out), (out / "catalogue.parquet").read_bytes()) == (before, catalogue)
    assert main(["why", str(out / "trial"), "chip_01.jpg"]) == 0
    assert "blank" in capsys.readouterr().out
    assert main(command(recipe, "out", "exclude.min_std=127", "--until", "select")) == 0
