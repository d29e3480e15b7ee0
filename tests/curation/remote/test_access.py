"""What a recipe may say about remote imagery."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from curation.remote.access import RemoteImagery, between
from curation.sources.source import Source

PLACE = {"urls": ["https://example.org/a.tif"]}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "give one of urls, url_list, stac and prefix, not none"),
        ({**PLACE, "prefix": "s3://bucket/a/"}, "not urls and prefix"),
        ({"urls": ["file:///etc/passwd"]}, "give an http://, https:// or s3:// URL"),
        ({"urls": ["/vsicurl/http://x/a.tif"]}, "give an http"),
        ({"urls": ["https://me:secret@example.org/a.tif"]}, "no user name and no password"),
        ({"url_list": "../list.txt"}, "inside the source's folder"),
        ({"url_list": "ftp://x/list.txt"}, "give an http"),
        ({"prefix": "https://example.org/"}, "s3://"),
        ({**PLACE, "datetime": "2020"}, "datetime is asked of a STAC catalogue"),
        ({"stac": "https://x.org/", "datetime": "yesterday"}, "'yesterday' is no RFC 3339 date"),
        ({"stac": "https://x.org/", "datetime": "2021/2020"}, "ends before it begins"),
        ({"prefix": "s3://bucket/", "requester_pays": True}, "needs credentials: own"),
        ({**PLACE, "connections": 17}, "less than or equal to 16"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RemoteImagery.model_validate(given)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("2020", datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 12, 31, 23, 59, 59, 999999, UTC)),
        ("2024-02/..", datetime(2024, 2, 1, tzinfo=UTC), None),
        ("../2024-02", None, datetime(2024, 2, 29, 23, 59, 59, 999999, UTC)),
        ("2020-05-01T10:00:00Z", datetime(2020, 5, 1, 10, tzinfo=UTC), datetime(2020, 5, 1, 10, tzinfo=UTC)),
    ],
)
def test_times_as_stac_writes_them(asked: str, first: datetime | None, last: datetime | None) -> None:
    assert between(asked) == (first, last)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"container": "remote"}, "go together"),
        ({"remote": PLACE}, "go together"),
        ({"columns": {"red": "r", "green": "g", "blue": "b"}}, "not of container: folder"),
        ({"container": "parquet", "image_column": "x", "columns": {"red": "r", "green": "g", "blue": "b"}}, "not both"),
        ({"container": "parquet", "array": {"dtype": "uint8"}}, "need shape"),
        ({"container": "parquet", "array": {}}, "which ones hold the numbers"),
        ({"container": "parquet", "array": {"axes": "byx", "shape": [3, 8]}}, "are 3, shape names 2"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Source.model_validate({"id": "s", **given})


def test_numbers_in_a_url_are_written_out() -> None:
    access = RemoteImagery(urls=("https://example.org/part-{08..11}-of-12.parquet", "https://example.org/a.tif"))
    assert access.every_url == (
        *(f"https://example.org/part-{number}-of-12.parquet" for number in ("08", "09", "10", "11")),
        "https://example.org/a.tif",
    )
    with pytest.raises(ValueError, match=r"\{9\.\.3\} must go up, over at most 100,000 numbers"):
        RemoteImagery(urls=("https://example.org/part-{9..3}.tif",))


def test_licences_are_asked_of_a_catalogue() -> None:
    with pytest.raises(ValueError, match="licences is asked of a STAC catalogue: give stac"):
        RemoteImagery(urls=("https://example.org/a.tif",), licences=("CC-BY-4.0",))
