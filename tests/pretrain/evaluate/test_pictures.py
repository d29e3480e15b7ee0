"""Pictures: attention as timm computes it, components as scikit-learn finds them, twins as nearest neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from imagery import MakeShards, encode, picture
from matplotlib import colormaps
from PIL import Image
from sklearn.decomposition import PCA
from small_run import Quiet, config

from pretrain.cli import main
from pretrain.evaluate.encoders import EncoderSpec, VitEncoder, open_encoder
from pretrain.evaluate.pictures import attention, components, draw_kinds
from pretrain.sheet import heat
from pretrain.train import train

ARGS = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}


def test_numbers_as_colours() -> None:
    shown = heat(torch.tensor([[[0.0, 2.0], [1.0, 9.0]]]), 2.0, 4)
    for place, share in {(0, 0): 0.0, (0, 3): 1.0, (3, 0): 0.5, (3, 3): 1.0}.items():
        expected = np.round(np.array(colormaps["inferno"](share)[:3]) * 255)
        assert shown[0][place].tolist() == expected.tolist()


def test_attention_is_timms() -> None:
    encoder = open_encoder(EncoderSpec(spec="random:vit_tiny_patch16_224", args=ARGS))
    assert isinstance(encoder, VitEncoder)
    images = torch.from_numpy(np.stack([picture(n, 32, 32) for n in range(2)])).permute(0, 3, 1, 2)
    found = attention(encoder, images, torch.ones(2))
    assert found.shape == (2, 3, 4, 4)
    last, seen = encoder.vit.blocks[-1].attn, []
    last.fused_attn = False  # timm's own matrix passes through its dropout
    last.attn_drop.register_forward_hook(lambda module, given, result: seen.append(result))
    encoder.features(images, torch.ones(2))
    torch.testing.assert_close(found.flatten(2), seen[0][:, :, 0, 1:], atol=1e-6, rtol=0)


def test_components_are_those_of_scikit_learn() -> None:
    rng = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 10, 4, 5, generator=rng) * torch.arange(1, 11).float()[:, None, None]
    found = components(maps).permute(0, 2, 3, 1).reshape(-1, 3).numpy()
    expected = PCA(3).fit_transform(maps.permute(0, 2, 3, 1).reshape(-1, 10).numpy())
    low, high = np.quantile(expected, 0.05, axis=0), np.quantile(expected, 0.95, axis=0)
    inside = ((expected > low) & (expected < high)).all(1)
    for number in range(3):  # up to the sign, and to the ends that are cut
        assert abs(np.corrcoef(found[inside, number], expected[inside, number])[0, 1]) > 0.9999
    assert (found.min(0) == 0).all() and (found.max(0) == 1).all()


def small(make_shards: MakeShards, tmp_path: Path, objective: str) -> Path:
    block = {"name": objective, "mask_ratio": 0.75, "decoder_depth": 1, "decoder_dim": 16, "decoder_heads": 2}
    train(config(make_shards([8]), objective=block, epochs=1), tmp_path / "run", Quiet())
    return tmp_path / "run"


def test_the_nearest_is_the_twin(make_shards: MakeShards, tmp_path: Path) -> None:
    run, files = small(make_shards, tmp_path, "mae"), []
    for number in (1, 2, 3, 1):
        files.append(tmp_path / f"{len(files)}.png")
        files[-1].write_bytes(encode(picture(number, 32, 32), "png"))
    drawn = np.asarray(draw_kinds(run, ["neighbours"], 8, 8, files=files)["neighbours"])
    cells = drawn[26:218, 6:].reshape(192, -1, 3)
    query, nearest = cells[20:, :192], cells[20:, 198:390]  # below the caption
    assert np.array_equal(query, nearest)


def test_all_kinds_and_their_page(make_shards: MakeShards, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--run", str(small(make_shards, tmp_path, "selective_mae"))]
    out = tmp_path / "seen"
    assert main(["visualise", *run, "--count", "2", "--gallery", "6", "--out", str(out)]) == 0
    kinds = ["reconstruction", "richness", "stages", "attention", "components", "neighbours"]
    page = (out / "index.html").read_text()
    assert sorted(path.name for path in out.iterdir()) == sorted([*(f"{kind}.png" for kind in kinds), "index.html"])
    assert page.count('src="data:image/png;base64,') == 6
    assert "http" not in page
    for kind in kinds:
        with Image.open(out / f"{kind}.png") as drawn:
            assert drawn.height == 20 + 6 + 2 * 198  # a head and a row per image
    assert main(["visualise", *run, "--kind", "attention", "--count", "1", "--out", str(tmp_path / "a.png")]) == 0
    mae = small(make_shards, tmp_path / "mae", "mae")
    assert main(["visualise", "--run", str(mae), "--kind", "stages", "--out", str(tmp_path / "s.png")]) == 2
    assert "has no stages; stages are of runs of selective_mae" in capsys.readouterr().err
