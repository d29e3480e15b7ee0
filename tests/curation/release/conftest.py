"""A finished run to publish, and servers on loopback to publish it to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.moto_api._internal import moto_api_backend
from moto.server import ThreadedMotoServer
from textures import raster, texture

from curation.cli import main

RECIPE = """
name: shared
description: A few pictures.
sources:
  - {id: photos, path: photos, licence: CC-BY-4.0, redistributable: yes, citation: Somebody (2024), gsd_m: 0.5}
  - {id: scenes, path: scenes, licence: CC0-1.0, redistributable: yes, homepage: 'https://example.org'}
shards: {max_samples: 4}
"""


@pytest.fixture(scope="package")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two sources in three shards."""
    root = tmp_path_factory.mktemp("publish")
    (root / "photos").mkdir()
    (root / "scenes").mkdir()
    for number in range(8):
        texture(number).save(root / "photos" / f"{number}.jpg", quality=90)
    raster(root / "scenes/a.tif", 40)
    (root / "r.yaml").write_text(RECIPE)
    line = ["run", str(root / "r.yaml"), "--data", str(root), "--out", str(root / "out"), "--workers", "1"]
    assert main(line) == 0
    return root / "out"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ThreadedMotoServer, Any]]:
    """A server and a client of it; boto3 finds it as those of users. Moto's servers share what they hold."""
    moto_api_backend.reset()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_MAX_ATTEMPTS", "1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket="bucket")
    yield server, client
    client.close()
    server.stop()
