"""open-13m over loopback: tars and scenes on S3, tables of a hub, a STAC API, a list of URLs, a download."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from open_imagery import encoded, fill_buckets, fill_hub, fill_web, write_recipe
from range_server import RangeServer, range_server

from curation.cli import main
from curation.sources.fetch import fetch
from curation.sources.recipe import load_recipe, resolve


@pytest.fixture
def hosts(tmp_path: Path, repository: Path, s3: tuple[Any, Any]) -> Iterator[tuple[RangeServer, Any]]:
    """The web server and a client of the S3 server, both filled; a recipe and an evaluation set beside."""
    _, client = s3
    fill_buckets(client, tmp_path, repository)
    client.create_bucket(Bucket="published")
    with range_server() as server:
        fill_hub(server)
        fill_web(server, tmp_path, repository)
        write_recipe(tmp_path / "open.yaml", server)
        known = tmp_path / "data/rsscn7/aGrass"
        known.mkdir(parents=True)
        for number in range(2):  # the first is a picture that the archive holds, too
            (known / f"a{number}.jpg").write_bytes(encoded(300 + 50 * number, 128, "jpeg"))
        yield server, client


def command(folder: Path, name: str, *more: str) -> list[str]:
    line = [name, str(folder / "open.yaml"), "--data", str(folder / "data")]
    return [*line, *more]


def shards(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((out / "shards").glob("*.tar"))}


def prepare(folder: Path) -> None:
    """Fetch what is downloaded, and make the fingerprints of what is guarded."""
    for result in fetch(resolve(load_recipe(str(folder / "open.yaml")), folder / "data")):
        assert not (result.error or result.missing), result
    prints = ["fingerprint", "--benchmark", "rsscn7", "--data", str(folder / "data"), "--workers", "1"]
    assert main(prints) == 0


@pytest.mark.slow
def test_every_kind_of_access_becomes_shards_that_are_published_with_their_pixels(
    hosts: tuple[RangeServer, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, client = hosts
    prepare(tmp_path)
    out = tmp_path / "out"
    assert main(command(tmp_path, "run", "--out", str(out), "--workers", "1", "--pictures", "0")) == 0
    told = capsys.readouterr()
    assert "1 scenes have a licence that remote.licences does not name, and are left" in told.out + told.err
    rows = [row for row in pq.read_table(out / "catalogue.parquet").to_pylist() if row["kind"] == "tile"]
    kept = Counter(row["source"] for row in rows if row["verdict"] == "kept")
    assert kept == {
        "satlas_naip": kept["satlas_naip"], "earthview_satellogic": 8, "major_tom_rgb": 4, "everwatch": 2,
        "nz_imagery": 5, "openaerialmap": 5, "vermont": 2,
    }  # fmt: skip
    assert 1 <= kept["satlas_naip"] <= 12
    assert all("/tci/" in row["image"] for row in rows if row["source"] == "satlas_naip")
    assert {row["subject"] for row in rows if row["verdict"] == "leak"} == {"rsscn7"}
    assert {row["detail"] for row in rows if row["verdict"] == "capped"} == {  # 46.02 S 170.42 E, 2.71 S 26.10 E
        "per_cell: at most 5 in 47S 170E", "per_cell: at most 5 in 3S 26E"
    }  # fmt: skip
    assert main(["verify", str(out / "shards"), "--workers", "1", "--decode"]) == 0
    assert main(["publish", str(out), "s3://published/open"]) == 0
    there = {each["Key"] for each in client.list_objects_v2(Bucket="published")["Contents"]}
    assert {f"open/shards/{name}" for name in shards(out)} <= there
    card = client.get_object(Bucket="published", Key="open/ATTRIBUTION.md")["Body"].read().decode()
    assert "- licence: CC-BY-SA-4.0" in card
    assert "- imagery of: Satellogic" in card
    before = len(server.asked)
    assert main(command(tmp_path, "run", "--out", str(out), "--workers", "1", "--pictures", "0")) == 0
    assert len(server.asked) == before, "what is finished asks for nothing"


@pytest.mark.soak
def test_a_rehearsal_that_is_killed_goes_on_to_the_same_shards(
    hosts: tuple[RangeServer, Any], tmp_path: Path, repository: Path
) -> None:
    server, _ = hosts
    prepare(tmp_path)
    server.latency = 0.03
    (tmp_path / "data").rename(tmp_path / "b")
    subprocess.run(["cp", "-r", str(tmp_path / "b"), str(tmp_path / "a")], check=True)

    def begin(name: str) -> subprocess.Popen[bytes]:
        line = [
            "run",
            str(tmp_path / "open.yaml"),
            "--data",
            str(tmp_path / name),
            "--out",
            str(tmp_path / f"{name}-out"),
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "curation", *line, "--workers", "1", "--pictures", "0"], cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(repository)}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    for seconds in (4, 6, 8, 10, 12, 14):  # in the listing, in the scan, between stages, in the write
        process = begin("a")
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert begin("a").wait() == 0
    assert begin("b").wait() == 0
    found = shards(tmp_path / "a-out")
    assert found == shards(tmp_path / "b-out")
    assert len(found) >= 3
    checksums = json.loads((tmp_path / "a-out/shards/checksums.json").read_text())
    assert {each["file"] for each in checksums["shards"]} == set(found)
