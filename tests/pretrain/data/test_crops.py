"""Several crops of a decoded image, decoding at a lower resolution, and orientations."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from imagery import MakeShards, encode, picture
from PIL import Image
from small_run import Quiet, config
from torchvision.transforms import v2

from curation.base.errors import InputError, UnreadableImage
from pretrain.data.augment import NOISE_SIZE, CropRule, crop_box, turn
from pretrain.data.corpus import SampleRule, open_corpus
from pretrain.data.noise import Purpose, torch_uniform, uniform
from pretrain.data.reader import decode, open_for
from pretrain.data.stream import StreamPlan, batches
from pretrain.train import train

RULE = CropRule(32, (0.2, 1.0), (3 / 4, 4 / 3), 4.0)


def test_two_crops_come_of_one_decoding(make_shards: MakeShards, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is the crop of a run with one; the second has noise of its own."""
    monkeypatch.setattr("pretrain.data.reader.part_decoder", lambda: None)  # which decodes without decode()
    corpus = open_corpus([make_shards([6, 6])], SampleRule(8))
    decoded: list[int] = []
    monkeypatch.setattr("pretrain.data.reader.decode", lambda data, **how: decoded.append(1) or decode(data, **how))
    one = list(batches(corpus, StreamPlan(5, 6, 6, 2), RULE, 0, 2))
    assert len(decoded) == 12
    two = list(batches(corpus, StreamPlan(5, 12, 4, 2, crops=2), RULE, 0, 2))
    assert len(decoded) == 24
    assert [len(batch.images) for batch in two] == [4] * 6  # micro-batches hold whole images
    images, ids, crops = (torch.cat([getattr(b, name) for b in two]) for name in ("images", "sample_id", "crop"))
    assert torch.equal(ids[::2], torch.cat([b.sample_id for b in one])) and torch.equal(ids[::2], ids[1::2])
    assert torch.equal(images[::2], torch.cat([b.images for b in one]))
    assert crops.tolist() == [0, 1] * 12
    assert (images[::2] != images[1::2]).flatten(1).any(1).all()
    noise = torch_uniform(5, Purpose.MASK, torch.zeros(24, dtype=torch.int64), ids, 3, crops)
    expected = uniform(5, Purpose.MASK, 0, ids[1].numpy(), 3, 1)
    np.testing.assert_array_equal(noise[1].numpy(), expected)
    assert not torch.equal(noise[0], noise[1])


def test_both_crops_of_an_unreadable_image_have_no_weight(make_shards: MakeShards) -> None:
    corpus = open_corpus([make_shards([4], broken={0: {2}})], SampleRule(8))
    (batch,) = batches(corpus, StreamPlan(0, 8, 8, crops=2), RULE, 0, 1)
    assert batch.weight[batch.sample_id == 2].tolist() == [0, 0]
    assert batch.weight.sum() == 6 and len(batch.unreadable) == 1


def test_a_run_with_two_crops_has_twice_the_steps(make_shards: MakeShards, tmp_path) -> None:
    shards = make_shards([12])
    assert train(config(shards, epochs=1), tmp_path / "one", Quiet()).total_steps == 3
    assert train(config(shards, epochs=1, data={"crops_per_image": 2}), tmp_path / "two", Quiet()).total_steps == 6
    with pytest.raises(InputError, match=r"global_batch 4 is not a multiple of data.groups \* data.crops_per_image 3"):
        config(shards, data={"crops_per_image": 3})
    with pytest.raises(InputError, match="max_batch_per_gpu 1 holds not even the crops of one image"):
        config(shards, data={"crops_per_image": 2}, max_batch_per_gpu=1)


@pytest.mark.parametrize("quality", [75, 95])
def test_fast_crops_are_nearly_those_of_the_whole_image(quality: int) -> None:
    """Reference: Pillow's box resize of the exactly decoded image to the same place."""
    rgb = picture(3, 512, 512)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality)
    data = buffer.getvalue()
    rule = CropRule(64, (0.3, 1.0), (1.0, 1.0), 4.0, fast=True)
    noise = uniform(0, Purpose.CROP, 0, np.arange(8), NOISE_SIZE)
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    for numbers in noise:
        opened = open_for(data, rule, numbers[None])
        (box,) = opened.boxes
        image = opened.crop(box, 64)
        assert box == crop_box(512, 512, rule, numbers)
        edges = (box.left, box.top, box.left + box.width, box.top + box.height)
        expected = np.asarray(whole.resize((64, 64), Image.Resampling.BICUBIC, edges), np.int16)
        assert np.abs(image.permute(1, 2, 0).numpy().astype(np.int16) - expected).mean() < 1.5


def test_fast_decodes_only_as_small_as_the_crop_allows() -> None:
    """libjpeg's sizes: ceil(side * n / 8)."""
    data = encode(picture(1, 515, 389), "jpg")
    for share, shape in ((0.9, (389, 515)), (0.5, (195, 258)), (0.3, (146, 194)), (0.2, (98, 129)), (0.1, (49, 65))):
        assert decode(data, share=share).shape == (*shape, 3)
    assert np.abs(decode(data, share=1.0).astype(int) - decode(data).astype(int)).mean() < 1.5
    png = encode(picture(1, 64, 64), "png")
    np.testing.assert_array_equal(decode(png, share=0.1), picture(1, 64, 64))
    with pytest.raises(UnreadableImage, match="cannot be decoded"):
        open_for(b"\xff\xd8\xff" + bytes(40), RULE._replace(fast=True), np.zeros((1, NOISE_SIZE), np.float32))


def test_a_fast_run_sees_the_samples_of_an_exact_one(make_shards: MakeShards) -> None:
    corpus = open_corpus([make_shards([8], side=(200, 160))], SampleRule(8))
    fast, exact = (list(batches(corpus, StreamPlan(0, 4, 4), RULE._replace(fast=f), 0, 2)) for f in (True, False))
    for one, other in zip(fast, exact, strict=True):
        assert torch.equal(one.sample_id, other.sample_id) and torch.equal(one.gsd, other.gsd)
        assert (one.images.float() - other.images.float()).abs().mean() < 4


def test_quarter_turns_are_those_of_torchvision() -> None:
    images = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8)
    noise = torch.tensor([0.0, 0.19, 0.21, 0.39, 0.41, 0.59, 0.6, 0.8, 0.99])
    turned = turn(images, noise, 0.6)
    for image, result, quarters in zip(images, turned, [1, 1, 2, 2, 3, 3, 0, 0, 0], strict=True):
        assert torch.equal(result, v2.functional.rotate(image, 90 * quarters))
    assert torch.equal(turn(images, noise, 0.0), images)


def test_orientations_are_equally_frequent() -> None:
    """Four corners, each the brightest of as many samples, within five deviations of the binomial."""
    images = torch.zeros(4000, 1, 2, 2)
    images[:, 0, 0, 0] = 1
    noise = torch_uniform(1, Purpose.FLIP, torch.zeros(4000, dtype=torch.int64), torch.arange(4000), 3)[:, 2]
    corners = turn(images, noise, 0.75).flatten(1).argmax(1).bincount(minlength=4)
    assert (corners - 1000).abs().max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_runs_of_earlier_releases_go_on(make_shards: MakeShards) -> None:
    """Their configs have hflip and vflip beside the other fields of data."""
    shards = make_shards([4])
    assert config(shards, data={"hflip": 0.25, "vflip": 0.5}).data.augment.model_dump() == {
        "hflip": 0.25, "vflip": 0.5, "quarter_turns": 0.0,
    }  # fmt: skip
