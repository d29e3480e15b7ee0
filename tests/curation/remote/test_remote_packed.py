"""Tables and tars that stay where they are: only what is drawn is read."""

from __future__ import annotations

import io
import json
import os
import resource
import tarfile
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from range_server import RangeServer
from remote_scenes import NAMES, tar
from textures import texture

from curation.base.errors import InputError, UnreadableImage, WorkError
from curation.imagery.image import open_image
from curation.imagery.location import Location
from curation.remote.tars import drawn_ranges, first_header
from curation.sources.inventory import list_images
from curation.sources.recipe import ExcludeRules
from curation.sources.source import Source

Rows = list[dict[str, Any]]


def listed(folder: Path, seed: int = 0, fields: dict[str, Any] | None = None, **remote: Any) -> tuple[Source, Rows]:
    access = {"timeout_seconds": 20, "attempts": 1, **remote}
    source = Source.model_validate({"id": "far", "container": "remote", "remote": access, **(fields or {})})
    return source, list(list_images(source, folder / "far", seed=seed))


def pixels(folder: Path, source: Source, row: dict[str, Any]) -> np.ndarray:
    with open_image(Location.of(folder / "far", row, source.remote), source, ExcludeRules()) as image:
        return image.read(image.area)[0]


# ------------------------------------------------------------------------------------------------ tables

ARRAYS = np.random.default_rng(0).integers(0, 255, (60, 1, 3, 32, 32), np.uint8)


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    waste = pa.array([np.random.default_rng(1).bytes(20_000)] * 60)
    pq.write_table(
        pa.table({"waste": waste, **columns}), buffer, row_group_size=10, compression="none", use_dictionary=False
    )
    return buffer.getvalue()


def test_rows_of_numbers_are_read_by_the_ranges_of_their_column(server: RangeServer, tmp_path: Path) -> None:
    server.files["/a.parquet"] = data = parquet(
        rgb=pa.array(ARRAYS.tolist(), pa.list_(pa.list_(pa.list_(pa.list_(pa.uint8())))))
    )
    source, rows = listed(
        tmp_path, urls=[server.url("/a.parquet")], per_file=10, fields={"image_column": "rgb", "array": {}}
    )
    assert len(rows) == 10
    before = server.sent
    for row in rows:
        number = int(row["image"].rpartition("/")[2])
        assert np.array_equal(pixels(tmp_path, source, row), ARRAYS[number, 0].transpose(1, 2, 0))
    footer = pq.read_metadata(io.BytesIO(data))
    chunks = [footer.row_group(group).column(1).total_compressed_size for group in range(6)]
    assert server.sent - before == chunks[0]  # one group's column, once; all are alike
    assert len(set(chunks)) == 1
    sent = server.sent
    assert np.array_equal(pixels(tmp_path, source, rows[3])[0, 0], ARRAYS[int(rows[3]["image"][-9:]), 0, :, 0, 0])
    assert server.sent == sent


def test_encoded_images_in_a_table_are_handed_on_as_they_are(server: RangeServer, tmp_path: Path) -> None:
    images = []
    for number in range(60):
        buffer = io.BytesIO()
        texture(number, 64).save(buffer, "PNG")
        images.append(buffer.getvalue())
    column = pa.array([{"bytes": data, "path": "x"} for data in images])
    server.files["/a.parquet"] = parquet(image=column, thumbnail=pa.array(images))
    for name in ("thumbnail", "image"):
        source, rows = listed(tmp_path, urls=[server.url("/a.parquet")], fields={"image_column": name})
        assert len(rows) == 60
        place = Location.of(tmp_path / "far", rows[41], source.remote)
        assert place.remote_member(1 << 20).data == images[41]


