"""Asking servers what is still there: a real HTTP server on loopback that answers as hosts do, and a real S3 API."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from loopback import running

from curation.base.errors import InputError
from curation.cli import main
from curation.sources.hosts import Endpoints
from curation.sources.plan import make_plan
from curation.sources.probe import Probe, bytes_of, probe, read_probe, standing, write_probe
from curation.sources.recipe import Recipe
from curation.sources.say import format_plan, format_sources
from curation.sources.source import Source

SIZE = 4_321


class Server(ThreadingHTTPServer):
    """The first path segment says how a host answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.sent = self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.listing: bytes = b""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        how = self.path.split("/")[1]
        self.count()
        if how.startswith("nohead"):
            self.answer(int(how.removeprefix("nohead")))
        elif how == "headpage":
            self.answer(200, {"Content-Type": "text/html"})
        else:
            self.reply(how)

    def do_GET(self) -> None:
        self.count()
        how = self.path.split("/")[1]
        if how == "api":
            self.answer(200, {"Content-Type": "application/json", "Content-Length": str(len(self.server.listing))})
            self.wfile.write(self.server.listing)
        elif how.startswith("nohead") or how in {"headpage", "records"}:
            assert self.headers["Range"] == "bytes=0-0"
            self.answer(
                206, {"Content-Range": f"bytes 0-0/{SIZE}", "Content-Length": "1", "Content-Type": "application/zip"}
            )
            self.wfile.write(b"P")
        else:
            self.reply(how)

    def count(self) -> None:
        server = self.server
        with server.lock:
            server.asked[f"{self.command} {self.path}"] += 1
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        time.sleep(0.005)
        with server.lock:
            server.at_once -= 1

    def reply(self, how: str) -> None:
        if how.isdigit():
            self.answer(int(how))
        elif how == "moved":
            self.answer(302, {"Location": "/ok/" + self.path.rpartition("/")[2]})
        elif how == "loop":
            self.answer(302, {"Location": self.path})
        elif how == "page":
            self.answer(200, {"Content-Type": "text/html; charset=utf-8", "Content-Length": "20"})
        elif how == "hang":
            time.sleep(3)
        else:
            told = {"ETag": '"v1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT", "Content-Type": "application/zip"}
            self.answer(200, {"Content-Length": str(SIZE), **told})

    def answer(self, code: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server()) as server:
        yield server


def of(*files: dict[str, Any], via: str = "direct", **fields: Any) -> Source:
    return Source.model_validate({"id": "s", "files": files, "obtain": {"via": via}, **fields})


@pytest.mark.parametrize(
    ("path", "state", "status", "size"),
    [
        ("ok/a.zip", "there", 200, SIZE),
        ("moved/a.zip", "there", 200, SIZE),
        ("nohead403/a.zip", "there", 206, SIZE),
        ("nohead405/a.zip", "there", 206, SIZE),
        ("headpage/a.zip", "there", 206, SIZE),  # the answer to HEAD is not always the file's
        ("page/a.zip", "gone", 200, 20),
        ("403/a.zip", "gone", 403, None),
        ("404/a.zip", "gone", 404, None),
        ("410/a.zip", "gone", 410, None),
        ("loop/a.zip", "gone", 302, None),
        ("503/a.zip", "silent", 503, None),
        ("429/a.zip", "silent", 429, None),
        ("hang/a.zip", "silent", None, None),
    ],
)
def test_what_an_answer_means(server: Server, path: str, state: str, status: int | None, size: int | None) -> None:
    url = server.url(path)
    found = probe([of({"name": "a.zip", "url": url})], Endpoints(timeout=0.3)).found[url]
    assert (found.state, found.status, found.size) == (state, status, size)
    assert bool(found.why) == (state != "there") and (not found.why or url in found.why)
    assert abs((datetime.now(UTC) - found.checked).total_seconds()) < 20
    assert found.redirected_to == (server.url("ok/a.zip") if path.startswith("moved") else None)
    if path.startswith("ok"):
        assert (found.etag, found.last_modified) == ('"v1"', "Wed, 21 Oct 2015 07:28:00 GMT")
        assert server.asked == {"HEAD /ok/a.zip": 1}, "nothing is downloaded"


def test_a_file_of_another_size_is_gone(server: Server) -> None:
    url = server.url("ok/a.zip")
    found = probe([of({"name": "a.zip", "url": url, "size": 9_999})]).found[url]
    assert found.state == "gone" and found.why.endswith("4,321 bytes, the manifest says 9,999")


def test_a_host_is_asked_one_thing_at_a_time_and_left_alone_when_it_is_silent(server: Server) -> None:
    files = [{"name": f"{number}.zip", "url": server.url(f"ok/{number}")} for number in range(12)]
    assert len(probe([of(*files)], hosts_at_once=8).found) == 12
    assert server.most_at_once == 1
    dead = [{"name": f"{number}.zip", "url": f"http://127.0.0.1:1/{number}"} for number in range(5)]
    found = probe([of(*dead)], Endpoints(timeout=1)).found
    assert {each.state for each in found.values()} == {"silent"}
    assert sum("did not answer 3 times" in each.why for each in found.values()) == 2


def test_what_can_be_counted_on(server: Server) -> None:
    def file(name: str, *paths: str, **facts: Any) -> dict[str, Any]:
        url, *mirrors = map(server.url, paths)
        return {"name": name, "url": url, "mirrors": mirrors, **facts}

    def stands(source: Source) -> tuple[str, float]:
        judged = standing(source, probe([source]))
        silent = any("503" in str(file.url) for file in source.files)
        assert judged.checked == ("" if silent else datetime.now(UTC).date().isoformat())
        return judged.state, judged.share

    assert stands(of(file("a.zip", "ok/1"))) == ("automatic", 1.0)
    assert stands(of(file("a.zip", "404/1", "ok/2"))) == ("automatic", 1.0), "a mirror has it"
    assert stands(of(file("a.zip", "503/1"))) == ("automatic", 1.0), "silence says nothing"
    assert stands(of(file("a.zip", "404/1", "page/2"))) == ("gone", 0.0)
    # 4,321 bytes are there, 3 times as many are not
    assert stands(of(file("a.zip", "ok/1"), file("b.zip", "404/1", size=3 * SIZE))) == ("automatic", 0.25)
    assert stands(of(file("a.zip", "ok/1"), file("b.zip", "404/1"))) == ("automatic", 0.5), "no size: files count"
    parts = [file("a.zip.001", "ok/1"), file("a.zip.002", "404/2"), file("b.zip", "ok/3")]
    assert stands(of(*parts))[1] == pytest.approx(1 / 3), "half an archive is none"
    assert stands(of(file("a.zip", "404/1"), via="form")) == ("gone", 0.0)
    hand = of(via="form", homepage=server.url("404/page"))
    assert stands(hand) == ("by hand", 1.0) and "answers 404" in standing(hand, probe([hand])).note
    assert standing(of(file("a.zip", "ok/1"))).checked == ""
    assert standing(of(via="local")).state == "own"


def test_repositories_are_listed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Endpoints(zenodo=server.url("").rstrip("/"))
    source = Source.model_validate({"id": "s", "obtain": {"via": "zenodo", "repository": "12"}})
    server.listing = json.dumps({"files": [{"key": "a.zip", "size": 5}, {"key": "b.zip", "size": 7}]}).encode()
    (found,) = probe([source], ends).found.values()
    assert (found.state, found.files, found.size) == ("there", 2, 12)
    answers = Probe(found={"zenodo:12": found})
    assert (bytes_of(source, answers), bytes_of(source, answers, 1), bytes_of(source, answers, 9)) == (12, 6, 12)
    monkeypatch.setattr("curation.sources.probe.MOST_LISTED", 2)
    (found,) = probe([source], ends).found.values()
    assert (found.state, found.files, found.size) == ("there", 2, None), "there may be more"
    server.listing = b'{"files": [{"key": "README.md", "size": 5}]}'
    (found,) = probe([source], ends).found.values()
    assert found.state == "gone" and "no file that is wanted" in found.why
    assert standing(source, Probe(found={"zenodo:12": found})).state == "gone"


def test_the_hub_that_cannot_be_reached_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*args: object, **kwargs: object) -> None:
        raise hub.errors.HfHubHTTPError.__bases__[0]("no route to host")

    monkeypatch.setattr(hub.HfApi, "list_repo_tree", refuse)
    source = Source.model_validate({"id": "s", "obtain": {"via": "huggingface", "repository": "a/b"}})
    (found,) = probe([source]).found.values()
    assert found.state == "silent" and "no route to host" in found.why


