"""From shards to batches: what is read, in which order, by how many ranks and workers, and what of bad samples."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from imagery import MakeShards, picture
from PIL import Image

from curation.base.errors import InputError, UnreadableImage, WorkError
from pretrain.data.augment import NOISE_SIZE, Box, CropRule, crop_and_resize
from pretrain.data.cache import ShardCache
from pretrain.data.corpus import SampleRule, open_corpus
from pretrain.data.reader import ShardReader, decode, open_for
from pretrain.data.stream import StreamPlan, batches, requests

RULE = CropRule(32, (0.5, 1.0), (3 / 4, 4 / 3), 4.0)
WHOLE = CropRule(40, (1.0, 1.0), (1.0, 1.0), 4.0)


def test_batches_do_not_depend_on_workers(make_shards: MakeShards) -> None:
    corpus = open_corpus([make_shards([5, 7, 6])], SampleRule(8))
    plan = StreamPlan(seed=1, global_batch=4, micro_batch=4, window=2)
    alone = list(batches(corpus, plan, RULE, 0, 8))
    shared = list(batches(corpus, plan, RULE, 0, 8, workers=2))
    assert len(alone) == len(shared) == 8
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.sample_id, other.sample_id)
        assert one.position == other.position
    assert [b.position for b in alone] == [(0, 0), (0, 4), (0, 8), (0, 12), (1, 0), (1, 4), (1, 8), (1, 12)]
    assert alone[0].images.shape == (4, 3, 32, 32)
    assert len(torch.cat([b.sample_id for b in alone[:4]]).unique()) == 16


LEFT_OPEN = """
import struct
import zlib
from pathlib import Path
from pretrain.data.augment import CropRule
from pretrain.data.corpus import SampleRule, open_corpus
from pretrain.data.stream import StreamPlan, batches

