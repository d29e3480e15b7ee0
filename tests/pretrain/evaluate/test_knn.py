"""Nearest neighbours against numbers that NumPy and scikit-learn computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from imagery import make_samples
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from curation.base.errors import InputError
from curation.shards.format import write_index, write_shard
from pretrain.config import EncoderConfig
from pretrain.evaluate.features import Preparation, extract, open_labelled, split
from pretrain.evaluate.knn import knn_accuracy, knn_scores
from pretrain.models.encoder import build_encoder


def test_equal_to_the_reference(shared: Path) -> None:
    data = np.load(shared / "reference" / "knn_reference.npz", allow_pickle=False)
    train, test = torch.from_numpy(data["train_features"]), torch.from_numpy(data["test_features"])
    labels, truth = torch.from_numpy(data["train_labels"]), torch.from_numpy(data["test_labels"])
    for k in (1, 5, 20):
        scores = knn_scores(train, labels, test, k, 10, chunk=77)
        np.testing.assert_array_equal(scores.argmax(1).numpy(), data[f"pred_weighted_k{k}"])
    np.testing.assert_allclose(scores.numpy(), data["scores_weighted_k20"], rtol=1e-5)
    accuracy = knn_accuracy(train, labels, test, truth, [1, 5, 20, 5000])
    assert accuracy == {1: 179 / 300, 5: 197 / 300, 20: 209 / 300}


def test_one_neighbour_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    train, test, labels = rng.normal(size=(200, 8)), rng.normal(size=(50, 8)), rng.integers(0, 4, 200)
    theirs = KNeighborsClassifier(1, metric="cosine").fit(train, labels).predict(test)
    ours = knn_scores(torch.from_numpy(train), torch.from_numpy(labels), torch.from_numpy(test), 1, 4).argmax(1)
    np.testing.assert_array_equal(ours, theirs)


def write_tree(folder: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for number in range(count):
            path = folder / name / "deep" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            colour = (250, 10, 10) if name == "red" else (10, 10, 250)
            Image.new("RGB", (20 + number, 24), colour).save(path)
    return folder


def test_a_folder_tree_is_split_class_by_class(tmp_path: Path) -> None:
    labelled = open_labelled(write_tree(tmp_path, {"red": 10, "blue": 4, "one": 1}))
    assert labelled.classes == ["blue", "one", "red"]
    train, test = split(labelled, 0.25)
    assert np.bincount(train.labels).tolist() == [1, 1, 2]
    assert np.bincount(test.labels).tolist() == [3, 0, 8]
    assert not set(train.places) & set(test.places)
    assert split(labelled, 0.25)[0].places == train.places
    assert split(labelled, 0.5, seed=1)[0].places != split(labelled, 0.5, seed=2)[0].places


def test_features_do_not_depend_on_the_batch_and_equal_timms(tmp_path: Path) -> None:
    labelled = open_labelled(write_tree(tmp_path, {"red": 3, "blue": 4}))
    args = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
    encoder = build_encoder(EncoderConfig(name="vit_tiny_patch16_224", args=args))
    prepare = Preparation(32, [0.5, 0.5, 0.5], [0.2, 0.2, 0.2])
    (whole,) = extract([encoder], labelled, prepare, "token")
    (parts,) = extract([encoder], labelled, prepare, "token", batch_size=2)
    torch.testing.assert_close(whole, parts)
    pixels = torch.tensor([10, 10, 250.0])[None, :, None, None].expand(1, 3, 32, 32) / 255
    torch.testing.assert_close(whole[:1], encoder((pixels - 0.5) / 0.2))  # blue, class token, as timm pools


@pytest.mark.parametrize("counts", [{}, {"red": 2}])
def test_a_folder_without_classes_is_refused(tmp_path: Path, counts: dict[str, int]) -> None:
    with pytest.raises(InputError, match="a folder of images per class"):
        open_labelled(write_tree(tmp_path, counts))


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path, {"red": 1, "blue": 1})
    (tmp_path / "red" / "broken.jpg").write_bytes(b"\xff\xd8nonsense")
    labelled = open_labelled(tmp_path)
    encoder = build_encoder(EncoderConfig(name="vit_tiny_patch16_224", args={"depth": 1}))
    with pytest.raises(InputError, match=r"broken.jpg: cannot be decoded"):
        extract([encoder], labelled, Preparation(224, [0.5] * 3, [0.5] * 3))


def test_labels_of_shards_are_the_raw_images_folders(tmp_path: Path) -> None:
    samples = make_samples(0, 6, (20, 20), None, set())
    named = [
        replace(s, meta=s.meta | {"image": f"set/{('sea', 'land')[n % 2]}/{n}.tif"}) for n, s in enumerate(samples)
    ]
    infos = [write_shard(named, tmp_path / "t-000000.tar")]
    write_index(infos, tmp_path)
    labelled = open_labelled(tmp_path)
    assert labelled.classes == ["land", "sea"]
    assert labelled.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert sorted(place.read() for place in labelled.places) == sorted(sample.image for sample in samples)
