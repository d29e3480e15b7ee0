"""``decode: gpu``, on a CPU: the same code with another decoder behind torchvision's name."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imagery import MakeShards, encode, picture
from PIL import Image
from small_run import Quiet, assert_equal, config

from curation.shards.format import Sample, write_checksums, write_index, write_shard
from pretrain.bench.throughput import data_bench
from pretrain.data import reader, unpack
from pretrain.data.augment import NOISE_SIZE, CropRule
from pretrain.data.corpus import Corpus, SampleRule, open_corpus
from pretrain.data.reader import Batch, packed_for
from pretrain.data.stream import StreamPlan, batches, requests
from pretrain.data.unpack import refuse_decoder
from pretrain.errors import InputError
from pretrain.train import train

RULE = CropRule(32, (0.2, 1.0), (3 / 4, 4 / 3), 4.0, packed=True)
CPU = torch.device("cpu")


def jpeg(side: tuple[int, int], mode: str = "RGB", **how: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(sum(side), *side)).convert(mode).save(buffer, "JPEG", **({"quality": 90} | how))
    return buffer.getvalue()


def shards_of(files: list[tuple[bytes, tuple[int, int]]], folder: Path) -> Corpus:
    """One shard with these files."""
    samples = []
    for number, (data, side) in enumerate(files):
        meta = {"source": "s", "image": f"{number}.tif", "window": [0, 0, *side], "width": side[0], "height": side[1],
                "gsd_m": 0.5, "crs": None, "bounds": None, "licence": "CC0-1.0", "phash": "0" * 16}  # fmt: skip
        samples.append(Sample(f"{number:011d}-{number:020x}", data, "jpg", meta))
    info = write_shard(iter(samples), folder / "t-000000.tar")
    write_index([info], folder)
    write_checksums([info], folder, "test")
    return open_corpus([folder], SampleRule(8, digests=True))


def both(corpus: Corpus, plan: StreamPlan, stop: int = 1, workers: int = 0) -> tuple[list[Batch], list[Batch]]:
    """Batches of the device's decoder and of the exact one."""
    exact = RULE._replace(packed=False)
    return list(batches(corpus, plan, RULE, 0, stop, workers)), list(batches(corpus, plan, exact, 0, stop))


def apart(one: Batch, other: Batch) -> np.ndarray:
    return np.abs(one.images.int().numpy() - other.images.int().numpy())


