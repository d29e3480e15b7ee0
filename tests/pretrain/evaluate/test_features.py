"""Features do not depend on how they are computed, equal timm's, and are kept and written as they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from labelled_images import write_tree
from timm.models.vision_transformer import VisionTransformer

from curation.base.errors import InputError
from pretrain.cli import main
from pretrain.evaluate.encoders import EncoderSpec, Input, VitEncoder, open_encoder
from pretrain.evaluate.features import View, Work, extract, scaled_view, write_features
from pretrain.evaluate.labelled import Labelled, open_labelled

SPEC = EncoderSpec(
    spec="untrained:vit_tiny_patch16_224",
    args={"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2},
)


def encoder(pool: str = "mean") -> VitEncoder:
    found = open_encoder(SPEC, pool)
    assert isinstance(found, VitEncoder)
    return replace(found, input=Input(32, (0.5,) * 3, (0.2,) * 3, 8))


@pytest.fixture
def images(tmp_path: Path) -> Labelled:
    return open_labelled(write_tree(tmp_path / "data", {"red": 3, "blue": 4}))


def test_features_do_not_depend_on_batch_and_workers_and_equal_timms(images: Labelled) -> None:
    whole = extract(encoder("token"), images)
    parts = extract(encoder("token"), images, work=Work(batch_size=2, workers=1))
    np.testing.assert_allclose(whole.values, parts.values, atol=1e-6)
    pixels = torch.tensor([10, 10, 250.0])[None, :, None, None].expand(1, 3, 32, 32) / 255
    inputs = (pixels - 0.5) / 0.2
    vit = encoder().vit
    assert isinstance(vit, VisionTransformer)
    np.testing.assert_allclose(whole.values[:1], vit(inputs).detach().numpy(), atol=1e-5)  # class token, as timm pools
    both = extract(encoder("both"), images).values
    mean = vit.forward_features(inputs)[:, 1:].mean(1).detach().numpy()
    np.testing.assert_allclose(both[:1], np.concatenate([whole.values[:1], mean], axis=1), atol=1e-5)


def test_other_sizes_equal_timms_resampled_positions(images: Labelled) -> None:
    spec = EncoderSpec(spec="random:vit_tiny_patch16_224", args={"img_size": 32, "patch_size": 8, "depth": 1})
    ours = open_encoder(spec)
    args = spec.args | {"dynamic_img_size": True}
    theirs = open_encoder(EncoderSpec(spec=spec.spec, args=args))
    assert isinstance(theirs, VitEncoder)
    pixels = torch.randint(0, 255, (2, 3, 48, 48), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in ours.input[1:3])
    expected = theirs.vit.forward_features((pixels / 255 - mean) / std)[:, 1:].mean(1)
    torch.testing.assert_close(ours.features(pixels, torch.ones(2)), expected)


def test_a_scale_is_a_share_of_the_images_side_in_whole_patches(images: Labelled) -> None:
    # Shorter sides are 20, 21, 22 and 20, 21, 22, 23: median 21; half of it is one patch of 8, all of it three.
    assert scaled_view(encoder(), images, 0.5) == View(8, 0.5)
    assert scaled_view(encoder(), images, 1.0) == View(24, 1.0)
    with pytest.raises(InputError, match="20 px is no multiple of its patch of 8 px"):
        extract(encoder(), images, View(20))


class Told:
    """An encoder whose features are the GSD that it is told."""

    name, identity, in_words, input = "told", "told", "", Input(8, (0.0,) * 3, (1.0,) * 3)

    def to(self, device: torch.device) -> Told:
        return self

    def features(self, images: torch.Tensor, gsd: torch.Tensor) -> torch.Tensor:
        return gsd[:, None]


def test_the_gsd_is_that_of_the_image_as_it_is_shown(images: Labelled) -> None:
    known = replace(images, gsd=np.full(7, 0.6))
    told = extract(Told(), known, View(10)).values[:, 0]
    np.testing.assert_allclose(told, 0.6 * np.array([20, 21, 22, 23, 20, 21, 22]) / 10, rtol=1e-6)
    assert extract(Told(), images, View(8, 0.25)).values[:, 0].tolist() == [4.0] * 7
    assert extract(Told(), images).values[:, 0].tolist() == [1.0] * 7


def test_a_broken_image_is_named_and_the_others_go_on(tmp_path: Path, images: Labelled) -> None:
    (tmp_path / "data" / "red" / "broken.jpg").write_bytes(b"\xff\xd8nonsense")
    found = open_labelled(tmp_path / "data")
    features = extract(encoder(), found)
    (row,) = features.unreadable
    assert found.places[row].name == "red/broken.jpg"
    assert "cannot be decoded" in features.unreadable[row]
    assert features.readable(np.arange(8)).tolist() == [n for n in range(8) if n != row]
    assert not features.values[row].any()
    assert features.values[features.readable(np.arange(8))].any(1).all()


def test_a_link_to_nowhere_is_named(tmp_path: Path, images: Labelled) -> None:
    (tmp_path / "data" / "red" / "gone.png").symlink_to("nowhere.png")
    found = open_labelled(tmp_path / "data")
    (row,) = extract(encoder(), found).unreadable
    assert found.places[row].name == "red/gone.png"
    assert found.digest() != images.digest()


def test_features_that_are_not_finite_name_an_image(images: Labelled) -> None:
    broken = encoder()
    torch.nn.init.constant_(broken.vit.norm.weight, float("nan"))
    with pytest.raises(InputError, match=r"not finite for 7 images, first .*blue0.png"):
        extract(broken, images)


def test_features_are_kept_for_the_same_weights_and_images_only(tmp_path: Path, images: Labelled) -> None:
    work = Work(cache=tmp_path / "cache")
    first = extract(encoder(), images, work=work)
    (kept,) = (tmp_path / "cache").iterdir()
    stamp = kept.stat().st_mtime_ns
    again = extract(encoder(), images, work=work)
    assert again.seconds == first.seconds and kept.stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(again.values, first.values)
    whole = kept.read_bytes()
    for damaged in (whole[:100], b"", b"nonsense"):
        kept.write_bytes(damaged)
        with pytest.raises(InputError, match=r"npz: features cannot be read .*; delete it, they are computed again"):
            extract(encoder(), images, work=work)
    kept.write_bytes(whole)
    extract(encoder("token"), images, work=work)
    other = encoder()
    torch.nn.init.constant_(other.vit.cls_token, 1.0)
    extract(other, images, work=work)
    images.places[0].path.write_bytes(images.places[1].read())
    extract(encoder(), images, work=work)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_parquet_and_npy_hold_the_features(tmp_path: Path, images: Labelled) -> None:
    features = extract(encoder(), images)
    write_features(features, images, tmp_path / "f.parquet", {"encoder": "tiny"})
    table = pq.read_table(tmp_path / "f.parquet")
    assert table.column_names == ["image", "label", "part", "readable", "feature"]
    assert table["label"].to_pylist() == ["blue"] * 4 + ["red"] * 3
    np.testing.assert_array_equal(np.stack(table["feature"].to_numpy()), features.values)
    assert table.schema.metadata == {b"encoder": b"tiny"}
    written = write_features(features, images, tmp_path / "f.npy", {"input": "central square"})
    assert written == [tmp_path / "f.npy", tmp_path / "f.json"]
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), features.values)
    beside = json.loads((tmp_path / "f.json").read_text())
    assert beside["input"] == "central square" and len(beside["images"]) == 7
    assert beside["images"][0] == {"image": "blue/deep/blue0.png", "label": "blue", "part": "", "readable": True}
    with pytest.raises(InputError, match="must end in .parquet or .npy"):
        write_features(features, images, tmp_path / "f.csv", {})


def test_the_command_says_how_images_were_shown(
    tmp_path: Path, images: Labelled, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["features", "--encoder", "histogram", "--data", str(tmp_path / "data"), "--out"]
    assert main([*asked, str(tmp_path / "f.npy")]) == 0
    assert json.loads((tmp_path / "f.json").read_text())["input"] == (
        "central square, bicubic to 256 px, mean (0, 0, 0), deviation (1, 1, 1); 8 x 8 x 8 colours, square roots"
    )
    assert str(tmp_path / "f.json") in capsys.readouterr().out
    shutil.rmtree(tmp_path / "data")  # what can be told at once is told before any image is read
    assert main([*asked, str(tmp_path / "f.csv")]) == 2
    assert "f.csv: must end in .parquet or .npy" in capsys.readouterr().err
