"""What publishing meets: full and read-only disks, wrong keys, quotas, services without time: one line each."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import hub_server
import pytest
from loopback import serving
from moto.server import ThreadedMotoServer

from curation.cli import main

Captured = pytest.CaptureFixture[str]


def only_line(capsys: Captured) -> str:
    """The one line that was said on standard error, beside progress, ours and that of libraries."""
    shown = re.compile(r"(publish|verify): [0-9,]+ of|.*\[[0-9:]+<?.*/s\]|\s*(\x1b\[A)*$")
    said = [line for line in capsys.readouterr().err.splitlines() if not shown.match(line)]
    assert len(said) == 1, said
    return said[0]


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own; skipped where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_and_room_later(out: Path, tmp_path: Path, capsys: Captured) -> None:
    to = tmp_path / "to"
    with mounted(to, "size=120k"):
        assert main(["publish", str(out), to.as_uri()]) == 1
        told = only_line(capsys)
        assert "the disk is full" in told and told.endswith("free some space, and the same command goes on")
        assert not (to / "SHA256SUMS").exists() and not list(to.rglob(".*.part"))
    assert main(["publish", str(out), to.as_uri()]) == 0


def test_a_target_that_cannot_be_written(out: Path, tmp_path: Path, capsys: Captured) -> None:
    with mounted(tmp_path / "to", "ro"):
        assert main(["publish", str(out), (tmp_path / "to").as_uri()]) == 2
        assert re.search(r"/to/\S+: Read-only file system", only_line(capsys))


def test_an_output_that_cannot_be_written(out: Path, tmp_path: Path, capsys: Captured) -> None:
    with mounted(tmp_path / "out", "size=20m"):
        shutil.copytree(out, tmp_path / "out", dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "out")], check=True)
        copy = str(tmp_path / "out")
        for line in (["publish", copy, (tmp_path / "to").as_uri()], ["lock", copy], ["footprints", copy]):
            assert main(line) == 2
            assert re.search(r"/out/\S+: Read-only file system", only_line(capsys))
        assert main(["verify", str(tmp_path / "out"), "--workers", "1"]) == 0  # needs to write nothing


def test_a_quota_of_the_file_system(
    out: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, aside: Path) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(aside))

    with monkeypatch.context() as patch:
        patch.setattr("curation.base.remote.shutil.copyfile", refuse)
        assert main(["publish", str(out), (tmp_path / "to").as_uri()]) == 1
    assert "the disk is full (Disk quota exceeded)" in only_line(capsys)
    assert main(["publish", str(out), (tmp_path / "to").as_uri()]) == 0


# ------------------------------------------------------------------------------------------------ S3


def test_a_bucket_that_is_not_there_is_one_clear_line(
    out: Path, s3: tuple[ThreadedMotoServer, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["publish", str(out), "s3://nowhere/c"]) == 2
    assert "(NoSuchBucket); check bucket, endpoint and credentials" in capsys.readouterr().err
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    assert main(["publish", str(out), "s3://bucket/c"]) == 2
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in capsys.readouterr().err


class _Refusing(BaseHTTPRequestHandler):
    """Answers every upload as S3 does when it refuses; all else is empty."""

    answer: tuple[int, str, str]

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._answer(404, "NoSuchKey", "The specified key does not exist.")

    do_HEAD = do_DELETE = do_GET

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(*self.answer)

    def _answer(self, status: int, code: str, message: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)


@pytest.mark.parametrize(
    ("answer", "exit_code", "end"),
    [
        ((403, "SignatureDoesNotMatch", "Wrong signature."), 2, "check bucket, endpoint and credentials"),
        ((403, "AccessDenied", "Access denied."), 2, "check bucket, endpoint and credentials"),
        ((403, "QuotaExceeded", "The quota is used up."), 1, "make room there, and the same command goes on"),
        ((429, "TooManyRequests", "Later."), 1, "the same command goes on"),
        ((500, "InternalError", "We encountered an internal error."), 1, "the same command goes on"),
        ((503, "SlowDown", "Please reduce your request rate."), 1, "the same command goes on"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_s3_that_refuses_is_one_clear_line_and_goes_on_later(
    out: Path,
    s3: tuple[ThreadedMotoServer, Any],
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    answer: tuple[int, str, str],
    exit_code: int,
    end: str,
) -> None:
    line = ["publish", str(out), "s3://bucket/c", "--lock-only"]
    with serving(_Refusing, answer=answer) as url, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        assert main(line) == exit_code
    told = only_line(capsys)
    assert f"({answer[1]})" in told and told.endswith(end)
    assert main(line) == 0


# ------------------------------------------------------------------------------------------------ the Hub


@pytest.mark.parametrize("call", ["create", "tree", "preupload", "batch", "put", "commit", "tag"])
@pytest.mark.parametrize("status", [429, 500])
def test_a_hub_that_has_no_time_is_one_clear_line_and_goes_on_later(
    out: Path, hub: hub_server.Hub, status: int, call: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # it asks some calls again by itself
    hub.refusals[call] = [status] * 99
    line = ["publish", str(out), "hf://datasets/me/corpus"]
    assert main(line) == 1
    told = only_line(capsys)
    assert str(status) in told and told.endswith("; the same command goes on")
    assert "SHA256SUMS" not in hub.files or call == "tag"
    hub.refusals.clear()
    assert main(line) == 0
    assert "SHA256SUMS" in hub.files and "SHA256SUMS.unfinished" not in hub.files and len(hub.tags) == 1


def test_more_files_than_a_folder_takes_are_refused_before_the_first(
    out: Path, hub: hub_server.Hub, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curation.base.hub.HubStore.per_folder", 4)  # three tars, index and checksums
    assert main(["publish", str(out), "hf://datasets/me/corpus"]) == 2
    assert "shards has 5 files, and 4 are the most in a folder there; larger shards.max_samples" in only_line(capsys)
    assert not hub.commits


def test_a_hub_without_room_says_so(out: Path, hub: hub_server.Hub, capsys: Captured) -> None:
    hub.refusals["batch"] = [403] * 9
    hub.words = "Private repository storage limit reached, please upgrade your plan"
    assert main(["publish", str(out), "hf://datasets/me/corpus"]) == 1
    told = only_line(capsys)
    assert hub.words in told and told.endswith("make room there, and the same command goes on")


def test_a_wrong_token_is_one_clear_line(
    out: Path, hub: hub_server.Hub, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    assert main(["publish", str(out), "hf://datasets/me/corpus"]) == 2
    told = only_line(capsys)
    assert "401" in told and told.endswith("log in with `hf auth login`, or set HF_TOKEN")
