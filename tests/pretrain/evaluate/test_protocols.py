"""A whole question: features, classifier, interval, and what is left out on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest
from imagery import encode, picture
from labelled_images import write_tree

from curation.base.errors import InputError
from pretrain.evaluate.encoders import EncoderSpec, open_encoder
from pretrain.evaluate.features import Work
from pretrain.evaluate.labelled import DataSet, open_dataset
from pretrain.evaluate.protocols import Answer, Knn, LinearProbe, ask

ARGS = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2}
COLOURS = open_encoder(EncoderSpec(spec="histogram"))


def test_broken_images_are_left_out_of_both_parts(tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data", {"red": 6, "blue": 6})
    (tmp_path / "list.csv").write_text(
        "image,label,part\n"
        + "".join(
            f"data/{label}/deep/{label}{n}.png,{label},{'train' if n < 3 else 'test'}\n"
            for label in ("red", "blue")
            for n in range(6)
        )
    )
    for broken in ("red0", "blue4"):
        (data / broken.rstrip("04") / "deep" / f"{broken}.png").write_bytes(b"no image")
    divided = open_dataset(DataSet(path=tmp_path / "list.csv"))
    for protocol in (Knn(k=5, votes="plain"), LinearProbe(), LinearProbe(solver="lars", batch=4)):
        answer = ask(COLOURS, divided, protocol)
        assert (answer.train_images, answer.test_images) == (5, 5)
        assert answer.unreadable == ["data/blue/deep/blue4.png", "data/red/deep/red0.png"]
        assert Answer.from_json(answer.as_json()) == answer
    assert ask(COLOURS, divided, Knn(k=1)).accuracy == (1, 1, 1)
    # Of three blue and two red training images, the greater class wins every plain vote of all five.
    assert ask(COLOURS, divided, Knn(k=5, votes="plain")).accuracy.mean == pytest.approx(2 / 5)


def test_scales_are_averaged_image_by_image(tmp_path: Path) -> None:
    for number in range(40):
        path = tmp_path / "data" / ("a", "b")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(number // 2 + 50 * (number % 2), 48, 48), "png"))
    divided = open_dataset(DataSet(path=tmp_path / "data"))
    encoder = open_encoder(EncoderSpec(spec="untrained:vit_tiny_patch16_224", args=ARGS))
    single = [ask(encoder, divided, Knn(k=3, scales=[scale])) for scale in (0.5, 1.0)]
    both = ask(encoder, divided, Knn(k=3, scales=[0.5, 1.0]))
    assert both.details["sides"] == [24, 48]
    assert both.right == [(one + other) / 2 for one, other in zip(*(each.right for each in single), strict=True)]
    assert both.accuracy.mean == pytest.approx(sum(each.accuracy.mean for each in single) / 2)


def test_a_part_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_tree(tmp_path / part, {"red": 2, "blue": 2})
    for path in (tmp_path / "test").rglob("*.png"):
        path.write_bytes(b"no image")
    divided = open_dataset(DataSet(path=tmp_path / "train", test_path=tmp_path / "test"))
    with pytest.raises(InputError, match="4 images to train on and 0 to test on can be read"):
        ask(COLOURS, divided, Knn(k=1))


def test_too_many_neighbours_are_told_before_features_are_computed(tmp_path: Path) -> None:
    divided = open_dataset(DataSet(path=write_tree(tmp_path, {"red": 2, "blue": 2})))
    seen: list[int] = []
    with pytest.raises(InputError, match="k 3: there are 2 images to train on; give --k 2 at most"):
        ask(COLOURS, divided, Knn(k=3), Work(done=seen.append))
    assert not seen