corpus = open_corpus([Path({folder!r})], SampleRule(8))
plan = StreamPlan(seed=1, global_batch=4, micro_batch=4, window=2)
stream = batches(corpus, plan, CropRule(32, (0.5, 1.0), (3 / 4, 4 / 3), 4.0), 0, 8, workers=1)
assert len(next(stream).sample_id) == 4
"""


def test_a_process_that_leaves_a_stream_open_ends(make_shards: MakeShards) -> None:
    """Its reader ignores the SIGTERM with which ``multiprocessing`` would end it."""
    code = LEFT_OPEN.format(folder=str(make_shards([6, 6])))
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_the_index_is_read_by_no_other_thread(make_shards: MakeShards) -> None:
    """One of Arrow's that lets go of a Python file while the interpreter ends aborts the process (exit code 134)."""
    script = (
        "import os, sys; from pretrain.data.corpus import SampleRule, open_corpus\n"
        "corpus = open_corpus([sys.argv[1]], SampleRule(8)); before = os.listdir('/proc/self/task')\n"
        "corpus.rows(0); print(len(os.listdir('/proc/self/task')) - len(before))"
    )
    done = subprocess.run([sys.executable, "-c", script, make_shards([4])], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_a_stream_started_later_gives_the_rest(make_shards: MakeShards) -> None:
    corpus = open_corpus([make_shards([5, 7, 6])], SampleRule(8))
    plan = StreamPlan(seed=1, global_batch=4, micro_batch=3, window=2)
    whole = list(batches(corpus, plan, RULE, 0, 12))
    rest = list(batches(corpus, plan, RULE, 7, 12))
    for one, other in zip(whole[14:], rest, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.position == other.position


@pytest.mark.parametrize("sizes", [[6, 6, 6, 6], [13, 2, 1, 8]])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_each_global_batch(make_shards: MakeShards, world: int, groups: int, sizes: list[int]) -> None:
    corpus = open_corpus([make_shards(sizes)], SampleRule(8))
    plan = StreamPlan(seed=0, global_batch=6, micro_batch=2, window=2, groups=groups)
    alone = [request.rows.sample_id for request in requests(corpus, plan, 0, 8)]
    together = [
        [r.rows.sample_id for r in requests(corpus, replace(plan, rank=rank, world=world), 0, 8)]
        for rank in range(world)
    ]
    for step in range(8):
        whole = np.concatenate(alone[3 * step : 3 * step + 3])
        per_rank = [np.concatenate(t[step * (len(t) // 8) : (step + 1) * (len(t) // 8)]) for t in together]
        np.testing.assert_array_equal(np.concatenate(per_rank), whole)
    epoch = np.concatenate([r.rows.sample_id for r in requests(corpus, plan, 0, 4)])
    assert sorted(epoch) == list(range(24))  # no sample twice, and nothing lost


def test_a_group_reads_only_its_own_shards(make_shards: MakeShards) -> None:
    corpus = open_corpus([make_shards([6, 6, 6, 6])], SampleRule(8))
    plan = StreamPlan(seed=0, global_batch=4, micro_batch=4, window=1, groups=2)
    nodes = [
        {s for r in requests(corpus, replace(plan, rank=rank, world=2), 0, 6) for s in r.rows.shard} for rank in (0, 1)
    ]
    assert nodes[0] & nodes[1] == set()


def test_images_are_those_of_the_ids(make_shards: MakeShards) -> None:
    corpus = open_corpus([make_shards([4, 4], side=(40, 40))], SampleRule(8))
    for batch in batches(corpus, StreamPlan(0, 2, 2), WHOLE, 0, 4):
        for image, sample_id, gsd in zip(batch.images, batch.sample_id.tolist(), batch.gsd.tolist(), strict=True):
            shard, position = divmod(sample_id, 4)
            original = picture(1000 * shard + position, 40, 40).astype(int)
            assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - original).mean() < 6  # JPEG
            assert gsd == 0.5


def test_unreadable_samples_become_zero_rows_without_weight(make_shards: MakeShards) -> None:
    corpus = open_corpus([make_shards([4, 4], broken={1: {2}})], SampleRule(8))
    seen = list(batches(corpus, StreamPlan(0, 4, 4), RULE, 0, 2))
    weights = torch.cat([b.weight for b in seen])
    ids = torch.cat([b.sample_id for b in seen])
    assert ids[weights == 0].tolist() == [6]
    images = torch.cat([b.images for b in seen])
    assert images[weights == 0].sum() == 0
    ((sample_id, reason),) = [bad for b in seen for bad in b.unreadable]
    assert sample_id == 6
    assert "t-000001.tar at byte" in reason


def test_small_images_are_left_out_and_counted(make_shards: MakeShards, tmp_path) -> None:
    folders = [make_shards([3, 3]), make_shards([2], side=(20, 90), name="small")]
    corpus = open_corpus(folders, SampleRule(30))
    assert corpus.sizes == [3, 3, 0]
    assert corpus.left_out == {"smaller than 30 pixels": {"source0": 2}}
    assert corpus.starts == [0, 3, 6]
    with pytest.raises(InputError, match="none of 8 samples can be used"):
        open_corpus(folders, SampleRule(300))


def test_missing_gsd_is_refused_dropped_or_given(make_shards: MakeShards) -> None:
    folders = [make_shards([2, 3], gsd_m=None), make_shards([4], name="known")]
    assert open_corpus(folders, SampleRule()).samples == 9
    with pytest.raises(InputError, match=r"source0 \(2\), source1 \(3\); set data.gsd_missing"):
        open_corpus(folders, SampleRule(needs_gsd=True))
    assert open_corpus(folders, SampleRule(needs_gsd=True, gsd_missing="drop")).sizes == [0, 0, 4]
    given = open_corpus(folders, SampleRule(needs_gsd=True, gsd_missing={"source0": 10.0, "source1": 0.25}))
    assert [given.rows(shard).gsd_m.tolist() for shard in range(2)] == [[10.0] * 2, [0.25] * 3]
    with pytest.raises(InputError, match=r"source1 \(3\)"):
        open_corpus(folders, SampleRule(needs_gsd=True, gsd_missing={"source0": 10.0}))


def test_absent_shards_are_named(make_shards: MakeShards, tmp_path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_corpus([tmp_path / "nowhere"], SampleRule())
    folder = make_shards([2])
    (folder / "t-000000.tar").unlink()
    with pytest.raises(InputError, match=r"t-000000.tar: listed in the index, but absent"):
        open_corpus([folder], SampleRule())


@pytest.mark.parametrize(
    "how",
    [
        {"format": "JPEG", "quality": 60, "subsampling": 2},
        {"format": "JPEG", "quality": 95, "subsampling": 0, "optimize": True},
        {"format": "JPEG", "quality": 75, "subsampling": 1, "progressive": True},
        {"format": "PNG"},
        {"format": "WEBP", "quality": 80},
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_exact_pixels_are_those_of_pillow(how: dict[str, Any], mode: str) -> None:
    """Of odd sides as well, where libjpeg-turbo's sampled colours end amid a block; fast, where little is reduced."""
    if mode == "CMYK" and how["format"] != "JPEG":
        pytest.skip("no such files")
    for side in ((64, 48), (61, 33)):
        buffer = io.BytesIO()
        Image.fromarray(picture(7, *side)).convert(mode).save(buffer, **how)
        expected = np.asarray(Image.open(buffer).convert("RGB"))
        np.testing.assert_array_equal(decode(buffer.getvalue()), expected)
        fast = open_for(buffer.getvalue(), RULE._replace(fast=True), np.full((1, NOISE_SIZE), 0.5, np.float32))
        (box,) = fast.boxes
        cut = expected[box.top : box.top + box.height, box.left : box.left + box.width]
        np.testing.assert_array_equal(fast.crop(box, 32), crop_and_resize(cut, Box(0, 0, box.width, box.height), 32))


def test_hostile_images_are_refused_before_decoding() -> None:
    bomb = bytes.fromhex("89504e470d0a1a0a0000000d49484452 0000ffff0000ffff 0802000000".replace(" ", "")) + b"\0" * 64
    for data in (bomb, b"", b"\xff\xd8\xff", b"GIF89a" + b"\0" * 50):
        with pytest.raises(UnreadableImage):
            decode(data)


def test_a_palette_without_colours_is_no_crash() -> None:
    """Pillow asserts that there is one; in a worker the error would end the run."""
    file = b"\x89PNG\r\n\x1a\n"
    header = b"IHDR" + struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)
    for chunk in (header, b"tRNS\0", b"IDAT" + zlib.compress(bytes(72)), b"IEND"):
        file += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(UnreadableImage, match="AssertionError"):
        decode(file)


# ------------------------------------------------------------------------------------------------ an index that lies


def rewritten(folder: Path, column: str, row: int, value: float) -> None:
    """Put another value into a shard's row of the index."""
    index = pq.ParquetFile(folder / "index.parquet")
    groups = [index.read_row_group(number) for number in range(index.num_row_groups)]
    place, values = index.schema_arrow.get_field_index(column), groups[1][column].to_pylist()
    values[row] = value
    field = index.schema_arrow.field(column)
    groups[1] = groups[1].set_column(place, field, pa.array(values, field.type))
    with pq.ParquetWriter(folder / "index.parquet", index.schema_arrow) as writer:
        for group in groups:
            writer.write_table(group)


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("image_offset", -1, "gives it no bytes"),
        ("image_offset", 1 << 40, "ends early"),
        ("image_size", -1, "gives it no bytes"),
        ("image_size", 0, "gives it no bytes"),
        ("image_size", (1 << 31) - 1, "ends early"),
    ],
)
def test_a_row_that_names_no_bytes_costs_its_sample_alone(
    make_shards: MakeShards, column: str, value: int, why: str
) -> None:
    """It is no shard that went away, for which one would wait."""
    folder = make_shards([4, 4])
    rewritten(folder, column, 2, value)
    found = list(batches(open_corpus([folder], SampleRule(8)), StreamPlan(1, 4, 4), RULE, 0, 2))
    assert [sample for batch in found for sample, _ in batch.unreadable] == [6]
    assert why in next(reason for batch in found for _, reason in batch.unreadable)
    assert sum(batch.weight.sum().item() for batch in found) == 7


@pytest.mark.parametrize("value", [float("inf"), -1.0, 0.0])
def test_a_gsd_that_is_none_counts_as_unknown(make_shards: MakeShards, value: float) -> None:
    folder = make_shards([4, 4], gsd_m=0.5)
    rewritten(folder, "gsd_m", 2, value)
    with pytest.raises(InputError, match=r"have none: source1 \(1\)"):
        open_corpus([folder], SampleRule(8, needs_gsd=True))
    assert open_corpus([folder], SampleRule(8, needs_gsd=True, gsd_missing="drop")).samples == 7
    given = open_corpus([folder], SampleRule(8, needs_gsd=True, gsd_missing={"source1": 2.0}))
    assert given.rows(1).gsd_m.tolist() == [0.5, 0.5, 2.0, 0.5]


def test_an_index_that_changes_under_a_run_is_named(make_shards: MakeShards) -> None:
    folder = make_shards([4, 4])
    before = (folder / "index.parquet").read_bytes()
    corpus = open_corpus([folder], SampleRule(8))
    rewritten(folder, "width", 2, 3)
    with pytest.raises(WorkError, match=r"index.parquet: could not be read for 0 s"):
        list(batches(corpus, StreamPlan(1, 4, 4), RULE, 0, 2))
    (folder / "index.parquet").write_bytes(before)
    assert len(corpus.rows(1).size) == 4
    corpus.sizes[1] = 3  # as statistics of the column would say that do not fit its values
    with pytest.raises(WorkError, match=r"not the one that the run began with \(4 samples of t-000001.tar"):
        corpus.rows(1)


def test_a_shard_that_was_removed_and_came_again_is_opened_again(make_shards: MakeShards, tmp_path) -> None:
    """A cache empties what it removes; a reader that has it open must not take that for a damaged shard."""
    (path,) = make_shards([4]).glob("*.tar")
    cache = ShardCache(tmp_path / "cache")
    whole = path.read_bytes()
    cache.folder.mkdir()
    place = cache.path(hashlib.sha256(whole).hexdigest())
    place.write_bytes(whole)
    reader = ShardReader([place], RULE)
    expected = reader.read(0, 512, 100)
    cache.make_room({}, set(), 0)
    with pytest.raises(FileNotFoundError):
        reader.read(0, 512, 100)
    place.write_bytes(whole)
    assert reader.read(0, 512, 100) == expected
    cache.make_room({}, set(), 0)
    place.write_bytes(whole)
    assert reader.read(0, 512, 100) == expected
    with pytest.raises(UnreadableImage, match="the file ends early"):
        reader.read(0, 512, 1 << 20)


def test_what_was_removed_takes_no_room_for_long(make_shards: MakeShards) -> None:
    """An open file keeps its bytes on the disk, and a cache would hold more than it may."""
    folder = make_shards([2, 2, 2])
    reader = ShardReader(sorted(folder.glob("*.tar")), RULE)
    for shard in (0, 1):
        reader.read(shard, 0, 512)
    (folder / "t-000000.tar").unlink()
    reader.read(2, 0, 512)
    held = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert {path.name for path in held if path.parent == folder} == {"t-000001.tar", "t-000002.tar"}
