"""What is exported is what timm loads, and gives the features that the trained encoder gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import yaml
from exported_demo import TIMM_ALONE, demo_run, same_features
from imagery import MakeShards
from safetensors.torch import load_file
from small_run import Quiet, config

from curation.base.errors import FormatVersionError, InputError
from pretrain.export import export, load_export
from pretrain.train import train


@pytest.fixture
def run(make_shards: MakeShards, tmp_path: Path) -> Path:
    train(config(make_shards([8, 5]), epochs=1), tmp_path / "run", Quiet())
    return tmp_path / "run"


def test_timm_alone_loads_the_demo_s_encoder(make_shards: MakeShards, tmp_path: Path) -> None:
    """In a process in which nothing of this project can be imported."""
    run = demo_run(make_shards([6], side=(80, 90)), tmp_path)
    script = "import sys\nsys.modules['pretrain'] = sys.modules['curation'] = None\n" + TIMM_ALONE
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
    same_features(run, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True)
    assert loaded.state_dict().keys() == load_file(tmp_path / "encoder" / "model.safetensors").keys()
    assert load_export(tmp_path / "encoder")[1].parameters == sum(each.numel() for each in loaded.parameters())


def test_the_model_card_names_what_a_reader_needs(run: Path, tmp_path: Path) -> None:
    card = export(run, tmp_path / "encoder")
    text = (tmp_path / "encoder" / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "timm"
    assert card.data is not None
    for told in (
        "| source0 | CC0-1.0 | 8 |",
        f"`{card.data.fingerprint}` and the key `test`;\nno catalogue lay there.",
        "| mean of RGB in 0 to 1 | 0.485, 0.456, 0.406 |",
    ):
        assert told in body
    assert yaml.safe_load(body.rpartition("```yaml\n")[2].removesuffix("```\n")) == card.config


def test_the_card_names_data_normalisation_and_config(run: Path, tmp_path: Path) -> None:
    card = export(run, tmp_path / "encoder")
    assert (card.step, card.total_steps, card.objective, card.input_size) == (3, 3, "selective_mae", 32)
    assert (card.mean, card.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert card.data is not None
    assert card.data.key == ["test"]
    assert (card.data.samples, card.data.licences) == ({"source0": 8, "source1": 5}, {"CC0-1.0": 13})
    assert card.config["optim"]["base_lr"] == 0.01
    encoder, again = load_export(tmp_path / "encoder")
    assert again == card
    assert not encoder.training


def test_the_catalogue_beside_the_shards_is_named_by_its_checksum(run: Path, tmp_path: Path) -> None:
    (tmp_path / "catalogue.parquet").write_bytes(b"abc")
    card = export(run, tmp_path / "encoder")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert card.data is not None and card.data.catalogue == [known]
    text = (tmp_path / "encoder" / "README.md").read_text()
    assert f"`catalogue.parquet` beside them has the SHA-256 `{known}`." in text


def test_results_of_other_weights_are_refused(run: Path, tmp_path: Path) -> None:
    found = {"data": {"path": "RSSCN7"}, "encoders": [{"name": "run, step 2", "answers": {}}]}
    (tmp_path / "results.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match="holds results of run, step 2, none of run, step 3; evaluate this checkpoint"):
        export(run, tmp_path / "encoder", tmp_path / "results.json")
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(InputError, match="not what rs-pretrain evaluate --out wrote"):
        export(run, tmp_path / "encoder", tmp_path / "results.json")


def test_a_run_whose_shards_are_gone_or_others_is_exported_without_them(
    run: Path, make_shards: MakeShards, tmp_path: Path
) -> None:
    (tmp_path / "shards").rename(tmp_path / "moved")
    assert export(run, tmp_path / "encoder").data is None
    make_shards([3])
    assert export(run, tmp_path / "encoder").data is None
    assert "or no longer those of the training" in (tmp_path / "encoder" / "README.md").read_text()


def test_what_cannot_be_loaded_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run of rs-pretrain train"):
        export(tmp_path / "nothing", tmp_path / "encoder")
    out = tmp_path / "encoder"
    export(run, out)
    weights = out / "model.safetensors"
    data = json.loads((out / "card.json").read_text())
    (out / "card.json").write_text(json.dumps(data | {"format_version": 9}))
    with pytest.raises(FormatVersionError, match="version 9, this release reads 1; export again"):
        load_export(out)
    data["encoder"]["args"]["embed_dim"] = 48
    (out / "card.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"model.safetensors: cannot be loaded"):
        load_export(weights)
    with pytest.raises(InputError, match="gone: no such folder; give one that rs-pretrain export wrote"):
        load_export(tmp_path / "gone")
    (out / "card.json").unlink()
    with pytest.raises(InputError, match=r"card.json: no such file; give a folder that rs-pretrain export wrote"):
        load_export(weights)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="give another --out"):
        export(run, tmp_path / "file")
