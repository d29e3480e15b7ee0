"""Ask the servers what is still there, without fetching it; and say of each source what a run can count on.

A URL is *there*, *gone* (refused, absent, a web page or another size where a file was), or *silent* (no connection, a
server that is busy): silence says nothing. Answers lie in one JSON file by URL, each with its date, so that a mended
manifest is not judged by its old URLs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import ValidationError

from curation.base.errors import InputError
from curation.base.files import atomic
from curation.base.settings import Strict
from curation.containers.archives import archive_of
from curation.remote.access import numbered
from curation.sources.hosts import PUBLIC, Endpoints, FileHead, Gone, Transient, ask
from curation.sources.repositories import choose, list_repository
from curation.sources.source import BY_SCRIPT, RemoteFile, Source, is_page

MOST_LISTED = 10_000
"""Files of a repository that are looked through for those that are wanted."""

PATIENCE = 3
"""Silent answers in a row after which a host is not asked any more."""

Reachability = Literal["there", "gone", "silent"]


class ProbeAnswer(Strict):
    """What came of one URL, or of one repository (``via:repository``)."""

    state: Reachability
    checked: datetime
    why: str = ""
    """Why it is gone or silent."""
    status: int | None = None
    size: int | None = None
    """Bytes; of a repository, those of its wanted files, where all of them were listed."""
    etag: str | None = None
    last_modified: str | None = None
    content_type: str = ""
    redirected_to: str | None = None
    files: int | None = None
    """Wanted files that a repository lists, among its first ``MOST_LISTED``."""


class Probe(Strict):
    """All answers."""

    version: Literal[1] = 1
    found: dict[str, ProbeAnswer] = {}


@dataclass(frozen=True)
class Standing:
    """What can be counted on of a source."""

    state: Literal["automatic", "by hand", "gone", "own"]
    checked: str = ""
    """Day of the oldest answer that this rests on; empty: nobody asked, or nobody answered."""
    share: float = 1.0
    """Of its bytes, or of its files where a size is unknown, what is not gone."""
    note: str = ""


def read_probe(path: Path) -> Probe:
    """Read what ``rs-curate probe`` wrote.

    Raises:
        InputError: there is no such file, or it is another one.
    """
    try:
        return Probe.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; rs-curate probe RECIPE --out {path} writes it") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"{path}: not what rs-curate probe writes ({where}: {problem['msg']})") from None


def write_probe(path: Path, probe: Probe) -> None:
    """Write answers, sorted by URL."""
    told = probe.model_dump(mode="json", exclude_defaults=True)
    with atomic(path) as aside:
        text = json.dumps({"version": probe.version, **told}, indent=1, sort_keys=True, ensure_ascii=False)
        aside.write_text(text + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------ asking


def probe(sources: Sequence[Source], ends: Endpoints = PUBLIC, hosts_at_once: int = 8) -> Probe:
    """Ask for every URL of some sources, one request at a time of each host.

    Args:
        sources: whose files, mirrors and repositories, and of those that a person fetches also the pages.
        ends: where the services answer, and how long they may take.
        hosts_at_once: hosts that are asked at the same time.

    Raises:
        InputError: a package that reads S3 or the Hub is missing.
    """
    by_host: dict[str, dict[str, _Question]] = defaultdict(dict)
    for source in sources:
        for question in _questions(source):
            by_host[question.host][question.key] = question
    with ThreadPoolExecutor(max(1, hosts_at_once)) as pool:
        work = [list(questions.values()) for questions in by_host.values()]
        answered = list(pool.map(lambda questions: dict(_ask_host(questions, ends)), work))
    return Probe(found={key: found for one in answered for key, found in one.items()})


@dataclass(frozen=True)
class _Question:
    key: str
    host: str
    source: Source
    file: RemoteFile | None
    """Null: a repository, or a page."""


def _questions(source: Source) -> Iterator[_Question]:
    for file in source.files:
        for url in _urls(file):
            yield _Question(url, _host(url), source, file)
    if (name := _repository(source)) is not None:
        yield _Question(name, _host(name) if "://" in name else source.obtain.via, source, None)
    for url in _remote_urls(source):
        yield _Question(url, _host(url), source, None)
    if source.obtain.via not in BY_SCRIPT and source.homepage:
        yield _Question(source.homepage, _host(source.homepage), source, None)


def _urls(file: RemoteFile) -> tuple[str, ...]:
    return (*([file.url] if file.url else []), *file.mirrors)


def _remote_urls(source: Source) -> tuple[str, ...]:
    """Of imagery that is read where it lies: the catalogue, the list, or the first URL of each of ``urls``."""
    access = source.remote
    if access is None:
        return ()
    named = (access.stac, access.url_list, *(next(iter(numbered(url))) for url in access.urls))
    return tuple(url for url in named if url is not None and "://" in url)


def _repository(source: Source) -> str | None:
    """Key of the repository whose files are not named one by one."""
    if source.remote is not None:
        return source.remote.prefix
    if source.files or source.obtain.repository is None or source.obtain.via not in BY_SCRIPT:
        return None
    prefix = "" if source.obtain.via == "s3" else f"{source.obtain.via}:"
    return prefix + source.obtain.repository


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"s3://{parts.netloc}" if parts.scheme == "s3" else parts.netloc


def _ask_host(questions: Sequence[_Question], ends: Endpoints) -> Iterator[tuple[str, ProbeAnswer]]:
    silent = 0
    for question in questions:
        if silent < PATIENCE:
            found = _found(question, ends)
            silent = silent + 1 if found.state == "silent" and found.status is None else 0
        else:
            found = ProbeAnswer(
                state="silent", checked=_now(), why=f"{question.host} did not answer {PATIENCE} times before"
            )
        yield question.key, found


def _found(question: _Question, ends: Endpoints) -> ProbeAnswer:
    try:
        if question.key == _repository(question.source):
            return _repository_found(question.source, ends)
        return _judge(ask(question.key, ends), question)
    except Transient as error:
        return ProbeAnswer(state="silent", checked=_now(), why=str(error), status=error.status)
    except Gone as error:
        return ProbeAnswer(state="gone", checked=_now(), why=str(error), status=error.status)


def _judge(answer: FileHead, question: _Question) -> ProbeAnswer:
    url, file = question.key, question.file
    why = ""
    if file is not None and not is_page(url):
        if answer.content_type == "text/html":
            why = f"{url}: the server sends a web page instead of the file"
        elif None not in (file.size, answer.size) and file.size != answer.size:
            why = f"{url}: {answer.size:,} bytes, the manifest says {file.size:,}"
    return ProbeAnswer(
        state="gone" if why else "there", checked=_now(), why=why, status=answer.status, size=answer.size,
        etag=answer.etag, last_modified=answer.last_modified, content_type=answer.content_type,
        redirected_to=answer.url if answer.url != url else None,
    )  # fmt: skip


def _repository_found(source: Source, ends: Endpoints) -> ProbeAnswer:
    """What a repository lists; its first wanted file is asked for, since some list what they do not give."""
    prefix = source.remote.prefix if source.remote is not None else None
    via, repository = ("s3", prefix) if prefix else (source.obtain.via, str(source.obtain.repository))
    listed = list(islice(list_repository(via, repository, ends, source.obtain.revision), MOST_LISTED))
    files = choose(source, listed)
    if not files and len(listed) == MOST_LISTED:
        return ProbeAnswer(
            state="silent", checked=_now(), why=f"{repository}: no wanted file among the first {MOST_LISTED:,}"
        )
    if not files:
        return ProbeAnswer(state="gone", checked=_now(), why=f"{repository}: lists no file that is wanted", files=0)
    told = ask(str(files[0].url), ends)
    sizes = [file.size for file in files]
    total = None if None in sizes or len(listed) == MOST_LISTED else sum(size or 0 for size in sizes)
    return ProbeAnswer(state="there", checked=_now(), status=told.status, size=total, files=len(files))


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


# ------------------------------------------------------------------------------------------------ judging


def standing(source: Source, probe: Probe | None = None) -> Standing:
    """What a run can count on, by the manifest and, where one is given, by a probe.

    A file is gone when its URL and all its mirrors are; an archive in parts when one part is; a source when all of it
    is, or its repository.
    """
    known = probe.found if probe else {}
    state: Literal["automatic", "by hand", "own"] = (
        "automatic" if source.obtain.via in BY_SCRIPT else "own" if source.obtain.via == "local" else "by hand"
    )
    asked = [known[question.key] for question in _questions(source) if question.key in known]
    day = min((found.checked.date().isoformat() for found in asked if found.state != "silent"), default="")
    told = source.obtain.reported
    if told is not None and day < told.on.isoformat():
        gone = told.state == "gone"
        note = told.why if gone else f"doubtful: {told.why}"
        return Standing("gone" if gone else state, told.on.isoformat(), float(not gone), note)
    share = _share(source, known)
    reasons = [found.why for found in asked if found.state != "there"]
    note = reasons[0] + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else "") if reasons else ""
    return Standing("gone" if share == 0 else state, day, share, note)


def bytes_of(source: Source, probe: Probe | None = None, drawn: int | None = None) -> int | None:
    """Bytes of a source's files by its manifest and a probe; null where one is not known.

    Args:
        source: whose files.
        probe: what the servers said.
        drawn: how many of a repository's files are taken; null: all.
    """
    known = probe.found if probe else {}
    if not source.files:
        told = known.get(_repository(source) or "")
        if told is None or told.size is None or source.remote is not None:
            return None
        return told.size if drawn is None else round(told.size * min(drawn / max(told.files or 1, 1), 1.0))
    sizes = [_size(file, known) for file in source.files]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _share(source: Source, known: Mapping[str, ProbeAnswer]) -> float:
    repository = _repository(source)
    if repository is not None:
        return float(repository not in known or known[repository].state != "gone")
    if urls := _remote_urls(source):
        return sum(url not in known or known[url].state != "gone" for url in urls) / len(urls)
    groups: dict[str, list[RemoteFile]] = defaultdict(list)
    for file in source.files:
        groups[archive_of(file.name) or file.name].append(file)
    sizes = {file.name: _size(file, known) for file in source.files}
    weighed = None not in sizes.values()
    weights = {name: sum((sizes[file.name] or 0) if weighed else 1 for file in files) for name, files in groups.items()}
    left = sum(weights[name] for name, files in groups.items() if not any(_is_gone(file, known) for file in files))
    return left / sum(weights.values()) if sum(weights.values()) else 1.0


def _is_gone(file: RemoteFile, known: Mapping[str, ProbeAnswer]) -> bool:
    urls = _urls(file)
    return bool(urls) and all(url in known and known[url].state == "gone" for url in urls)


def _size(file: RemoteFile, known: Mapping[str, ProbeAnswer]) -> int | None:
    told = (known[url].size for url in _urls(file) if url in known and known[url].state == "there")
    return file.size if file.size is not None else next((size for size in told if size), None)
