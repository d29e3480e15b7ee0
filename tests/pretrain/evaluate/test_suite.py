"""The suite: one table, nothing asked twice, nothing lost when a cell cannot be asked."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from imagery import encode, picture
from PIL import Image
from small_run import Quiet

from curation.base.errors import InputError
from curation.base.settings import load
from pretrain.cli import main
from pretrain.evaluate.suite import Suite, run_suite

ARGS = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for number in range(24):
        path = tmp_path / "images" / ("waves", "night")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(number, 40, 40) // (1 + number % 2 * 8), "png"))
    settings = {
        "encoders": {"untrained": {"spec": "untrained:vit_tiny_patch16_224", "args": ARGS}, "colours": "histogram"},
        "datasets": {"tiny": {"path": str(tmp_path / "images")}},
        "protocols": {"kNN": {"name": "knn", "k": 3}, "linear": {"name": "linear"}},
        "baseline": "untrained",
    }
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def test_the_table_and_its_cells(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", "suite", str(config), "--out", str(out)]) == 0
    text = (out / "table.md").read_text()
    assert "## tiny\n\n12 training and 12 test images; 0 could not be read." in text
    assert (
        "| encoder | kNN | linear | features s | classifiers s |\n| --- | --- | --- | --- | --- |\n| untrained |"
        in text
    )
    assert "| colours | 100.0 % (100.0 - 100.0) | 100.0 % (100.0 - 100.0) |" in text
    shown = "central square, bicubic to 32 px, mean (0.5, 0.5, 0.5), deviation (0.5, 0.5, 0.5); mean of"
    assert f"\n\n- untrained: {shown} patch tokens\n- colours: central square, bicubic to 256 px" in text
    assert shown in (out / "table.html").read_text()
    cells = json.loads((out / "table.json").read_text())["cells"]
    assert [(cell["encoder"], cell["protocol"]) for cell in cells] == [
        ("untrained", "kNN"), ("untrained", "linear"), ("colours", "kNN"), ("colours", "linear"),
    ]  # fmt: skip
    assert cells[2]["difference"]["mean"] == pytest.approx(1 - cells[0]["accuracy"]["mean"])
    assert len(list((out / "features").iterdir())) == 2  # shared by the protocols
    with Image.open(next((out / "cells").glob("*.png"))) as drawn:
        assert min(drawn.size) > 300


class Links(HTMLParser):
    """What a page would load, and its tables' cells."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_is_one_file(config: Path, tmp_path: Path) -> None:
    suite = load(Suite, config, ["encoders.<b>bold={spec: histogram}"])
    assert run_suite(suite, tmp_path / "out", Quiet())[-1] == tmp_path / "out" / "table.html"
    text = (tmp_path / "out" / "table.html").read_text()
    page = Links()
    page.feed(text)
    assert len(page.loads) == page.tags["img"] == 6  # a confusion matrix per cell
    assert all(each.startswith("data:image/png;base64,") for each in page.loads)
    assert not page.tags["script"] and not page.tags["b"]  # a label is text
    assert "prefers-color-scheme: dark" in text
    assert page.tags["rect"] == 2 * 6
    assert "100.0 % (100.0 - 100.0)" in text


def test_masks_have_a_table_of_their_own(config: Path, tmp_path: Path) -> None:
    for number in range(4):
        rgb = picture(number, 32, 32)
        for kind, pixels in (("images", rgb), ("masks", (rgb[..., 0] > 128).astype("uint8"))):
            path = tmp_path / "towns" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(pixels, "png"))
    towns = f"masks.towns={{path: {tmp_path / 'towns'}, classes: {{0: dark, 1: bright}}}}"
    changes = [towns, "protocols.head={name: segment, epochs: 2, batch: 2}"]
    out, quiet = tmp_path / "out", Quiet()
    run_suite(load(Suite, config, changes), out, quiet)
    text = (out / "table.md").read_text()
    assert "## towns\n\n2 training and 2 test images; 0 could not be read." in text
    assert "| encoder | head, mIoU | head, mF1 | features s | classifiers s |" in text
    cells = json.loads((out / "table.json").read_text())["cells"]
    assert [(cell["dataset"], cell["encoder"]) for cell in cells if cell["protocol"] == "head"] == [
        ("towns", "untrained")
    ]
    assert cells[-1]["scores"]["mIoU"]["low"] <= cells[-1]["scores"]["mIoU"]["mean"]
    again = Quiet()
    run_suite(load(Suite, config, changes), out, again)
    assert all(text.endswith("known before") for text in again.said)
    with pytest.raises(InputError, match="masks.tiny: is one of the datasets, too"):
        load(Suite, config, [towns.replace("towns=", "tiny=")])


