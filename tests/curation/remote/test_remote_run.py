"""Remote scenes from the recipe to shards, over a server that behaves as real ones do."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from range_server import RangeServer
from remote_scenes import picture, scene
from textures import texture

from curation.base.terminal import sized
from curation.cli import main

Make = Callable[..., "Runs"]


@dataclass
class Runs:
    """A recipe, and runs of it."""

    folder: Path
    scheduler: str

    def __call__(self, *more: str, out: str = "out") -> int:
        line = [
            "run",
            str(self.folder / "r.yaml"),
            "--data",
            str(self.folder / "data"),
            "--out",
            str(self.folder / out),
        ]
        return main([*line, "--scheduler", self.scheduler, "--pictures", "0", *more])


@pytest.fixture
def recipe(tmp_path: Path, scheduler: str) -> Make:
    """Write a recipe of one remote source."""

    def make(seed: int = 0, source: dict[str, Any] | None = None, **remote: Any) -> Runs:
        far = {"id": "far", "container": "remote", "licence": "CC0-1.0", **(source or {})}
        far["remote"] = {"side": 128, "timeout_seconds": 20, "attempts": 2, **remote}
        told = {"name": "far", "seed": seed, "shards": {"encoder": "png"}, "sources": [far]}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(told))
        return Runs(tmp_path, scheduler)

    return make


def rows(made: Runs, kind: str = "tile", out: str = "out") -> list[dict[str, Any]]:
    told = pq.read_table(made.folder / out / "catalogue.parquet").to_pylist()
    return [row for row in told if row["kind"] == kind]


def samples(made: Runs, out: str = "out") -> dict[tuple[str, str], np.ndarray]:
    """Pixels in the shards by image, with the window that the sidecar names."""
    found = {}
    for path in sorted((made.folder / out / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]
        for name, data in members.items():
            if name.endswith(".json"):
                told = json.loads(data)
                image = Image.open(io.BytesIO(members[name.replace(".json", ".png")]))
                found[told["image"]] = np.asarray(image)
    return found


def test_windows_of_a_scene_become_samples_of_its_own_pixels(
    server: RangeServer, tmp_path: Path, recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = picture(1, 512)
    server.files["/aerial/a.tif"] = scene(tmp_path, pixels)
    made = recipe(urls=[server.url("/aerial/a.tif")])
    assert made() == 0
    found = samples(made)
    assert len(found) == 16  # 512 / 128, both ways
    for image, rgb in found.items():
        row, column = map(int, image.rpartition("/")[2].split("_"))
        assert np.array_equal(rgb.transpose(2, 0, 1), pixels[:, row : row + 128, column : column + 128])
    tile = next(row for row in rows(made) if row["image"] == "127.0.0.1/aerial/a.tif/000128_000256")
    assert tile["gsd_m"] == pytest.approx(0.5, rel=2e-3)  # UTM at 3 degrees east: 0.9996 on the meridian
    assert tile["affine"][2] == 500_000 + 256 * 0.5
    assert tile["affine"][5] == 4_500_000 - 128 * 0.5
    assert main(["verify", str(tmp_path / "out/shards")]) == 0
    sent = server.sent
    assert made() == 0
    assert server.sent == sent


def test_what_the_scan_read_is_not_fetched_again_by_the_write(
    server: RangeServer, tmp_path: Path, recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/a.tif"] = scene(tmp_path, picture(2, 512), overview_count=1)
    made = recipe(urls=[server.url("/a.tif")])
    assert made("--until", "select") == 0
    asked = len(server.asked)
    ranges = [ranged for _, ranged in server.asked]
    assert len(set(ranges)) == len(ranges)  # nothing was asked twice
    assert made() == 0
    assert len(server.asked) == asked
    assert "fetched again" not in capsys.readouterr().out


def test_what_the_spool_has_no_room_for_is_fetched_again_and_counted(
    server: RangeServer, tmp_path: Path, recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/a.tif"] = scene(tmp_path, picture(2, 512))
    made = recipe(urls=[server.url("/a.tif")], spool_gigabytes=0)
    assert made("--until", "select") == 0
    asked = len(server.asked)
    assert made() == 0
    assert len(server.asked) > asked
    assert "fetched again, since the spool had no room for them" in capsys.readouterr().out
    assert len(samples(made)) == 16


def test_the_draw_is_one_of_the_seed(server: RangeServer, tmp_path: Path, recipe: Make) -> None:
    for name in "abc":
        server.files[f"/{name}.tif"] = scene(tmp_path, picture(ord(name), 512))
    urls = [server.url(f"/{name}.tif") for name in "abc"]
    drawn = {}
    for out, seed, order in (("one", 0, urls), ("two", 0, urls[::-1]), ("three", 1, urls)):
        made = recipe(seed, urls=order, per_file=4, files=2)
        assert made("--replace", out=out) == 0
        drawn[out] = sorted(samples(made, out))
    assert drawn["one"] == drawn["two"] != drawn["three"]
    assert len(drawn["one"]) == 8
    assert len({image.rpartition("/")[0] for image in drawn["one"]}) == 2


def test_empty_windows_are_seen_in_the_overview_and_never_read(
    server: RangeServer, tmp_path: Path, recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = picture(3, 1024).copy()
    pixels[:, :, 256:] = 0
    server.files["/a.tif"] = scene(tmp_path, pixels, nodata=0)
    made = recipe(urls=[server.url("/a.tif")])
    assert made() == 0
    assert "48 windows are mostly empty" in capsys.readouterr().out
    assert len(rows(made)) == 16


def test_a_jpeg_at_a_url_passes_through_as_it_is(server: RangeServer, tmp_path: Path, recipe: Make) -> None:
    buffer = io.BytesIO()
    texture(5).save(buffer, "JPEG")
    server.files["/photo"] = buffer.getvalue()
    server.redirects["/old"] = server.url("/photo")
    made = recipe(urls=[server.url("/old")])
    assert made() == 0
    shard = next((tmp_path / "out/shards").glob("*.tar"))
    with tarfile.open(shard) as tar:
        member = next(each for each in tar.getmembers() if each.name.endswith(".jpg"))
        assert tar.extractfile(member).read() == buffer.getvalue()  # type: ignore[union-attr]


def test_a_list_of_urls_is_a_text_file(server: RangeServer, tmp_path: Path, recipe: Make) -> None:
    server.files["/a.tif"] = scene(tmp_path, picture(4, 256))
    made = recipe(url_list="list.txt")
    assert made() == 2
    (tmp_path / "data/far").mkdir(parents=True, exist_ok=True)
    (tmp_path / "data/far/list.txt").write_text(f"# scenes\n{server.url('/a.tif')}\n\n")
    assert made() == 0
    assert len(samples(made)) == 4


def test_a_lock_pins_every_scene_and_rebuilds_the_same_bytes_elsewhere(
    server: RangeServer, tmp_path: Path, recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        server.files[f"/{name}.tif"] = scene(tmp_path, picture(ord(name), 512))
    made = recipe(urls=[server.url(f"/{name}.tif") for name in "ab"], per_file=4)
    assert made() == 0
    assert main(["lock", str(tmp_path / "out"), "--to", str(tmp_path / "lock")]) == 0
    assert pq.read_table(tmp_path / "lock/remote.parquet").num_rows == 8
    (tmp_path / "theirs").mkdir()
    again = ["rebuild", str(tmp_path / "lock"), "--data", str(tmp_path / "theirs"), "--workers", "1"]
    assert main([*again, "--out", str(tmp_path / "same")]) == 0
    for path in (tmp_path / "out/shards").glob("*.tar"):
        assert (tmp_path / "same/shards" / path.name).read_bytes() == path.read_bytes()
    server.files["/b.tif"] = scene(tmp_path, picture(9, 512))
    (tmp_path / "others").mkdir()
    again[3] = str(tmp_path / "others")
    assert main([*again, "--out", str(tmp_path / "other")]) == 1
    assert "4 same bytes, 4 changed" in capsys.readouterr().err
    told = pq.read_table(tmp_path / "other/rebuild.parquet").to_pylist()
    assert {row["state"] for row in told} == {"changed"}
    assert "changed since it was listed" in told[0]["detail"]


def test_a_scene_that_changed_between_scan_and_write_stops_the_run_until_it_is_listed_anew(
    server: RangeServer, tmp_path: Path, recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/a.tif"] = scene(tmp_path, picture(1, 256))
    made = recipe(urls=[server.url("/a.tif")], spool_gigabytes=0)
    assert made("--until", "select") == 0
    server.files["/a.tif"] = scene(tmp_path, picture(2, 256))
    assert made() == 1
    assert "changed since it was listed; run with --relist" in capsys.readouterr().err
    assert not list((tmp_path / "out/shards").glob("*.tar"))
    assert made("--relist") == 0
    assert len(samples(made)) == 4


def test_a_dry_run_says_what_is_read_and_what_the_spool_keeps(
    server: RangeServer, tmp_path: Path, recipe: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/a.tif"] = data = scene(tmp_path, picture(1, 512))
    assert recipe(urls=[server.url("/a.tif")], spool_gigabytes=1e-4)("--dry-run") == 0
    told = capsys.readouterr().out
    size = sized(len(data) * 3 / 4)  # overviews are a quarter
    assert f"spool:  far: about {size} to read, 0.1 MB of them kept" in told
    assert "are fetched again (remote.spool_gigabytes)" in told


def test_the_report_shows_rejected_windows_from_the_spool_and_does_without_those_it_cannot_get(
    server: RangeServer, tmp_path: Path, recipe: Make
) -> None:
    pixels = picture(3, 256).copy()
    pixels[:, :128, :128] = 77
    server.files["/a.tif"] = scene(tmp_path, pixels)
    server.files["/b.tif"] = scene(tmp_path, picture(4, 256))
    server.statuses["/b.tif"] = [404]
    made = recipe(urls=[server.url("/a.tif"), server.url("/b.tif")])
    assert made("--pictures", "10") == 0
    sent = server.sent
    reports = [path.read_text() for path in (tmp_path / "out").glob("report*/**/*") if path.suffix in (".js", ".html")]
    page = (tmp_path / "out/report.html").read_text() + "".join(reports)
    assert "the server answers 404" in page
    (row,) = [row for row in rows(made, "image") if row["verdict"] == "not_optical"]
    assert row["image"].endswith("000000_000000")
    assert made("--pictures", "9") == 0
    assert server.sent == sent  # other pictures, of bytes that are here
    assert main(["why", str(tmp_path / "out"), f"far/{row['image']}"]) == 0
