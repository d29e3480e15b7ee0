"""The page "Publish a corpus", executed: every command and every piece of Python on it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import hub_server
import pytest
from textures import raster, texture

from curation.cli import main


def commands(page: str) -> list[list[str]]:
    return [line.split() for line in re.findall(r"^    ((?:rs-curate|sha256sum) .*)$", page, re.MULTILINE)]


def test_the_page_is_true(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hub: hub_server.Hub,
    s3: tuple[Any, Any],
) -> None:
    page = (repository / "docs/publish.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/mine").mkdir(parents=True)
    for number in range(5):
        texture(number).save(tmp_path / "data/mine" / f"{number}.jpg")
    raster(tmp_path / "data/mine/9.tif", 9)
    (entry,) = re.findall(r"^    sources:\n(.*)\n", page, re.MULTILINE)
    (tmp_path / "r.yaml").write_text(f"name: mine\nsources:\n{entry}\nshards: {{max_samples: 2}}\n")
    assert main(["run", "r.yaml", "--data", "data", "--out", "corpus", "--workers", "1"]) == 0
    s3[1].create_bucket(Bucket="my-bucket")
    run_commands(page, tmp_path)
    assert "SHA256SUMS" in hub.files
    monkeypatch.chdir(tmp_path / "published")
    pieces = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    told: list[dict[str, Any]] = [{} for _ in pieces]
    capsys.readouterr()
    for piece, names in zip(pieces, told, strict=True):
        exec(piece, names)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(told[2]["samples"]) == 6
    assert all(line.endswith("mine") for line in shown)


def run_commands(page: str, root: Path) -> None:
    """The disk and the bucket of the page are a folder and a server of this machine."""
    for program, *words in commands(page):
        if program == "sha256sum":
            subprocess.run([program, *words], cwd=root / "published", check=True, stdout=subprocess.DEVNULL)
            continue
        words = [word.replace("file:///mnt/disk/corpus", (root / "published").as_uri()) for word in words]
        if words[0] in ("verify", "rebuild"):
            words += ["--workers", "1"]
        assert main(words) == 0, words
