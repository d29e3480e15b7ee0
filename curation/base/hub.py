"""A repository on the Hugging Face Hub as a folder to publish to, through ``huggingface_hub``.

Files go up in commits of at most fifty, which is what the Hub advises; each is whole or is not there. The Hub tells the
SHA-256 of large files, and git's own SHA-1 of small ones. Where ``hf_xet`` is installed, bytes travel its way.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from curation.base.errors import InputError, WorkError
from curation.base.remote import Upload

_REFUSED = {401, 403, 404}
_FULL = ("storage", "quota")
"""Words in what the Hub says where there is no room left."""


class HubStore:
    """A repository of a dataset or a model; it is made, private, when there is none.

    Args:
        repository: ``owner/name``.
        kind: what the repository holds.

    Raises:
        InputError: ``huggingface_hub`` is not installed.
    """

    together = 50
    per_folder = 10_000
    """https://huggingface.co/docs/hub/storage-limits: fewer than 10,000 entries in a folder."""

    def __init__(self, repository: str, kind: Literal["dataset", "model"] = "dataset") -> None:
        try:
            from huggingface_hub import HfApi
        except ImportError:
            raise InputError("the Hub needs huggingface_hub; pip install 'rscorpus[publish]'") from None
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what it asks again it would tell of each time
        self.url = f"hf://datasets/{repository}" if kind == "dataset" else f"hf://{repository}"
        self._where = {"repo_id": repository, "repo_type": kind}
        self._api: Any = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        self._files: dict[str, Any] | None = None

    def _tree(self) -> dict[str, Any]:
        """Files of the repository by name, listed again after every commit."""
        if self._files is None:
            from huggingface_hub import RepoFile

            with self._told():
                self._api.create_repo(**self._where, private=True, exist_ok=True)
                found = self._api.list_repo_tree(**self._where, recursive=True)
                self._files = {each.path: each for each in found if isinstance(each, RepoFile)}
        return self._files

    def holds(self, file: Upload) -> bool:
        """Whether a file is there with this size and content, as the Hub says."""
        found = self._tree().get(file.name)
        if found is None or found.size != file.size:
            return False
        return bool(found.lfs.sha256 == file.sha256 if found.lfs is not None else found.blob_id == _blob(file))

    def put(self, files: Sequence[Upload]) -> None:
        """Upload files in one commit."""
        from huggingface_hub import CommitOperationAdd

        for file in files:
            file.check()
        self._commit([CommitOperationAdd(file.name, str(file.path)) for file in files], f"{len(files)} files")

    def read(self, name: str) -> bytes | None:
        """A small file; null when it is absent."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        if name not in self._tree():
            return None
        with self._told():
            url = hf_hub_url(**self._where, filename=name, endpoint=self._api.endpoint)
            response = get_session().get(url, headers=build_hf_headers(), follow_redirects=True)
            hf_raise_for_status(response)
            data: bytes = response.content
            return data

    def remove(self, names: Sequence[str]) -> None:
        """Remove files in one commit; those that are absent are no error."""
        from huggingface_hub import CommitOperationDelete

        there = [name for name in names if name in self._tree()]
        if there:
            self._commit([CommitOperationDelete(name) for name in there], f"remove {len(there)} files")

    def release(self, label: str) -> None:
        """Tag what is there."""
        with self._told():
            self._api.create_tag(**self._where, tag=label, exist_ok=True)

    def _commit(self, operations: Sequence[Any], message: str) -> None:
        self._tree()
        with self._told():
            self._api.create_commit(**self._where, operations=operations, commit_message=message)
        self._files = None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the Hub says, as one line."""
        from huggingface_hub.errors import HfHubHTTPError

        broken: tuple[type[Exception], ...] = (*unreachable(), RuntimeError, ValueError)
        try:
            yield
        except HfHubHTTPError as error:
            told = " ".join(str(error).split())
            line = f"{self.url}: {told[:300]}"
            if any(word in told.lower() for word in _FULL):
                raise WorkError(f"{line}; make room there, and the same command goes on") from None
            if error.response.status_code in _REFUSED:
                raise InputError(f"{line}; log in with `hf auth login`, or set HF_TOKEN") from None
            raise WorkError(f"{line}; the same command goes on") from None
        except broken as error:
            cause = error.__cause__ or error  # uploads of single files end with a RuntimeError
            raise WorkError(f"{self.url}: {' '.join(str(cause).split())[:300]}; the same command goes on") from None


def unreachable() -> tuple[type[Exception], ...]:
    """What ``huggingface_hub`` raises where the Hub does not answer: all errors of its HTTP library.

    That library differs between releases; the base of :class:`HfHubHTTPError` is that of all its errors.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return (HfHubHTTPError.__bases__[0], OSError)


def _blob(file: Upload) -> str:
    """SHA-1 that git names a file's content by."""
    data = file.path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
