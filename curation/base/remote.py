"""Folders elsewhere, to publish to: ``file://`` and ``s3://``.

A file is whole and has its SHA-256, or is absent: a store takes no other, whoever dies meanwhile. S3's own checksum of
an upload is compared by the service, and told by it later, so that nothing is read back.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from curation.base.errors import NO_ROOM, InputError, WorkError
from curation.base.files import atomic, file_digest

_AGAIN = "the same command goes on"
_WHOLE = 4 << 30
"""Bytes up to which S3 takes a file in one piece, with one checksum; 5 GiB are its limit."""
_WRONG_INPUT = {
    "AccessDenied", "AllAccessDisabled", "ExpiredToken", "Forbidden", "InvalidAccessKeyId", "InvalidBucketName",
    "NoSuchBucket", "SignatureDoesNotMatch", "403",
}  # fmt: skip


class Store(Protocol):
    """A folder elsewhere. Names are POSIX paths below it."""

    url: str

    def holds(self, name: str, size: int, sha256: str) -> bool:
        """Whether a file is there with this size and SHA-256 (hex)."""

    def put(self, name: str, path: Path, sha256: str) -> None:
        """Upload a file, replacing what is there.

        Raises:
            InputError: the store is refused to us.
            WorkError: the file's bytes have another SHA-256, or the store fails.
        """

    def read(self, name: str) -> bytes | None:
        """A small file; null when it is absent."""

    def names(self) -> Iterator[str]:
        """All files."""

    def remove(self, name: str) -> None:
        """Remove a file that may be absent."""


def open_store(url: str) -> Store:
    """The folder that a URL names.

    Raises:
        InputError: no such kind, or it lacks a part.
    """
    place = urlsplit(url)
    if place.scheme == "file" and place.path and place.netloc in ("", "localhost"):
        return LocalStore(Path(unquote(place.path)))
    if place.scheme == "s3" and place.netloc:
        return S3Store(place.netloc, place.path.strip("/"))
    raise InputError(f"{url}: give file:///a/folder or s3://bucket/prefix")


class LocalStore:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = folder.as_uri()

    def holds(self, name: str, size: int, sha256: str) -> bool:
        """Whether a file is there with this size and SHA-256; it is read."""
        path = self._folder / name
        with _local(path):
            return path.is_file() and path.stat().st_size == size and file_digest(path) == sha256

    def put(self, name: str, path: Path, sha256: str) -> None:
        """Copy a file and read the copy back."""
        to = self._folder / name
        with _local(to), atomic(to) as aside:
            shutil.copyfile(path, aside)
            if file_digest(aside) != sha256:
                raise _damaged(path, sha256)

    def read(self, name: str) -> bytes | None:
        """A small file; null when it is absent."""
        path = self._folder / name
        with _local(path):
            return path.read_bytes() if path.is_file() else None

    def names(self) -> Iterator[str]:
        """All files but those that are being written."""
        with _local(self._folder):
            for path in sorted(self._folder.rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    yield path.relative_to(self._folder).as_posix()

    def remove(self, name: str) -> None:
        """Remove a file that may be absent."""
        with _local(self._folder / name):
            (self._folder / name).unlink(missing_ok=True)


@contextmanager
def _local(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise InputError(f"{error.filename or path}: {error.strerror or error}") from None


def _damaged(path: Path, sha256: str) -> WorkError:
    return WorkError(f"{path}: its SHA-256 is not {sha256}; rs-curate verify says what is wrong with it")


class S3Store:
    """A prefix of a bucket; keys and endpoint come from where ``boto3`` looks for them (AWS_ENDPOINT_URL and others).

    Raises:
        InputError: ``boto3`` is not installed.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        try:
            from boto3.session import Session
            from botocore.config import Config
        except ImportError:
            raise InputError("s3:// needs boto3; pip install 'rscorpus[publish]'") from None
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}"
        config = Config(retries={"mode": "standard"}, connect_timeout=20, read_timeout=120)
        self._client: Any = Session().client("s3", config=config)

    def holds(self, name: str, size: int, sha256: str) -> bool:
        """Whether a file is there with this size and SHA-256, as the service says."""
        with self._told(name):
            found = self._head(name)
        if found is None or found["ContentLength"] != size:
            return False
        return sha256 in (_hex(found.get("ChecksumSHA256", "")), found["Metadata"].get("sha256"))

    def _head(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._client.head_object(**self._at(name), ChecksumMode="ENABLED")
            return found
        except self._client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
                return None
            raise

    def put(self, name: str, path: Path, sha256: str) -> None:
        """Upload a file with its SHA-256, which the service compares; in several requests above 4 GiB."""
        if file_digest(path) != sha256:  # not every service that speaks S3 compares
            raise _damaged(path, sha256)
        facts = {"Metadata": {"sha256": sha256}}
        with self._told(name):
            if path.stat().st_size > _WHOLE:
                extra = {**facts, "ChecksumAlgorithm": "SHA256"}
                self._client.upload_file(str(path), self._bucket, self._prefix + name, ExtraArgs=extra)
                return
            checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
            with path.open("rb") as file:
                self._client.put_object(**self._at(name), Body=file, ChecksumSHA256=checksum, **facts)

    def read(self, name: str) -> bytes | None:
        """A small file; null when it is absent."""
        with self._told(name):
            if self._head(name) is None:
                return None
            data: bytes = self._client.get_object(**self._at(name))["Body"].read()
            return data

    def names(self) -> Iterator[str]:
        """All files below the prefix."""
        with self._told(""):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            for page in pages:
                for item in page.get("Contents", []):
                    yield item["Key"].removeprefix(self._prefix)

    def remove(self, name: str) -> None:
        """Remove a file that may be absent."""
        with self._told(name):
            self._client.delete_object(**self._at(name))

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """What the service says, as one line."""
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        where = f"{self.url}/{name}".rstrip("/")
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise InputError(
                f"{where}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from None
        except ClientError as error:
            told = error.response["Error"]
            line = f"{where}: {told.get('Message') or told['Code']} ({told['Code']})"
            if told["Code"] in _WRONG_INPUT:
                raise InputError(f"{line}; check bucket, endpoint and credentials") from None
            raise WorkError(f"{line}; {_AGAIN}") from None
        except (BotoCoreError, S3UploadFailedError) as error:
            raise WorkError(f"{where}: {error}; {_AGAIN}") from None


def _hex(checksum: str) -> str:
    """A checksum in base 64, as hex; that of a file in several parts is of another kind."""
    return "" if "-" in checksum else base64.b64decode(checksum).hex()
