"""Folders elsewhere to read from: ``s3://``, ``hf://`` and ``https://``. :mod:`curation.base.remote` publishes to them.

A file comes as a stream of bytes from any offset, so that a connection that breaks costs nothing that has come before.
"""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from curation.base.errors import InputError, WorkError

TIMEOUT_S = 30.0
"""Silence of a server after which a connection counts as broken."""
_CHUNK = 1 << 18
_REFUSED = {400, 401, 403, 404, 405, 410}


class Origin(Protocol):
    """A folder elsewhere; a protocol, hence without bodies."""

    url: str

    def stream(self, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of a file from ``start`` on.

        Raises:
            InputError: it is absent, or refused to us.
            WorkError: the connection broke, or the service fails; the same call may go on.
        """


def is_remote(place: str) -> bool:
    """Whether a place is a URL of a folder elsewhere."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


def open_origin(url: str) -> Origin:
    """The folder that a URL names.

    Raises:
        InputError: no such kind, it lacks a part, or the library for it is not installed.
    """
    why = ""
    try:
        place = urlsplit(url)
        parts = place.path.strip("/").split("/", 2)
        if place.scheme == "s3" and place.netloc:
            return S3Origin(place.netloc, place.path.strip("/"))
        if place.scheme in ("https", "http") and place.netloc and not set("@?#") & set(url):
            return HttpOrigin(url.rstrip("/"))
        if place.scheme == "hf" and place.netloc == "datasets" and len(parts) > 1:
            return _hub(url.rstrip("/"), *parts)
    except ValueError as error:
        why = f"{error}; "
    raise InputError(
        f"{url}: {why}give a folder of this machine, s3://bucket/folder, https://host/folder or "
        "hf://datasets/owner/name/folder (hf://datasets/owner/name@revision/folder for a fixed revision), without "
        "password or query"
    )


class HttpOrigin:
    """A folder of a web server that answers to ranges.

    Args:
        url: of the folder.
        headers: that this host alone is sent: a redirect to another one does not carry them.
        told: what the user calls the folder.
    """

    def __init__(self, url: str, headers: dict[str, str] | None = None, told: str = "") -> None:
        self._at, self._headers, self.url = quote(url, safe=":/[]%"), headers or {}, told or url

    def stream(self, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of a file from ``start`` on; a server without ranges is read from the beginning."""
        where = f"{self.url}/{name}"
        request = urllib.request.Request(f"{self._at}/{quote(name)}")
        for header, value in {**self._headers, **({"Range": f"bytes={start}-"} if start else {})}.items():
            add = request.add_unredirected_header if header == "authorization" else request.add_header
            add(header, value)
        try:
            with _open(request, timeout=TIMEOUT_S) as answer:
                yield from _from(_whole(answer), start - _first(answer, start))
        except urllib.error.HTTPError as error:
            line = f"{where}: {error.code} {error.reason}"
            raise (InputError if error.code in _REFUSED else WorkError)(line) from None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise WorkError(f"{where}: {getattr(error, 'reason', error) or type(error).__name__}") from None
        except ValueError as error:  # a host's name that cannot be one
            raise InputError(f"{where}: {error}; is the URL right?") from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Not from an encrypted connection to one that is not, nor to FTP, as urllib goes."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith(("https://", f"{req.type}://")):
            raise urllib.error.HTTPError(newurl, code, f"leads to {newurl}, which is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_open = urllib.request.build_opener(_Redirects).open


def _first(answer: Any, start: int) -> int:
    """The byte that an answer begins with; one that was asked for is believed where the answer does not say."""
    if answer.status != 206:
        return 0
    told = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    first = int(told[1]) if told else start
    if first > start:
        raise http.client.HTTPException(f"asked for byte {start:,} on, the server sent byte {first:,} on")
    return first


def _whole(answer: Any) -> Iterator[bytes]:
    """The body of an answer; one that ends early is an error, which reading in pieces does not raise."""
    left = answer.length
    while chunk := answer.read1(_CHUNK):
        left = None if left is None else left - len(chunk)
        yield chunk
    if left:
        raise http.client.IncompleteRead(b"", left)


def _from(chunks: Iterator[bytes], start: int) -> Iterator[bytes]:
    """What follows the first ``start`` bytes."""
    for chunk in chunks:
        if start < len(chunk):
            yield chunk[start:]
        start = max(start - len(chunk), 0)


def _hub(url: str, owner: str, name: str, folder: str = "") -> HttpOrigin:
    """A folder of a dataset on the Hugging Face Hub, at the main branch or ``@revision``."""
    try:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers
    except ImportError:
        raise InputError("hf:// needs huggingface_hub; pip install 'rscorpus[sources]'") from None
    name, _, revision = name.partition("@")
    endpoint = os.environ.get("HF_ENDPOINT")
    mark = hf_hub_url(f"{owner}/{name}", "_", repo_type="dataset", revision=revision or None, endpoint=endpoint)
    base = f"{mark.removesuffix('/_')}/{folder}".rstrip("/")
    return HttpOrigin(base, {key.lower(): value for key, value in build_hf_headers().items()}, url)


class S3Origin:
    """A prefix of a bucket; keys and endpoint come from where ``boto3`` looks for them (AWS_ENDPOINT_URL and others).

    Raises:
        InputError: ``boto3`` is not installed, or its settings are wrong.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        try:
            from boto3.session import Session
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise InputError("s3:// needs boto3; pip install 'rscorpus[sources]'") from None
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        config = Config(retries={"mode": "standard"}, connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S)
        try:
            self._client: Any = Session().client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise InputError(f"{self.url}: {error}; see AWS_PROFILE and AWS_ENDPOINT_URL (https://host)") from None

    def stream(self, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of an object from ``start`` on."""
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            HTTPClientError,
            NoCredentialsError,
            ParamValidationError,
        )

        where = f"{self.url}/{name}"
        ranged = {"Range": f"bytes={start}-"} if start else {}
        try:
            found = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name, **ranged)
            with closing(found["Body"]) as body:
                yield from body.iter_chunks(_CHUNK)
        except NoCredentialsError as error:
            raise InputError(
                f"{where}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from None
        except ParamValidationError as error:
            raise InputError(f"{where}: {error.kwargs['report']}") from None
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            line = f"{where}: {error.response['Error'].get('Message') or error.response['Error']['Code']}"
            raise (InputError if status in _REFUSED else WorkError)(line) from None
        except (BotoCoreError, HTTPClientError, http.client.HTTPException, OSError) as error:
            raise WorkError(f"{where}: {error}") from None


Again = Callable[[WorkError, int], None]
"""Called where a connection broke, with the bytes that have come; raises when enough has been tried."""


def read_whole(origin: Origin, name: str, limit: int, again: Again) -> bytes:
    """A small file.

    Args:
        origin: the folder.
        name: of the file.
        limit: greatest size, bytes.
        again: whether to go on.

    Raises:
        InputError: it is absent, refused or larger than ``limit``.
    """
    data = bytearray()
    while True:
        try:
            for chunk in origin.stream(name, len(data)):
                data += chunk
                if len(data) > limit:
                    raise InputError(f"{origin.url}/{name}: has more than {limit:,} bytes")
            return bytes(data)
        except WorkError as error:
            again(error, len(data))
