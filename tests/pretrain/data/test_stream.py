"""From shards to batches: what is read, in which order, by how many ranks and workers, and what of bad samples."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from imagery import MakeShards, picture

from curation.base.errors import InputError, UnreadableImage
from pretrain.data.augment import CropRule
from pretrain.data.corpus import SampleRule, open_corpus
from pretrain.data.reader import decode
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


def test_hostile_images_are_refused_before_decoding() -> None:
    bomb = bytes.fromhex("89504e470d0a1a0a0000000d49484452 0000ffff0000ffff 0802000000".replace(" ", "")) + b"\0" * 64
    for data in (bomb, b"", b"\xff\xd8\xff", b"GIF89a" + b"\0" * 50):
        with pytest.raises(UnreadableImage):
            decode(data)
