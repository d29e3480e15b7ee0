"""Scenes of a STAC catalogue: a search of an API, or a walk over a static one.

Requests go through our own transport, so that retries, limits and schemes are those of everything else. A page or a
catalogue that leads back to one that was read ends the walk there, with a warning; so does one that leads on and on
without a new item.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode, urljoin

import pystac
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from curation.base.batches import batches_of
from curation.base.errors import InputError
from curation.remote.access import RemoteImagery, between
from curation.remote.places import MOST_TEXT, PlaceNotes
from curation.remote.transport import Refused, Transport

RASTERS = ("image/tiff", "image/vnd.stac.geotiff", "image/jp2", "image/geotiff", "image/x.geotiff")
Item = dict[str, Any]
PATIENCE = 2000
"""Pages and catalogues in a row without a new item, after which there are no more."""


class _Loop(Exception):
    """A page that was read before."""


class _Io(StacApiIO):
    """Reads through a transport, each page once."""

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self.transport, self.seen = transport, set[str]()
        self._items, self._idle = set[str](), 0

    def note(self, item: Item, href: str) -> None:
        """Hear of an item, which is new or not."""
        name = f"{item.get('collection')} {item.get('id')} {href if item.get('id') is None else ''}"
        if name not in self._items:
            self._items.add(name)
            self._idle = 0

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """The text at a URL; a search is always a GET."""
        if method not in (None, "GET"):
            raise InputError(f"{href}: its pages are asked by {method}; only GET is known")
        query = urlencode({name: value for name, value in (parameters or {}).items() if value is not None})
        url = f"{href}{'&' if '?' in href else '?'}{query}" if query else href
        self._idle += 1
        if self._idle > PATIENCE:
            raise InputError(f"remote.stac: {url}: {PATIENCE:,} pages and more without a new scene; it leads nowhere")
        if url in self.seen:
            raise _Loop(url)
        self.seen.add(url)
        return self.transport.text(url, MOST_TEXT)


def asset_urls(access: RemoteImagery, transport: Transport, notes: PlaceNotes) -> Iterator[str]:
    """URLs of the wanted asset of every scene within the asked time and place.

    Raises:
        InputError: there is no catalogue, or none of its scenes is wanted.
        WorkError: its server does not answer.
    """
    assert access.stac is not None  # its reader has asked
    licences, io = _Licences(transport), _Io(transport)
    try:
        for item, href in _items(access, access.stac, io, notes):
            io.note(item, href)
            if not _within(item, access):
                notes.outside += 1
            elif access.licences and licences.of(item, href) not in access.licences:
                notes.unlicensed += 1
            elif (url := _asset(item, href, access)) is None:
                notes.without += 1
            else:
                yield url
    except Refused as refused:
        raise InputError(f"remote.stac: {refused}") from None
    except (pystac.STACError, APIError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"remote.stac: {access.stac} is no STAC catalogue, collection or item ({told})") from None


class _Licences:
    """Licences of items, or of their collections, each of which is read once."""

    def __init__(self, transport: Transport) -> None:
        self.transport, self._known = transport, dict[str, str | None]()

    def of(self, item: Item, href: str) -> str | None:
        """What an item says, else its collection; null where neither does."""
        own: str | None = item["properties"].get("license")
        links = [urljoin(href, each["href"]) for each in item.get("links", ()) if each["rel"] == "collection"]
        if own is not None or not links:
            return own
        if links[0] not in self._known:
            self._known[links[0]] = json.loads(self.transport.text(links[0], MOST_TEXT)).get("license")
        return self._known[links[0]]


def _items(access: RemoteImagery, href: str, io: _Io, notes: PlaceNotes) -> Iterator[tuple[Item, str]]:
    """Items as they are written, each with the URL that its links are relative to."""
    told = json.loads(io.request(href))
    if told["type"] == "Feature":
        yield told, href
    elif told["type"] in ("Catalog", "Collection") and "conformsTo" in told:
        yield from _searched(access, told, href, io, notes)
    elif told["type"] in ("Catalog", "Collection"):
        yield from _walked(access, told, href, io, notes)
    else:
        raise ValueError(f"its type is {told['type']!r}")


def _searched(access: RemoteImagery, told: Item, href: str, io: _Io, notes: PlaceNotes) -> Iterator[tuple[Item, str]]:
    client = Client.from_dict(told, href=href, preserve_dict=False)
    client._stac_io = io
    search = client.search(
        method="GET", limit=100, collections=list(access.collections) or None, bbox=access.bbox,
        datetime=access.datetime,
    )  # fmt: skip
    try:
        for page in search.pages_as_dicts():
            yield from ((item, href) for item in page.get("features", ()))
    except _Loop as loop:
        notes.warn("loop", f"remote.stac: the pages lead back to {loop}; what came before is listed")


def _walked(access: RemoteImagery, told: Item, href: str, io: _Io, notes: PlaceNotes) -> Iterator[tuple[Item, str]]:
    """A static catalogue, depth first; and the items of a collection that an API pages."""
    waiting = [(told, href)]
    with ThreadPoolExecutor(access.connections) as pool:
        while waiting:
            told, href = waiting.pop()
            if told["type"] == "FeatureCollection":
                yield from ((item, href) for item in told["features"])
            asked = told["type"] != "Collection" or not access.collections or told["id"] in access.collections
            wanted = {"child", "items", "next"} if asked else {"child"}
            links = [(each["rel"], urljoin(href, each["href"])) for each in told.get("links", ())]
            read = partial(_read, io, href, notes)
            for batch in batches_of((at for rel, at in links if asked and rel == "item"), 4 * access.connections):
                for each in pool.map(partial(_item, io, href, notes), batch):
                    if isinstance(each, Refused):
                        notes.warn("refused", f"remote.stac: a scene is left out: {each}")
                    elif each is not None:
                        yield each
            waiting += [each for rel, at in reversed(links) if rel in wanted and (each := read(at)) is not None]


def _read(io: _Io, parent: str, notes: PlaceNotes, href: str) -> tuple[Item, str] | None:
    """What a link leads to; null where that was read before."""
    try:
        return json.loads(io.request(href)), href
    except _Loop:
        notes.warn("circle", f"remote.stac: {parent} leads back to {href}, which is read once")
        return None


def _item(io: _Io, parent: str, notes: PlaceNotes, href: str) -> tuple[Item, str] | Refused | None:
    """An item that a link leads to, or why its server does not give it: one of many may be lost."""
    try:
        return _read(io, parent, notes, href)
    except Refused as refused:
        return refused


def _within(item: Item, access: RemoteImagery) -> bool:
    """Whether an item lies in the asked time and place; one that does not tell its time lies in none."""
    if access.datetime is not None:
        facts = item["properties"]
        taken = [facts.get(f"{end}_datetime") or facts.get("datetime") for end in ("start", "end")]
        first, last = between(access.datetime)
        if None in taken:
            return False
        begin, end = map(_moment, taken)
        if (first is not None and end < first) or (last is not None and begin > last):
            return False
    if access.bbox is None or item.get("bbox") is None:
        return access.bbox is None
    box = item["bbox"]
    west, south, east, north = box if len(box) == 4 else (*box[:2], *box[3:5])
    return west <= access.bbox[2] and east >= access.bbox[0] and south <= access.bbox[3] and north >= access.bbox[1]


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _asset(item: Item, href: str, access: RemoteImagery) -> str | None:
    """URL of the asset that is wanted; null where the item has none."""
    assets = item["assets"]
    named = [assets[key] for key in access.assets or ("visual",) if key in assets]
    if not named and not access.assets:
        rasters = [each for each in assets.values() if each.get("type", "").partition(";")[0].strip() in RASTERS]
        named = [each for role in ("visual", "data") for each in rasters if role in each.get("roles", ())] or rasters
    own = next((link["href"] for link in item.get("links", ()) if link["rel"] == "self"), href)
    return urljoin(urljoin(href, own), named[0]["href"]) if named else None
