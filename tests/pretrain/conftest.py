"""Small shards of generated imagery, written by the real writer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from imagery import MakeShards, make_samples

from curation.shards.format import write_checksums, write_index, write_shard


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``cuda`` run where torch finds a GPU."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked and not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="torch finds no GPU"))


@pytest.fixture
def make_shards(tmp_path: Path) -> MakeShards:
    """Function that writes shards of the given sizes and returns their folder."""

    def make(
        sizes: list[int], side: tuple[int, int] = (48, 40), gsd_m: float | None = 0.5,
        broken: dict[int, set[int]] | None = None,
        name: str = "shards",
    ) -> Path:  # fmt: skip
        folder = tmp_path / name
        infos = [
            write_shard(
                make_samples(shard, size, side, gsd_m, (broken or {}).get(shard, set())), folder / f"t-{shard:06d}.tar"
            )
            for shard, size in enumerate(sizes)
        ]
        write_index(infos, folder)
        write_checksums(infos, folder, "test")
        return folder

    return make
