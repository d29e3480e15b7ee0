"""Shards as others read them: webdataset, Hugging Face datasets, and the standard library's tarfile."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image
from shard_samples import sample

from curation.shards.format import write_checksums, write_index, write_shard
from curation.shards.verify import verify


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


def test_energon(tars: list[str]) -> None:
    """Its own command makes the files that it wants beside the tars; these, the index and the checksums stay."""
    energon = pytest.importorskip("megatron.energon")
    folder = Path(tars[0]).parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    words = ["--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset", "--no-progress"]
    code = "import sys; from megatron.energon.cli.main import main; sys.argv[0] = 'energon'; main()"
    subprocess.run([sys.executable, "-c", code, "prepare", str(folder), *words], check=True, capture_output=True)
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert verify(folder) == []

    @dataclass
    class Tile(energon.Sample):
        image: Any
        meta: dict[str, Any]

    @energon.stateless
    def cook(sample: dict[str, Any]) -> Tile:
        return Tile(**energon.basic_sample_keys(sample), image=sample["jpg"], meta=sample["json"])

    class Tiles(energon.DefaultTaskEncoder):
        cookers = [energon.Cooker(cook)]

        def batch(self, samples: list[Tile]) -> list[Tile]:
            return samples

    read = energon.get_train_dataset(
        folder, batch_size=2, shuffle_buffer_size=None, max_samples_per_sequence=None, task_encoder=Tiles(),
        worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0), repeat=False,
    )  # fmt: skip
    tiles = sorted((tile for batch in energon.get_loader(read) for tile in batch), key=lambda tile: tile.__key__)
    assert [(tile.__key__, tile.meta) for tile in tiles] == [(key, meta) for key, _, meta in expected()]
    for tile, (_, image, _) in zip(tiles, expected(), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(image)), np.float32) / 255
        np.testing.assert_allclose(tile.image.permute(1, 2, 0), pixels, atol=1 / 255)
