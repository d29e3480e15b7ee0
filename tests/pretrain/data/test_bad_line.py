"""A training stream from S3 and from the Hub over a line on which shards come to harm."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from bad_line import Harm, Line, bad_line
from imagery import MakeShards

from curation.base import origin
from pretrain.data.augment import CropRule
from pretrain.data.cache import ShardCache
from pretrain.data.corpus import SampleRule, open_corpus
from pretrain.data.places import Access
from pretrain.data.prefetch import Prefetcher
from pretrain.data.reader import Batch
from pretrain.data.stream import StreamPlan, batches
from pretrain.errors import WorkError

RULE = CropRule(32, (0.5, 1.0), (3 / 4, 4 / 3), 4.0)
PLAN = StreamPlan(seed=1, global_batch=4, micro_batch=4, window=2)
SHARD = "t-{:06d}.tar"
TIMEOUT_S = 2.0


@pytest.fixture(params=["s3", "hub"])
def place(request: pytest.FixtureRequest, make_shards: MakeShards) -> tuple[str, Path, str, str]:
    """Five shards of four samples: their URL, their folder, the server's URL and the variable that names it."""
    folder = make_shards([4, 4, 4, 4, 4])
    server = request.getfixturevalue(request.param)
    if request.param == "s3":
        for path in folder.iterdir():
            server[1].upload_file(str(path), "bucket", f"corpus/shards/{path.name}")
        return "s3://bucket/corpus/shards", folder, server[1].meta.endpoint_url, "AWS_ENDPOINT_URL"
    server.exists = True
    server.files = {f"shards/{path.name}": path.read_bytes() for path in folder.iterdir()}
    return "hf://datasets/me/corpus/shards", folder, server.url, "HF_ENDPOINT"


@pytest.fixture
def line(place: tuple[str, Path, str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """The way there; a server that is silent for two seconds counts as gone."""
    monkeypatch.setattr(origin, "TIMEOUT_S", TIMEOUT_S)
    with bad_line(place[2]) as state:
        monkeypatch.setenv(place[3], state.url)
        yield state


@pytest.fixture
def access(tmp_path: Path) -> Iterator[Access]:
    """A cache whose prefetcher works in a thread of this process, for which the timeout holds as well."""
    cache, done = ShardCache(tmp_path / "cache", 10**9), threading.Event()
    cache.folder.mkdir()

    def work() -> None:
        with cache.only_prefetcher() as alone, ThreadPoolExecutor(4) as pool:
            assert alone
            prefetcher = Prefetcher(cache)
            while not done.wait(0.02):
                prefetcher.look(pool)

    thread = threading.Thread(target=work)
    thread.start()
    while not cache.has_prefetcher():
        time.sleep(0.01)
    yield Access(cache, 60)
    done.set()
    thread.join()


def taken(where: str | Path, how: Access) -> list[Batch]:
    return list(batches(open_corpus([where], SampleRule(8), how), PLAN, RULE, 0, 5))


def test_what_happens_on_the_line_changes_no_sample(
    place: tuple[str, Path, str, str], line: Line, access: Access
) -> None:
    """Every shard comes to harm in its own way, and is asked for once more after each; a slow one is waited for."""
    harm: list[list[Harm]] = [[500, 503], ["reset", 503], ["cut"], ["short", "silent"], ["slow", "slow"]]
    line.harm = {SHARD.format(number): list(each) for number, each in enumerate(harm)}
    found, expected = taken(place[0], access), taken(place[1], Access())
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.sample_id, other.sample_id) and torch.equal(one.images, other.images)
    assert [line.asked.count(SHARD.format(number)) for number in range(5)] == [3, 3, 2, 3, 1]
    assert access.cache is not None and not list(access.cache.folder.glob(".*.part"))


@pytest.mark.parametrize("harm", ["wrong", "silent"])
def test_a_shard_that_never_comes_whole_stops_the_run_or_costs_its_rows(
    place: tuple[str, Path, str, str], line: Line, access: Access, harm: Harm
) -> None:
    line.harm, line.always = {SHARD.format(2): [harm]}, True
    with pytest.raises(WorkError, match=rf"{place[0]}/t-000002.tar: could not be had for 4 s \(.*--resume goes on"):
        taken(place[0], Access(access.cache, 4))
    assert line.asked.count(SHARD.format(2)) >= 2
    found, expected = taken(place[0], Access(access.cache, 4, skip_missing=True)), taken(place[1], Access())
    for one, other in zip(found, expected, strict=True):
        lost = (one.sample_id >= 8) & (one.sample_id < 12)
        assert torch.equal(one.sample_id, other.sample_id) and one.weight.tolist() == (~lost).float().tolist()
        assert torch.equal(one.images[~lost], other.images[~lost]) and one.images[lost].sum() == 0