def assert_alike(one: Batch, other: Batch) -> None:
    """In everything but pixels."""
    for name in ("gsd", "sample_id", "epoch", "weight", "crop"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.position == other.position and one.packed is None


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_other_decoders(make_shards: MakeShards, workers: int) -> None:
    """Shards hold PNG and WebP as well, whose crops are the worker's, to the bit."""
    corpus = open_corpus([make_shards([6, 5, 7])], SampleRule(8))
    for plan in (StreamPlan(3, 6, 4, 2), StreamPlan(3, 6, 4, 2, crops=2)):
        for device, exact in zip(*both(corpus, plan, 6, workers), strict=True):
            assert_alike(device, exact)
            assert apart(device, exact).max() <= 2
            places = (
                device.sample_id - torch.tensor([0, 6, 11])[torch.bucketize(device.sample_id, torch.tensor([5, 10]))]
            )
            assert apart(device, exact)[places % 2 == 1].sum() == 0


@pytest.mark.parametrize("packed", [True, False])
def test_a_worker_takes_shared_memory_only_for_what_it_decodes(
    tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, new = [], torch.UntypedStorage._new_shared
    monkeypatch.setattr(reader, "get_worker_info", lambda: "a worker's")
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", lambda size: taken.append(size) or new(size))
    corpus = shards_of([(jpeg((64, 48)), (64, 48))] * 4, tmp_path)
    (request,) = requests(corpus, StreamPlan(seed=1, global_batch=4, micro_batch=4), 0, 1)
    reader.ShardReader(corpus.paths, RULE._replace(packed=packed)).serve(request)
    assert taken == ([] if packed else [4 * 3 * 32 * 32])


def test_crops_of_all_kinds_of_jpegs_are_those_of_pillow(tmp_path: Path) -> None:
    """Large and small, of several subsamplings; what is no plain colour JPEG takes the ordinary path."""
    kinds = [
        jpeg((64, 48)), jpeg((640, 400), subsampling=0), jpeg((61, 33), subsampling=1), jpeg((300, 300), optimize=True),
        jpeg((90, 120), progressive=True), jpeg((64, 48), "L"), jpeg((64, 48), "CMYK"), jpeg((33, 65)) + b"more",
        encode(picture(5, 70, 50), "png"),
    ]  # fmt: skip
    noise = np.full((1, NOISE_SIZE), 0.5, np.float32)
    assert [packed_for(data, RULE, noise) is not None for data in kinds] == [True] * 5 + [False] * 4
    sides = [Image.open(io.BytesIO(data)).size for data in kinds]
    corpus = shards_of(list(zip(kinds, sides, strict=True)), tmp_path / "shards")
    (device,), (exact,) = both(corpus, StreamPlan(1, 9, 9))
    assert_alike(device, exact)
    assert not device.unreadable
    assert apart(device, exact).max() <= 2
    assert apart(device, exact)[device.sample_id >= 5].max() == 0


def test_memory_bounds_what_is_decoded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not change a bit."""
    sides = [(64, 48), (48, 64), (640, 400), (50, 50), (60, 40)]
    corpus = shards_of([(jpeg(side), side) for side in sides], tmp_path / "shards")
    at_once, decode_all = [], unpack._decode_all
    monkeypatch.setattr(unpack, "_decode_all", lambda f, device: at_once.append(len(f)) or decode_all(f, device))
    (whole,) = batches(corpus, StreamPlan(1, 10, 10, crops=2), RULE, 0, 1)
    monkeypatch.setattr(unpack, "_AT_ONCE", 2 * 2 * 64 * 64)
    (parts,) = batches(corpus, StreamPlan(1, 10, 10, crops=2), RULE, 0, 1)
    assert at_once[0] == 5 and sum(at_once[1:]) == 5 and max(at_once[1:]) == 2
    assert torch.equal(whole.images, parts.images)
    assert list(unpack._lots([(8192, 8192), (64, 64)], 1)) == [range(1), range(1, 2)]


def test_what_is_damaged_costs_its_sample_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written so: cut short, which the worker sees, and without a table, which only the decoder sees."""
    good = jpeg((64, 48))
    table = good.index(b"\xff\xdb")
    files = [good, good[: len(good) // 2], good[: table + 4] + b"\3" + good[table + 5 :], good]
    noise = np.full((1, NOISE_SIZE), 0.5, np.float32)
    assert [packed_for(data, RULE, noise) is not None for data in files] == [True, False, True, True]
    corpus = shards_of([(data, (64, 48)) for data in files], tmp_path / "shards")
    (device,), (exact,) = both(corpus, StreamPlan(1, 8, 8, crops=2))
    assert_alike(device, exact)
    assert sorted(device.sample_id[device.weight == 0].tolist()) == [1, 1, 2, 2]
    assert device.images[device.weight == 0].sum() == 0 and apart(device, exact).max() <= 2
    assert sorted(device.unreadable) == sorted(exact.unreadable)
    assert all("t-000000.tar at byte" in reason for _, reason in device.unreadable)


def test_damage_that_no_header_shows_is_seen_by_the_hash_of_the_index(tmp_path: Path) -> None:
    """Three bytes of each second image are others: the CPU's decoder judges these, as it does elsewhere.

    libjpeg gives pixels for each of them, and a GPU's decoder might.
    """
    corpus = shards_of([(jpeg((64, 48 + n)), (64, 48 + n)) for n in range(24)], tmp_path / "shards")
    rng, rows, tar = np.random.default_rng(0), corpus.rows(0), bytearray(corpus.paths[0].read_bytes())
    for offset, size in list(zip(rows.offset.tolist(), rows.size.tolist(), strict=True))[::2]:
        image = bytes(tar[offset : offset + size])
        amid = offset + int(rng.integers(image.index(b"\xff\xda") + 14, size - 5))
        tar[amid : amid + 3] = rng.integers(0, 255, 3, np.uint8).tobytes()
    corpus.paths[0].write_bytes(tar)
    (device,), (exact,) = both(corpus, StreamPlan(1, 24, 24))
    assert_alike(device, exact)
    assert apart(device, exact).max() <= 2
    assert apart(device, exact)[device.sample_id % 2 == 0].max() == 0
    assert 0 < len(device.unreadable) == len(exact.unreadable) < 12
    assert rows.digest[1] == int(hashlib.sha256(jpeg((64, 49))).hexdigest()[:16], 16)


def test_the_cpu_decodes_what_the_device_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As nvJPEG refuses arithmetic coding: of the other images nothing is lost."""
    corpus = shards_of([(jpeg((64, 48 + n)), (64, 48 + n)) for n in range(4)], tmp_path / "shards")
    decode_all, refused = unpack._decode_all, jpeg((64, 50))

    def refusing(files: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        if any(file.numpy().tobytes() == refused for file in files):
            raise RuntimeError("Failed to decode batch: 3")
        return decode_all(files, device)

    monkeypatch.setattr(unpack, "_decode_all", refusing)
    (device,), (exact,) = both(corpus, StreamPlan(1, 4, 4))
    assert_alike(device, exact)
    assert not device.unreadable and apart(device, exact).max() <= 2

    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(unpack, "_decode_all", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        list(batches(corpus, StreamPlan(1, 4, 4), RULE, 0, 1))


def test_an_image_that_is_too_large_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = shards_of([(jpeg((64, 48)), (64, 48)), (jpeg((80, 80)), (80, 80))], tmp_path / "shards")
    monkeypatch.setattr(reader, "MAX_PIXELS", 64 * 48)
    seen: list[tuple[int, int]] = []
    lots = unpack._lots
    monkeypatch.setattr(unpack, "_lots", lambda sides, crops: seen.extend(sides) or lots(sides, crops))
    (batch,) = batches(corpus, StreamPlan(1, 2, 2), RULE, 0, 1)
    assert batch.weight[batch.sample_id == 1] == 0 and seen == [(48, 64)]
    assert "80x80 has more than 3072 pixels" in batch.unreadable[0][1]


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this decoder are let through on a CPU."""
    monkeypatch.setattr("pretrain.train.refuse_decoder", lambda *_: None)


def test_a_run_is_the_same_resumed_with_other_workers(
    make_shards: MakeShards, tmp_path: Path, without_gpu: None
) -> None:
    shards = make_shards([9, 7])
    given = config(shards, data={"decode": "gpu"})
    train(given, tmp_path / "whole", Quiet())

    def broken_off(*arguments: Any, **named: Any) -> Any:
        for number, batch in enumerate(batches(*arguments, **named)):
            if number == 5:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        train(given, tmp_path / "two", Quiet(), feed=broken_off)
    again = given.model_copy(update={"data": given.data.model_copy(update={"workers": 1})})
    train(again, tmp_path / "two", Quiet(), resume=True)
    assert_equal(tmp_path / "whole", tmp_path / "two")
    told = [json.loads(line) for line in (tmp_path / "two/log.jsonl").read_text().splitlines()]
    assert told[-1]["unreadable"] == 0
    with pytest.raises(InputError, match=r"data\.decode"):
        train(config(shards, epochs=4), tmp_path / "two", Quiet(), resume=True)


def test_other_processes_see_the_same_images(make_shards: MakeShards) -> None:
    """Padding and company differ, bits do not."""
    corpus, plan = open_corpus([make_shards([9, 7])], SampleRule(8)), StreamPlan(3, 6, 6, 2)
    whole = list(batches(corpus, plan, RULE, 0, 4))
    parts = [list(batches(corpus, replace(plan, rank=r, world=3, micro_batch=1), RULE, 0, 4)) for r in range(3)]
    pieces = [torch.cat([b.images for b in part]).view(4, 2, 3, 32, 32) for part in parts]
    assert torch.equal(torch.cat(pieces, 1), torch.stack([batch.images for batch in whole]))


def test_without_a_gpu_the_option_is_refused_with_what_to_set(make_shards: MakeShards, tmp_path: Path) -> None:
    given = config(make_shards([9]), data={"decode": "gpu"})
    told = r"data.decode: gpu decodes on a GPU, and this run has none; set data.decode=exact"
    with pytest.raises(InputError, match=told):
        train(given, tmp_path / "run", Quiet())
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=told):
        data_bench(given, [0])


def test_a_torchvision_without_nvjpeg_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"torchvision .* decodes no JPEG on cuda:0 \(.*data.decode=exact"):
        refuse_decoder("gpu", torch.device("cuda", 0))
    refuse_decoder("exact", CPU)


def test_the_bench_counts_complete_images(make_shards: MakeShards) -> None:
    (row,) = data_bench(config(make_shards([9, 7]), data={"decode": "gpu"}), [1], 0.2, CPU)
    assert row["images"] > 0 and not row["parts"]


# ------------------------------------------------------------------------------------------------ on a GPU


@pytest.mark.cuda
def test_a_gpu_decodes_nearly_as_a_cpu_while_it_is_busy(tmp_path: Path) -> None:
    """Eight batches, beside products that keep the device busy; colours that are sampled are interpolated otherwise."""
    sides = [(64 + 8 * n, 96 - 4 * n) for n in range(12)]
    corpus = shards_of([(jpeg(side, subsampling=2 * (n % 2)), side) for n, side in enumerate(sides)], tmp_path / "s")
    device, busy = torch.device("cuda"), torch.rand(4096, 4096, device="cuda")
    refuse_decoder("gpu", device)
    exact = list(batches(corpus, StreamPlan(1, 12, 12), RULE._replace(packed=False), 0, 8))
    found = []
    for batch in batches(corpus, StreamPlan(1, 12, 12), RULE, 0, 8, workers=2, device=device):
        busy = busy @ busy
        busy = busy / busy.norm()
        found.append(batch._replace(images=batch.images.cpu()))
    for one, other in zip(found, exact, strict=True):
        assert_alike(one, other)
        assert apart(one, other).mean() < 2
    again = list(batches(corpus, StreamPlan(1, 12, 12), RULE, 0, 8, device=device))
    assert all(torch.equal(one.images, other.images.cpu()) for one, other in zip(found, again, strict=True))


@pytest.mark.cuda
def test_a_run_trains_on_what_the_gpu_decodes(make_shards: MakeShards, tmp_path: Path) -> None:
    given = config(make_shards([9, 7], broken={0: {2}}), device="cuda", compile=False, data={"decode": "gpu"})
    assert train(given, tmp_path / "run", Quiet()).finished
