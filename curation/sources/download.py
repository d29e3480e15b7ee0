"""Download one file: resume, mirrors in order, checksums, and retries that honour what the server asks for.

Bytes go to ``<name>.part`` and become ``<name>`` only when size and checksum are right. A killed download goes on where
it stopped; beside the part lies which version of the remote file it is a beginning of.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from curation.base.errors import WorkError
from curation.sources.hosts import PUBLIC, Endpoints, Gone, Opened, Transient, open_at
from curation.sources.source import RemoteFile

CHUNK = 1 << 20
LONGEST_WAIT_S = 600.0
"""A server that asks for a longer wait is left for the next mirror."""


@dataclass(frozen=True)
class Retries:
    """How often, and after which waits, a failing URL is tried again."""

    attempts: int = 6
    """Tries in a row that bring no byte before the next mirror is taken."""
    first_wait_s: float = 1.0
    sleep: Callable[[float], None] = field(default=time.sleep)


RETRIES = Retries()


class Wrong(Gone):
    """A whole file came that is not the one that was wanted."""


def download(
    file: RemoteFile,
    target: Path,
    *,
    ends: Endpoints = PUBLIC,
    retries: Retries = RETRIES,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Download ``file`` to ``target``, from its URL or the first mirror that gives it whole.

    Args:
        file: URLs, and size and checksum where known.
        target: Becomes the file, by a rename, when all is right. Its folder is made.
        ends: Hosting services.
        retries: Retries.
        progress: Called with the number of bytes that are on disk so far; it may fall when a download starts again.

    Raises:
        WorkError: no URL gave the file; one line says what each answered.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    answers = []
    for url in [*([file.url] if file.url else []), *file.mirrors]:
        try:
            _from_one(url, file, part, ends, retries, progress or (lambda done: None))
        except Gone as error:
            answers.append(str(error))
            continue
        os.replace(part, target)
        _note(part).unlink(missing_ok=True)
        return
    raise WorkError(f"{target.name} was not fetched: {'; '.join(answers) or 'its manifest names no URL'}")


def check_file(path: Path, file: RemoteFile) -> None:
    """Compare a file on disk with the size and the checksums that are known.

    Raises:
        Wrong: they differ; the message names both.
    """
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise Wrong(f"{file.name}: {size:,} bytes, expected {file.size:,}")
    for name, expected in (("sha256", file.sha256), ("md5", file.md5)):
        if expected:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()  # noqa: B023
            if found != expected:
                raise Wrong(f"{file.name}: {name} {found}, expected {expected}")
            return


def _from_one(
    url: str, file: RemoteFile, part: Path, ends: Endpoints, retries: Retries, progress: Callable[[int], None]
) -> None:
    """Fetch the whole file from one URL into ``part``.

    Raises:
        Gone: this URL will not give it.
    """
    failures, wrong = 0, 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if file.size is None or before != file.size:
                _go_on(url, file, part, ends, progress)
            check_file(part, file)
            return
        except Transient as error:
            grown = part.exists() and part.stat().st_size > before
            failures = 1 if grown else failures + 1
            wait = error.retry_after if error.retry_after is not None else _backoff(retries, failures)
            if failures >= retries.attempts or wait > LONGEST_WAIT_S:
                raise Gone(f"{error} (tried {failures} times)") from None
            retries.sleep(wait)
        except Wrong:
            # A part from an earlier run may have been a beginning of something else; once, the file is fetched anew.
            _drop(part)
            wrong += 1
            if wrong > 1 or before == 0:
                raise


def _backoff(retries: Retries, failures: int) -> float:
    """Exponential with jitter, so that many clients of one server do not come back together."""
    return min(60.0, retries.first_wait_s * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)


def _go_on(url: str, file: RemoteFile, part: Path, ends: Endpoints, progress: Callable[[int], None]) -> None:
    """Append to ``part`` until the remote file ends.

    Raises:
        Transient: it broke off; another try goes on from here.
        Wrong: longer or shorter than expected, or a web page in place of a file.
    """
    offset, validator = _resume_at(url, file, part)
    with open_at(url, offset, validator, ends) as opened:
        _judge(url, file, opened)
        _note(part).write_text(json.dumps({"url": url, "validator": opened.validator}))
        limit = file.size if file.size is not None else opened.total
        with part.open("ab") as out:
            out.truncate(opened.offset)
            done = opened.offset
            while chunk := opened.stream.read(CHUNK):
                done += len(chunk)
                if limit is not None and done > limit:
                    raise Wrong(f"{url}: sends more than {limit:,} bytes")
                out.write(chunk)
                progress(done)
    if opened.total is not None and done < opened.total:
        raise Transient(f"{url}: broke off after {done:,} of {opened.total:,} bytes")


def _judge(url: str, file: RemoteFile, opened: Opened) -> None:
    if file.size is not None and opened.total is not None and opened.total != file.size:
        raise Wrong(f"{url}: has {opened.total:,} bytes, expected {file.size:,}")
    if opened.web_page and not file.name.endswith((".html", ".htm")):
        raise Wrong(f"{url}: answers with a web page; a person may have to open it")


def _resume_at(url: str, file: RemoteFile, part: Path) -> tuple[int, str | None]:
    """Where to go on, and the version that the part is of; from the start when that cannot be told."""
    if not part.exists():
        return 0, None
    try:
        note = json.loads(_note(part).read_text())
    except (OSError, ValueError):
        note = {}
    same = note.get("url") == url and isinstance(note.get("validator"), str)
    if not same and not (file.md5 or file.sha256):  # another mirror's bytes may only be trusted if a checksum follows
        return 0, None
    size = part.stat().st_size
    if file.size is not None and size > file.size:
        return 0, None
    return size, note["validator"] if same else None


def _note(part: Path) -> Path:
    return part.with_name(f".{part.name}.json")


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)
