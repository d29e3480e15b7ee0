"""Scenes below an S3 prefix, on moto's server, and buckets that refuse."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import boto3
import pytest
from loopback import serving
from moto.moto_api._internal import moto_api_backend
from moto.server import ThreadedMotoServer
from remote_scenes import picture, scene

from curation.base.errors import InputError
from curation.imagery.location import Location
from curation.sources.inventory import SourceListing, list_images
from curation.sources.source import Source


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a bucket; boto3 finds the server as it finds that of users."""
    moto_api_backend.reset()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto3.session.Session("key", "secret", region_name="us-east-1").client("s3")
    client.create_bucket(Bucket="aerial")
    yield client
    client.close()
    server.stop()


def source(**remote: Any) -> Source:
    access = {"side": 128, "attempts": 1, "timeout_seconds": 20, **remote}
    return Source.model_validate({"id": "far", "container": "remote", "leave": ["**/*_b.tif"], "remote": access})


def test_objects_below_a_prefix_are_listed_and_read_without_keys(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = scene(tmp_path, picture(1, 256))
    for key in ("2020/a.tif", "2020/a.xml", "2020/with space_b.tif", "2021/c.tif"):
        bucket.put_object(Bucket="aerial", Key=key, Body=data, ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    far, told = source(prefix="s3://aerial/2020/"), SourceListing("far")
    rows = list(list_images(far, tmp_path / "far", told))
    assert {row["file"] for row in rows} == {"s3://aerial/2020/a.tif"}
    assert len(rows) == 4
    assert (told.left, told.unlisted) == (1, {".xml": 1})
    member = Location.of(tmp_path / "far", rows[0], far.remote).remote_member(1 << 30)
    assert member.data.startswith(b"II*\0")


def test_keys_that_are_asked_for_and_absent_are_one_line(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    far = source(prefix="s3://aerial/", credentials="own")
    with pytest.raises(InputError, match=r"s3://aerial/: credentials: own finds no keys; set AWS_PROFILE"):
        list(list_images(far, tmp_path / "far"))


class _Payers(BaseHTTPRequestHandler):
    """A bucket whose readers pay, as S3 documents it: 403 to whoever does not sign and say so."""

    protocol_version = "HTTP/1.1"
    data = b""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        pays = self.headers.get("x-amz-request-payer") == "requester" and "Authorization" in self.headers
        body = b"<Error><Code>AccessDenied</Code></Error>"
        headers, status = {}, 403
        if pays:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            body, status = self.data[first : last + 1], 206
            headers = {"Content-Range": f"bytes {first}-{first + len(body) - 1}/{len(self.data)}", "ETag": '"e"'}
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def test_a_bucket_whose_readers_pay_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _Payers.data = scene(tmp_path, picture(1, 256))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with serving(_Payers) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        urls = ["s3://naip/a.tif"]
        with pytest.raises(InputError, match=r"set under remote credentials: own, and requester_pays: true"):
            list(list_images(source(urls=urls), tmp_path / "far"))
        with pytest.raises(InputError, match=r"S3 refuses these keys \(AccessDenied\)"):
            list(list_images(source(urls=urls, credentials="own"), tmp_path / "far"))
        paid = source(urls=urls, credentials="own", requester_pays=True)
        assert len(list(list_images(paid, tmp_path / "far"))) == 4
