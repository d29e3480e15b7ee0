"""Indexing tars of samples that others wrote."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from curation.cli import main
from curation.shards.foreign import index_tar
from curation.shards.format import write_checksums


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


def test_a_folder_without_tars_and_one_that_is_ours_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(tmp_path)]) == 2
    assert "holds no .tar file" in capsys.readouterr().err
    write_checksums([], tmp_path, "the key of a run")
    (tmp_path / "corpus-000000.tar").touch()
    (tmp_path / "index.parquet").touch()
    assert main(["index", str(tmp_path)]) == 2
    assert "there is nothing to do" in capsys.readouterr().err
