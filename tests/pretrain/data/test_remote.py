"""Shards from elsewhere: brought once, verified, shared, bounded; and what breaks on the way."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hub_server import Hub
from imagery import MakeShards
from shelf import Shelf, shelf
from small_run import Quiet, assert_equal, config, settings

from curation.base.errors import InputError, WorkError
from pretrain.data.augment import CropRule
from pretrain.data.cache import ShardCache, Want
from pretrain.data.corpus import SampleRule, content_fingerprint, open_corpus
from pretrain.data.places import Access
from pretrain.data.prefetch import Prefetcher
from pretrain.data.reader import Batch
from pretrain.data.stream import StreamPlan, batches, requests
from pretrain.data.supply import RemoteSupply, ShardCounts, refuse_small_cache
from pretrain.signals import WaitGivenUp, asked_to_stop, telling_of_killed_readers
from pretrain.train import train

RULE = CropRule(32, (0.5, 1.0), (3 / 4, 4 / 3), 4.0)
PLAN = StreamPlan(seed=1, global_batch=4, micro_batch=4, window=2)


@pytest.fixture
def elsewhere(make_shards: MakeShards) -> Iterator[Shelf]:
    """Five shards of four samples on a web server."""
    with shelf(make_shards([4, 4, 4, 4, 4])) as server:
        yield server


def access(tmp_path: Path, seconds: float = 60, gigabytes: float = 1, skip: bool = False) -> Access:
    return Access(ShardCache(tmp_path / "cache", int(gigabytes * 1e9)), seconds, skip)


def taken(place: str | Path, how: Access, stop: int = 10, workers: int = 0) -> list[Batch]:
    return list(batches(open_corpus([place], SampleRule(8), how), PLAN, RULE, 0, stop, workers))


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.sample_id, other.sample_id)
        assert torch.equal(one.images, other.images)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_folder(elsewhere: Shelf, tmp_path: Path, workers: int) -> None:
    assert_same(taken(elsewhere.url, access(tmp_path), workers=workers), taken(elsewhere.folder, Access()))
    tars = [path.name for path in elsewhere.folder.glob("*.tar")]
    assert [elsewhere.times(name) for name in tars] == [1] * 5  # two epochs
    for path in (tmp_path / "cache").glob("*.tar"):
        assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()
    assert content_fingerprint([elsewhere.url], access(tmp_path)) == content_fingerprint([elsewhere.folder])
    assert elsewhere.times("index.parquet") == 1
    assert open_corpus([elsewhere.url], SampleRule(8), access(tmp_path)).place(5) == "t-000001.tar, sample 1"
    assert not list((tmp_path / "cache/runs").iterdir())


def test_the_hub_serves_shards_too(hub: Hub, make_shards: MakeShards, tmp_path: Path) -> None:
    folder = make_shards([4, 4])
    hub.exists = True
    hub.files = {f"shards/{path.name}": path.read_bytes() for path in folder.iterdir()}
    assert_same(taken("hf://datasets/me/corpus/shards", access(tmp_path), 4), taken(folder, Access(), 4))


def test_a_small_cache_keeps_what_is_in_use(elsewhere: Shelf, tmp_path: Path) -> None:
    """The cache holds four of five shards, which is two windows: each epoch fetches some anew, and never holds more."""
    size = max(path.stat().st_size for path in elsewhere.folder.glob("*.tar"))
    how, most = access(tmp_path, gigabytes=4 * size / 1e9), 0
    assert how.cache is not None
    found = []
    for batch in batches(open_corpus([elsewhere.url], SampleRule(8), how), PLAN, RULE, 0, 20):
        found.append(batch)
        most = max(most, how.cache.used())
    assert_same(found, taken(elsewhere.folder, Access(), 20))
    assert 2 * size < most <= 4 * size
    assert sum(name.endswith(".tar") for name, _ in elsewhere.asked) > 5


def test_errors_breaks_and_slowness_change_no_sample(elsewhere: Shelf, tmp_path: Path) -> None:
    elsewhere.faults = {"t-000000.tar": [503, 5000, 5000], "t-000003.tar": [500, 4096], "index.parquet": [503, 2000],
                        "checksums.json": [500]}  # fmt: skip
    elsewhere.slow = 0.01
    assert_same(taken(elsewhere.url, access(tmp_path), 5), taken(elsewhere.folder, Access(), 5))
    assert [first for name, first in elsewhere.asked if name == "t-000000.tar"] == [0, 0, 5000, 10000]  # not again
    assert [first for name, first in elsewhere.asked if name == "index.parquet"] == [0, 0, 2000]


def test_wrong_bytes_are_never_read(elsewhere: Shelf, tmp_path: Path) -> None:
    elsewhere.wrong = {"t-000002.tar"}
    with pytest.raises(
        WorkError, match=r"/t-000002.tar: could not be had for 1.5 s \(.*another SHA-256.*--resume goes"
    ):
        taken(elsewhere.url, access(tmp_path, seconds=1.5))
    assert elsewhere.times("t-000002.tar") > 1
    assert len(list((tmp_path / "cache").glob("*.tar"))) >= 2


def test_a_stale_index_is_refused(elsewhere: Shelf, tmp_path: Path) -> None:
    elsewhere.wrong = {"index.parquet"}
    with pytest.raises(WorkError, match=r"index.parquet: is another than its checksums.json says"):
        taken(elsewhere.url, access(tmp_path))
    elsewhere.wrong = set()
    assert len(taken(elsewhere.url, access(tmp_path), 1)) == 1


def test_a_folder_is_not_mixed_with_itself_by_another_name(elsewhere: Shelf, tmp_path: Path) -> None:
    names = [elsewhere.url, f"{elsewhere.url}/"]
    asked = config(elsewhere.folder, data={"shards": names, "mix": [1, 2], "cache": str(tmp_path / "cache")})
    with pytest.raises(InputError, match=rf"{elsewhere.url} and {elsewhere.url}/ are the same shards"):
        train(asked, tmp_path / "run", Quiet())


def test_places_are_refused_with_what_to_type(elsewhere: Shelf, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set data.cache=/a/folder on a local disk"):
        taken(elsewhere.url, Access())
    with pytest.raises(InputError, match=r"/nowhere/checksums.json: 404 .*the folder with the tars"):
        taken(elsewhere.url + "/nowhere", access(tmp_path))
    with pytest.raises(InputError, match=r"give a folder of this machine, s3://bucket/folder"):
        taken("hf://models/me/corpus", access(tmp_path))
    corpus = open_corpus([elsewhere.url], SampleRule(8), access(tmp_path, gigabytes=1e-6))
    with pytest.raises(InputError, match=r"two windows of 2 shards \(.* GB\); set data.cache_gigabytes="):
        refuse_small_cache(corpus, 2, 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data.cache .*file: Not a directory"):
        taken(elsewhere.url, Access(ShardCache(tmp_path / "file", 10**9)))


@pytest.mark.parametrize("remote", [True, False])
def test_a_missing_shard_stops_the_run_or_leaves_rows_without_weight(
    elsewhere: Shelf, tmp_path: Path, remote: bool
) -> None:
    """Named as the user knows it; its four samples keep their rows."""
    expected = taken(elsewhere.folder, Access())
    (elsewhere.folder / "t-000003.tar").rename(tmp_path / "t-000003.tar")
    place = elsewhere.url if remote else elsewhere.folder
    if remote:
        with pytest.raises(
            WorkError, match=r"/corpus/t-000003.tar: could not be had for 1 s \(.*404.*missing_shard=skip"
        ):
            taken(place, access(tmp_path, 1))
    else:
        with pytest.raises(InputError, match=r"t-000003.tar: listed in the index, but absent"):
            taken(place, access(tmp_path, 1))
    found = taken(place, access(tmp_path, 0.5, skip=True))
    assert [b.sample_id.tolist() for b in found] == [b.sample_id.tolist() for b in expected]
    for batch, whole in zip(found, expected, strict=True):
        lost = (batch.sample_id >= 12) & (batch.sample_id < 16)
        assert batch.weight.tolist() == (~lost).float().tolist()
        assert torch.equal(batch.images[~lost], whole.images[~lost])
    assert next(reason for b in found for _, reason in b.unreadable).endswith("the shard could not be had")


# ------------------------------------------------------------------------------------------------ kills, full disks


def prefetchers(cache: Path) -> list[int]:
    """Processes that prefetch into a cache."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"pretrain.data.prefetch\0{cache}".encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def test_a_killed_worker_ends_the_run_with_a_line(elsewhere: Shelf, tmp_path: Path) -> None:
    """Its shards stay, so that what goes on needs no network for them."""
    stream = batches(open_corpus([elsewhere.url], SampleRule(8), access(tmp_path)), PLAN, RULE, 0, 500, workers=1)
    first = next(stream)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)  # type: ignore[arg-type]
    told = pytest.raises(WorkError, match=r"a reading process was ended from outside \(.*--resume goes on")
    with told, telling_of_killed_readers():  # torch's signal can also come between two batches
        list(stream)
    assert not prefetchers(tmp_path / "cache")
    assert_same(taken(elsewhere.url, access(tmp_path), 1), [first])


