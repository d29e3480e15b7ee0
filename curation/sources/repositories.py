"""List what a hosted dataset holds: a Zenodo record, a Hugging Face dataset, an ``s3://`` prefix."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from curation.base.errors import InputError, WorkError
from curation.base.hub import unreachable
from curation.containers import CONTAINERS
from curation.containers.archives import archive_of
from curation.sources.globs import compile_globs
from curation.sources.hosts import RETRY_STATUS, Endpoints, Gone, Transient, read_json, refuse, s3_errors, status_of
from curation.sources.inventory import patterns_of
from curation.sources.journal import note_revision, noted_revision
from curation.sources.source import RemoteFile, Source


def list_repository(via: str, repository: str, ends: Endpoints, revision: str | None = None) -> Iterator[RemoteFile]:
    """Every file of a Zenodo record, a Hugging Face dataset or an ``s3://`` prefix, with size and checksum if told.

    Args:
        via: the service.
        repository: what it calls the dataset.
        ends: where the services answer.
        revision: commit, tag or branch of a Hugging Face dataset; null: the newest commit.

    Raises:
        InputError: a service that is not one of these, or a package that is missing.
        Transient, Gone: the service does not answer as it should.
    """
    listers: dict[str, Callable[[str, Endpoints], Iterator[RemoteFile]]] = {
        "zenodo": _list_zenodo,
        "huggingface": partial(_list_hub, revision=revision),
        "s3": _list_s3,
    }
    if via not in listers:
        raise InputError(f"{via}: files of {repository} cannot be listed; name them under files")
    yield from listers[via](repository, ends)


def choose(source: Source, listed: Iterable[RemoteFile]) -> list[RemoteFile]:
    """The files to fetch: those the manifest names by glob, else the images themselves, else what may hold them."""
    if source.obtain.wanted:
        wanted = compile_globs(source.obtain.wanted)
        return [file for file in listed if wanted(file.name)]
    taken, left = compile_globs(patterns_of(source)), compile_globs(source.leave)
    kind = CONTAINERS.get(source.container)
    suffixes = kind.suffixes if kind is not None and kind.is_table else ()
    images: list[RemoteFile] = []
    holders: list[RemoteFile] = []
    for file in listed:  # a listing may run into the millions: only what may be fetched is kept
        if taken(file.name) and not left(file.name):
            images.append(file)
        elif not images and (archive_of(file.name) or file.name.lower().endswith(suffixes)):
            holders.append(file)
    return images or holders


def _hosted(repository: str, **facts: Any) -> RemoteFile:
    """A file as a service lists it; what it says is not ours and may be anything.

    Raises:
        Gone: its name leads outside the folder, or a fact is not of its kind.
    """
    try:
        return RemoteFile(**facts)
    except ValidationError as error:
        problem = error.errors()[0]
        why = "leads outside the folder" if problem["loc"] == ("name",) else f"{problem['loc'][0]}: {problem['msg']}"
        raise Gone(f"{repository}: its file {facts.get('name')!r} cannot be fetched ({why})") from None


def _list_zenodo(record: str, ends: Endpoints) -> Iterator[RemoteFile]:
    for item in read_json(f"{ends.zenodo}/api/records/{record}", ends).get("files", ()):
        kind, _, digest = item.get("checksum", "").partition(":")
        yield _hosted(
            record,
            name=item["key"],
            url=f"{ends.zenodo}/records/{record}/files/{urllib.parse.quote(item['key'])}?download=1",
            size=item.get("size"),
            md5=digest if kind == "md5" else None,
        )


def pinned(source: Source, root: Path, ends: Endpoints) -> Source:
    """The source with the commit that its files are fetched of, noted in its folder: a fetch goes on with that one.

    Raises:
        WorkError: the Hub does not tell.
    """
    wanted = source.obtain
    if wanted.via != "huggingface" or wanted.repository is None or source.files:
        return source
    revision = noted_revision(root) if wanted.revision is None else None
    if revision is None:
        try:
            revision = newest_commit(wanted.repository, wanted.revision, ends)
        except (Gone, Transient) as error:
            raise WorkError(f"source {source.id}: {error}") from None
        note_revision(root, revision)
    return source.model_copy(update={"obtain": wanted.model_copy(update={"revision": revision})})


def newest_commit(repository: str, revision: str | None, ends: Endpoints) -> str:
    """Commit that a tag or branch of a Hugging Face dataset names now; null: its main branch.

    Raises:
        Transient, Gone: the Hub does not tell.
    """
    with _hub(repository) as api:
        found: str | None = api(endpoint=ends.huggingface).dataset_info(repository, revision=revision).sha
    if found is None:
        raise Gone(f"{repository}: the Hub names no commit of {revision or 'main'}")
    return found


def _list_hub(repository: str, ends: Endpoints, revision: str | None) -> Iterator[RemoteFile]:
    with _hub(repository) as api:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.hf_api import RepoFile

        where: dict[str, Any] = {"repo_type": "dataset", "revision": revision}
        for item in api(endpoint=ends.huggingface).list_repo_tree(repository, **where, recursive=True):
            if isinstance(item, RepoFile):
                yield _hosted(
                    repository,
                    name=item.path,
                    url=hf_hub_url(repository, item.path, **where, endpoint=ends.huggingface),
                    size=item.size,
                    sha256=item.lfs.sha256 if item.lfs else None,
                )


@contextmanager
def _hub(repository: str) -> Iterator[Any]:
    """``HfApi``, whose errors are told as ours."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise InputError(f"{repository} needs huggingface_hub; pip install huggingface_hub") from None
    try:
        yield HfApi
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        kind = Transient if status is None or status in RETRY_STATUS else Gone
        raise kind(f"{repository}: the Hub does not list it ({str(error).splitlines()[0]})", status=status) from None
    except unreachable() as error:
        raise Transient(f"{repository}: the Hub does not answer ({error})") from None


def _list_s3(prefix: str, ends: Endpoints) -> Iterator[RemoteFile]:
    place = urllib.parse.urlsplit(prefix)
    start = place.path.lstrip("/")
    pages = ends.s3_client.get_paginator("list_objects_v2").paginate(Bucket=place.netloc, Prefix=start)
    refused, broken = s3_errors()
    try:
        for page in pages:
            for item in page.get("Contents", ()):
                name = item["Key"][len(start) :].lstrip("/")
                if name and not name.endswith("/"):
                    yield _hosted(prefix, name=name, url=f"s3://{place.netloc}/{item['Key']}", size=item["Size"])
    except refused as error:
        refuse(prefix, status_of(error), None)
    except broken as error:
        raise Transient(f"{prefix}: {error}") from None
