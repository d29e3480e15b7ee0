"""Which files a source's access names: a list of URLs, a STAC catalogue, the objects below an S3 prefix."""

from __future__ import annotations

import socket
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import TypeAdapter, ValidationError

from curation.base.errors import InputError, UnreadableImage
from curation.remote.access import RemoteImagery, Url
from curation.remote.transport import Transport

MOST_TEXT = 256 << 20
"""Bytes of a list of URLs or of a page of a catalogue."""
_URL: TypeAdapter[str] = TypeAdapter(Url)


class Place(NamedTuple):
    """A remote file: its path in the source, which every id of its tiles follows from, and its URL."""

    path: str
    url: str


@dataclass
class PlaceNotes:
    """What was left out, and why."""

    outside: int = 0
    """Scenes of a catalogue that lie outside of the asked time or place."""
    without: int = 0
    """Scenes without an asset that is wanted."""
    unlicensed: int = 0
    """Scenes of another licence than is wanted."""
    _told: dict[str, tuple[str, int]] = field(default_factory=dict)

    def warn(self, kind: str, text: str) -> None:
        """Warn of something that may happen as often as there are scenes: the first of a kind is told."""
        first, count = self._told.get(kind, (text, 0))
        self._told[kind] = first, count + 1

    @property
    def warnings(self) -> list[str]:
        """Of each kind the first, and how many more there are."""
        return [f"{first}{f' (and {count - 1:,} more)' if count > 1 else ''}" for first, count in self._told.values()]


def places(access: RemoteImagery, root: Path, transport: Transport, notes: PlaceNotes) -> list[Place]:
    """All files that an access names, sorted by path, each once.

    Raises:
        InputError: a list or catalogue is absent, or is none.
        WorkError: a server does not answer.
    """
    found: dict[str, Place] = {}
    for url in _urls(access, root, transport, notes):
        try:
            place = Place(path_of(url), _led_to(url) if access.stac is not None else url)
        except InputError as refused:
            if access.stac is None:
                raise
            notes.warn("hostile", f"remote.stac: a scene is left out: {refused}")
            continue
        if (twin := found.setdefault(place.path, place)).url != url:
            notes.warn("twins", f"{url}: differs from {twin.url} by its query alone, and is left out")
    return sorted(found.values())


def _led_to(url: str) -> str:
    """A URL that a catalogue names, which is what a recipe may name, too, and nothing that a cloud tells its machines.

    Raises:
        InputError: it is neither; link-local addresses are those of RFC 3927.
    """
    try:
        _URL.validate_python(url)
        is_local = socket.inet_aton(urlsplit(url).hostname or "")[:2] == b"\xa9\xfe"
    except ValidationError as error:
        raise InputError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from None
    except OSError:  # a name
        return url
    if is_local:
        raise InputError(f"{url}: is an address of the machine's own link")
    return url


def path_of(url: str) -> str:
    """A file's path in its source: host or bucket, and path, without query.

    Raises:
        InputError: it leads upwards.
    """
    place = urlsplit(url)
    path = place.path if url.startswith("s3://") else unquote(place.path)
    parts = [part for part in path.split("/") if part]
    if {".", ".."} & set(parts) or "\0" in path or "\\" in path:
        raise InputError(f"{url}: its path leads upwards; write it without .. and \\")
    return unicodedata.normalize("NFC", "/".join([place.hostname or place.netloc, *parts]))


def _urls(access: RemoteImagery, root: Path, transport: Transport, notes: PlaceNotes) -> Iterable[str]:
    if access.urls:
        return access.every_url
    if access.url_list is not None:
        return _listed(access.url_list, root, transport)
    if access.prefix is not None:
        return transport.objects(access.prefix)
    try:
        from curation.remote.stac import asset_urls
    except ImportError:
        raise InputError("remote.stac needs pystac-client; pip install 'rscorpus[sources]'") from None
    return asset_urls(access, transport, notes)


def _listed(name: str, root: Path, transport: Transport) -> Iterator[str]:
    """URLs of a text file, one a line; empty lines and those that begin with # are none."""
    try:
        text = transport.text(name, MOST_TEXT) if "://" in name else (root / name).read_text(encoding="utf-8-sig")
    except UnreadableImage as refused:
        raise InputError(f"remote.url_list: {refused}") from None
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "is no text"
        raise InputError(f"remote.url_list: {root / name}: {told}; put the list there, a URL a line") from None
    for number, line in enumerate(text.splitlines(), 1):
        if (url := line.strip()) and not url.startswith("#"):
            try:
                yield _URL.validate_python(url)
            except ValidationError as error:
                raise InputError(f"remote.url_list: {name}: line {number}: {error.errors()[0]['msg']}") from None
