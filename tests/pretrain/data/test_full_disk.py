"""A cache on a disk that is full: a small file system of its own, in a namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from imagery import MakeShards
from shelf import Shelf, shelf

from pretrain.data.augment import CropRule
from pretrain.data.corpus import SampleRule, open_corpus
from pretrain.data.stream import StreamPlan, batches

SCRIPT = """
import hashlib, json, shutil, sys
from pathlib import Path
from curation.base.errors import InputError, WorkError
from pretrain.data.augment import CropRule
from pretrain.data.cache import ShardCache
from pretrain.data.corpus import SampleRule, open_corpus
from pretrain.data.places import Access
from pretrain.data.stream import StreamPlan, batches

url, cache, most = sys.argv[1], Path(sys.argv[2]), 0
told = {"rows": [], "error": ""}
try:
    corpus = open_corpus([url], SampleRule(8), Access(ShardCache(cache, 10**9), float(sys.argv[3])))
    rule = CropRule(32, (0.5, 1.0), (3 / 4, 4 / 3), 4.0)
    for batch in batches(corpus, StreamPlan(1, 4, 4, 2), rule, 0, 10):
        told["rows"].append([batch.sample_id.tolist(), batch.images.long().sum().item()])
except (InputError, WorkError) as error:
    told["error"] = str(error)
told["whole"] = [path.stem == hashlib.sha256(path.read_bytes()).hexdigest() for path in cache.glob("*.tar")]
print(json.dumps(told | {"size": shutil.disk_usage(cache).total}))
"""


@pytest.fixture
def elsewhere(make_shards: MakeShards) -> Iterator[Shelf]:
    """Five shards of four samples, each of 20 KiB, and an index."""
    with shelf(make_shards([4, 4, 4, 4, 4], side=(96, 80))) as server:
        yield server


def on_a_disk_of(kib: int, url: str, cache: Path, seconds: int = 5) -> dict[str, object]:
    """Two epochs from a cache on a disk of so many KiB, waiting so long for a shard."""
    cache.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={kib}k none {cache}"
    alone = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "sh", "-c"]
    tried = subprocess.run([*alone, mount], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no file system can be mounted: {tried.stderr.strip()}")
    command = [*alone, f'{mount} && exec "$@"', "sh", sys.executable, "-c", SCRIPT, url, str(cache), str(seconds)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    assert found["size"] == kib * 1024
    return found


def test_a_disk_that_holds_less_than_two_windows_gives_every_sample(elsewhere: Shelf, tmp_path: Path) -> None:
    """Three shards of five fit, and a part of one: this window's come first, whatever the next one has begun."""
    corpus, rule = open_corpus([elsewhere.folder], SampleRule(8)), CropRule(32, (0.5, 1.0), (3 / 4, 4 / 3), 4.0)
    expected = [[batch.sample_id.tolist(), batch.images.long().sum().item()]
                for batch in batches(corpus, StreamPlan(1, 4, 4, 2), rule, 0, 10)]  # fmt: skip
    size = max(path.stat().st_size for path in elsewhere.folder.glob("*.tar"))
    found = on_a_disk_of(3 * -(-size // 4096) * 4 + 40, elsewhere.url, tmp_path / "cache", 60)
    assert found["error"] == "" and found["rows"] == expected
    assert all(found["whole"])  # type: ignore[arg-type]
    assert sum(name.endswith(".tar") for name, _ in elsewhere.asked) > 5


def test_a_disk_that_does_not_hold_a_window_ends_the_run_with_a_line(elsewhere: Shelf, tmp_path: Path) -> None:
    size = max(path.stat().st_size for path in elsewhere.folder.glob("*.tar"))
    found = on_a_disk_of(-(-size // 4096) * 4 + 36, elsewhere.url, tmp_path / "cache")
    assert found["rows"] == []
    assert "could not be had for 5 s" in found["error"] and "--resume goes on" in found["error"]  # type: ignore[operator]
    assert "No space left on device" in found["error"] or "its disk is full" in found["error"]  # type: ignore[operator]


def test_a_disk_without_any_room_is_named_at_the_start(elsewhere: Shelf, tmp_path: Path) -> None:
    found = on_a_disk_of(4, elsewhere.url, tmp_path / "cache")
    assert found["rows"] == []
    assert "data.cache" in found["error"] and "give" in found["error"]  # type: ignore[operator]
