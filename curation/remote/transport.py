"""Byte ranges of files elsewhere, over HTTP(S) and S3, of the version that was listed and of no other.

A server that falls silent is asked again, with growing waits; what it refuses, or has changed, is a verdict of the
image. At most so many requests to a host are in flight on a machine: each holds a lock file, which the system frees
however its process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

from curation.base.errors import InputError, UnreadableImage, WorkError
from curation.base.locks import NO_FLOCK
from curation.remote.access import RemoteImagery

AGENT = "rscorpus (remote imagery; https://arxiv.org/abs/2406.11933)"
PAGE = 1 << 14
"""Bytes that are asked for first: a COG's header, and what tells its version."""
_CONTENT_RANGE = r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})"
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0

T = TypeVar("T")


class Pin(NamedTuple):
    """One version of a remote file: its ETag, or size and time of change where the server tells no strong one."""

    url: str
    size: int
    version: str

    @property
    def key(self) -> str:
        """Digest that changes with the version."""
        return hashlib.blake2b("\0".join(map(str, self)).encode(), digest_size=16).hexdigest()

    @property
    def stamp(self) -> int:
        """The version as a number, in place of a time of change."""
        return int(self.key[:16], 16) >> 1


class _Answer(NamedTuple):
    """What a server sent, and of what."""

    data: bytes
    pin: Pin


