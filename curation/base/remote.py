"""Folders elsewhere, to publish to: ``file://``, ``s3://`` and, in :mod:`curation.base.hub`, ``hf://``.

A file is whole and has its SHA-256, or is absent: a store takes no other, whoever dies meanwhile. S3's own checksum of
an upload is compared by the service, and told by it later, so that nothing is read back.
"""

from __future__ import annotations

import base64
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Upload:
    """A file to upload, under its name there: a POSIX path below the folder."""

    name: str
    path: Path
    sha256: str
    """Hex."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size

    def check(self) -> None:
        """Compare the file with its SHA-256.

        Raises:
            WorkError: they differ.
        """
        if file_digest(self.path) != self.sha256:
            raise WorkError(
                f"{self.path}: its SHA-256 is not {self.sha256}; rs-curate verify says what is wrong with it"
            )


class Store(Protocol):
    """A folder elsewhere. Every call raises InputError where it is refused to us, WorkError where the store fails.

    A protocol, hence without bodies.
    """

    url: str
    together: int
    """Files that are best uploaded in one call."""
    per_folder: int
    """Most files that a folder takes."""

    def holds(self, file: Upload) -> bool:
        """Whether a file is there with this size and SHA-256."""

    def put(self, files: Sequence[Upload]) -> None:
        """Upload files, replacing what is there; one whose bytes have another SHA-256 is a WorkError."""

    def read(self, name: str) -> bytes | None:
        """A small file; null when it is absent."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove files; those that are absent are no error."""

    def release(self, label: str) -> None:
        """Mark what is there as a release, where the store can."""


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
    owner, _, name = place.path.strip("/").partition("/")
    if place.scheme == "hf" and place.netloc == "datasets" and owner and name and "/" not in name:
        from curation.base.hub import HubStore

        return HubStore(f"{owner}/{name}")
    raise InputError(f"{url}: give file:///a/folder, s3://bucket/prefix or hf://datasets/owner/name")


class LocalStore:
    """A folder of this machine."""

    together = 1
    per_folder = sys.maxsize

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = folder.as_uri()

    def holds(self, file: Upload) -> bool:
        """Whether a file is there with this size and SHA-256; it is read."""
        path = self._folder / file.name
        with _local(path):
            return path.is_file() and path.stat().st_size == file.size and file_digest(path) == file.sha256

    def put(self, files: Sequence[Upload]) -> None:
        """Copy files; what has another SHA-256 gets no name."""
        for file in files:
            file.check()
            with _local(self._folder / file.name), atomic(self._folder / file.name) as aside:
                shutil.copyfile(file.path, aside)

    def read(self, name: str) -> bytes | None:
        """A small file; null when it is absent."""
        path = self._folder / name
        with _local(path):
            return path.read_bytes() if path.is_file() else None

    def remove(self, names: Sequence[str]) -> None:
        """Remove files; those that are absent are no error."""
        for name in names:
            with _local(self._folder / name):
                (self._folder / name).unlink(missing_ok=True)

    def release(self, label: str) -> None:
        """A folder has no releases."""


@contextmanager
def _local(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise InputError(f"{error.filename or path}: {error.strerror or error}") from None


class S3Store:
    """A prefix of a bucket; keys and endpoint come from where ``boto3`` looks for them (AWS_ENDPOINT_URL and others).

    Raises:
        InputError: ``boto3`` is not installed.
    """

    together = 1
    per_folder = sys.maxsize

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

    def holds(self, file: Upload) -> bool:
        """Whether a file is there with this size and SHA-256, as the service says."""
        with self._told(file.name):
            found = self._head(file.name)
        if found is None or found["ContentLength"] != file.size:
            return False
        return file.sha256 in (_hex(found.get("ChecksumSHA256", "")), found["Metadata"].get("sha256"))

    def _head(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._client.head_object(**self._at(name), ChecksumMode="ENABLED")
            return found
        except self._client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
                return None
            raise

    def put(self, files: Sequence[Upload]) -> None:
        """Upload files with their SHA-256, which the service compares; in several requests above 4 GiB."""
        for file in files:
            file.check()  # not every service that speaks S3 compares
            with self._told(file.name):
                self._put(file)

    def _put(self, file: Upload) -> None:
        facts = {"Metadata": {"sha256": file.sha256}}
        if file.size > _WHOLE:
            extra = {**facts, "ChecksumAlgorithm": "SHA256"}
            self._client.upload_file(str(file.path), self._bucket, self._prefix + file.name, ExtraArgs=extra)
            return
        checksum = base64.b64encode(bytes.fromhex(file.sha256)).decode()
        with file.path.open("rb") as body:
            self._client.put_object(**self._at(file.name), Body=body, ChecksumSHA256=checksum, **facts)

    def read(self, name: str) -> bytes | None:
        """A small file; null when it is absent."""
        with self._told(name):
            if self._head(name) is None:
                return None
            data: bytes = self._client.get_object(**self._at(name))["Body"].read()
            return data

    def remove(self, names: Sequence[str]) -> None:
        """Remove files; those that are absent are no error."""
        for name in names:
            with self._told(name):
                self._client.delete_object(**self._at(name))

    def release(self, label: str) -> None:
        """A bucket has no releases."""

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
            room = "make room there, and " if "Quota" in told["Code"] else ""
            raise WorkError(f"{line}; {room}{_AGAIN}") from None
        except (BotoCoreError, S3UploadFailedError) as error:
            raise WorkError(f"{where}: {error}; {_AGAIN}") from None


def _hex(checksum: str) -> str:
    """A checksum in base 64, as hex; that of a file in several parts is of another kind."""
    return "" if "-" in checksum else base64.b64decode(checksum).hex()
