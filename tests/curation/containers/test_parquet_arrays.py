"""Numbers in Parquet columns as images: EarthView's nested lists, raw bytes, a column per band."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from curation.base.errors import InputError, UnreadableImage
from curation.imagery.image import open_image
from curation.imagery.location import Location
from curation.sources.inventory import list_images
from curation.sources.recipe import ExcludeRules
from curation.sources.source import Source

ROWS = np.random.default_rng(0).integers(0, 255, (5, 2, 3, 24, 32), np.uint8)
"""Five rows of two dates of three bands of 24 x 32 pixels, as EarthView's ``rgb``."""


def table(path: Path, **columns: Any) -> None:
    other = pa.array([bytes(50_000)] * 5)
    pq.write_table(pa.table({"other": other, **columns}), path, row_group_size=2)


def pixels(folder: Path, **fields: Any) -> list[np.ndarray]:
    """8-bit RGB of every row, through listing and opening."""
    source = Source.model_validate({"id": "s", "container": "parquet", **fields})
    found = []
    for row in list_images(source, folder):
        with open_image(Location.of(folder, row), source, ExcludeRules()) as image:
            found.append(image.read(image.area)[0])
    return found


def test_nested_lists_are_images_whose_first_date_and_wanted_bands_are_taken(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", rgb=pa.array(ROWS.tolist(), pa.list_(pa.list_(pa.list_(pa.list_(pa.uint8()))))))
    found = pixels(tmp_path, image_column="rgb", array={})
    assert np.array_equal(found, ROWS[:, 0].transpose(0, 2, 3, 1))
    found = pixels(tmp_path, image_column="rgb", array={"frame": 1}, bands=[3, 2, 1])
    assert np.array_equal(found, ROWS[:, 1, ::-1].transpose(0, 2, 3, 1))


def test_flat_lists_and_raw_bytes_have_the_shape_of_the_manifest(tmp_path: Path) -> None:
    first = ROWS[:, 0]
    table(tmp_path / "a.parquet", flat=pa.array(first.reshape(5, -1).tolist(), pa.list_(pa.uint8())),
          raw=pa.array([(each.astype("<u2") * 100).transpose(1, 2, 0).tobytes() for each in first]))  # fmt: skip
    assert np.array_equal(
        pixels(tmp_path, image_column="flat", array={"shape": [3, 24, 32]}), first.transpose(0, 2, 3, 1)
    )
    fixed = {"how": "fixed", "fixed": [0, 25_500]}
    found = pixels(
        tmp_path, image_column="raw", stretch=fixed, array={"axes": "yxb", "shape": [24, 32, 3], "dtype": "uint16"}
    )
    assert np.array_equal(np.array(found)[..., 0] > 0, first.transpose(0, 2, 3, 1)[..., 0] > 0)
    assert np.abs(np.array(found).astype(int) - first.transpose(0, 2, 3, 1)).max() <= 1


def test_a_column_per_band_of_numbers_or_of_encoded_images(tmp_path: Path) -> None:
    def encoded(band: np.ndarray) -> bytes:
        with rasterio.MemoryFile() as memory:
            with memory.open(driver="GTiff", width=32, height=24, count=1, dtype="uint8") as file:
                file.write(band, 1)
            return bytes(memory.read())

    bands = {f"B{4 - number:02d}": ROWS[:, 0, number] for number in range(3)}
    images = {name: pa.array([encoded(each) for each in rows]) for name, rows in bands.items()}
    numbers = {f"n{name}": pa.array(rows.tolist(), pa.list_(pa.list_(pa.uint8()))) for name, rows in bands.items()}
    table(tmp_path / "a.parquet", **images, **numbers)
    wanted = ROWS[:, 0].transpose(0, 2, 3, 1)
    names = {"red": "B04", "green": "B03", "blue": "B02"}
    assert np.array_equal(pixels(tmp_path, columns=names), wanted)
    assert np.array_equal(pixels(tmp_path, columns={key: f"n{name}" for key, name in names.items()}, array={}), wanted)


def test_only_the_wanted_columns_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curation.containers.parquet_arrays import ArrayColumns, image_of, load_group

    table(tmp_path / "a.parquet", rgb=pa.array(ROWS.tolist()))

    class Counted(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.taken += len(data)
            return data

    file = Counted((tmp_path / "a.parquet").read_bytes())
    columns = ArrayColumns(("rgb",))
    with pq.ParquetFile(file) as opened:
        file.taken = 0
        rows = load_group(opened, 1, columns)
        stored = opened.metadata.row_group(1).column(1).total_compressed_size
    assert file.taken == stored
    assert image_of(rows, 0, columns, 1 << 20).startswith(b"II*\0")


@pytest.mark.parametrize(
    ("columns", "fields", "told"),
    [
        ({"x": pa.array([[1.0], [1.0, 2.0]] + [[1.0]] * 3)}, {}, "an array of 1 axes; set array: {axes"),
        ({"x": pa.array([[[1, 2], [3]]] * 5)}, {}, "lists of one axis differ in length"),
        ({"x": pa.array([[[1, None]]] * 5)}, {}, "not lists of numbers"),
        ({"x": pa.array(["a"] * 5)}, {}, "not lists of numbers"),
        ({"x": pa.array([[[1, 2]]] * 5)}, {"shape": [3, 3]}, "2 numbers are no array of 3x3; set array: {shape"),
        ({"x": pa.array([b"abc"] * 5)}, {"shape": [1, 2], "dtype": "uint16"}, "3 bytes are no numbers of uint16"),
        ({"x": pa.array([[[[1, 2]]]] * 5)}, {"axes": "tyx", "frame": 2}, "frame 2 is asked for, there are 1"),
        ({"x": pa.array([None] * 5, pa.list_(pa.list_(pa.uint8())))}, {}, "no image in this row"),
    ],
)
def test_what_is_no_image_is_a_verdict_that_says_why(
    tmp_path: Path, columns: dict[str, Any], fields: dict[str, Any], told: str
) -> None:
    table(tmp_path / "a.parquet", **columns)
    with pytest.raises(UnreadableImage, match=told.replace("{", r"\{")):
        pixels(tmp_path, image_column="x", array=fields)


def test_a_column_that_is_absent_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", x=pa.array([1] * 5))
    with pytest.raises(InputError, match=r"a\.parquet: has no column rgb; it has: other, x"):
        pixels(tmp_path, image_column="rgb", array={})


def test_a_few_bytes_that_stand_for_many_are_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of equal numbers take no bytes in a table, nor equal pixels in a PNG; neither is unpacked to be measured."""
    from curation.containers.parquet_arrays import ArrayColumns, image_of

    monkeypatch.setattr("curation.containers.parquet_arrays.MAX_ROW_GROUP", 1 << 20)
    zeros = pa.ListArray.from_arrays(pa.array([0, 2 << 20], pa.int32()), pa.array(np.zeros(2 << 20, np.uint8)))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": zeros}), path)
    assert path.stat().st_size < 10_000
    source = Source.model_validate({"id": "s", "container": "parquet", "image_column": "x", "array": {"shape": [1, 8]}})
    row = next(iter(list_images(source, tmp_path)))
    with pytest.raises(UnreadableImage, match="2097152 bytes, the limit is 1048576"):
        open_image(Location.of(tmp_path, row), source, ExcludeRules()).__enter__()
    with rasterio.MemoryFile() as memory:
        shape = {"width": 20_000, "height": 20_000, "count": 1, "dtype": "float64"}
        with memory.open(driver="GTiff", SPARSE_OK=True, BIGTIFF="NO", **shape):
            pass
        rows = pa.table({"r": pa.array([bytes(memory.read())])})
    with pytest.raises(ValueError, match="3200000000 bytes, the limit is"):
        image_of(rows, 0, ArrayColumns(("r",), is_encoded=True), 1 << 36)
