"""Fine-tuning learns, goes on exactly where it stopped, and gives each layer the rate of the recipe."""

from __future__ import annotations

import os
import signal
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imagery import encode, picture
from PIL import Image
from timm.optim import create_optimizer_v2

from curation.base.errors import InputError, WorkError
from curation.base.settings import validate
from pretrain.evaluate.encoders import EncoderSpec, open_encoder
from pretrain.evaluate.finetune import Finetune, _augmentation, classifier, finetune
from pretrain.evaluate.labelled import DataSet, Divided, open_dataset
from pretrain.run import RunFolder

CPU = torch.device("cpu")
ARGS = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
VIT = open_encoder(EncoderSpec(spec="untrained:vit_tiny_patch16_224", args=ARGS))
RECIPE = Finetune(epochs=4, batch=8, base_lr=0.1, drop_path=0.1)


@pytest.fixture
def data(tmp_path: Path) -> Divided:
    for number in range(49):
        path = tmp_path / "images" / ("waves", "night")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rgb = picture(number, 40, 40) // (1 + number % 2 * 8)
        path.write_bytes(b"no image" if number == 48 else encode(rgb, "png"))
    return open_dataset(DataSet(path=tmp_path / "images"))


def test_it_learns_and_leaves_out_what_cannot_be_read(data: Divided) -> None:
    tuned = finetune(VIT, data, RECIPE.model_copy(update={"epochs": 12, "augment": None, "mixup": 0, "cutmix": 0}), CPU)
    truth = data.images.labels[tuned.test]
    assert (tuned.guesses == truth).mean() > 0.9
    assert tuned.unreadable == ["waves/48.png"]
    assert tuned.train_images + len(tuned.test) == 48
    assert tuned.losses[-1] < tuned.losses[0]


def test_a_signal_in_an_epoch_saves_and_the_rest_is_exact(
    data: Divided, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finetune(VIT, data, RECIPE, CPU)
    calls = count(1)

    def tell(*_: object) -> None:
        if next(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    def told_to_stop(*arguments: Any) -> torch.nn.Module:
        model = classifier(*arguments)
        model.register_forward_hook(tell)
        return model

    with monkeypatch.context() as patched:
        patched.setattr("pretrain.evaluate.finetune.classifier", told_to_stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(VIT, data, RECIPE, CPU, folder=tmp_path / "kept")
    assert RunFolder(tmp_path / "kept").latest()[1].step == 5  # of three in an epoch
    rest = finetune(VIT, data, RECIPE, CPU, workers=1, folder=tmp_path / "kept")
    assert rest.losses == pytest.approx(whole.losses, abs=1e-12)
    assert rest.guesses.tolist() == whole.guesses.tolist()
    assert not (tmp_path / "kept").exists()


def test_a_rate_that_is_too_high_is_told(data: Divided, caplog: pytest.LogCaptureFixture) -> None:
    wild = RECIPE.model_copy(update={"base_lr": 1e30, "warmup_epochs": 0})
    with pytest.raises(
        WorkError, match="steps were not finite .* which ends a tuning; set base_lr of the recipe lower"
    ):
        finetune(VIT, data, wild, CPU)
    assert "not finite: step" in caplog.text


def test_the_short_recipe_is_what_the_documentation_says() -> None:
    short = Finetune(recipe="short", epochs=3)
    assert (short.epochs, short.base_lr, short.vflip) == (3, 4e-3, 0.5)  # what is given counts
    assert (short.mixup, short.cutmix, short.drop_path, short.augment) == (0, 0, 0, None)
    assert (short.layer_decay, short.crop_scale) == (1, (0.5, 1.0))
    assert (short.weight_decay, short.smoothing, short.batch) == (0.05, 0.1, 64)  # as published
    assert Finetune(recipe="short").epochs == 20
    assert Finetune.model_validate(short.model_dump()).model_dump() == short.model_dump()
    with pytest.raises(InputError, match="recipe: Input should be 'published' or 'short'"):
        validate(Finetune, {"recipe": "fast"}, "suite.yaml")


def test_each_layer_has_the_rate_of_the_recipe() -> None:
    model = classifier(VIT, 3, RECIPE)
    torch.testing.assert_close(model.blocks[1].mlp.fc1.weight, VIT.vit.blocks[1].mlp.fc1.weight)
    assert model.blocks[1].drop_path1.drop_prob == pytest.approx(0.1)
    optimizer = create_optimizer_v2(model, "adamw", lr=1, weight_decay=0.05, layer_decay=0.75)
    scales = {id(each): group["lr_scale"] for group in optimizer.param_groups for each in group["params"]}
    # MAE, util/lr_decay.py: 0.75 ** (layers - number of the layer); embedding 0, blocks 1 and 2, head 3.
    named = dict(model.named_parameters())
    for name, power in {
        "patch_embed.proj.weight": 3,
        "blocks.0.attn.qkv.bias": 2,
        "blocks.1.mlp.fc2.weight": 1,
    }.items():
        assert scales[id(named[name])] == pytest.approx(0.75**power), name
    assert scales[id(named["head.weight"])] == 1


def test_the_strongest_augmentation_is_one_that_pillow_takes() -> None:
    augment = _augmentation("rand-m10-inc1", 32)
    augment.ops = [op for op in augment.ops if op.name == "PosterizeIncreasing"]
    augment.ops[0].prob = 1.0
    pixels = np.array(augment(Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))))
    assert set(np.unique(pixels)) == {0, 128}  # one bit


def test_what_cannot_be_tuned_is_told(data: Divided) -> None:
    with pytest.raises(InputError, match="colour histogram: cannot be fine-tuned; leave it out"):
        finetune(open_encoder(EncoderSpec(spec="histogram")), data, RECIPE, CPU)
    with pytest.raises(InputError, match="augment: 'randy-m9' is no random augmentation of timm"):
        _augmentation("randy-m9", 32)
    with pytest.raises(InputError, match="pool both: a classifier is tuned on the mean or on the token"):
        classifier(VIT, 3, RECIPE.model_copy(update={"pool": "both"}))


def test_other_timm_models_and_the_class_token(data: Divided) -> None:
    convolutions = open_encoder(EncoderSpec(spec="random:resnet10t"))
    assert classifier(convolutions, 5, RECIPE)(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    token = classifier(VIT, 2, RECIPE.model_copy(update={"pool": "token"}))
    images = torch.rand(2, 3, 32, 32)
    token.eval()
    expected = VIT.vit.forward_features(images)[:, 0] @ token.head.weight.T
    torch.testing.assert_close(token(images), expected)