class _Passing(Exception):
    """A failure that may pass; with what the server asked to wait, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Refused(UnreadableImage):
    """A server does not give a file: absent, forbidden, a page in its place, or another version than was listed."""


@dataclass(frozen=True)
class Transport:
    """Reads ranges as a source's access says."""

    access: RemoteImagery
    slots: Path
    """Folder of the lock files."""
    _stems: dict[str, str] = field(default_factory=dict)

    def pin(self, url: str) -> tuple[Pin, bytes]:
        """A file's version, and its first bytes.

        Raises:
            Refused: it is not given.
            WorkError: the server does not answer.
            InputError: credentials are missing.
        """
        answer = self._again(url, lambda: self._ask(url, 0, PAGE, None))
        return answer.pin, answer.data

    def read(self, pin: Pin, offset: int, size: int) -> bytes:
        """Bytes of a file; fewer at its end.

        Raises:
            Refused: it is not given, or is another version.
            WorkError, InputError: as :meth:`pin`.
        """
        size = min(size, pin.size - offset)
        if size <= 0:
            return b""
        return self._again(pin.url, lambda: self._ask(pin.url, offset, size, pin)).data

    def text(self, url: str, limit: int) -> str:
        """A small file of text.

        Raises:
            Refused: it is not given, is no text, or is larger than ``limit``.
            WorkError, InputError: as :meth:`pin`.
        """
        data = self._again(url, lambda: (self._s3 if url.startswith("s3://") else self._http)(url, 0, limit, True)).data
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise Refused(f"{url}: is no text") from None

    def objects(self, prefix: str) -> Iterator[str]:
        """URLs of the objects below ``s3://bucket/prefix``, in the order of their keys.

        Raises:
            InputError: the bucket does not let itself be listed.
            WorkError: it does not answer.
        """
        place = urlsplit(prefix)
        token: dict[str, str] = {}
        while True:
            asked = {"Bucket": place.netloc, "Prefix": place.path.lstrip("/"), **token, **self._payer}
            try:
                page = self._again(prefix, lambda asked=asked: self._s3_call(prefix, "list_objects_v2", asked))  # type: ignore[misc]
            except Refused as refused:
                raise InputError(str(refused)) from None
            yield from (f"s3://{place.netloc}/{each['Key']}" for each in page.get("Contents", ()) if each["Size"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    # -------------------------------------------------------------------------------------------- requests

    def _again(self, url: str, once: Callable[[], T]) -> T:
        reason = ""
        for attempt in range(self.access.attempts):
            try:
                with self._slot(urlsplit(url).netloc):
                    return once()
            except _Passing as passing:
                reason = str(passing)
                wait = FIRST_WAIT_S * 2.0**attempt * random.uniform(0.5, 1.0) if passing.wait is None else passing.wait
                if attempt + 1 < self.access.attempts:
                    time.sleep(min(wait, LONGEST_WAIT_S))
        raise WorkError(
            f"{url}: {reason} (asked {self.access.attempts} times); when it answers, the same command goes on"
        )

    @contextlib.contextmanager
    def _slot(self, host: str) -> Iterator[None]:
        """Hold one of the host's lock files: any that is free, else wait for one."""
        stem, count = self._stem(host), self.access.connections
        first = random.randrange(count)
        for number in range(first, first + count):
            with open(f"{stem}.{number % count}", "a") as handle:  # noqa: PTH123 (a path takes longer than the lock)
                if _locked(handle):
                    yield
                    return
        with open(f"{stem}.{first}", "a") as handle:  # noqa: PTH123
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _stem(self, host: str) -> str:
        """How the names of a host's lock files begin."""
        if host not in self._stems:
            self.slots.mkdir(parents=True, exist_ok=True)
            self._stems[host] = str(self.slots / quote(host, safe=""))
        return self._stems[host]

    def _ask(self, url: str, offset: int, size: int, pin: Pin | None) -> _Answer:
        """A range; the version is told by the answer itself, since a redirect may lead to a store of other tags."""
        answer = (self._s3 if url.startswith("s3://") else self._http)(url, offset, size)
        if pin is not None and answer.pin != pin:
            raise _changed(url)
        return answer

    def _http(self, url: str, offset: int, size: int, all_of_it: bool = False) -> _Answer:
        import urllib3

        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
        headers |= {} if all_of_it else {"Range": f"bytes={offset}-{offset + size - 1}"}
        try:
            response = self._pool.request(
                "GET", url, headers=headers, preload_content=False, retries=_REDIRECTS, decode_content=all_of_it
            )  # what is packed for the way could unpack to any size
            with contextlib.closing(response):
                return self._http_answer(url, response, offset, size, all_of_it)
        except urllib3.exceptions.MaxRetryError as error:
            if isinstance(error.reason, urllib3.exceptions.ResponseError):
                raise Refused(f"{url}: redirects more than five times") from None
            raise _Passing(f"is not reached ({_words(error.reason)})") from None
        except urllib3.exceptions.LocationValueError as error:
            raise Refused(f"{url}: {error}") from None
        except urllib3.exceptions.HTTPError as error:
            raise _Passing(f"stopped answering ({_words(error)})") from None

    def _http_answer(self, url: str, response: Any, offset: int, size: int, all_of_it: bool) -> _Answer:
        headers, status = response.headers, response.status
        if status in _PASSING:
            after = headers.get("Retry-After", "")
            raise _Passing(f"the server answers {status}", float(after) if after.isdecimal() else None)
        if status in (412, 416):
            raise _changed(url) if offset or status == 412 else Refused(f"{url}: is an empty file")
        if status not in (200, 206):
            raise Refused(f"{url}: the server answers {status}")
        if headers.get("Content-Type", "").partition(";")[0].strip() in ("text/html", "application/xhtml+xml"):
            raise Refused(f"{url}: answers with a web page")
        ranged = re.fullmatch(_CONTENT_RANGE, headers.get("Content-Range", ""))
        if status == 206 and ranged is not None and int(ranged[1]) == offset:
            data, total = _body(response, min(size, int(ranged[3]) - offset)), int(ranged[3])
        elif status == 200 and offset == 0 and (all_of_it or _stated(headers.get("Content-Length"), size + 1) <= size):
            data = bytes(response.read(size + 1))
            total = len(data)
            if total > size:
                raise Refused(f"{url}: more than {size:,} bytes, the limit")
        else:
            raise Refused(f"{url}: its server gives no ranges; download the file and list it as a folder")
        return _Answer(data, Pin(url, total, _version(headers.get("ETag"), headers.get("Last-Modified"))))

    @cached_property
    def _pool(self) -> Any:
        import urllib3

        seconds = self.access.timeout_seconds
        timeout = urllib3.Timeout(connect=seconds, read=seconds)
        return urllib3.PoolManager(num_pools=64, maxsize=self.access.connections, timeout=timeout)

    # -------------------------------------------------------------------------------------------- S3

    @property
    def _payer(self) -> dict[str, str]:
        return {"RequestPayer": "requester"} if self.access.requester_pays else {}

    def _s3(self, url: str, offset: int, size: int, all_of_it: bool = False) -> _Answer:
        place = urlsplit(url)
        asked = {"Bucket": place.netloc, "Key": url.removeprefix(f"s3://{place.netloc}/"), **self._payer}
        asked["Range"] = f"bytes={offset}-{offset + size - 1}"
        told = self._s3_call(url, "get_object", asked)
        from botocore.exceptions import BotoCoreError

        with contextlib.closing(told["Body"]):
            ranged = re.fullmatch(_CONTENT_RANGE, told.get("ContentRange", ""))
            if ranged is None:
                raise Refused(f"{url}: its server gives no ranges; download the file and list it as a folder")
            total = int(ranged[3])
            if all_of_it and total > size:
                raise Refused(f"{url}: {total:,} bytes, the limit is {size:,}")
            try:
                data = told["Body"].read(min(size, total - offset))
            except (OSError, BotoCoreError) as error:
                raise _Passing(f"stopped answering ({error})") from None
        return _Answer(data, Pin(url, total, _version(told.get("ETag"), str(told.get("LastModified")))))

    def _s3_call(self, url: str, name: str, asked: Mapping[str, str]) -> Any:
        client = self._client
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            return getattr(client, name)(**asked)
        except NoCredentialsError:
            raise InputError(
                f"{url}: credentials: own finds no keys; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            ) from None
        except ClientError as error:
            self._refuse(url, error.response)
            raise
        except BotoCoreError as error:
            raise _Passing(f"is not reached ({error})") from None

    def _refuse(self, url: str, told: Mapping[str, Any]) -> None:
        status, code = told["ResponseMetadata"]["HTTPStatusCode"], told["Error"]["Code"]
        if status in _PASSING or code in ("SlowDown", "RequestTimeout"):
            raise _Passing(f"S3 answers {status} ({code})")
        if status == 412:
            raise _changed(url)
        if status in (401, 403) and not self.access.requester_pays:
            what = "these keys" if self.access.credentials == "own" else "to be read without keys"
            raise Refused(
                f"{url}: S3 refuses {what} ({code}); set under remote credentials: own, and requester_pays: true where "
                "its owner lets readers pay"
            )
        raise Refused(f"{url}: S3 answers {status} ({code})")

    @cached_property
    def _client(self) -> Any:
        try:
            from boto3.session import Session
            from botocore import UNSIGNED
            from botocore.config import Config
        except ImportError:
            raise InputError("s3:// needs boto3; pip install boto3") from None
        access = self.access
        config = Config(
            signature_version=UNSIGNED if access.credentials == "none" else None,
            retries={"max_attempts": 1, "mode": "standard"},
            connect_timeout=access.timeout_seconds, read_timeout=access.timeout_seconds,
            max_pool_connections=access.connections,
        )  # fmt: skip
        return Session().client("s3", region_name=access.region or "us-east-1", config=config)


def _locked(handle: IO[str]) -> bool:
    """Whether this process has the lock now; where a file system has none, always."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
    return True


def _redirects() -> Any:
    import urllib3

    return urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5, raise_on_redirect=True)


_REDIRECTS = _redirects()


def _words(error: object) -> str:
    """What urllib3 says, without the pool that it says it of."""
    text = str(error)
    return text.partition("): ")[2] or text or type(error).__name__


def _body(response: Any, size: int) -> bytes:
    """So many bytes of an answer, and not one more."""
    data = bytes(response.read(size))
    if len(data) != size:
        raise _Passing(f"broke off after {len(data):,} of {size:,} bytes")
    return data


def _stated(length: str | None, default: int) -> int:
    """A ``Content-Length``, where it is a number of bytes."""
    return int(length) if length is not None and re.fullmatch(r"[0-9]{1,15}", length) else default


def _version(etag: str | None, modified: str | None) -> str:
    """A strong ETag; else the time of change, with which the size must be equal too."""
    return etag if etag and not etag.startswith("W/") else f"of {modified or 'unknown time'}"


def _changed(url: str) -> Refused:
    return Refused(f"{url}: changed since it was listed; run with --relist")
