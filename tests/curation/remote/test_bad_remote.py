"""What servers do wrong: a verdict, or one line with what to type; nothing is half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from range_server import RangeServer
from remote_scenes import catalogue, item, picture, scene

from curation.base.errors import InputError, WorkError
from curation.sources.inventory import SourceListing, list_images
from curation.sources.source import Source


def listed(folder: Path, **remote: Any) -> tuple[list[dict[str, Any]], SourceListing]:
    """A listing of a remote source, with what was told."""
    access = {"side": 128, "timeout_seconds": 20, "attempts": 2, **remote}
    source = Source.model_validate({"id": "far", "container": "remote", "remote": access})
    told = SourceListing("far")
    return list(list_images(source, folder / "far", told)), told


def test_a_web_page_in_place_of_a_scene_is_a_row_that_says_so(server: RangeServer, tmp_path: Path) -> None:
    server.files["/a.tif"] = scene(tmp_path, picture(1, 256))
    server.pages.add("/b.tif")
    rows, told = listed(tmp_path, urls=[server.url("/a.tif"), server.url("/b.tif")])
    assert [row["member"] for row in rows if row["image"].endswith("*")] == [
        f"!{server.url('/b.tif')}: answers with a web page"
    ]
    assert told.found == 4
    with pytest.raises(InputError, match=r"no image in what remote names.*answers with a web page\); left_out\.far="):
        listed(tmp_path, urls=[server.url("/b.tif")])


@pytest.mark.parametrize(("status", "told"), [(403, "the server answers 403"), (404, "the server answers 404")])
def test_what_a_server_refuses_is_told_by_its_status(
    server: RangeServer, tmp_path: Path, status: int, told: str
) -> None:
    server.files["/a.tif"] = scene(tmp_path, picture(1, 256))
    server.statuses["/b.tif"] = [status]
    _, listing = listed(tmp_path, urls=[server.url("/a.tif"), server.url("/b.tif")])
    assert listing.unread == [f"{server.url('/b.tif')}: {told}"]


def test_a_busy_server_is_asked_again(server: RangeServer, tmp_path: Path) -> None:
    server.files["/a.tif"] = scene(tmp_path, picture(1, 256))
    server.statuses["/a.tif"] = [503, 429, 200]
    assert len(listed(tmp_path, urls=[server.url("/a.tif")], attempts=3)[0]) == 4


def test_a_server_that_falls_silent_stops_the_listing_which_then_goes_on(server: RangeServer, tmp_path: Path) -> None:
    names = [f"/{number:03d}.tif" for number in range(260)]  # more than are asked for together
    data = scene(tmp_path, picture(1, 128))
    server.files |= dict.fromkeys(names, data)
    server.statuses[names[-1]] = [503]
    with pytest.raises(
        WorkError, match=r"259\.tif: the server answers 503 \(asked 1 times\); .* the same command goes"
    ):
        listed(tmp_path, urls=[server.url(name) for name in names], attempts=1)
    server.statuses.clear()
    before = len(server.asked)
    rows, _ = listed(tmp_path, urls=[server.url(name) for name in names], attempts=1)
    assert len(rows) == 260
    assert {path for path, _ in server.asked[before:]} == {names[-1]}  # what was found before the end is known
    assert not list((tmp_path / "far/.remote").glob("listing*"))


def test_a_server_that_stops_within_an_answer_is_given_up_after_its_time(server: RangeServer, tmp_path: Path) -> None:
    server.files["/a.tif"] = scene(tmp_path, picture(1, 256))
    server.silent = True
    with pytest.raises(WorkError, match=r"a\.tif: stopped answering .*asked 2 times"):
        listed(tmp_path, urls=[server.url("/a.tif")], timeout_seconds=0.3)


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        WorkError, match=r"http://127\.0\.0\.1:9/a\.tif: is not reached \(Failed to establish a new connection: "
    ):
        listed(tmp_path, urls=["http://127.0.0.1:9/a.tif"], attempts=1)


def test_a_redirect_to_another_scheme_or_without_end_is_refused(server: RangeServer, tmp_path: Path) -> None:
    server.redirects["/a.tif"] = "file:///etc/passwd"
    server.redirects["/b.tif"] = server.url("/b.tif")
    server.files["/c.tif"] = scene(tmp_path, picture(1, 256))
    _, told = listed(tmp_path, urls=[server.url(f"/{name}.tif") for name in "abc"])
    assert len(told.unread) == 2
    assert "redirects more than five times" in told.unread[1]


def test_a_server_without_ranges_is_not_read_whole(server: RangeServer, tmp_path: Path) -> None:
    server.files["/a.tif"] = scene(tmp_path, picture(1, 512))
    server.without_ranges.add("/a.tif")
    with pytest.raises(InputError, match="gives no ranges; download the file"):
        listed(tmp_path, urls=[server.url("/a.tif")])


def test_headers_that_are_no_numbers_are_a_refusal(server: RangeServer, tmp_path: Path) -> None:
    data = scene(tmp_path, picture(1, 256))
    hostile = {"a": f"bytes 0-16383/{'9' * 5_000}", "b": "bytes 0-16383/-5", "c": "bytes \xb2-3/4", "d": "pages 1-2/3"}
    for name, told in hostile.items():
        server.files[f"/{name}.tif"], server.headers[f"/{name}.tif"] = data, {"Content-Range": told}
    server.files["/z.tif"] = data
    rows, listing = listed(tmp_path, urls=[server.url(f"/{name}.tif") for name in [*hostile, "z"]])
    assert len(listing.unread) == 4 and all("gives no ranges" in line for line in listing.unread)
    assert len([row for row in rows if row["file"] == server.url("/z.tif")]) == 4


def test_a_scene_without_overviews_is_drawn_blindly_and_named(server: RangeServer, tmp_path: Path) -> None:
    server.files["/a.tif"] = scene(tmp_path, picture(1, 256), overviews="NONE")
    rows, told = listed(tmp_path, urls=[server.url("/a.tif")])
    assert len(rows) == 4
    assert told.warnings == ["1 of 1 scenes have no overviews; their empty windows show when read: 127.0.0.1/a.tif"]


def test_a_virtual_raster_is_no_scene(server: RangeServer, tmp_path: Path) -> None:
    """GDAL would follow the file or the URL that it names."""
    from curation.base.errors import UnreadableImage
    from curation.imagery.image import open_image
    from curation.imagery.location import Location
    from curation.sources.recipe import ExcludeRules

    server.files["/secret.tif"] = scene(tmp_path, picture(1, 256))
    server.files["/a.vrt"] = (
        f'<VRTDataset rasterXSize="256" rasterYSize="256"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>/vsicurl/{server.url('/secret.tif')}</SourceFilename></SimpleSource></VRTRasterBand>"
        "</VRTDataset>"
    ).encode()
    rows, _ = listed(tmp_path, urls=[server.url("/a.vrt")])
    source = Source.model_validate({"id": "far", "container": "remote", "remote": {"urls": [server.url("/a.vrt")]}})
    with pytest.raises(UnreadableImage, match="not an image format"):
        open_image(Location.of(tmp_path / "far", rows[0], source.remote), source, ExcludeRules())
    assert "/secret.tif" not in {path for path, _ in server.asked}


def test_a_header_that_claims_the_earth_is_told_and_costs_nothing(server: RangeServer, tmp_path: Path) -> None:
    import struct

    def header(width: int, height: int, block: int) -> bytes:
        """A TIFF of one band in blocks, with one block: tags as TIFF 6.0 numbers them."""
        tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (277, 3, 1),
                (322, 4, block), (323, 4, block), (324, 4, 4096), (325, 4, 16)]  # fmt: skip
        body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
        return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + bytes(4)

    server.files["/wide.tif"] = header(2_000_000_000, 2_000_000_000, 256)
    server.files["/block.tif"] = header(60_000, 60_000, 60_000)
    server.files["/z.tif"] = scene(tmp_path, picture(1, 256))
    _, told = listed(tmp_path, urls=[server.url(f"/{name}.tif") for name in ("block", "wide", "z")])
    assert len(told.unread) == 2
    assert "60000 x 60000 pixels of 1 bands in blocks of 60000 x 60000" in told.unread[0]
    assert server.sent < 200_000


@pytest.mark.parametrize("etag", [True, False])
def test_an_object_that_changed_after_it_was_listed_is_refused(server: RangeServer, tmp_path: Path, etag: bool) -> None:
    from curation.base.errors import UnreadableImage
    from curation.imagery.location import Location

    if not etag:
        server.without_etag.add("/a.tif")
    server.files["/a.tif"] = scene(tmp_path, picture(1, 256))
    remote = {"urls": [server.url("/a.tif")], "spool_gigabytes": 0, "side": 128}
    rows, _ = listed(tmp_path, **remote)
    server.files["/a.tif"] = scene(tmp_path, picture(2, 256))
    source = Source.model_validate({"id": "far", "container": "remote", "remote": remote})
    with pytest.raises(UnreadableImage, match=r"changed since it was listed; run with --relist"):
        Location.of(tmp_path / "far", rows[0], source.remote).remote_member(1 << 30)
    again, _ = listed(tmp_path, **remote)
    assert [row["mtime_ns"] for row in again] != [row["mtime_ns"] for row in rows]
    assert [row["image"] for row in again] == [row["image"] for row in rows]


def test_what_the_spool_lost_is_read_again(server: RangeServer, tmp_path: Path) -> None:
    from curation.imagery.location import Location

    server.files["/a.tif"] = scene(tmp_path, picture(1, 256))
    remote = {"urls": [server.url("/a.tif")], "side": 128}
    rows, _ = listed(tmp_path, **remote)
    source = Source.model_validate({"id": "far", "container": "remote", "remote": remote})
    place = Location.of(tmp_path / "far", rows[0], source.remote)
    first = place.remote_member(1 << 30).data
    for path in (tmp_path / "far/.remote/spool").glob("*/*"):
        spoilt = bytearray(path.read_bytes())
        spoilt[-1] ^= 1
        path.write_bytes(spoilt)
    before = len(server.asked)
    assert place.remote_member(1 << 30).data == first
    assert len(server.asked) > before


def test_a_spool_leaves_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from curation.remote.spool import Spool

    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=10_000, free=1_000))
    spool = Spool(tmp_path / "none/yet", 1 << 30)
    assert [spool.put(f"ab{number}", bytes(300)) for number in range(3)] == [True, True, False]  # 800 are free for it
    assert spool.get("ab0") == bytes(300)
    assert spool.get("ab2") is None


def test_a_spool_takes_half_of_the_little_that_a_large_disk_has_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from curation.remote.spool import Spool

    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=1_000_000, free=1_000))
    spool = Spool(tmp_path, 1 << 30)
    assert [spool.put(f"ab{number}", bytes(200)) for number in range(3)] == [True, True, False]  # 2 % were 20,000


def test_no_more_requests_are_in_flight_than_allowed(server: RangeServer, tmp_path: Path) -> None:
    server.latency = 0.02
    names = [f"/{number}.tif" for number in range(24)]
    server.files |= dict.fromkeys(names, scene(tmp_path, picture(1, 128)))
    listed(tmp_path, urls=[server.url(name) for name in names], connections=3)
    assert server.most_flying == 3


def test_a_list_that_holds_no_url_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/list.txt").write_text("https://example.org/a.tif\n/etc/passwd\n")
    with pytest.raises(InputError, match=r"list\.txt: line 2: .*give an http://, https:// or s3:// URL"):
        listed(tmp_path, url_list="list.txt")


# ------------------------------------------------------------------------------------------------ STAC


def search(server: RangeServer, pages: list[tuple[str, list[dict[str, Any]], str | None]]) -> None:
    """A STAC API whose pages are given by path, items and path of the next."""
    core = "https://api.stacspec.org/v1.0.0/"
    catalogue(
        server, "/stac", conformsTo=[f"{core}core", f"{core}item-search"],
        links=[{"rel": "search", "href": server.url("/search"), "type": "application/geo+json"}],
    )  # fmt: skip
    for path, items, following in pages:
        links = [{"rel": "next", "href": server.url(following)}] if following else []
        server.files[path] = json.dumps({"type": "FeatureCollection", "features": items, "links": links}).encode()


def test_pages_of_an_api_are_followed_and_scenes_outside_of_the_asked_time_are_left(
    server: RangeServer, tmp_path: Path
) -> None:
    for name in "abc":
        server.files[f"/{name}.tif"] = scene(tmp_path, picture(ord(name), 128))
    items = [
        item("a", "2020-05-01T10:00:00Z", server.url("/a.tif")),
        item("b", "2019-12-31T23:59:59Z", server.url("/b.tif")),
        item("c", "2020-12-31T10:00:00Z", server.url("/c.tif")),
    ]
    search(server, [("/search", items[:2], "/search/2"), ("/search/2", items[2:], None)])
    rows, told = listed(tmp_path, stac=server.url("/stac"), datetime="2020", bbox=[10.5, 50.5, 12, 52])
    assert [row["image"] for row in rows] == [f"127.0.0.1/{name}.tif/000000_000000" for name in "ac"]
    assert told.notes == ["1 scenes lie outside of remote.datetime or remote.bbox and are left"]
    asked = next(path for path, _ in server.asked if path.startswith("/search?"))
    assert "bbox=10.5" in asked
    assert "datetime=2020" in asked


def test_pages_that_loop_end_where_they_began(server: RangeServer, tmp_path: Path) -> None:
    server.files["/a.tif"] = scene(tmp_path, picture(1, 128))
    some = [item("a", "2020-05-01T10:00:00Z", server.url("/a.tif"))]
    search(server, [("/search", some, "/search/2"), ("/search/2", some, "/search/2")])
    rows, told = listed(tmp_path, stac=server.url("/stac"))
    assert len(rows) == 1
    assert f"the pages lead back to {server.url('/search/2')}" in told.warnings[0]


def test_scenes_of_other_licences_are_left_and_an_item_that_names_none_has_its_collections(
    server: RangeServer, tmp_path: Path
) -> None:
    for name in "abc":
        server.files[f"/{name}.tif"] = scene(tmp_path, picture(ord(name), 128))
    catalogue(server, "/collection", type="Collection", id="aerial", license="CC-BY-4.0")
    items = [item(name, "2020-05-01T10:00:00Z", server.url(f"/{name}.tif")) for name in "abc"]
    items[0]["properties"]["license"], items[1]["properties"]["license"] = "CC-BY-NC-4.0", "CC0-1.0"
    items[2]["links"] = [{"rel": "collection", "href": server.url("/collection")}]
    search(server, [("/search", items, None)])
    rows, told = listed(tmp_path, stac=server.url("/stac"), licences=["CC-BY-4.0", "CC0-1.0"])
    assert [row["file"] for row in rows] == [server.url("/b.tif"), server.url("/c.tif")]
    assert told.warnings == ["1 scenes have a licence that remote.licences does not name, and are left"]


def test_numbers_in_a_url_are_asked_for_one_by_one(server: RangeServer, tmp_path: Path) -> None:
    for number in (8, 9, 10):
        server.files[f"/part-{number:02}.tif"] = scene(tmp_path, picture(number, 128))
    rows, told = listed(tmp_path, urls=[server.url("/part-{08..10}.tif")])
    assert [row["file"] for row in rows] == [server.url(f"/part-{name}.tif") for name in ("08", "09", "10")]
    assert not told.warnings


def test_a_static_catalogue_is_walked_and_its_circles_are_told(server: RangeServer, tmp_path: Path) -> None:
    server.files["/cat/2020/a.tif"] = scene(tmp_path, picture(1, 128))
    catalogue(server, "/cat/catalog.json", links=[{"rel": "child", "href": "./2020/collection.json"}])
    catalogue(
        server, "/cat/2020/collection.json", type="Collection", id="aerial",
        links=[{"rel": "child", "href": "../catalog.json"}, {"rel": "item", "href": "./a.json"}],
    )  # fmt: skip
    server.files["/cat/2020/a.json"] = json.dumps(item("a", "2020-05-01T10:00:00Z", "./a.tif")).encode()
    rows, told = listed(tmp_path, stac=server.url("/cat/catalog.json"))
    assert [row["file"] for row in rows] == [server.url("/cat/2020/a.tif")]
    assert "leads back to" in told.warnings[0]
    with pytest.raises(InputError, match="no image"):
        listed(tmp_path, stac=server.url("/cat/catalog.json"), collections=["other"])


def test_what_is_no_catalogue_is_named(server: RangeServer, tmp_path: Path) -> None:
    server.pages.add("/stac")
    with pytest.raises(InputError, match=r"remote\.stac: .*/stac: answers with a web page"):
        listed(tmp_path, stac=server.url("/stac"))
    server.files["/other"] = b'{"type": "Point"}'
    with pytest.raises(InputError, match=r"is no STAC catalogue, collection or item \(its type is 'Point'\)"):
        listed(tmp_path, stac=server.url("/other"))


def test_the_pixels_of_a_scene_with_mask_palette_and_sixteen_bits_are_those_that_gdal_reads(
    server: RangeServer, tmp_path: Path
) -> None:
    """A window is handed on with all that says how to read it."""
    import rasterio
    from rasterio.windows import Window

    from curation.imagery.location import Location

    deep = (picture(1, 256).astype(np.uint16) * 37)[[0, 1, 2, 0]]
    made = {
        "deep": scene(tmp_path, deep, nodata=5, interleave="pixel"),
        "jpeg": scene(tmp_path, picture(2, 256), compress="jpeg", add_mask="yes", nodata=None),
    }
    for name, data in made.items():
        server.files[f"/{name}.tif"] = data
        rows, _ = listed(tmp_path, urls=[server.url(f"/{name}.tif")])
        source = Source.model_validate(
            {"id": "far", "container": "remote", "remote": {"urls": [server.url("/x")], "side": 128}}
        )
        for row in rows:
            top, left = map(int, row["image"].rpartition("/")[2].split("_"))
            tile = Location.of(tmp_path / "far", row, source.remote).remote_member(1 << 30).data
            with (
                rasterio.MemoryFile(data) as whole,
                rasterio.MemoryFile(tile) as part,
                whole.open() as a,
                part.open() as b,
            ):
                window = Window(left, top, 128, 128)
                assert np.array_equal(a.read(window=window), b.read())
                assert np.array_equal(a.dataset_mask(window=window), b.dataset_mask())
                assert (a.nodata, a.colorinterp, a.crs) == (b.nodata, b.colorinterp, b.crs)
                assert b.transform == a.window_transform(window)


def test_pages_that_never_end_and_hold_nothing_new_are_one_line(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curation.remote.stac.PATIENCE", 20)
    some = [item("a", "2020-05-01T10:00:00Z", server.url("/a.tif"))]
    search(server, [("/search", some, "/search/0")])
    for number in range(60):
        told = {"type": "FeatureCollection", "features": some,
                "links": [{"rel": "next", "href": server.url(f"/search/{number + 1}")}]}  # fmt: skip
        server.files[f"/search/{number}"] = json.dumps(told).encode()
    with pytest.raises(InputError, match="20 pages and more without a new scene"):
        listed(tmp_path, stac=server.url("/stac"))
    assert len(server.asked) < 30


def test_what_a_hostile_catalogue_names_is_left_out_and_told(server: RangeServer, tmp_path: Path) -> None:
    server.files["/a.tif"] = scene(tmp_path, picture(1, 128))
    named = ["file:///etc/passwd", "http://169.254.169.254/latest/meta-data/x.tif", "http://2852039166/x.tif",
             server.url("/%2e%2e/%2e%2e/x.tif"), "/vsicurl/x.tif", server.url("/a.tif")]  # fmt: skip
    links = [{"rel": "item", "href": f"./{number}.json"} for number in range(len(named) + 1)]
    catalogue(server, "/c.json", links=links)  # the last item is not there
    for number, href in enumerate(named):
        server.files[f"/{number}.json"] = json.dumps(item(str(number), "2020-05-01T10:00:00Z", href)).encode()
    rows, told = listed(tmp_path, stac=server.url("/c.json"))
    assert [row["file"] for row in rows] == [server.url("/a.tif"), server.url("/vsicurl/x.tif")]
    assert told.unread == [f"{server.url('/vsicurl/x.tif')}: the server answers 404"]
    assert any("'file:///etc/passwd': give an http://" in line and "(and 3 more)" in line for line in told.warnings)
    assert any(f"{server.url('/6.json')}: the server answers 404" in line for line in told.warnings)


def test_some_windows_are_drawn_of_a_mosaic_of_a_million(tmp_path: Path) -> None:
    import rasterio

    from curation.base.errors import UnreadableImage
    from curation.remote import scenes

    vrt = '<VRTDataset rasterXSize="16640" rasterYSize="16640"><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    with rasterio.open(vrt) as data:  # 1040 x 1040 windows of 16 pixels
        drawn = scenes.draw(data, 16, 5, "0", None)
        assert len(drawn.windows) == 5
        assert list(drawn.windows) == sorted(drawn.windows, key=lambda window: (window[1], window[0]))
        with pytest.raises(UnreadableImage, match=r"too many windows of 16; set remote\.per_file or"):
            scenes.draw(data, 16, None, "0", None)
