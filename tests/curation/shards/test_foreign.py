"""Indexing tars of samples that others wrote."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from PIL import Image

from curation.shards.foreign import index_tar


def test_an_image_of_another_kind_than_its_name_reaches_no_other_loader(tmp_path: Path) -> None:
    real, other = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (40, 30)).save(real, "JPEG")
    Image.new("RGB", (20, 10)).save(other, "EPS")  # Pillow would hand it to Ghostscript
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, stream in (("a.jpg", real), ("b.jpg", other)):
            info = tarfile.TarInfo(name)
            info.size = len(stream.getvalue())
            archive.addfile(info, io.BytesIO(stream.getvalue()))
    rows = index_tar(tmp_path / "x.tar").rows
    assert list(zip(rows["width"].to_pylist(), rows["height"].to_pylist(), strict=True)) == [(40, 30), (0, 0)]
