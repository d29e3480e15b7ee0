"""Open a remote file at an offset, over HTTP(S) or S3, or ask for it alone.

HTTP goes through the standard library with redirects and without any other scheme. S3 and the Hugging Face Hub need the
extra ``sources``; both read public data anonymously.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import http.client
import io
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from curation.base.errors import InputError, RscorpusError

AGENT = "rscorpus (dataset fetch; https://arxiv.org/abs/2406.11933)"
RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class Transient(RscorpusError):
    """A failure that may pass; ``retry_after`` is what the server asked for, in seconds."""

    def __init__(self, message: str, retry_after: float | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.retry_after, self.status = retry_after, status


class Gone(RscorpusError):
    """A failure that will not pass: try the next mirror. ``status`` is the server's, where it answered."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _PastTheEnd(RscorpusError):
    """Status 416; the message is its Content-Range."""


@dataclass(frozen=True)
class Endpoints:
    """Where the hosting services answer; the defaults are the public ones."""

    zenodo: str = "https://zenodo.org"
    huggingface: str = "https://huggingface.co"
    s3: str | None = None
    """Null: Amazon's."""
    timeout: float = 60.0
    """Seconds without a byte after which a connection is given up."""

    @functools.cached_property
    def http(self) -> urllib.request.OpenerDirector:
        """Follows redirects between http and https, and knows no other scheme."""
        return _opener()

    @functools.cached_property
    def s3_client(self) -> Any:
        """An anonymous client; making one takes longer than fetching a small file."""
        return _client(self)


PUBLIC = Endpoints()


@dataclass(frozen=True)
class Opened:
    """A stream that begins at ``offset``; ``total`` is the whole file's size and ``validator`` its version, if told."""

    stream: IO[bytes]
    offset: int
    total: int | None
    validator: str | None
    web_page: bool = False


@contextlib.contextmanager
def open_at(url: str, offset: int, validator: str | None, ends: Endpoints) -> Iterator[Opened]:
    """Open ``url`` at ``offset``, or at 0 when the server has no ranges or the file is no longer what it was.

    Raises:
        Transient: no connection, or a status that invites another try.
        Gone: any other failure; the message names the URL.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in {"http", "https", "s3"}:
        raise Gone(f"{url}: only http, https and s3 are fetched")
    opened = _open_s3(url, offset, validator, ends) if scheme == "s3" else _open_http(url, offset, validator, ends)
    try:
        yield opened
    except (OSError, http.client.HTTPException) as error:
        raise Transient(f"{url}: the connection broke ({error or type(error).__name__})") from None
    finally:
        with contextlib.suppress(OSError):
            opened.stream.close()


def size_at(url: str, ends: Endpoints) -> int | None:
    """A remote file's size, or None when the server does not tell without sending it."""
    with contextlib.suppress(Transient, Gone, ValueError, KeyError):
        if url.startswith("s3://"):
            with open_at(url, 0, None, ends) as opened:
                return opened.total
        with contextlib.closing(_request(url, {}, ends, method="HEAD")) as response:
            if response.headers.get_content_type() != "text/html":
                return int(response.headers["Content-Length"])
    return None


@dataclass(frozen=True)
class FileHead:
    """What a server tells of a file without sending it."""

    status: int
    url: str
    """After redirects."""
    size: int | None
    etag: str | None
    last_modified: str | None
    content_type: str


def ask(url: str, ends: Endpoints) -> FileHead:
    """Ask for a file by HEAD; for its first byte where that is refused, or answered with a page.

    Raises:
        Transient: no connection, or a status that invites another try.
        Gone: any other failure; the message names the URL.
    """
    if urllib.parse.urlsplit(url).scheme not in {"http", "https", "s3"}:
        raise Gone(f"{url}: only http, https and s3 are fetched")
    if url.startswith("s3://"):
        return _ask_s3(url, ends)
    headers = _secret(url, ends)
    with contextlib.suppress(Transient, Gone):
        with contextlib.closing(_request(url, headers, ends, method="HEAD")) as response:
            told = _answer(response)
        if told.content_type != "text/html":
            return told
    try:
        with contextlib.closing(_request(url, {"Range": "bytes=0-0", **headers}, ends)) as response:
            return _answer(response)
    except _PastTheEnd:
        raise Gone(f"{url}: is empty", 416) from None