def test_a_run_that_is_asked_to_stop_waits_for_no_shard(elsewhere: Shelf, tmp_path: Path) -> None:
    elsewhere.slow = 1.0
    stream = batches(open_corpus([elsewhere.url], SampleRule(8), access(tmp_path)), PLAN, RULE, 0, 500)
    with asked_to_stop() as stop, pytest.raises(WaitGivenUp):
        stop.asked = True
        next(stream)
    assert not prefetchers(tmp_path / "cache")


def test_killed_prefetchers_cost_no_sample(elsewhere: Shelf, tmp_path: Path) -> None:
    """The prefetcher is killed whenever it is seen, also amid a shard, which another one goes on with."""
    elsewhere.slow = 0.1
    expected = taken(elsewhere.folder, Access(), 5)
    found, killed = [], 0
    script = (
        "import os, signal, sys, time\nfrom pathlib import Path\n"
        "cache, n = Path(sys.argv[1]), 0\n"
        "while n < 2:\n"
        "    time.sleep(0.05)\n"
        "    if not any(p.stat().st_size > 4096 for p in cache.glob('.*.part')): continue\n"
        "    for e in Path('/proc').glob('[0-9]*/cmdline'):\n"
        "        try: hit = f'pretrain.data.prefetch\\0{cache}'.encode() in e.read_bytes()\n"
        "        except OSError: continue\n"
        "        if hit: os.kill(int(e.parent.name), signal.SIGKILL); n += 1; time.sleep(1)\n"
    )
    killer = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "cache")])
    try:
        found = taken(elsewhere.url, access(tmp_path), 5)
    finally:
        killer.kill()
        killed = killer.wait()
    assert_same(found, expected)
    assert killed == 0, "nobody was killed"
    assert any(first > 0 for _, first in elsewhere.asked)  # a shard was gone on with
    assert not list((tmp_path / "cache").glob(".*.part"))


