"""The step benchmark: it runs, its rows add up, and its arithmetic is the known one. No time is asserted."""

from __future__ import annotations

import pytest

from curation.base.errors import InputError, WorkError
from pretrain.bench import Contender, _row, format_table, forward_gmac, step_bench
from pretrain.config import EncoderConfig, MaeObjective, SelectiveMaeObjective
from pretrain.models import build_objective


@pytest.mark.slow
def test_one_round_of_a_tiny_model_beside_a_batch_that_no_memory_holds(caplog):
    rows = step_bench(encoders=["vit_tiny_patch16_224"], batches=[10**9, 2], precisions=["fp32"], repeats=1)
    assert caplog.text.count("batch 1000000000, ") == caplog.text.count("left out") == 3
    assert [row["label"] for row in rows] == ["MAE", "SelectiveMAE, 12 blocks", "SelectiveMAE, 8 blocks"]
    assert rows[0]["speedup"] == 1 and rows[0]["selection"] == 0
    for row in rows:
        parts = row["compute"] + row["optimiser"] + row["selection"] + row["embedding"]
        assert parts == pytest.approx(row["seconds"])
        assert row["hog"] <= row["seconds"] and row["peak_mib"] > 0
    table = format_table(rows).splitlines()
    assert len(table) == 5 and len({line.count("|") for line in table}) == 1


def test_a_row_without_its_baseline_has_no_ratio():
    contender = Contender("vit_tiny_patch16_224", "selective_mae", 8, 2, "fp32", "cpu", False, 1)
    steps = [{"seconds": 2.0, "optimiser": 0.5}, {"seconds": 4.0, "optimiser": 0.5}]
    summary = {"selection": 0.25, "hog": 0.125, "embedding": 0.25, "gmac": 1.0, "peak_mib": 1.0, "parameters": 1.0}
    row = _row(contender, steps, summary, None)
    assert row["seconds"] == 3 and row["speedup"] is None and " | - | - | " in format_table([row])
    assert _row(contender, steps, summary, [{"seconds": 4.0}, {"seconds": 4.0}])["speedup"] == 1.5


def test_what_cannot_be_timed_is_named():
    with pytest.raises(InputError, match="no model 'vit_enormous'"):
        step_bench(encoders=["vit_enormous"])
    with pytest.raises(WorkError, match="nothing could be timed"):
        step_bench(encoders=["vit_tiny_patch16_224"], batches=[10**9], precisions=["fp32"])


@pytest.mark.parametrize(
    ("config", "analytic"),
    [
        # ViT-B, 224 px: 9.781, less the patch embedding of 147 masked patches and the prediction of 50 visible tokens.
        (MaeObjective(name="mae"), 9.781 - 147 * 768 * 768e-9 - 50 * 512 * 768e-9),
        # 4.542 and 3.928, and the visible patches embedded a second time.
        (SelectiveMaeObjective(name="selective_mae"), 4.542 + 29 * 768 * 768e-9),
        (SelectiveMaeObjective(name="selective_mae", decoder_depth=8), 3.928 + 29 * 768 * 768e-9),
    ],
)
def test_arithmetic_of_vit_b(config, analytic):
    assert forward_gmac(build_objective(config, EncoderConfig())) == pytest.approx(analytic, rel=0.003)
