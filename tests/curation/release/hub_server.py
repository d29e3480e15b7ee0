"""A small Hugging Face Hub on loopback: what ``huggingface_hub`` asks to commit and to download files, with LFS."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import serving


@dataclass
class Hub:
    """One repository, what is asked of it, and what it answers instead."""

    url: str = ""
    exists: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """Contents that were uploaded by LFS, by SHA-256; committed or not."""
    tags: list[str] = field(default_factory=list)
    commits: list[int] = field(default_factory=list)
    """Operations in each."""
    refusals: dict[str, list[int]] = field(default_factory=dict)
    """Statuses with which the next calls of a kind are refused."""
    words: str = "not now"
    """What is said then."""
    private: bool | None = None


@contextmanager
def hub() -> Iterator[Hub]:
    """Run one."""
    state = Hub()
    with serving(_Handler, hub=state) as state.url:
        yield state


def _is_large(path: str) -> bool:
    return path.endswith((".tar", ".parquet", ".safetensors"))


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def _answer(self, status: int, value: Any = None, data: bytes | None = None) -> None:
        body = json.dumps(value).encode() if data is None else data
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _refused(self, call: str) -> bool:
        """Whether a call is refused, which is then answered."""
        left = self.hub.refusals.get(call)
        if left:
            self._answer(left.pop(0), {"error": self.hub.words})
            return True
        return False

    def do_GET(self) -> None:
        if "/tree/main" in self.path:
            if self._refused("tree"):
                return
            self._answer(200, [self._told(path, data) for path, data in sorted(self.hub.files.items())])
        elif (name := self._resolved()) is not None:
            self._answer(200, data=self.hub.files[name])
        else:
            self._answer(404, {"error": self.path})

    def do_HEAD(self) -> None:
        """What a download asks first: size, checksum and commit of a file."""
        if (name := self._resolved()) is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.hub.files[name])))
            self.send_header("ETag", f'"{hashlib.sha256(self.hub.files[name]).hexdigest()}"')
        self.send_header("X-Repo-Commit", f"{len(self.hub.commits):040x}")
        self.end_headers()

    def _resolved(self) -> str | None:
        found = re.search(r"/me/\w+/resolve/\w+/([^?]+)", self.path)
        return found.group(1) if found and found.group(1) in self.hub.files else None

    def _told(self, path: str, data: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        told = {"type": "file", "path": path, "size": len(data), "oid": blob}
        if _is_large(path):
            told["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return told

    def do_PUT(self) -> None:
        data = self._body()
        if not self._refused("put"):
            self.hub.large[self.path.rpartition("/")[2]] = data
            self._answer(200, data=b"")

    def do_POST(self) -> None:
        body = self._body()
        calls = {"/repos/create": "create", "/preupload/": "preupload", "/objects/batch": "batch", "/tag/": "tag"}
        call = next((name for part, name in calls.items() if part in self.path), "")
        if self.headers.get("Authorization") != "Bearer hf_good":
            self._answer(401, {"error": "Invalid username or password."})
        elif self._refused(call):
            return
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            self.hub.private = asked.get("private", asked.get("visibility") == "private")
            self._answer(409 if self.hub.exists else 200, {"url": f"{self.hub.url}/datasets/me/corpus"})
            self.hub.exists = True
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "lfs" if _is_large(path) else "regular"} for path in files]
            self._answer(200, {"files": [mode | {"shouldIgnore": False} for mode in modes]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._answer(
                200, {"transfer": "basic", "objects": [self._action(each) for each in json.loads(body)["objects"]]}
            )
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        elif found := re.search(r"/tag/", self.path):
            self.hub.tags.append(json.loads(body)["tag"])
            self._answer(200, {})
        else:
            self._answer(404, {"error": found})

    def _action(self, asked: dict[str, Any]) -> dict[str, Any]:
        told = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] in self.hub.large:
            return told
        return told | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        if self._refused("commit"):
            return
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.hub.files[value["path"]]
        self.hub.commits.append(len(lines) - 1)
        oid = f"{len(self.hub.commits):040x}"
        self._answer(200, {"commitUrl": f"{self.hub.url}/datasets/me/corpus/commit/{oid}", "commitOid": oid})