def in_little_room(work: Callable[[], Any]) -> Any:
    """What a function returns in a process that may take half a gigabyte more than it has."""
    told, tell = os.pipe()
    if (child := os.fork()) == 0:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 29), size + (1 << 29)))
        with suppress(BaseException):
            os.write(tell, json.dumps(work()).encode())
        os._exit(0)
    os.close(tell)
    with os.fdopen(told) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return json.loads(said) if said else None


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("where", ["remote", "local"])
def test_one_image_that_fills_all_rows_takes_the_memory_of_one(
    server: RangeServer, tmp_path: Path, nested: bool, where: str
) -> None:
    """A dictionary of one word is small in the file, and five gigabytes once every row holds it."""
    buffer, table = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 512), np.uint8)).save(buffer, "TIFF")
    image, rows = buffer.getvalue(), 20_000
    words: pa.Array = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([image], pa.binary()))
    if nested:
        words = pa.StructArray.from_arrays([words, pa.array(["x"] * rows)], ["bytes", "path"])
    pq.write_table(pa.table({"rgb": words}), table, dictionary_pagesize_limit=1 << 22, store_schema=False)
    data = table.getvalue()
    assert len(data) < 2 * len(image)
    if where == "remote":
        server.files["/a.parquet"] = data
        source, found = listed(tmp_path, urls=[server.url("/a.parquet")], per_file=3, fields={"image_column": "rgb"})
        place = Location.of(tmp_path / "far", found[2], source.remote)
        assert in_little_room(lambda: len(place.remote_member(1 << 24).data)) == len(image)
        return
    (tmp_path / "a.parquet").write_bytes(data)
    bands = dict.fromkeys(("red", "green", "blue"), "rgb")
    table_of = Source.model_validate({"id": "near", "container": "parquet", "columns": bands})
    found = list(islice(list_images(table_of, tmp_path), 3))

    def width() -> int:
        with open_image(Location.of(tmp_path, found[2], None), table_of, ExcludeRules()) as opened:
            return opened.read(opened.area)[0].shape[1]

    assert in_little_room(width) == 512


def test_what_is_no_table_or_lacks_the_column_is_told(server: RangeServer, tmp_path: Path) -> None:
    server.files["/a.parquet"] = b"PAR1" + bytes(1000)
    with pytest.raises(InputError, match=r"a\.parquet: no Parquet table"):
        listed(tmp_path, urls=[server.url("/a.parquet")], fields={"image_column": "image"})
    server.files["/b.parquet"] = parquet()
    with pytest.raises(InputError, match="image_column must say which column"):
        listed(tmp_path, urls=[server.url("/b.parquet")])
    with pytest.raises(InputError, match=r"b\.parquet: column rgb holds no images; there are: waste"):
        listed(tmp_path, urls=[server.url("/b.parquet")], fields={"image_column": "rgb", "array": {}})


# ------------------------------------------------------------------------------------------------ tars


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_all_members_of_a_tar_are_found_whatever_the_chunks_cut(server: RangeServer, tmp_path: Path, kind: int) -> None:
    server.files["/a.tar"], held = tar(NAMES, format=kind)
    source, rows = listed(tmp_path, urls=[server.url("/a.tar")], range_megabytes=0.03)
    assert [row["image"] for row in rows] == sorted(f"127.0.0.1/a.tar/{name}" for name in NAMES[:-1])
    sent = server.sent
    for row in rows[::9]:
        place = Location.of(tmp_path / "far", row, source.remote)
        assert place.remote_member(1 << 20).data == held[row["image"].removeprefix("127.0.0.1/a.tar/")]
    assert server.sent == sent  # the listing put them into the spool