def test_s3(s3: tuple[Any, Endpoints]) -> None:
    client, ends = s3
    client.put_object(Bucket="open", Key="set/a.zip", Body=b"PK", ACL="public-read")
    source = of({"name": "a.zip", "url": "s3://open/set/a.zip"}, {"name": "b.zip", "url": "s3://open/set/b.zip"})
    found = probe([source], ends).found
    assert [(each.state, each.status, each.size) for each in found.values()] == [
        ("there", 200, 2),
        ("gone", 404, None),
    ]
    assert found["s3://open/set/a.zip"].etag == client.head_object(Bucket="open", Key="set/a.zip")["ETag"]
    for prefix, state in (("s3://open/set/", "there"), ("s3://closed/set/", "gone")):
        listed = Source.model_validate({"id": "s", "obtain": {"via": "s3", "repository": prefix}})
        assert probe([listed], ends).found[prefix].state == state


def far(via: str = "s3", **remote: Any) -> Source:
    return Source.model_validate({"id": "s", "container": "remote", "remote": remote, "obtain": {"via": via}})


def test_imagery_that_is_read_where_it_lies_is_asked_for_where_it_begins(
    server: Server, s3: tuple[Any, Endpoints]
) -> None:
    client, ends = s3
    client.put_object(Bucket="open", Key="2024/a.tif", Body=b"II", ACL="public-read")
    for path, state, share in (("ok/part-{00..99}.tif", "automatic", 1.0), ("404/part-{00..99}.tif", "gone", 0.0)):
        source = far(urls=[server.url(path)])
        asked = probe([source], ends)
        assert list(asked.found) == [server.url(path).replace("{00..99}", "00")]
        assert (standing(source, asked).state, standing(source, asked).share) == (state, share)
    half = far(urls=[server.url("ok/a.tif"), server.url("404/b.tif")])
    assert standing(half, probe([half], ends)).share == 0.5
    catalogue = far(stac=server.url("404/stac"))
    assert standing(catalogue, probe([catalogue], ends)).state == "gone"
    for prefix, state in (("s3://open/2024/", "automatic"), ("s3://open/2025/", "gone"), ("s3://closed/", "gone")):
        bucket = far(prefix=prefix)
        assert standing(bucket, probe([bucket], ends)).state == state