def _answer(response: Any) -> FileHead:
    told = response.headers
    ranged = re.fullmatch(r"bytes \d+-\d+/(\d+)", told.get("Content-Range") or "")
    size = ranged[1] if ranged else told.get("Content-Length") if response.status != 206 else None
    return FileHead(
        response.status, response.url, int(size) if size and size.isdigit() else None, told.get("ETag"),
        told.get("Last-Modified"), told.get_content_type() if "Content-Type" in told else "",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ HTTP


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects between http and https only, and tell another host no secret."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Follow to http and https; another host gets no token."""
        if urllib.parse.urlsplit(newurl).scheme not in {"http", "https"}:
            raise Gone(f"{req.full_url}: redirects to {newurl}")
        follow = super().redirect_request(req, fp, code, msg, headers, newurl)
        if follow is not None and follow.host != req.host:
            follow.remove_header("Authorization")
        return follow


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _request(url: str, headers: dict[str, str], ends: Endpoints, method: str = "GET") -> Any:
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity", **headers}
    try:
        return ends.http.open(urllib.request.Request(url, headers=headers, method=method), timeout=ends.timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise _PastTheEnd(error.headers.get("Content-Range") or "") from None
        refuse(url, error.code, error.headers.get("Retry-After"))
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        raise Transient(f"{url}: {getattr(error, 'reason', None) or error or type(error).__name__}") from None


def refuse(url: str, status: int, retry_after: str | None = None) -> NoReturn:
    """Raise what a status means: Transient or Gone."""
    if status in RETRY_STATUS:
        raise Transient(f"{url}: the server answers {status}", _seconds(retry_after), status)
    raise Gone(f"{url}: the server answers {status}", status)


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After as seconds from now; it may be a number or a date."""
    if not retry_after:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _open_http(url: str, offset: int, validator: str | None, ends: Endpoints) -> Opened:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and validator:
        headers["If-Range"] = validator
    headers |= _secret(url, ends)
    try:
        response = _request(url, headers, ends)
    except _PastTheEnd as past:
        if str(past) == f"bytes */{offset}":  # all of it is on disk already
            return Opened(io.BytesIO(), offset, offset, validator)
        response = _request(url, {}, ends)  # what is on disk is no beginning of this file
    length = response.headers.get("Content-Length")
    tag = response.headers.get("ETag")
    # A weak tag does not promise equal bytes, which a resumed download needs.
    version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    page = response.headers.get_content_type() == "text/html"
    ranged = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range") or "")
    if response.status == 206 and ranged and int(ranged[1]) == offset:
        return Opened(response, offset, int(ranged[2]) if ranged[2] != "*" else None, version, page)
    if response.status == 206:
        response.close()
        raise Gone(f"{url}: the server answers another range than was asked for")
    return Opened(response, 0, int(length) if length else None, version, page)


def _secret(url: str, ends: Endpoints) -> dict[str, str]:
    """Headers that the Hub alone is told."""
    ours = urllib.parse.urlsplit(url).netloc == urllib.parse.urlsplit(ends.huggingface).netloc
    return _hub_headers() if ours else {}


def _hub_headers() -> dict[str, str]:
    """The user's own token, for datasets whose terms must be accepted first; none when the library is absent."""
    try:
        from huggingface_hub import get_token
    except ImportError:
        return {}
    token = get_token() if "HF_HUB_DISABLE_IMPLICIT_TOKEN" not in os.environ else None
    return {"Authorization": f"Bearer {token}"} if token else {}


def read_json(url: str, ends: Endpoints) -> Any:
    """What a service answers in JSON.

    Raises:
        Transient, Gone: it does not.
    """
    with contextlib.closing(_request(url, {"Accept": "application/json"}, ends)) as response:
        try:
            return json.loads(response.read(64 << 20))
        except (ValueError, OSError, http.client.HTTPException) as error:
            raise Transient(f"{url}: no JSON ({error})") from None


# ------------------------------------------------------------------------------------------------ S3


def _client(ends: Endpoints) -> Any:
    try:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
    except ImportError:
        raise InputError("s3:// needs boto3; pip install boto3") from None
    config = Config(signature_version=UNSIGNED, retries={"max_attempts": 1}, read_timeout=ends.timeout)
    return boto3.client("s3", region_name="us-east-1", endpoint_url=ends.s3, config=config)


def s3_errors() -> tuple[type[Exception], type[Exception]]:
    """What a client raises: where the service refuses, and where it is not reached."""
    from botocore.exceptions import BotoCoreError, ClientError

    return ClientError, BotoCoreError


def _open_s3(url: str, offset: int, validator: str | None, ends: Endpoints) -> Opened:
    client = ends.s3_client
    refused, broken = s3_errors()
    place = urllib.parse.urlsplit(url)
    asked: dict[str, str] = {"Bucket": place.netloc, "Key": place.path.lstrip("/")}
    if offset:
        asked["Range"] = f"bytes={offset}-"
        asked |= {"IfMatch": validator} if validator else {}
    try:
        answer = client.get_object(**asked)
    except refused as error:
        status = status_of(error)
        if offset and status in {412, 416}:
            return _open_s3(url, 0, None, ends)
        refuse(url, status, None)
    except broken as error:
        raise Transient(f"{url}: {error}") from None
    total = int(answer["ContentRange"].rsplit("/", 1)[1]) if offset else int(answer["ContentLength"])
    return Opened(_S3Body(answer["Body"]), offset, total, answer.get("ETag"))  # type: ignore[arg-type]


class _S3Body:
    """A botocore stream whose failures are OSErrors, as those of any other stream."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def read(self, size: int) -> bytes:
        """Read on from the body of the answer."""
        try:
            return bytes(self._body.read(size))
        except s3_errors()[1] as error:
            raise OSError(str(error)) from None

    def close(self) -> None:
        """Give the connection back."""
        self._body.close()


def _ask_s3(url: str, ends: Endpoints) -> FileHead:
    place, client = urllib.parse.urlsplit(url), ends.s3_client
    refused, broken = s3_errors()
    try:
        told = client.head_object(Bucket=place.netloc, Key=place.path.lstrip("/"))
    except refused as error:
        refuse(url, status_of(error), None)
    except broken as error:
        raise Transient(f"{url}: {error}") from None
    return FileHead(200, url, told["ContentLength"], told.get("ETag"), str(told.get("LastModified")), "")


def status_of(error: Exception) -> int:
    """The status by which S3 refused."""
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])  # type: ignore[attr-defined]
