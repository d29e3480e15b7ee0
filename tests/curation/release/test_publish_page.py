"""The page "Publish a corpus", executed: every command and every piece of Python on it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import hub_server
import pytest
from moto.server import ThreadedMotoServer
from textures import raster, texture

from curation.cli import main


def commands(page: str) -> list[list[str]]:
    return [line.split() for line in re.findall(r"^    ((?:rs-curate|sha256sum) .*)$", page, re.MULTILINE)]


def test_the_page_is_true(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    with hub_server.hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with_server(page, tmp_path, monkeypatch)
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


def with_server(page: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands; the disk and the bucket of the page are a folder and a server of this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (("ENDPOINT_URL", f"http://{host}:{port}"), ("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        from boto3.session import Session

        Session().client("s3").create_bucket(Bucket="my-bucket")
        for program, *words in commands(page):
            if program == "sha256sum":
                subprocess.run([program, *words], cwd=root / "published", check=True, stdout=subprocess.DEVNULL)
                continue
            words = [word.replace("file:///mnt/disk/corpus", (root / "published").as_uri()) for word in words]
            if words[0] in ("verify", "rebuild"):
                words += ["--workers", "1"]
            assert main(words) == 0, words
    finally:
        server.stop()