def test_the_prefetcher_ends_with_its_parent(elsewhere: Shelf, tmp_path: Path) -> None:
    """What a killed process wanted is forgotten."""
    elsewhere.slow = 0.05
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from pretrain.data.cache import ShardCache\nfrom pretrain.data.places import Access\n"
        "from pretrain.data.corpus import SampleRule, open_corpus\n"
        "from pretrain.data.stream import StreamPlan, batches\nfrom pretrain.data.augment import CropRule\n"
        "how = Access(ShardCache(Path(sys.argv[2]), 10**9), 60)\n"
        "corpus = open_corpus([sys.argv[1]], SampleRule(8), how)\n"
        "rule = CropRule(32, (0.5, 1.0), (3 / 4, 4 / 3), 4.0)\n"
        "for batch in batches(corpus, StreamPlan(1, 4, 4, 2), rule, 0, 5): pass\n"
    )
    cache = tmp_path / "cache"
    process = subprocess.Popen([sys.executable, "-c", script, elsewhere.url, str(cache)])
    deadline = time.monotonic() + 60
    while not prefetchers(cache) or not list(cache.glob(".*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while prefetchers(cache):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ShardCache(cache).asked() == []
    assert_same(taken(elsewhere.url, access(tmp_path), 5), taken(elsewhere.folder, Access(), 5))


def test_a_full_disk_is_told_and_waited_for(elsewhere: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody wants makes way; then the shard comes."""
    cache = ShardCache(tmp_path / "cache", 10**9)
    old = cache.folder / f"{'0' * 64}.tar"
    info = json.loads((elsewhere.folder / "checksums.json").read_text())["shards"][0]
    want = Want(elsewhere.url, info["file"], info["sha256"], info["bytes"])
    with cache.wanting() as say, ThreadPoolExecutor(1) as pool:
        say([want], 1)
        old.write_bytes(bytes(10))
        prefetcher = Prefetcher(cache)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(ShardCache, "store", full)
            while (trouble := cache.trouble(want.sha256)) is None:
                prefetcher.look(pool)
                time.sleep(0.02)
        assert trouble.reason.endswith("cache: No space left on device")
        assert not old.exists()
        while cache.trouble(want.sha256) is not None:
            prefetcher.look(pool)
            time.sleep(0.02)
        assert cache.path(want.sha256).exists()


def test_on_a_full_disk_what_is_read_now_comes_first(
    elsewhere: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next window's shards, half come, would keep the room of this window's."""
    elsewhere.slow, wants = 0.05, wants_of(elsewhere)
    cache, store = ShardCache(tmp_path / "cache", 10**9), ShardCache.store
    begun: list[tuple[str, bool]] = []

    def noted(self: ShardCache, want: Want, *how: Any) -> None:
        begun.append((want.sha256, cache.has(wants[0])))
        if len(begun) <= 4:
            raise OSError(28, "No space left on device")
        store(self, want, *how)

    monkeypatch.setattr(ShardCache, "store", noted)
    with cache.wanting() as say, ThreadPoolExecutor(4) as pool:
        say(wants, 1)
        look_until(Prefetcher(cache), pool, lambda: all(map(cache.has, wants)))
    assert begun[4] == (wants[0].sha256, False)
    assert all(there for _, there in begun[5:])


def test_a_disk_without_room_for_words_is_told(
    elsewhere: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = open_corpus([elsewhere.url], SampleRule(8), access(tmp_path))
    supply = RemoteSupply(corpus, ShardCache(tmp_path / "cache"), ShardCounts())
    want = wants_of(elsewhere)[0]
    assert supply._silence(want) == "no byte of it came"
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=want.bytes - 1))
    assert supply._silence(want).endswith("cache: its disk is full")


def test_two_runs_share_a_cache_and_its_limit(elsewhere: Shelf, tmp_path: Path) -> None:
    """Where two runs want more than it holds, the younger is told; once the older is gone, there is room."""
    infos = json.loads((elsewhere.folder / "checksums.json").read_text())["shards"]
    wants = [Want(elsewhere.url, info["file"], info["sha256"], info["bytes"]) for info in infos]
    cache = ShardCache(tmp_path / "cache", sum(want.bytes for want in wants[:3]))
    prefetcher = Prefetcher(cache)
    with ThreadPoolExecutor(1) as pool, ExitStack() as runs, ExitStack() as older:
        older.enter_context(cache.wanting())(wants[:3], 3)
        runs.enter_context(cache.wanting())(wants[2:], 3)
        deadline = time.monotonic() + 60
        while (trouble := cache.trouble(wants[3].sha256)) is None or not cache.path(wants[1].sha256).exists():
            assert time.monotonic() < deadline
            prefetcher.look(pool)
            time.sleep(0.02)
        assert "are in use by running trainings; set data.cache_gigabytes higher" in trouble.reason
        assert [cache.path(want.sha256).exists() for want in wants] == [True, True, True, False, False]
        older.close()
        while not all(cache.path(want.sha256).exists() for want in wants[2:]):
            assert time.monotonic() < deadline
            prefetcher.look(pool)
            time.sleep(0.02)
    assert cache.used() <= cache.limit


def test_what_comes_later_makes_way_for_what_is_read_now(elsewhere: Shelf, tmp_path: Path) -> None:
    """The shards of the next window are here already, one of this window is not, and there is no room for more."""
    wants = wants_of(elsewhere)
    cache = ShardCache(tmp_path / "cache", sum(want.bytes for want in wants[:3]))
    with cache.wanting() as say, ThreadPoolExecutor(1) as pool:
        prefetcher = Prefetcher(cache)
        say(wants[:3], 0)
        look_until(prefetcher, pool, lambda: all(map(cache.has, wants[:3])))
        say([wants[3], wants[0], wants[1], wants[2]], 2)
        look_until(prefetcher, pool, lambda: cache.has(wants[3]))
        assert cache.has(wants[0]) and cache.used() <= cache.limit
        assert cache.trouble(wants[3].sha256) is None


# ------------------------------------------------------------------------------------------------ careless users


def wants_of(place: Shelf) -> list[Want]:
    infos = json.loads((place.folder / "checksums.json").read_text())["shards"]
    return [Want(place.url, info["file"], info["sha256"], info["bytes"]) for info in infos]


def look_until(prefetcher: Prefetcher, pool: ThreadPoolExecutor, done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        prefetcher.look(pool)
        time.sleep(0.02)


def test_nothing_but_its_own_shards_is_removed(elsewhere: Shelf, tmp_path: Path) -> None:
    """Users name a folder that holds other things, such as the tars that they trained on before."""
    cache = ShardCache(tmp_path / "cache", 1)
    cache.folder.mkdir()
    mine = [cache.folder / name for name in ("corpus-000000.tar", "download.part", ".x.tar.part", f"{'0' * 63}.tar")]
    for path in mine:
        path.write_bytes(b"mine")
    old = [cache.path("0" * 64), cache._aside("1" * 64)]
    for path in old:
        path.write_bytes(b"old")
    with cache.wanting() as say, ThreadPoolExecutor(1) as pool:
        say(wants_of(elsewhere)[:1], 1)
        look_until(Prefetcher(cache), pool, lambda: cache.trouble(wants_of(elsewhere)[0].sha256))
    assert [path.read_bytes() for path in mine] == [b"mine"] * 4
    assert not any(path.exists() for path in old) and cache.used() == 0


def test_what_is_removed_frees_the_disk_while_it_is_open(tmp_path: Path) -> None:
    """As in a process that waits for its next shard; a second name of a file is somebody else's."""
    cache = ShardCache(tmp_path, 1)
    for digest in ("0" * 64, "1" * 64):
        cache.path(digest).write_bytes(bytes(5000))
    (tmp_path / "mine.tar").hardlink_to(cache.path("1" * 64))
    with cache.path("0" * 64).open("rb") as held:
        assert cache.make_room({}, set(), 0)
        assert os.fstat(held.fileno()).st_size == 0
    assert not cache.path("1" * 64).exists() and (tmp_path / "mine.tar").read_bytes() == bytes(5000)


def test_a_clock_that_is_set_back_stops_nothing(
    elsewhere: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.faults = {"t-000000.tar": [503]}
    cache, want = ShardCache(tmp_path / "cache", 10**9), wants_of(elsewhere)[0]
    prefetcher, now = Prefetcher(cache), time.time()
    with cache.wanting() as say, ThreadPoolExecutor(1) as pool:
        say([want], 1)
        look_until(prefetcher, pool, lambda: cache.trouble(want.sha256))
        monkeypatch.setattr(time, "time", lambda: now - 86400)
        look_until(prefetcher, pool, lambda: cache.has(want))


def test_a_clock_that_is_set_forward_ends_no_run(
    elsewhere: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.slow, passed = 0.02, iter(range(0, 10**9, 3600))
    monkeypatch.setattr(time, "time", lambda: float(next(passed)))
    assert len(taken(elsewhere.url, access(tmp_path), 5)) == 5


def test_a_shard_that_was_cut_short_in_the_cache_comes_again(elsewhere: Shelf, tmp_path: Path) -> None:
    expected = taken(elsewhere.url, access(tmp_path), 5)
    for path in (tmp_path / "cache").glob("*.tar"):
        os.truncate(path, 5000)
    assert_same(taken(elsewhere.url, access(tmp_path), 5), expected)


@pytest.mark.parametrize("name", ["index.parquet", "checksums.json"])
def test_what_is_known_of_the_shards_comes_again_where_it_is_damaged(
    elsewhere: Shelf, tmp_path: Path, name: str
) -> None:
    """As of a power cut."""
    open_corpus([elsewhere.url], SampleRule(8), access(tmp_path))
    (path,) = (tmp_path / "cache/folders").glob(f"*/{name}")
    os.truncate(path, 0)
    open_corpus([elsewhere.url], SampleRule(8), access(tmp_path))
    assert path.read_bytes() == (elsewhere.folder / name).read_bytes()


def test_files_that_do_not_end_are_not_written_down(elsewhere: Shelf, tmp_path: Path) -> None:
    elsewhere.longer = {"t-000002.tar"}
    with pytest.raises(WorkError, match=r"t-000002.tar: could not .*has more than [0-9,]+ bytes"):
        taken(elsewhere.url, access(tmp_path, 0.5))
    elsewhere.longer = {"index.parquet"}
    with pytest.raises(InputError, match=r"index.parquet: has more than 344,064 bytes"):
        taken(elsewhere.url, Access(ShardCache(tmp_path / "other", 10**9), 0.5))


def test_patience_counts_from_the_last_byte(elsewhere: Shelf, tmp_path: Path) -> None:
    elsewhere.faults = {"index.parquet": [2000, 2000, 2000]}
    assert open_corpus([elsewhere.url], SampleRule(8), access(tmp_path, 0.1)).samples == 20


def test_a_batch_over_many_windows_holds_what_it_was_made_of(
    elsewhere: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three windows of a shard each: those that were passed stay until they are read."""
    size = max(path.stat().st_size for path in elsewhere.folder.glob("*.tar"))
    plan, how = StreamPlan(1, 12, 4, 1), access(tmp_path, gigabytes=4.2 * size / 1e9)
    corpus, near = (open_corpus([place], SampleRule(8), how) for place in (elsewhere.url, elsewhere.folder))
    supply = RemoteSupply(corpus, how.cache, ShardCounts())  # type: ignore[arg-type]
    entered: list[int] = []

    def holds(shards: list[int]) -> None:
        entered.extend(shards)
        assert {corpus.wants[shard] for shard in entered} <= set(supply._said[0])

    with supply.open(), monkeypatch.context() as patch:
        patch.setattr(supply, "_wait", holds)
        for number, _ in enumerate(requests(corpus, plan, 0, 4, supply)):
            supply._want()
            if number % 3 == 0:
                assert len(entered) == 3
                holds([])
            else:
                entered.clear()
            supply.served()
    assert_same(list(batches(corpus, plan, RULE, 0, 4)), list(batches(near, plan, RULE, 0, 4)))


def test_a_full_disk_does_not_end_a_run_that_has_its_shards(
    elsewhere: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(elsewhere.url, access(tmp_path), 5)
    opened = RemoteSupply.open

    @contextmanager
    def full(supply: RemoteSupply) -> Iterator[None]:
        with opened(supply):
            monkeypatch.setattr(supply, "_say", lambda *_: _fail_with(28, "No space left on device"))
            yield

    monkeypatch.setattr(RemoteSupply, "open", full)
    assert len(taken(elsewhere.url, access(tmp_path), 5)) == 5
    next((tmp_path / "cache").glob("*.tar")).unlink()
    with pytest.raises(WorkError, match=r"could not be had for 0.5 s \(.*cache: No space left on device"):
        taken(elsewhere.url, access(tmp_path, 0.5), 5)


def _fail_with(number: int, told: str) -> None:
    raise OSError(number, told)


def test_a_prefetcher_that_is_slow_to_start_is_waited_for(
    elsewhere: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine an interpreter starts for longer than the time between two looks."""
    how = access(tmp_path)
    assert how.cache is not None
    supply = RemoteSupply(open_corpus([elsewhere.url], SampleRule(8), how), how.cache, ShardCounts())
    monkeypatch.setattr("pretrain.data.supply._LOOK_S", 0)
    monkeypatch.setattr(ShardCache, "has_prefetcher", lambda _: False)
    with supply.open():
        supply._tend()
        first = supply._process
        supply._tend()
        assert supply._process is first is not None and first.poll() is None


# ------------------------------------------------------------------------------------------------ a training

SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from curation.base.settings import validate
from small_run import Quiet
from pretrain.config import TrainConfig
from pretrain.data.stream import batches
from pretrain.train import train

out, ids, killed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def told(corpus, plan, rule, start, *args, **kwargs):
    with (ids / f"{plan.world}-{plan.rank}.jsonl").open("a") as file:
        for step, batch in enumerate(batches(corpus, plan, rule, start, *args, **kwargs), start):
            if step == killed and plan.rank == plan.world - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            file.write(json.dumps([step, plan.rank, batch.sample_id.tolist(), batch.images.sum().item()]) + "\\n")
            file.flush()
            yield batch

config = validate(TrainConfig, json.loads((out.parent / "config.json").read_text()), "test")
train(config, out, Quiet(), resume=out.exists(), feed=told)
"""


@pytest.mark.slow
def test_a_training_from_s3_killed_on_two_processes_and_resumed_on_three_sees_the_same_samples(
    s3: object, make_shards: MakeShards, tmp_path: Path
) -> None:
    """Processes over gloo that share one cache; the ids of an unbroken run alone from the folder."""
    folder = make_shards([6, 5, 7, 6])
    for path in folder.iterdir():
        s3[1].upload_file(str(path), "bucket", f"corpus/shards/{path.name}")  # type: ignore[index]
    asked = settings("s3://bucket/corpus/shards", global_batch=6, epochs=3, save_every=2,
                     data={"cache": str(tmp_path / "cache"), "workers": 1})  # type: ignore[arg-type] # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(asked))
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "ids").mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    for processes, killed in ((2, 7), (3, -1)):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
                   str(tmp_path / "script.py"), str(tmp_path / "run"), str(tmp_path / "ids"), str(killed)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
        assert (done.returncode == 0) == (killed < 0), done.stderr
    seen: dict[int, dict[int, tuple[list[int], int]]] = {}
    for path in sorted((tmp_path / "ids").iterdir()):  # those of three processes replace those that were done again
        for line in path.read_text().splitlines():
            step, rank, ids, pixels = json.loads(line)
            if path.name.startswith("3") and rank == 0:
                seen[step] = {}
            seen.setdefault(step, {})[rank] = ids, pixels
    alone = list(
        batches(
            open_corpus([folder], SampleRule(8)),
            StreamPlan(3, 6, 6, 2),
            CropRule(32, (0.2, 1.0), (3 / 4, 4 / 3), 4.0),
            0,
            12,
        )
    )
    assert sorted(seen) == list(range(12))
    assert len(seen[5]) == 2 and len(seen[6]) == 3  # the last checkpoint of two processes
    for step, batch in enumerate(alone):
        parts = [seen[step][rank] for rank in sorted(seen[step])]
        assert [i for ids, _ in parts for i in ids] == batch.sample_id.tolist()
        assert sum(pixels for _, pixels in parts) == batch.images.sum().item()
    assert not prefetchers(tmp_path / "cache")


def test_a_run_from_elsewhere_ends_with_the_weights_of_one_from_the_folder(elsewhere: Shelf, tmp_path: Path) -> None:
    data = {"cache": str(tmp_path / "cache"), "cache_gigabytes": 0.001}
    train(config(elsewhere.url, data=data, epochs=1), tmp_path / "far", Quiet())  # type: ignore[arg-type]
    train(config(elsewhere.folder, epochs=1), tmp_path / "near", Quiet())
    assert_equal(tmp_path / "far", tmp_path / "near")
    state = json.loads(next((tmp_path / "far/checkpoints").glob("*/state.json")).read_text())
    near = json.loads(next((tmp_path / "near/checkpoints").glob("*/state.json")).read_text())
    assert state.keys() == near.keys() and state["data"] == near["data"]
