"""Labelled images in folders, shards and lists, and how they are divided."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from imagery import make_samples
from labelled_images import write_tree

from curation.base.errors import InputError
from curation.shards.format import write_index, write_shard
from pretrain.evaluate.labelled import DataSet, open_dataset, open_labelled, split


def test_a_folder_tree_is_split_class_by_class(tmp_path: Path) -> None:
    labelled = open_labelled(write_tree(tmp_path, {"red": 10, "blue": 4, "one": 1}))
    assert labelled.classes == ["blue", "one", "red"]
    train, test = split(labelled.labels, 0.25)
    assert np.bincount(labelled.labels[train]).tolist() == [1, 1, 2]
    assert np.bincount(labelled.labels[test]).tolist() == [3, 0, 8]
    assert sorted([*train, *test]) == list(range(15))
    assert split(labelled.labels, 0.25)[0].tolist() == train.tolist()
    assert split(labelled.labels, 0.5, seed=1)[0].tolist() != split(labelled.labels, 0.5, seed=2)[0].tolist()


@pytest.mark.parametrize("counts", [{}, {"red": 2}])
def test_a_folder_without_classes_is_refused(tmp_path: Path, counts: dict[str, int]) -> None:
    with pytest.raises(InputError, match="a folder of images per class"):
        open_labelled(write_tree(tmp_path, counts))


def test_labels_of_shards_are_the_raw_images_folders(tmp_path: Path) -> None:
    samples = make_samples(0, 6, (20, 20), 0.3, set())
    named = [
        replace(s, meta=s.meta | {"image": f"set/{('sea', 'land')[n % 2]}/{n}.tif"}) for n, s in enumerate(samples)
    ]
    infos = [write_shard(named, tmp_path / "t-000000.tar")]
    write_index(infos, tmp_path)
    labelled = open_labelled(tmp_path)
    assert labelled.classes == ["land", "sea"]
    assert labelled.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert sorted(place.read() for place in labelled.places) == sorted(sample.image for sample in samples)
    np.testing.assert_allclose(labelled.gsd, 0.3, rtol=1e-6)


def test_lists_name_images_whole_or_by_the_file(tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data", {"red": 3, "blue": 2})
    (tmp_path / "train.txt").write_text("red/deep/red0.png\nblue1.png\n\n")
    (tmp_path / "test.txt").write_text("red2.png\nblue/deep/blue0.png\n")
    lists = {"train_list": tmp_path / "train.txt", "test_list": tmp_path / "test.txt"}
    divided = open_dataset(DataSet(path=data, **lists))
    names = [place.name for place in divided.images.places]
    assert [names[row] for row in divided.train] == ["blue/deep/blue1.png", "red/deep/red0.png"]
    assert [names[row] for row in divided.test] == ["blue/deep/blue0.png", "red/deep/red2.png"]
    assert divided.marked().parts == ["test", "train", "train", "", "test"]
    (tmp_path / "test.txt").write_text("red2.png\nred0.png\n")
    with pytest.raises(InputError, match=r"test.txt: red/deep/red0.png is in .*train.txt as well"):
        open_dataset(DataSet(path=data, **lists))
    (tmp_path / "test.txt").write_text("red9.png\n")
    with pytest.raises(InputError, match=r"test.txt, line 1: red9.png names 0 images of the data; for example blue"):
        open_dataset(DataSet(path=data, **lists))


def test_a_csv_list_brings_labels_parts_and_gsd(tmp_path: Path) -> None:
    write_tree(tmp_path, {"red": 2, "blue": 1})
    rows = ["image,label,part,gsd_m", "red/deep/red0.png,warm,train,0.5", "blue/deep/blue0.png,cold,train,"]
    path = tmp_path / "list.csv"
    path.write_text("\n".join([*rows, "red/deep/red1.png,warm,test,2"]) + "\n")
    divided = open_dataset(DataSet(path=path, gsd_m=7))
    assert (divided.images.classes, divided.images.gsd.tolist()) == (["cold", "warm"], [7, 0.5, 2])
    assert (divided.train.tolist(), divided.test.tolist()) == ([0, 1], [2])
    assert divided.one_sided == "only in one part, to train on or to test on: cold"
    path.write_text("\n".join([*rows, "red/deep/red9.png,warm,test,2"]))
    with pytest.raises(InputError, match=r"list.csv, line 4: .*red9.png: no such file"):
        open_dataset(DataSet(path=path))
    path.write_text("file,label\n")
    with pytest.raises(InputError, match=r"has columns file, label; expected image,label"):
        open_dataset(DataSet(path=path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\nred0.png\nblue0.png,cold", "line 2: has 1 fields, the first line 2"),
        ("image,label\nred0.png,warm,train", "line 2: has 3 fields, the first line 2"),
        ("image,label\nred0.png,\nblue0.png,cold", "line 2: has no label"),
        ("image,label,part\nred0.png,warm,train\nblue0.png,cold,", "line 3: part ''; expected train or test in every"),
        ("image,label,gsd_m\nred0.png,warm,-1", "line 2: gsd_m '-1'; expected metres"),
        ("image,label,gsd_m\nred0.png,warm,inf", "line 2: gsd_m 'inf'; expected metres"),
        ("image,label,part\nred0.png,warm,train\nred0.png,warm,test\nblue0.png,cold,test", "red0.png: is in the data"),
        ("image,image,label\nred0.png,red0.png,warm", "has columns image, image, label"),
        ("", "has columns ; expected image,label"),
    ],
)
def test_what_is_wrong_in_a_list_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    write_tree(tmp_path, {"red": 1, "blue": 1})
    path = tmp_path / "list.csv"
    path.write_text(text.replace("red0", "red/deep/red0").replace("blue0", "blue/deep/blue0"))
    with pytest.raises(InputError, match=re.escape(message)):
        open_dataset(DataSet(path=path))
    path.write_bytes("image,label\nred/deep/red0.png,rød\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"list.csv: cannot be read .* in UTF-8"):
        open_dataset(DataSet(path=path))


def test_no_image_is_counted_twice_or_seen_in_both_parts(tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data", {"red": 2, "blue": 2})
    with pytest.raises(InputError, match=r"blue0.png: is in the data twice"):
        open_dataset(DataSet(path=data, test_path=data))
    (tmp_path / "train.txt").write_text("red0.png\nred/deep/red0.png\n")
    (tmp_path / "test.txt").write_text("red1.png\n")
    with pytest.raises(InputError, match=r"train.txt, line 2: red/deep/red0.png is named a second time"):
        open_dataset(DataSet(path=data, train_list=tmp_path / "train.txt", test_list=tmp_path / "test.txt"))


def test_an_image_that_changed_changes_the_digest(tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data", {"red": 2, "blue": 2})
    first, images = open_dataset(DataSet(path=data)).digest(), open_labelled(data).digest()
    assert open_dataset(DataSet(path=data)).digest() == first
    assert open_dataset(DataSet(path=data, seed=5)).digest() != first
    data.rename(tmp_path / "moved")
    assert open_dataset(DataSet(path=tmp_path / "moved")).digest() == first
    (tmp_path / "moved" / "red" / "deep" / "red0.png").write_bytes(b"other")
    assert open_labelled(tmp_path / "moved").digest() != images
