"""Fetching from a real HTTP server on loopback that misbehaves in every way known, and from a real S3 API."""

from __future__ import annotations

import email.utils
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from loopback import running
from pydantic import ValidationError

from curation.base.errors import InputError, WorkError
from curation.base.locks import hold
from curation.sources.download import Retries, download
from curation.sources.fetch import Event, FetchOptions, fetch, fetch_source, files_of
from curation.sources.hosts import Endpoints
from curation.sources.inventory import list_images
from curation.sources.journal import manifest_of
from curation.sources.recipe import ResolvedSource, SliceRules
from curation.sources.repositories import list_repository
from curation.sources.source import RemoteFile, Source

DATA = random.Random(7).randbytes(3_000_000)
MD5 = hashlib.md5(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``files``; the first path segment says how it misbehaves."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"data.bin": DATA}
        self.hits: Counter[str] = Counter()
        self.ranges: list[str | None] = []
        self.version = '"v1"'
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    counted = 0

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        how, _, name = self.path.split("?")[0].lstrip("/").partition("/")
        data = self.server.files.get(name.rpartition("/")[2])
        self.status(404 if data is None or how.isdigit() else 200, {"Content-Length": str(len(data or b""))})

    def do_GET(self) -> None:
        server = self.server
        path = self.path.split("?")[0].lstrip("/")
        how, _, name = path.partition("/")
        with server.lock:
            server.hits[path] += 1
            hits = server.hits[path]
            server.ranges.append(self.headers.get("Range"))
            server.at_once += 1
            self.counted = 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self.answer(how, name, hits)
        finally:
            self.leave()

    def leave(self) -> None:
        with self.server.lock:
            self.server.at_once -= self.counted
            self.counted = 0

    def answer(self, how: str, name: str, hits: int) -> None:
        if how.isdigit():
            return self.status(int(how))
        if how == "once" and hits == 1:
            return self.status(int(name.partition("/")[0]), {"Retry-After": "7"})
        if how == "date" and hits == 1:
            return self.status(503, {"Retry-After": email.utils.formatdate(time.time() + 30, usegmt=True)})
        if how == "patient":
            return self.status(429, {"Retry-After": "86400"})
        if how == "moved":
            return self.status(302, {"Location": f"/ok/{name}"})
        if how == "tofile":
            return self.status(302, {"Location": "file:///etc/passwd"})
        if how == "page":
            return self.body(b"<html>log in</html>", {"Content-Type": "text/html"})
        data = self.server.files[name.rpartition("/")[2]]
        if how == "corrupt":
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = 0
        asked = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, self.server.version)
        if asked and same and how != "norange":
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return self.status(416, {"Content-Range": f"bytes */{len(data)}"})
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.server.version)
        self.send_header("Content-Length", str(len(data) - start + (99 if how == "short" else 0)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if how == "drop":  # after a third of what is left
            self.wfile.write(data[start : start + max((len(data) - start) // 3, 1)])
            self.close_connection = True
        elif how == "slow":
            for at in range(start, len(data), 65_536):
                time.sleep(0.02)
                if at + 65_536 >= len(data):  # counted as ended before the client can know
                    self.leave()
                self.wfile.write(data[at : at + 65_536])
        else:
            self.wfile.write(data[start:])
            self.close_connection = how == "short"
        return None

    def status(self, code: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def body(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server()) as server:
        yield server


class Naps(list[float]):
    """Stands in for the clock: collects the waits that were asked for."""

    def retries(self, attempts: int = 4) -> Retries:
        return Retries(attempts=attempts, sleep=self.append)


def get(server: Server, target: Path, *paths: str, naps: Naps | None = None, **facts: object) -> None:
    url, *mirrors = (server.url(path) if "://" not in path else path for path in paths)
    file = RemoteFile.model_validate({"name": target.name, "url": url, "mirrors": mirrors, **facts})
    download(file, target, retries=(naps if naps is not None else Naps()).retries())


# ------------------------------------------------------------------------------------------------ one file


@pytest.mark.parametrize("path", ["ok/data.bin", "moved/data.bin", "norange/data.bin", "once/500/data.bin"])
def test_a_file_arrives(server: Server, tmp_path: Path, path: str) -> None:
    get(server, tmp_path / "sub/x.bin", path, md5=MD5, size=len(DATA))
    assert (tmp_path / "sub/x.bin").read_bytes() == DATA
    assert [item.name for item in (tmp_path / "sub").iterdir()] == ["x.bin"]


def test_dropped_connections_go_on_where_they_broke(server: Server, tmp_path: Path) -> None:
    naps = Naps()
    get(server, tmp_path / "x.bin", "drop/data.bin", naps=naps, md5=MD5)
    assert (tmp_path / "x.bin").read_bytes() == DATA
    assert server.ranges[1] == "bytes=1000000-" and len(server.ranges) > 5 and len(naps) == len(server.ranges) - 1


@pytest.mark.parametrize("code", [429, 500, 503])
def test_retry_after_is_honoured(server: Server, tmp_path: Path, code: int) -> None:
    naps = Naps()
    get(server, tmp_path / "x.bin", f"once/{code}/data.bin", naps=naps)
    assert naps == [7.0]


def test_retry_after_may_be_a_date(server: Server, tmp_path: Path) -> None:
    naps = Naps()
    get(server, tmp_path / "x.bin", "date/data.bin", naps=naps)
    assert len(naps) == 1 and 20 < naps[0] <= 30


def test_waits_grow_and_are_not_equal(server: Server, tmp_path: Path) -> None:
    naps = Naps()
    with pytest.raises(WorkError, match="answers 500"):
        get(server, tmp_path / "x.bin", "500/data.bin", naps=naps)
    assert len(naps) == 3
    assert all(0.5 * 2**n <= nap <= 2**n for n, nap in enumerate(naps))


@pytest.mark.parametrize(
    "bad", ["404/x", "403/x", "patient/x", "page/x", "tofile/x", "corrupt/data.bin", "short/data.bin"]
)
def test_the_next_mirror_is_taken(server: Server, tmp_path: Path, bad: str) -> None:
    get(server, tmp_path / "x.bin", bad, "ok/data.bin", md5=MD5, size=len(DATA))
    assert (tmp_path / "x.bin").read_bytes() == DATA


@pytest.mark.parametrize(
    "dead", ["http://127.0.0.1:9/x", "http://nowhere.invalid/x", "ftp://127.0.0.1/x", "file:///etc/passwd"]
)
def test_a_dead_mirror_is_passed_over(server: Server, tmp_path: Path, dead: str) -> None:
    get(server, tmp_path / "x.bin", dead, "ok/data.bin")
    assert (tmp_path / "x.bin").read_bytes() == DATA


@pytest.mark.parametrize(
    ("path", "facts", "message"),
    [
        ("404/x", {}, "the server answers 404"),
        ("ok/data.bin", {"md5": "0" * 32}, f"md5 {MD5}, expected 000"),
        ("ok/data.bin", {"sha256": "0" * 64}, "sha256 .*, expected 000"),
        ("ok/data.bin", {"size": 5}, "has 3,000,000 bytes, expected 5"),
        ("page/x", {}, "answers with a web page"),
        ("tofile/x", {}, "the server answers 302"),
    ],
)
def test_what_is_wrong_never_gets_the_name(
    server: Server, tmp_path: Path, path: str, facts: dict[str, object], message: str
) -> None:
    with pytest.raises(WorkError, match=message):
        get(server, tmp_path / "x.bin", path, **facts)
    assert not (tmp_path / "x.bin").exists()


def test_a_part_of_an_earlier_version_is_not_continued(server: Server, tmp_path: Path) -> None:
    _break_off(server, tmp_path)
    server.files["data.bin"], server.version = DATA[::-1], '"v2"'
    get(server, tmp_path / "x.bin", "ok/data.bin")
    assert (tmp_path / "x.bin").read_bytes() == DATA[::-1]


def _break_off(server: Server, tmp_path: Path) -> None:
    """Leave a part of the first version, as a killed run does."""
    (tmp_path / "x.bin.part").write_bytes(DATA[:1_000])
    (tmp_path / ".x.bin.part.json").write_text(json.dumps({"url": server.url("ok/data.bin"), "validator": '"v1"'}))


def test_a_weak_tag_is_no_reason_to_go_on(server: Server, tmp_path: Path) -> None:
    server.version = 'W/"v1"'
    with pytest.raises(WorkError):
        download(
            RemoteFile(name="x.bin", url=server.url("drop/data.bin")),
            tmp_path / "x.bin",
            retries=Retries(attempts=1),
        )
    assert (tmp_path / "x.bin.part").stat().st_size == 1_000_000
    get(server, tmp_path / "x.bin", "ok/data.bin")
    assert server.ranges[-1] is None and (tmp_path / "x.bin").read_bytes() == DATA


def test_a_whole_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    _break_off(server, tmp_path)
    (tmp_path / "x.bin.part").write_bytes(DATA)
    get(server, tmp_path / "x.bin", "ok/data.bin")
    assert server.ranges == ["bytes=3000000-"] and (tmp_path / "x.bin").read_bytes() == DATA


def test_a_wrong_part_is_thrown_away_once(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.bin.part").write_bytes(b"something else")
    get(server, tmp_path / "x.bin", "ok/data.bin", md5=MD5)
    assert (tmp_path / "x.bin").read_bytes() == DATA


# ------------------------------------------------------------------------------------------------ a source


def images_zip(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return out.getvalue()


def images_tar(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    return out.getvalue()


def source_of(server: Server, *names: str, how: str = "ok", **fields: object) -> Source:
    files = [
        {"name": name, "url": server.url(f"{how}/{name}"), "md5": hashlib.md5(server.files[name]).hexdigest()}
        for name in names
    ]
    return Source.model_validate({"id": "s", "obtain": {"via": "direct"}, "files": files, **fields})


OPTIONS = FetchOptions(retries=Naps().retries())


def test_a_source_is_fetched_unpacked_and_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.files |= {"a.zip": images_zip("train/1.jpg", "train/2.jpg"), "b.tar.gz": images_tar("val/3.jpg")}
    source = source_of(server, "a.zip", "b.tar.gz")
    events: list[Event] = []
    result = fetch_source(source, tmp_path / "s", OPTIONS, events.append)
    assert (result.downloaded, result.unpacked, result.instructions) == (2, 1, "")
    assert {event.phase for event in events} == {"download", "unpack"}
    last = [event for event in events if event.file == "a.zip"][-1]
    assert last.done == last.total == len(server.files["a.zip"])
    assert [row["image"] for row in list_images(source, tmp_path / "s")] == ["train/1.jpg", "train/2.jpg", "val/3.jpg"]
    before = sum(server.hits.values())
    again = fetch_source(source, tmp_path / "s", OPTIONS)
    assert (again.downloaded, again.unpacked) == (0, 0) and sum(server.hits.values()) == before
    everything = fetch_source(source, tmp_path / "s", FetchOptions(unpack="all", keep_archives=False))
    assert everything.unpacked == 1 and not (tmp_path / "s/a.zip").exists()
    assert [row["image"] for row in list_images(source, tmp_path / "s")] == ["train/1.jpg", "train/2.jpg", "val/3.jpg"]
    assert fetch_source(source, tmp_path / "s", FetchOptions(unpack="all")).downloaded == 0


def test_connections_are_bounded(server: Server, tmp_path: Path) -> None:
    names = [f"{n}.bin" for n in range(8)]
    server.files |= {name: bytes(400_000) for name in names}
    fetch_source(source_of(server, *names, how="slow"), tmp_path / "s", FetchOptions(connections=3))
    assert server.most_at_once == 3


def test_one_bad_source_does_not_stop_the_others(server: Server, tmp_path: Path) -> None:
    server.files |= {"a.zip": images_zip("1.jpg"), "b.zip": images_zip("2.jpg")}
    bad = source_of(server, "a.zip", how="404")
    good = source_of(server, "b.zip").model_copy(update={"id": "t"})
    resolved = [ResolvedSource(one, tmp_path / one.id, SliceRules(), 0, None) for one in (bad, good)]
    first, second = fetch(resolved, OPTIONS)
    assert "answers 404" in first.error and "the same command goes on" in first.error
    assert second.error == "" and (tmp_path / "t/b.zip").exists()


def test_a_full_disk_is_told_before(server: Server, tmp_path: Path) -> None:
    source = Source.model_validate(
        {
            "id": "s",
            "obtain": {"via": "direct"},
            "files": [{"name": "x.zip", "url": server.url("ok/x"), "size": 10**18}],
        }
    )
    with pytest.raises(InputError, match=r"1000000000\.0 GB are needed"):
        fetch_source(source, tmp_path / "s")
    assert not server.hits


def test_two_runs_do_not_write_one_folder(server: Server, tmp_path: Path) -> None:
    with (
        hold(tmp_path, "--data", ".fetch.lock"),
        pytest.raises(InputError, match=rf"in use by another run \(process {os.getpid()} "),
    ):
        fetch_source(source_of(server), tmp_path)
    with hold(tmp_path, "--data", ".fetch.lock"):
        pass


def test_what_must_be_fetched_by_hand_is_explained_and_then_taken(tmp_path: Path) -> None:
    packed = images_tar("img/1.jpg")
    source = Source.model_validate(
        {
            "id": "s",
            "name": "Set",
            "homepage": "https://example.org/set",
            "obtain": {"via": "gdrive", "instructions": "Press Download."},
            "files": [
                {"name": "a.tar.gz", "md5": hashlib.md5(packed).hexdigest(), "url": "https://drive.google.com/x"}
            ],
        }
    )
    root = tmp_path / "s"
    result = fetch_source(source, root)
    assert result.missing == ("a.tar.gz",)
    for text in (
        "https://example.org/set",
        "Press Download.",
        f"put a.tar.gz from https://drive.google.com/x into {root}",
    ):
        assert text in result.instructions
    assert f"rs-curate check s --data {tmp_path}" in result.instructions
    root.mkdir()
    (root / "a.tar.gz").write_bytes(packed[:-1])
    with pytest.raises(InputError, match="md5 .* remove it and fetch it again"):
        fetch_source(source, root)
    (root / "a.tar.gz").write_bytes(packed)
    assert fetch_source(source, root).instructions == ""
    assert [row["image"] for row in list_images(source, root)] == ["img/1.jpg"]


def test_archives_dropped_into_an_unlisted_source_are_unpacked(tmp_path: Path) -> None:
    source = Source.model_validate({"id": "s", "obtain": {"via": "form"}, "expected_images": 2})
    root = tmp_path / "s"
    assert f"put the archives, or what they hold, into {root}" in fetch_source(source, root).instructions
    root.mkdir()
    assert fetch_source(source, root).instructions
    (root / "x.zip").write_bytes(images_zip("1.jpg", "2.jpg"))
    result = fetch_source(source, root)
    assert result.unpacked == 1 and result.instructions == ""
    assert [row["image"] for row in list_images(source, root)] == ["1.jpg", "2.jpg"]


def test_images_that_are_there_already_are_not_fetched(server: Server, tmp_path: Path) -> None:
    server.files["a.zip"] = images_zip("1.jpg")
    (tmp_path / "s").mkdir()
    (tmp_path / "s/1.jpg").write_bytes(b"1")
    result = fetch_source(source_of(server, "a.zip", expected_images=1), tmp_path / "s")
    assert result.notes == ["its images are there already"] and not server.hits


def test_kill_9_and_the_same_command_again(server: Server, tmp_path: Path) -> None:
    server.files["big.zip"] = images_zip(*(f"{n}.jpg" for n in range(60_000)))
    source = source_of(server, "big.zip", how="slow")
    (tmp_path / "source.json").write_text(source.model_dump_json())
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from curation.sources.fetch import fetch_source
        from curation.sources.source import Source
        fetch_source(Source.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
    """)
    root = tmp_path / "s"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "source.json"), str(root)])
    deadline = time.monotonic() + 30
    while not ((root / "big.zip.part").exists() and (root / "big.zip.part").stat().st_size > 1 << 20):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = (root / "big.zip.part").stat().st_size
    assert not (root / "big.zip").exists()
    fetch_source(source, root)
    assert server.ranges[-1] == f"bytes={kept}-"
    assert sum(1 for _ in list_images(source, root)) == 60_000


# ------------------------------------------------------------------------------------------------ services


def test_zenodo(server: Server, tmp_path: Path) -> None:
    packed = images_zip("1.jpg")
    listing = {"files": [{"key": "a.zip", "size": len(packed), "checksum": f"md5:{hashlib.md5(packed).hexdigest()}"}]}
    server.files |= {"a.zip": packed, "12345": json.dumps(listing).encode()}
    ends = Endpoints(zenodo=server.url("").rstrip("/"))
    source = Source.model_validate({"id": "s", "obtain": {"via": "zenodo", "repository": "12345"}})
    result = fetch_source(source, tmp_path / "s", FetchOptions(ends=ends))
    assert (result.downloaded, result.unpacked) == (1, 1)
    assert server.hits["records/12345/files/a.zip"] >= 1
    assert [row["image"] for row in list_images(source, tmp_path / "s")] == ["1.jpg"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"a/1.jpg", "b/2.jpg"}),
        ({"leave": ["b/**"]}, {"a/1.jpg"}),
        ({"images": ["**/*.tif"]}, {"all.zip", "more.tar.gzaa"}),
        ({"images": ["**/*.parquet/*"], "container": "parquet"}, {"all.zip", "more.tar.gzaa", "t.parquet"}),
        ({"images": ["**/*.hdf5/*"], "container": "hdf5"}, {"all.zip", "more.tar.gzaa", "t.hdf5", "u.H5"}),
        ({"obtain": {"via": "zenodo", "repository": "12345", "wanted": ["*.parquet"]}}, {"t.parquet"}),
    ],
)
def test_which_files_of_a_repository_are_wanted(server: Server, fields: dict[str, object], expected: set[str]) -> None:
    names = ["a/1.jpg", "b/2.jpg", "README.md", "all.zip", "more.tar.gzaa", "t.parquet", "t.hdf5", "u.H5"]
    server.files["12345"] = json.dumps({"files": [{"key": name, "size": 1} for name in names]}).encode()
    ends = Endpoints(zenodo=server.url("").rstrip("/"))
    source = Source.model_validate({"id": "s", "obtain": {"via": "zenodo", "repository": "12345"}, **fields})
    assert {file.name for file in files_of(source, ends)} == expected


@pytest.mark.parametrize("name", ["../evil.jpg", "a/../../evil.jpg", "/etc/evil.jpg", "a\\..\\evil.jpg"])
def test_a_hosted_name_that_leads_outside_is_one_line(server: Server, tmp_path: Path, name: str) -> None:
    server.files["12345"] = json.dumps({"files": [{"key": name, "size": 1}]}).encode()
    source = Source.model_validate({"id": "s", "obtain": {"via": "zenodo", "repository": "12345"}})
    resolved = ResolvedSource(source, tmp_path / "s", SliceRules(), 0, None)
    (result,) = fetch([resolved], FetchOptions(ends=Endpoints(zenodo=server.url("").rstrip("/"))))
    assert result.error.startswith("source s: 12345: its file ") and "leads outside the folder" in result.error
    assert "\n" not in result.error and not list(tmp_path.rglob("evil*"))


def test_hugging_face_hub(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    tree = [
        {"type": "directory", "path": "data", "oid": "0" * 40, "size": 0},
        {"type": "file", "path": "data/1.jpg", "oid": "1" * 40, "size": 3},
        {"type": "file", "path": "README.md", "oid": "2" * 40, "size": 9},
    ]
    commit = "c0ffee" + "0" * 34
    told = {"id": "owner/set", "sha": commit}
    server.files |= {"set": json.dumps(told).encode(), commit: json.dumps(tree).encode(), "1.jpg": b"one"}
    ends = Endpoints(huggingface=server.url("").rstrip("/"))
    source = Source.model_validate({"id": "s", "obtain": {"via": "huggingface", "repository": "owner/set"}})
    assert fetch_source(source, tmp_path / "s", FetchOptions(ends=ends)).downloaded == 1
    assert (tmp_path / "s/data/1.jpg").read_bytes() == b"one"
    assert any(f"/owner/set/resolve/{commit}/data/1.jpg" in path for path in ("/" + hit for hit in server.hits))
    assert manifest_of(source, tmp_path / "s")["obtain"]["revision"] == commit
    (tmp_path / "s/data/1.jpg").unlink()  # the dataset has moved on: what was begun goes on with its commit
    server.files |= {"set": json.dumps(told | {"sha": "d" * 40}).encode()}
    assert fetch_source(source, tmp_path / "s", FetchOptions(ends=ends)).downloaded == 1
    tagged = source.model_copy(update={"obtain": source.obtain.model_copy(update={"revision": "v2"})})
    server.files |= {"v2": json.dumps(told | {"sha": "e" * 40}).encode(), "e" * 40: json.dumps(tree[:1]).encode()}
    with pytest.raises(WorkError, match="lists no file that is wanted"):
        fetch_source(tagged, tmp_path / "other", FetchOptions(ends=ends))


def test_a_revision_is_that_of_a_dataset_on_the_hub() -> None:
    with pytest.raises(ValidationError, match="a Zenodo record is one version"):
        Source.model_validate({"id": "s", "obtain": {"via": "zenodo", "repository": "12", "revision": "v1"}})


def test_s3(tmp_path: Path, s3: tuple[Any, Endpoints]) -> None:
    client, ends = s3
    for key, data in {
        "set/a/1.jpg": b"one",
        "set/a/1.json": b"{}",
        "set/big.bin": DATA,
        "other/2.jpg": b"2",
    }.items():
        client.put_object(Bucket="open", Key=key, Body=data, ACL="public-read")
    assert {file.name for file in list_repository("s3", "s3://open/set/", ends)} == {
        "a/1.jpg",
        "a/1.json",
        "big.bin",
    }
    source = Source.model_validate({"id": "s", "obtain": {"via": "s3", "repository": "s3://open/set/"}})
    assert fetch_source(source, tmp_path / "s", FetchOptions(ends=ends)).downloaded == 1
    assert (tmp_path / "s/a/1.jpg").read_bytes() == b"one"
    (tmp_path / "x.bin.part").write_bytes(DATA[:1_000_000])
    seen: list[int] = []
    big = RemoteFile(name="x.bin", url="s3://open/set/big.bin", md5=MD5)
    download(big, tmp_path / "x.bin", ends=ends, progress=seen.append)
    assert (tmp_path / "x.bin").read_bytes() == DATA and seen[0] > 1_000_000
    with pytest.raises(WorkError, match="answers 404"):
        download(RemoteFile(name="y", url="s3://open/none"), tmp_path / "y", ends=ends)
