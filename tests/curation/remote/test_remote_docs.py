"""The page on remote imagery, executed: its recipes and commands, on a server on loopback."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from range_server import RangeServer
from remote_scenes import NAMES, catalogue, item, picture, scene, tar

from curation.cli import main

YAML = re.compile(r'^```yaml title="(?P<name>[^"]+)"\n(?P<text>.*?)^```', re.MULTILINE | re.DOTALL)
HOST = "https://imagery.example.org"


def fill(server: RangeServer, folder: Path) -> None:
    """A static catalogue of three scenes, one of another year; two tables, a tar."""
    links = [{"rel": "item", "href": f"./{name}.json"} for name in "abc"]
    catalogue(server, "/catalog.json", links=[{"rel": "child", "href": "./2020/collection.json"}])
    catalogue(server, "/2020/collection.json", type="Collection", id="aerial", links=links)
    for name, year in zip("abc", (2020, 2021, 2019), strict=True):
        told = item(name, f"{year}-06-01T10:00:00Z", f"./{name}.tif")
        server.files[f"/2020/{name}.json"] = json.dumps(told).encode()
        server.files[f"/2020/{name}.tif"] = scene(folder, picture(ord(name), 512))
    for number in range(2):
        rows = [picture(10 * number + row, 192)[None] for row in range(6)]
        column = pa.array(np.array(rows).tolist(), pa.list_(pa.list_(pa.list_(pa.list_(pa.uint8())))))
        pq.write_table(pa.table({"rgb": column}), folder / "t.parquet", row_group_size=3)
        server.files[f"/train-{number:05d}.parquet"] = (folder / "t.parquet").read_bytes()
    server.files["/naip.tar"], _ = tar(NAMES)


def test_the_page_is_true(
    server: RangeServer, tmp_path: Path, scheduler: str, repository: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    fill(server, tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs").mkdir()
    page = (repository / "docs/remote.md").read_text(encoding="utf-8")
    for name, recipe in YAML.findall(page):
        Path(name).write_text(recipe.replace(HOST, server.url("")))
    for line in re.findall(r"^    (rs-curate .*)$", page, re.MULTILINE):
        _, *words = shlex.split(line, comments=True)
        more = ["--scheduler", scheduler] if words[0] == "run" else ["--workers", "1"] if words[0] == "rebuild" else []
        assert main([*words, *more]) == 0, words
    told = capsys.readouterr().out
    assert "1 scenes lie outside of remote.datetime or remote.bbox and are left" in told
    assert kept("far") == {"aerial": 16}
    assert kept("packed").keys() == {"satellite", "naip"}
    assert kept("packed")["satellite"] == 8
    assert (tmp_path / "again/shards/far-000000.tar").read_bytes() == (
        tmp_path / "far/shards/far-000000.tar"
    ).read_bytes()


def kept(out: str) -> dict[str, int]:
    rows: list[dict[str, Any]] = pq.read_table(Path(out) / "catalogue.parquet").to_pylist()
    found: dict[str, int] = {}
    for row in rows:
        if row["kind"] == "tile" and row["verdict"] == "kept":
            found[row["source"]] = found.get(row["source"], 0) + 1
    return found
