"""Files elsewhere, read from any byte on."""

from __future__ import annotations

import io
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from loopback import serving

from curation.base.errors import InputError, WorkError
from curation.base.origin import HttpOrigin, _Redirects, is_remote, open_origin

DATA = bytes(range(256)) * 40


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """URL of a server without ranges, and path and key of what it was asked; ``/far`` leads to another host."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization")))
            if self.path == "/far/a":
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/near/a")
                self.end_headers()
                return
            first = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            if moved := {"/later/a": 9, "/earlier/a": -9}.get(self.path):
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first + moved}-{len(DATA) - 1}/{len(DATA)}")
                self.end_headers()
                self.wfile.write(DATA[first + moved :])
                return
            if self.path in ("/ftp/a", "/bad/a"):
                self.send_response(302)
                self.send_header("Location", "ftp://127.0.0.1:9/a" if self.path == "/ftp/a" else "http://[x")
                self.end_headers()
                return
            self.send_response(503 if self.path == "/busy/a" else 404 if self.path == "/gone/a" else 200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(DATA[:5000] if self.path == "/torn/a" else DATA)

    with serving(Handler) as url:
        yield url, asked


def test_a_server_without_ranges_is_read_from_the_beginning(server) -> None:
    for start in (0, 1, 255, 5000, len(DATA) - 1):
        assert b"".join(open_origin(f"{server[0]}/near").stream("a", start)) == DATA[start:]


def test_keys_go_to_the_host_that_they_are_for_alone(server) -> None:
    """The Hub answers with the address of another host, which needs no key and must not learn it."""
    assert b"".join(HttpOrigin(f"{server[0]}/far", {"authorization": "Bearer x"}).stream("a")) == DATA
    assert server[1] == [("/far/a", "Bearer x"), ("/near/a", None)]


def test_what_may_be_tried_again_is_told_from_what_may_not(server) -> None:
    with pytest.raises(InputError, match=r"/gone/a: 404 Not Found"):
        list(open_origin(f"{server[0]}/gone").stream("a"))
    for place, message in (("busy", "503 Service Unavailable"), ("torn", "IncompleteRead")):
        with pytest.raises(WorkError, match=rf"/{place}/a: .*{message}"):
            list(open_origin(f"{server[0]}/{place}").stream("a"))
    with pytest.raises(WorkError, match="Connection refused"):
        list(open_origin("http://127.0.0.1:9/x").stream("a"))


def test_a_bucket_is_read_from_any_byte(s3: tuple[Any, Any]) -> None:
    s3[1].put_object(Bucket="bucket", Key="corpus/shards/a", Body=DATA)
    origin = open_origin("s3://bucket/corpus/shards/")
    assert b"".join(origin.stream("a")) == DATA and b"".join(origin.stream("a", 7777)) == DATA[7777:]
    with pytest.raises(InputError, match="s3://bucket/corpus/shards/b: .*key does not exist"):
        list(origin.stream("b"))
    with pytest.raises(InputError, match="s3://none/x/a: .*bucket does not exist"):
        list(open_origin("s3://none/x").stream("a"))


def test_without_keys_one_is_told_to_set_them(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(InputError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        list(open_origin("s3://bucket/x").stream("a"))


def test_places(tmp_path) -> None:
    assert (
        is_remote("gs://bucket/x")
        and is_remote("s3://bucket/x")
        and is_remote("hf://datasets/me/x")
        and is_remote("https://host/x")
    )
    assert not any(is_remote(place) for place in ("folder", "/abs/folder", "s3:folder", str(tmp_path)))
    for wrong in ("hf://datasets/me", "hf://me/corpus", "s3:///x", "gs://bucket/x", "file:///x"):
        with pytest.raises(
            InputError, match="give a folder of this machine, s3://bucket/folder, https://host/folder or hf://datasets"
        ):
            open_origin(wrong)
    pinned = open_origin("hf://datasets/me/corpus@v1/shards")
    assert pinned.url == "hf://datasets/me/corpus@v1/shards"
    assert pinned._at.endswith("/datasets/me/corpus/resolve/v1/shards")  # type: ignore[attr-defined]


def test_other_bytes_than_those_asked_for_are_not_taken_for_them(server) -> None:
    """RFC 9110, 14.4: the header of an answer of status 206 says where it begins."""
    assert b"".join(open_origin(f"{server[0]}/earlier").stream("a", 500)) == DATA[500:]
    with pytest.raises(WorkError, match="/later/a: asked for byte 500 on, the server sent byte 509 on"):
        list(open_origin(f"{server[0]}/later").stream("a", 500))


def test_redirects_stay_on_the_web(server) -> None:
    with pytest.raises(WorkError, match=r"/ftp/a: 302 leads to ftp://127.0.0.1:9/a, which is not followed"):
        list(open_origin(f"{server[0]}/ftp").stream("a"))
    with pytest.raises(InputError, match="/bad/a: Invalid IPv6 URL"):
        list(open_origin(f"{server[0]}/bad").stream("a"))


def test_redirects_stay_encrypted() -> None:
    asked = urllib.request.Request("https://host/a")
    with pytest.raises(urllib.error.HTTPError, match="which is not followed"):
        _Redirects().redirect_request(asked, io.BytesIO(), 302, "Found", Message(), "http://host/a")
    assert _Redirects().redirect_request(asked, io.BytesIO(), 302, "Found", Message(), "https://other/a")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://[bad/x", "Invalid IPv6 URL; give a folder"),
        ("http://a..b/x", "is the URL right"),
        ("https://me:word@host/x", "without password or query"),
        ("https://host/x?key=1", "without password or query"),
        ("hf://datasets/a b/c/x", "Repo id must use"),
        ("s3://Bu_cket!/x", "Invalid bucket name"),
    ],
)
def test_what_is_no_url_is_told_at_once(s3: tuple[Any, Any], url: str, told: str) -> None:
    assert is_remote(url)
    with pytest.raises(InputError, match=told):
        list(open_origin(url).stream("a"))


def test_a_folder_may_have_spaces_and_umlauts(server) -> None:
    assert b"".join(open_origin(f"{server[0]}/zwei Wörter").stream("a")) == DATA
    assert server[1] == [("/zwei%20W%C3%B6rter/a", None)]


@pytest.mark.parametrize(("name", "value"), [("AWS_ENDPOINT_URL", "localhost:9000"), ("AWS_PROFILE", "nobody")])
def test_wrong_settings_of_s3_are_told(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{value}.*; see AWS_PROFILE and AWS_ENDPOINT_URL"):
        open_origin("s3://bucket/x")