def test_drawn_ranges_begin_at_headers_and_leave_what_their_end_cuts(server: RangeServer, tmp_path: Path) -> None:
    server.files["/a.tar"], _ = tar(NAMES)
    size = len(server.files["/a.tar"])
    drawn = {}
    for seed in (0, 0, 1):
        _, rows = listed(tmp_path, seed, urls=[server.url("/a.tar")], ranges=3, range_megabytes=0.05)
        drawn.setdefault(seed, []).append([row["member"] for row in rows])
    assert drawn[0][0] == drawn[0][1] != drawn[1][0]
    with tarfile.open(fileobj=io.BytesIO(server.files["/a.tar"])) as whole:
        lies = {each.name: (each.offset, each.offset_data, each.size) for each in whole}
    ranges = drawn_ranges(size, 3, 50_000, "0\x00127.0.0.1/a.tar")
    inside = [
        name for name, (header, data, length) in lies.items() if name.endswith("png")
        and any(start <= header and data + length <= start + span for start, span in ranges)
    ]  # fmt: skip
    found = [member.split(" ", 4)[4] for member in drawn[0][0]]
    assert sorted(found) == sorted(inside)
    assert 0 < len(found) < 60
    sent = sum(span for _, span in ranges)
    assert server.sent <= 3 * (sent + 16_384)


def test_what_looks_like_a_header_and_is_none_is_passed_over() -> None:
    whole, _ = tar(["a.png"])
    false = bytearray(whole[:512])
    false[0:5] = b"other"  # the checksum is another's
    assert first_header(bytes(512) + bytes(false) + whole) == 1024
    assert first_header(bytes(4096)) is None


def test_of_equal_names_in_a_tar_the_last_is_taken_as_unpacking_would(server: RangeServer, tmp_path: Path) -> None:
    server.files["/t.tar"], held = tar(["a.png", "./a.png", "b.png", "e\u0301.png", "\u00e9.png", "../c.png"])
    source, rows = listed(tmp_path, urls=[server.url("/t.tar")])
    assert [row["image"].rpartition("/")[2] for row in rows] == ["a.png", "b.png", "\u00e9.png"]
    for row, name in zip(rows, ("./a.png", "b.png", "\u00e9.png"), strict=True):
        assert np.array_equal(pixels(tmp_path, source, row), np.asarray(Image.open(io.BytesIO(held[name]))))


def test_a_tar_that_is_said_to_be_endless_is_not_drawn_from() -> None:
    with pytest.raises(UnreadableImage, match=r"900,000,000,000,000 bytes are too many ranges of 64,000,000; raise"):
        drawn_ranges(9 * 10**14, 5_000, 64_000_000, "0")
    assert len(drawn_ranges(15 * 10**11, 5_000, 64_000_000, "0")) == 5_000  # one of Satlas' tars


def test_a_header_of_negative_size_ends_its_range(server: RangeServer, tmp_path: Path) -> None:
    """A reader that believes it goes back to the same header for ever (CVE-2025-8194)."""
    before, _ = tar(["a.png"])
    told = tarfile.TarInfo("b.png")
    told.pax_headers = {"size": "-1536"}
    server.files["/t.tar"] = before.rstrip(b"\0").ljust(-(-len(before.rstrip(b"\0")) // 512) * 512, b"\0") + (
        told.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    )
    _, rows = listed(tmp_path, urls=[server.url("/t.tar")])
    assert [row["image"] for row in rows] == ["127.0.0.1/t.tar/a.png"]


def test_a_listing_that_was_killed_within_a_tar_goes_on_at_the_range_it_was_at(
    server: RangeServer, tmp_path: Path
) -> None:
    server.files["/a.tar"], _ = tar(NAMES)
    server.statuses["/a.tar"] = [200] * 9 + [503]
    asked = {"urls": [server.url("/a.tar")], "ranges": 20, "range_megabytes": 0.02, "connections": 1}
    with pytest.raises(WorkError, match="the server answers 503"):
        listed(tmp_path, **asked)
    server.statuses.clear()
    before = {ranged for _, ranged in server.asked[:9]}
    start = len(server.asked)
    _, rows = listed(tmp_path, **asked)
    assert not before & {ranged for _, ranged in server.asked[start:]} - {"bytes=0-16383"}
    fresh = tmp_path / "fresh"
    assert [row["member"] for row in rows] == [row["member"] for row in listed(fresh, **asked)[1]]
