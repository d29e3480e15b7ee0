"""The command line as a user types it: the chain, and one clear line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
import yaml
from imagery import MakeShards, encode, picture
from small_run import settings

from curation.cli import main as curate
from pretrain.cli import main


@pytest.fixture
def config_file(make_shards: MakeShards, tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(settings(make_shards([8, 8]), epochs=2)))
    return path


def labelled(folder: Path) -> Path:
    for number in range(12):
        path = folder / ("waves", "night")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(number, 40, 40) // (1 + number % 2 * 8), "png"))
    return folder


def test_the_chain(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--run", str(tmp_path / "run")]
    command = ["train", str(config_file), "epochs=1", "--out", str(tmp_path / "run"), "optim.base_lr=0.02"]
    assert main(command) == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["optim"]["base_lr"] == 0.02
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["visualise", *run, "--out", str(tmp_path / "r.png"), "--count", "2"]) == 0
    assert main(["plot", *run, "--out", str(tmp_path / "loss.svg")]) == 0
    assert "<svg" in (tmp_path / "loss.svg").read_text()
    assert main(["export", *run, "--out", str(tmp_path / "encoder")]) == 0
    assert f"timm.create_model('local-dir:{tmp_path / 'encoder'}', pretrained=True)" in capsys.readouterr().out
    data = ["--data", str(labelled(tmp_path / "labelled")), "--k", "1", "3", "--out", str(tmp_path / "knn.json")]
    assert main(["evaluate", *run, *data]) == 0
    assert "6 training and 6 test images in 2 classes" in capsys.readouterr().out
    first = json.loads((tmp_path / "knn.json").read_text())["encoders"]
    assert [sorted(each["answers"]) for each in first] == [["kNN 1", "kNN 3", "linear"]] * 2
    card = ["--results", str(tmp_path / "knn.json"), "--out", str(tmp_path / "told")]
    assert main(["export", *run, *card]) == 0
    told = (tmp_path / "told" / "README.md").read_text()
    accuracy = first[0]["answers"]["kNN 3"]["accuracy"]
    assert "## Results on labelled" in told and "| encoder | kNN 1 | kNN 3 | linear |" in told
    assert f"{100 * accuracy['mean']:.1f} % ({100 * accuracy['low']:.1f} - {100 * accuracy['high']:.1f})" in told
    weights = ["--weights", str(tmp_path / "encoder"), "--encoder", "histogram", "--cache", str(tmp_path / "cache")]
    assert main(["evaluate", *weights, *data]) == 0
    again = json.loads((tmp_path / "knn.json").read_text())["encoders"]
    assert [each["identity"] for each in again[:2]] == [each["identity"] for each in first]
    assert again[0]["answers"]["kNN 3"]["guesses"] == first[0]["answers"]["kNN 3"]["guesses"]
    assert again[2]["answers"]["linear"]["accuracy"]["mean"] == 1  # one class is eight times darker
    for number in range(4):
        for kind, pixels in (("images", picture(number, 32, 32)), ("masks", picture(number, 32, 32)[..., 0] // 128)):
            (tmp_path / "towns" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "towns" / kind / f"{number}.png").write_bytes(encode(pixels, "png"))
    towns = ["--data", str(tmp_path / "towns"), "--masks", "folders", "--classes", "0=dark", "1=bright"]
    assert main(["evaluate", *run, *towns, "--out", str(tmp_path / "segment.json")]) == 0
    told = capsys.readouterr().out
    assert "2 training and 2 test images in 2 classes" in told
    assert "segment, mIoU" in told and "windows of 32 px, bicubic to 32 px, mean (0.485, 0.456, 0.406)" in told
    assert "mIoU" in json.loads((tmp_path / "segment.json").read_text())["encoders"][0]["answers"]["segment"]["scores"]
    features = ["features", "--encoder", f"run:{tmp_path / 'run'}", *data[:2], "--out", str(tmp_path / "f.npy")]
    assert main(features) == 0
    assert np.load(tmp_path / "f.npy").shape == (12, 24)


def test_tars_that_webdataset_wrote_can_be_trained_on(config_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    for shard in range(2):
        with webdataset.TarWriter(str(folder / f"f{shard}.tar")) as writer:
            for n in range(4):
                writer.write({"__key__": f"{shard}/{n}", "png": picture(n, 40, 40), "json": {"gsd_m": 0.5}})
    assert curate(["index", str(folder)]) == 0
    assert curate(["index", str(folder)]) == 0
    command = ["train", str(config_file), f"data.shards={folder}", "epochs=1", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert np.isfinite(json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["loss"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.yaml", "--out", "{tmp}/run"], "none.yaml: no such file"),
        (["train", "{config}", "optm.base_lr=1", "--out", "{tmp}/run"], "optm: unknown key; did you mean 'optim'?"),
        (["train", "{config}", "epochs=0", "--out", "{tmp}/run"], "epochs: Input should be greater than or equal to 1"),
        (["train", "{config}", "data.shards={tmp}/gone", "--out", "{tmp}/run"], "gone: no such folder"),
        (["train", "{config}", "data.shards={tmp}", "--out", "{tmp}/run"], "is the output of a run; its shards are"),
        (["train", "{config}", "--out", "{config}"], "is a file, or lies below one; give a folder"),
        (["export", "--run", "{tmp}/gone", "--out", "{tmp}/x"], "gone: no run of rs-pretrain train"),
        (["evaluate", "--weights", "{tmp}/gone", "--data", "{tmp}"], "gone: no such folder; give one that"),
        (["evaluate", "--encoder", "histogram"], "no images to evaluate on; give --data"),
        (["evaluate", "--data", "{tmp}"], "no encoder to evaluate; give --run DIR"),
        (["evaluate", "--encoder", "histogram", "--data", "{tmp}"], "there must be a folder of images per class"),
        (["evaluate", "--encoder", "histogram", "--data", "{tmp}", "--gsd", "0"], "the data options: gsd_m: Input"),
        (["plot", "--run", "{tmp}", "--out", "{tmp}/x.png"], "has no log.jsonl"),
        (["plot", "--run", "{tmp}", "--out", "{tmp}/x.gif"], "must end in .png or .svg"),
    ],
)
def test_mistakes_give_one_line_and_code_2(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [word.format(tmp=tmp_path, config=config_file) for word in arguments]
    assert main(given) == 2
    told = capsys.readouterr().err
    assert told.startswith("rs-pretrain: ")
    assert told.count("\n") == 1
    assert message in told


def test_what_argparse_refuses_is_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("train", "plot x=1 --run a --out b", "train demo --out x --fast", "features --encoder x"):
        with pytest.raises(SystemExit) as stopped:
            main(line.split())
        assert stopped.value.code == 2


def test_a_misspelt_config_is_told_what_it_may_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "dmeo", "--out", str(tmp_path / "run")]) == 2
    assert "dmeo: no such config; did you mean demo? shipped: " in capsys.readouterr().err
