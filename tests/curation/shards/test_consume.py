"""Shards as others read them: webdataset, Hugging Face datasets, and the standard library's tarfile."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from shard_samples import sample

from curation.shards.format import write_checksums, write_index, write_shard


@pytest.fixture
def tars(tmp_path: Path) -> list[str]:
    """Two shards of three photographs, one of them without a GSD."""
    samples = [[sample(shard, at, gsd=None if at == 1 else 0.3) for at in range(3)] for shard in range(2)]
    infos = [write_shard(own, tmp_path / "shards" / f"x-{shard:06d}.tar") for shard, own in enumerate(samples)]
    write_index(infos, tmp_path / "shards")
    write_checksums(infos, tmp_path / "shards", "key")
    return [str(tmp_path / "shards" / info.file) for info in infos]


def expected() -> list[tuple[str, bytes, dict]]:
    samples = (sample(shard, at, gsd=None if at == 1 else 0.3) for shard in range(2) for at in range(3))
    return [(each.key, each.image, each.meta) for each in samples]


def test_webdataset(tars: list[str]) -> None:
    read = [(s["__key__"], s["jpg"], json.loads(s["json"])) for s in webdataset.WebDataset(tars, shardshuffle=False)]
    assert read == expected()


def test_tarfile(tars: list[str]) -> None:
    read = []
    for path in tars:
        with tarfile.open(path) as tar:
            for image, meta in zip(*[iter(tar)] * 2, strict=True):
                assert image.name.removesuffix(".jpg") == meta.name.removesuffix(".json")
                data = [tar.extractfile(member) for member in (image, meta)]
                read.append((image.name[:-4], data[0].read(), json.load(data[1])))
    assert read == expected()


def test_hugging_face_datasets(tars: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    read = datasets.load_dataset(
        "webdataset", data_files=tars, split="train", streaming=True, cache_dir=str(tmp_path / "cache")
    )
    rows = list(read)
    assert [(row["__key__"], row["json"]) for row in rows] == [(key, meta) for key, _, meta in expected()]
    for row, (_, image, _) in zip(rows, expected(), strict=True):
        np.testing.assert_array_equal(np.asarray(row["jpg"]), np.asarray(Image.open(io.BytesIO(image))))