def test_what_others_reported_stands_until_a_server_says_otherwise(server: Server) -> None:
    told = {"state": "gone", "on": "2020-08-26", "why": "the bucket answers 403"}
    source = of({"name": "a.zip", "url": server.url("ok/1")}, via="direct")
    source = source.model_copy(update={"obtain": source.obtain.model_validate({"via": "direct", "reported": told})})
    found = standing(source)
    assert (found.state, found.checked, found.note) == ("gone", "2020-08-26", "the bucket answers 403")
    assert "gone 2020-08-26" in format_sources([source])
    asked = standing(source, probe([source]))
    assert (asked.state, asked.checked) == ("automatic", datetime.now(UTC).date().isoformat())
    doubt = source.obtain.model_validate({"via": "direct", "reported": {**told, "state": "doubtful"}})
    found = standing(source.model_copy(update={"obtain": doubt}))
    assert (found.state, found.note) == ("automatic", "doubtful: the bucket answers 403")


def test_a_plan_takes_off_what_is_gone_and_the_answers_are_kept(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def entry(name: str, how: str, tiles: int, via: str = "direct") -> dict[str, Any]:
        files = [{"name": f"{name}.zip", "url": server.url(f"{how}/{name}.zip")}]
        return {"id": name, "path": name, "predicted_tiles": tiles, "obtain": {"via": via}, "files": files}

    told = {
        "name": "x",
        "sources": [entry("a", "ok", 1_000), entry("b", "403", 500), entry("c", "ok", 70, "form")],
        "balance": {"total": 1_200},
    }
    (tmp_path / "x.yaml").write_text(json.dumps(told))
    out = tmp_path / "probe.json"
    assert main(["probe", str(tmp_path / "x.yaml"), "--out", str(out)]) == 1, "something is gone"
    assert "1 automatic, 1 gone, 1 by hand" in capsys.readouterr().out
    day = datetime.now(UTC).date().isoformat()
    recipe = Recipe.model_validate(told)
    assert make_plan(recipe).tiles == 1_200
    plan = make_plan(recipe, None, read_probe(out))
    assert plan.tiles == 1_070
    assert [(row.standing.state, row.standing.checked) for row in plan.rows] == [
        ("automatic", day), ("gone", day), ("by hand", day),
    ]  # fmt: skip
    assert main(["plan", str(tmp_path / "x.yaml"), "--probe", str(out)]) == 0
    said = capsys.readouterr().out
    for line in ("automatic: 1 of 3, 1,000 tiles", "by hand: 1 of 3, 70 tiles", "gone: 1 of 3, 500 tiles"):
        assert line in said
    assert f"gone {day}" in said and "the server answers 403" in said and "fetches 1, explains the others" in said
    # what was asked before stays beside what is asked now; a mended manifest is not judged by its old URL
    write_probe(out, Probe(found={"http://other/x": read_probe(out).found[server.url("ok/a.zip")]}))
    assert main(["probe", str(tmp_path / "x.yaml"), "--out", str(out)]) == 1
    assert len(read_probe(out).found) == 4
    mended = {**told, "sources": [entry("b", "ok/new", 500)]}
    assert format_plan(make_plan(Recipe.model_validate(mended), None, read_probe(out))).count("gone: 0 of 1")


@pytest.mark.parametrize(
    ("text", "said"), [(None, "rs-curate probe RECIPE --out"), ("[]", "not what"), ('{"version": 2}', "version")]
)
def test_another_file_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match=said):
        read_probe(tmp_path / "p.json")
