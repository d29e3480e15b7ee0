"""Where remote imagery lies, what is drawn of it, and how much may be kept: ``remote`` of a source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from curation.base.settings import Strict

MOST_NUMBERED = 100_000
"""URLs that one with numbers in braces may stand for."""

_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")

MOST_REQUESTS = 16
"""Requests in flight per host, over all workers of a machine."""


def _url(value: str) -> str:
    place = urlsplit(value)
    if place.scheme not in ("http", "https", "s3") or not place.hostname:
        raise ValueError(f"{value!r}: give an http://, https:// or s3:// URL")
    if place.username or place.password:
        raise ValueError("a recipe holds no user name and no password; S3 takes them from AWS_PROFILE")
    return value


Url = Annotated[str, AfterValidator(_url)]
Degrees = Annotated[float, Field(ge=-180, le=180)]


class RemoteImagery(Strict):
    """Scenes, tables and tars that are read where they lie, named by ``urls``, ``url_list``, ``stac`` or ``prefix``.

    What a URL ends in says what it is: ``.parquet`` a table, ``.tar`` a tar, anything else an image.
    """

    urls: tuple[Url, ...] = ()
    """``{00000..00606}`` in one stands for all numbers from the first to the last, written as wide."""
    url_list: str | None = Field(None, min_length=1)
    """Text file with a URL a line, relative to the source's folder, or itself a URL."""
    stac: Url | None = None
    """A STAC API, or a static catalogue, collection or item."""
    prefix: Annotated[str, StringConstraints(pattern=r"^s3://[a-z0-9.-]+/.*$")] | None = None
    """``s3://bucket/prefix``: every object below it that ``images`` takes."""
    collections: tuple[str, ...] = ()
    """Of a STAC API or catalogue; empty: all."""
    assets: tuple[str, ...] = ()
    """Keys of a STAC item's assets, of which the first that is there is taken; empty: ``visual``, else the asset of
    role ``visual`` or ``data`` that is a TIFF or JPEG 2000."""
    licences: tuple[str, ...] = ()
    """Of STAC items: those whose licence, or else their collection's, is one of these; empty: all."""
    bbox: tuple[Degrees, Degrees, Degrees, Degrees] | None = None
    """West, south, east, north in degrees; scenes that lie outside are left."""
    datetime: str | None = None
    """An instant or ``from/to`` as RFC 3339 dates, ``..`` for an open end; scenes taken at other times are left."""
    files: int | None = Field(None, ge=1)
    """Scenes, tables or tars drawn by the recipe's seed; null: all."""
    per_file: int | None = Field(None, ge=1)
    """Windows drawn of each scene, rows of each table, members of each tar; null: all."""
    side: int = Field(512, ge=16, le=8192)
    """Pixels of a window; windows begin at multiples of it."""
    ranges: int | None = Field(None, ge=1)
    """Byte ranges drawn of each tar; null: the whole tar."""
    range_megabytes: float = Field(64, gt=0)
    credentials: Literal["none", "own"] = "none"
    """``none``: S3 is read anonymously; ``own``: with the keys that boto3 finds."""
    requester_pays: bool = False
    """The bucket's traffic is charged to ``credentials: own``."""
    region: str | None = None
    """Of the bucket, where it is not us-east-1."""
    connections: int = Field(MOST_REQUESTS, ge=1, le=MOST_REQUESTS)
    """Requests in flight per host, over all workers of a machine."""
    timeout_seconds: float = Field(30, gt=0)
    """Without a byte; then the request is made again."""
    attempts: int = Field(5, ge=1)
    """Of a request, with growing waits between them; then the run stops, and goes on when it is started again."""
    spool_gigabytes: float = Field(50, ge=0)
    """Bytes that are kept between scan and write; what does not fit is fetched again."""

    @model_validator(mode="after")
    def _one_place(self) -> RemoteImagery:
        given = [name for name in ("urls", "url_list", "stac", "prefix") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give one of urls, url_list, stac and prefix, not {' and '.join(given) or 'none'}")
        asked = [name for name in ("collections", "assets", "licences", "bbox", "datetime") if getattr(self, name)]
        if asked and self.stac is None:
            raise ValueError(f"{asked[0]} is asked of a STAC catalogue: give stac")
        if self.requester_pays and self.credentials == "none":
            raise ValueError("requester_pays needs credentials: own, since nobody else pays")
        return self

    @property
    def every_url(self) -> tuple[str, ...]:
        """``urls``, numbers written out."""
        return tuple(each for url in self.urls for each in numbered(url))

    @field_validator("urls")
    @classmethod
    def _few_enough(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            next(iter(numbered(url)))
        return value

    @field_validator("url_list")
    @classmethod
    def _file_or_url(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            return _url(value)
        if value is not None and (value.startswith("/") or ".." in value.split("/")):
            raise ValueError(f"{value!r} must be a path inside the source's folder, or a URL")
        return value

    @field_validator("datetime")
    @classmethod
    def _times(cls, value: str | None) -> str | None:
        if value is not None:
            between(value)
        return value

    HOW: ClassVar[frozenset[str]] = frozenset({"connections", "timeout_seconds", "attempts", "spool_gigabytes"})
    """Fields that change how fast imagery comes, and not which."""


def numbered(url: str) -> Iterator[str]:
    """The URLs that one with ``{first..last}`` stands for; one without stands for itself.

    Raises:
        ValueError: the last number is lower than the first, or there are more than ``MOST_NUMBERED``.
    """
    found = _NUMBERS.search(url)
    if found is None:
        yield url
        return
    first, last, width = int(found[1]), int(found[2]), len(found[1])
    if not 0 <= last - first < MOST_NUMBERED:
        raise ValueError(f"{found[0]} must go up, over at most {MOST_NUMBERED:,} numbers")
    for number in range(first, last + 1):
        yield f"{url[: found.start()]}{number:0{width}d}{url[found.end() :]}"


def between(asked: str) -> tuple[datetime | None, datetime | None]:
    """First and last moment of a STAC ``datetime``; null for an open end.

    Raises:
        ValueError: it is none.
    """
    first, slash, last = asked.partition("/")
    ends = [_moment(first, False), _moment(last if slash else first, True)]
    if ends[0] is not None and ends[1] is not None and ends[0] > ends[1]:
        raise ValueError(f"datetime: {asked!r} ends before it begins")
    return ends[0], ends[1]


def _moment(text: str, is_end: bool) -> datetime | None:
    if text in ("", ".."):
        return None
    try:
        whole = datetime.fromisoformat(_first_day(text))
        if is_end and "T" not in text.upper():
            whole = _next(whole, len(text.split("-"))) - timedelta(microseconds=1)
    except ValueError:
        raise ValueError(f"datetime: {text!r} is no RFC 3339 date; write 2020-05-01 or 2020-05-01T10:00:00Z") from None
    return whole if whole.tzinfo else whole.replace(tzinfo=UTC)


def _first_day(text: str) -> str:
    """A year or a month as its first day."""
    return text + "-01" * max(2 - text.count("-"), 0) if "T" not in text.upper() else text


def _next(day: datetime, precision: int) -> datetime:
    """The year, month or day after."""
    if precision == 3:
        return day + timedelta(days=1)
    months = day.year * 12 + day.month - 1 + (12 if precision == 1 else 1)
    return day.replace(year=months // 12, month=months % 12 + 1)
