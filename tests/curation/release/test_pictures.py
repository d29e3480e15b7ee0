"""The card's pictures: dots where tiles lie, and samples that are those of the shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from curation.release.pictures import draw_map, draw_sheet


def test_the_map_has_land_sea_and_a_dot_where_the_tiles_lie(out: Path, tmp_path: Path) -> None:
    assert draw_map(out / "catalogue.parquet", tmp_path / "map.png")
    picture = np.asarray(Image.open(tmp_path / "map.png").convert("RGB"))
    assert picture.shape == (720, 1440, 3)

    def at(longitude: float, latitude: float) -> tuple[int, ...]:
        return tuple(int(value) for value in picture[int((90 - latitude) * 4), int((longitude + 180) * 4)])

    land, sea, here = at(20, 20), at(-30, 30), at(3, 40.65)  # the Sahara, the Atlantic, 4,500 km north in UTM zone 31
    assert len({land, sea, here}) == 3
    for place in ((-100, 40), (100, 60), (135, -25), (-55, -10), (40, 55), (5, -80)):
        assert at(*place) == land
    for place in ((-140, 0), (80, -30), (51, 42), (-5, 68)):  # one of them within a coastline, one where Chukotka ends
        assert at(*place) == sea


def test_the_sheet_shows_samples_of_every_shard(out: Path, tmp_path: Path) -> None:
    draw_sheet(out / "shards", tmp_path / "sheet.jpg")
    picture = Image.open(tmp_path / "sheet.jpg")
    count = pq.read_metadata(out / "shards/index.parquet").num_rows
    assert (count, picture.size) == (9, (8 * 112, 2 * 112))  # fewer than it has room for: each once
    row = pq.read_table(out / "shards/index.parquet", filters=[("shard", "=", 2)]).to_pylist()[0]
    tar = sorted((out / "shards").glob("*.tar"))[2].read_bytes()
    (tmp_path / "last").write_bytes(tar[row["image_offset"] : row["image_offset"] + row["image_size"]])
    expected = np.asarray(Image.open(tmp_path / "last").convert("RGB").resize((112, 112), 3), float)
    shown = np.asarray(picture.crop((0, 112, 112, 224)), float)
    assert np.abs(shown - expected).mean() < 4