def test_only_what_is_new_is_asked(config: Path, tmp_path: Path) -> None:
    out, quiet = tmp_path / "out", Quiet()
    run_suite(load(Suite, config), out, quiet)
    stamps = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    again = Quiet()
    run_suite(load(Suite, config, ["protocols.kNN.k=1"]), out, again)
    assert [text.endswith("known before") for text in again.said] == [False, True, False, True]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert len(list((out / "cells").glob("*.json"))) == 6


def test_a_cell_that_cannot_be_asked_loses_no_other(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["evaluate", "suite", str(config), "--out", str(out), "protocols.kNN.k=13"]
    assert main(command) == 2
    assert "2 of 4 cells could not be asked: tiny, untrained, kNN: k 13: there are 12 images" in capsys.readouterr().err
    told = json.loads((out / "table.json").read_text())
    assert {cell["protocol"] for cell in told["cells"]} == {"linear"}
    why = "k 13: there are 12 images to train on; give --k 12 at most"
    assert told["not_asked"] == {"tiny, untrained, kNN": why, "tiny, colours, kNN": why}
    for name in ("table.md", "table.html"):
        assert f"tiny, colours, kNN: {why}" in (out / name).read_text()


def test_a_class_of_one_image_is_told(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images/lonely").mkdir()
    (tmp_path / "images/lonely/0.png").write_bytes(encode(picture(0, 40, 40), "png"))
    told = "only in one part, to train on or to test on: lonely"
    asked = ["--encoder", "histogram", "--data", str(tmp_path / "images"), "--k", "3", "--solver", "none"]
    assert main(["evaluate", *asked]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["13 training and 12 test images in 3 classes", told]
    quiet = Quiet()
    run_suite(load(Suite, config, ["encoders={colours: {spec: histogram}}", "baseline=null"]), tmp_path / "out", quiet)
    assert quiet.said[0] == f"tiny: {told}"
    for name in ("table.md", "table.html"):
        assert (
            "0 could not be read; only in one part, to train on or to test on: lonely. In"
            in (tmp_path / "out" / name).read_text()
        )


def test_folders_for_training_and_testing_may_use_the_same_names(config: Path, tmp_path: Path) -> None:
    """A training image that cannot be read is not the test image of its name."""
    shutil.copytree(tmp_path / "images", tmp_path / "others")
    (tmp_path / "images/waves/0.png").write_bytes(b"nonsense")
    changes = [f"datasets.tiny.test_path={tmp_path / 'others'}", "encoders={colours: {spec: histogram}}"]
    run_suite(load(Suite, config, [*changes, "baseline=null"]), tmp_path / "out", Quiet())
    (cell, _) = json.loads((tmp_path / "out/table.json").read_text())["cells"]
    assert (cell["train_images"], cell["test_images"], cell["unreadable"]) == (23, 24, ["waves/0.png"])


def test_a_config_that_is_wrong_is_told(config: Path) -> None:
    for change, message in {
        "baseline=nobody": "baseline 'nobody' is none of the encoders untrained, colours",
        "protocols.kNN.kk=1": "protocols.kNN.kk: unknown key; did you mean 'k'?",
        "protocols.s={name: segment}": "protocols.s: segment needs masks; give one at least",
        "masks.m={path: m, classes: {0: a, 1: b}}": "masks: no protocol asks them; add segment",
        "encoders={}": "encoders: Dictionary should have at least 1 item",
    }.items():
        with pytest.raises(InputError, match=re.escape(message)):
            load(Suite, config, [change])
