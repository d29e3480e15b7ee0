"""What is pushed is what the Hub holds, and what timm loads from there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest
import torch
from imagery import MakeShards
from small_run import Quiet, config

from pretrain.cli import main
from pretrain.export import export
from pretrain.run import load_run
from pretrain.train import train

_TIMM_ALONE = """
import sys, timm, torch
model = timm.create_model("hf-hub:me/encoder", pretrained=True).eval()
torch.save(model(torch.load("images.pt")), "features.pt")
assert not {"pretrain", "curation"} & sys.modules.keys()
"""


@pytest.fixture
def encoder(make_shards: MakeShards, tmp_path: Path) -> Path:
    train(config(make_shards([8]), epochs=1), tmp_path / "run", Quiet())
    export(tmp_path / "run", tmp_path / "encoder")
    return tmp_path / "encoder"


def test_timm_alone_loads_what_was_pushed(
    encoder: Path, tmp_path: Path, hub: hub_server.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["push", "--weights", str(encoder), "--to", "me/encoder"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert (
        "4 files uploaded, 0 were there" in told and "timm.create_model('hf-hub:me/encoder', pretrained=True)" in told
    )
    assert hub.private is True
    assert hub.commits == [4]  # all or nothing
    assert hub.files == {path.name: path.read_bytes() for path in encoder.iterdir()}
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save(images, tmp_path / "images.pt")
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    subprocess.run([sys.executable, "-I", "-c", _TIMM_ALONE], cwd=tmp_path, check=True, env=environment)
    trained, _, _ = load_run(tmp_path / "run")
    torch.testing.assert_close(torch.load(tmp_path / "features.pt"), trained.encoder(images), atol=1e-6, rtol=0)
    assert main(command) == 0
    assert "0 files uploaded, 4 were there" in capsys.readouterr().out
    hub.files["config.json"] = hub.files["config.json"].replace(b"bicubic", b"bilinea")  # of equal size
    assert main(command) == 0
    assert "1 files uploaded, 3 were there" in capsys.readouterr().out


def test_what_cannot_be_pushed_is_told(
    encoder: Path, hub: hub_server.Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["push", "--weights", str(encoder), "--to"]
    assert main([*command, "encoder"]) == 2
    assert "encoder: no name of a repository; give USER/NAME" in capsys.readouterr().err
    hub.refusals["commit"] = [500]
    assert main([*command, "me/encoder"]) == 1
    assert "hf://me/encoder: " in (told := capsys.readouterr().err) and "the same command goes on" in told
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    assert main([*command, "me/encoder"]) == 2
    assert "log in with `hf auth login`, or set HF_TOKEN" in capsys.readouterr().err
    (encoder / "README.md").unlink()
    assert main([*command, "me/encoder"]) == 2
    assert "README.md: no such file; rs-pretrain export writes it" in capsys.readouterr().err
    assert not hub.files
