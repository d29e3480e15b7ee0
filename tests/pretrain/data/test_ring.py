"""Shared memory that goes round between workers and their process: never under what somebody holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imagery import MakeShards

from pretrain.data.augment import CropRule
from pretrain.data.corpus import SampleRule, open_corpus
from pretrain.data.places import Access
from pretrain.data.ring import Ring, parts_of
from pretrain.data.stream import StreamPlan, batches

RULE = CropRule(32, (0.5, 1.0), (3 / 4, 4 / 3), 4.0)
PLAN = StreamPlan(seed=1, global_batch=4, micro_batch=4, window=2)


def test_what_is_held_is_never_filled_again(make_shards: MakeShards) -> None:
    """Of every third batch only a row is held, to the end; the others go at once, and their memory is used again."""
    corpus = open_corpus([make_shards([8, 8])], SampleRule(8))
    expected = list(batches(corpus, PLAN, RULE, 0, 24))
    held, places = {}, set()
    for number, batch in enumerate(batches(corpus, PLAN, RULE, 0, 24, workers=2)):
        assert torch.equal(batch.images, expected[number].images)
        if number % 3 == 0:
            held[number] = batch.images[1, :, ::2].transpose(0, 1)
        elif number < 12:  # of fresh memory, too, the process may be given the same addresses
            places.add(batch.images.data_ptr() if not batch.images.is_shared() else None)
    assert None not in places
    assert len(places) <= parts_of(2, 2) == 6
    assert len(held) == 8 > parts_of(2, 2)  # so that some came in memory of their own
    for number, row in held.items():
        assert torch.equal(row, expected[number].images[1, :, ::2].transpose(0, 1)), number


def test_what_is_held_outlives_its_stream_beside_others(make_shards: MakeShards) -> None:
    """Two streams at once, of which one is closed amid its batches, and a third after it."""
    corpus = open_corpus([make_shards([8, 8])], SampleRule(8))
    expected = [batch.images for batch in batches(corpus, PLAN, RULE, 0, 12)]
    closed, other = (batches(corpus, PLAN, RULE, 0, 12, workers=1) for _ in range(2))
    held = [(number, next(stream).images.numpy()[1:]) for number in range(3) for stream in (closed, other)]
    closed.close()
    del closed
    held += [(number, batch.images.numpy()[1:]) for number, batch in enumerate(other, 3)]
    for number, batch in enumerate(batches(corpus, PLAN, RULE, 0, 12, workers=1)):
        assert torch.equal(batch.images, expected[number])
    assert all((rows == expected[number].numpy()[1:]).all() for number, rows in held)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=40))
def test_a_part_is_lent_to_one_at_a_time(steps: list[tuple[bool, int]]) -> None:
    """Parts that are taken and let go in any order, through views of them; counted by a plain set."""
    ring, held = Ring(3, 16), list[tuple[int, torch.Tensor]]()
    for value, (take, which) in enumerate(steps):
        if take:
            part = ring.lend()
            assert (part is None) == (len(held) == 3)
            if part is not None:
                assert part not in [other for other, _ in held]
                ring.part(part, (2, 8)).fill_(value)
                held.append((part, ring.taken(part, (2, 7))[1].view(7, 1)))
        elif held:
            del held[which % len(held)]
        assert len(ring.free) + len(held) == 3
        assert all(len(row.unique()) == 1 for _, row in held)


def test_parts_of_requests_that_were_given_back_go_round(make_shards: MakeShards) -> None:
    """Ten batches of a shard that is missing, read by the process itself; those of the other come as ever."""
    folder = make_shards([40, 40])
    (folder / "t-000000.tar").unlink()
    corpus = open_corpus([folder], SampleRule(8), Access(skip_missing=True))
    weights, shared = [], []
    for batch in batches(corpus, StreamPlan(1, 4, 4, window=1), RULE, 0, 40, workers=1):
        weights.append(float(batch.weight.sum()))
        shared.append(batch.images.is_shared())
    assert sorted(weights) == [0.0] * 20 + [4.0] * 20
    assert not any(shared)


NO_ROOM = """
import resource, sys
from curation.base.errors import WorkError
from pretrain.data.augment import CropRule
from pretrain.data.corpus import SampleRule, open_corpus
from pretrain.data.stream import StreamPlan, batches

corpus = open_corpus([sys.argv[1]], SampleRule(8))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 21, 1 << 21))
try:
    next(batches(corpus, StreamPlan(1, 8, 8, 2), CropRule(256, (0.5, 1.0), (0.75, 1.3), 4.0), 0, 8, workers=1))
except WorkError as error:
    print(error)
"""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="torch takes its shared memory from elsewhere")
def test_too_little_shared_memory_is_named(make_shards: MakeShards) -> None:
    """Four batches of eight images of 192 KiB, where a file may have 2 MiB."""
    command = [sys.executable, "-c", NO_ROOM, str(make_shards([8, 8]))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "has no room for 6 MB of images" in done.stdout
    assert "data.workers and data.prefetch lower" in done.stdout
