"""The step benchmark: it runs, its rows add up, and its arithmetic is the known one. No time is asserted."""

from __future__ import annotations

import time

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from curation.base.errors import InputError, WorkError
from pretrain.bench.arithmetic import multiply_adds, peak_operations
from pretrain.bench.clock import PartsClock
from pretrain.bench.step import Contender, _row, as_compiled, build, format_table, inputs, step_bench, time_here
from pretrain.config import EncoderConfig, MaeObjective, ScaleMaeObjective, SelectiveMaeObjective
from pretrain.models import build_objective


@pytest.mark.slow
def test_one_round_of_a_tiny_model():
    rows = step_bench(encoders=["vit_tiny_patch16_224"], batches=[2], precisions=["fp32"], repeats=1)
    assert [row["label"] for row in rows] == ["MAE", "SelectiveMAE, 12 blocks", "SelectiveMAE, 8 blocks"]
    assert rows[0]["speedup"] == 1 and rows[0]["selection"] == 0
    for row in rows:
        parts = row["compute"] + row["optimiser"] + row["selection"] + row["embedding"]
        assert parts == pytest.approx(row["seconds"])
        assert row["hog"] <= row["seconds"] and row["peak_mib"] > 0
    table = format_table(rows).splitlines()
    assert len(table) == 5 and len({line.count("|") for line in table}) == 1


def test_a_row_without_its_baseline_has_no_ratio():
    contender = Contender("vit_tiny_patch16_224", "selective_mae", 8, 2, "fp32", "cpu")
    steps = [{"seconds": 2.0, "optimiser": 0.5}, {"seconds": 4.0, "optimiser": 0.5}]
    summary = {"selection": 0.25, "hog": 0.125, "embedding": 0.25, "gmac": 1.0, "peak_mib": 1.0, "parameters": 1.0}
    summary |= {"operations": 6e9, "peak": 16e9}
    row = _row(contender, steps, summary, None)
    assert row["seconds"] == 3 and row["speedup"] is None and " | - | - | " in format_table([row])
    assert row["tflops"] == pytest.approx(2 * 6e-3 / 3) and row["mfu"] == pytest.approx(4 / 16)
    assert _row(contender, steps, summary, [{"seconds": 4.0}, {"seconds": 4.0}])["speedup"] == 1.5


def test_what_cannot_be_timed_is_named(caplog):
    with pytest.raises(InputError, match="no model 'vit_enormous'"):
        step_bench(encoders=["vit_enormous"])
    with pytest.raises(WorkError, match="nothing could be timed"):  # no memory holds such a batch
        step_bench(encoders=["vit_tiny_patch16_224"], batches=[10**9], precisions=["fp32"])
    assert caplog.text.count("batch 1000000000, ") == caplog.text.count("left out") == 3


CONFIGS = [
    MaeObjective(name="mae", decoder_depth=2),
    SelectiveMaeObjective(name="selective_mae", decoder_depth=3),
    SelectiveMaeObjective(name="selective_mae", decoder_depth=3, decoder_reads="mixture", hog_weight=1.0),
    SelectiveMaeObjective(name="selective_mae", decoder_depth=3, seeds="uniform", added="uniform", targets="uniform"),
    ScaleMaeObjective(name="scale_mae", fcn_dim=64),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_arithmetic_is_what_torch_counts(config):
    model = build_objective(config, EncoderConfig(name="vit_tiny_patch16_224", args={"depth": 2, "reg_tokens": 1}))
    given = inputs(model, Contender("", config.name, 0, 1, "fp32", "cpu"))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*given)
    assert 2 * sum(multiply_adds(model)) == pytest.approx(counter.get_total_flops(), rel=1e-6)


@pytest.mark.parametrize(
    ("config", "analytic", "chosen"),
    [
        # ViT-B, 224 px: 9.781, less the patch embedding of 147 masked patches and the prediction of 50 visible tokens.
        (MaeObjective(name="mae"), 9.781 - 147 * 768 * 768e-9 - 50 * 512 * 768e-9, 0),
        # 4.542 and 3.928, and the visible patches embedded a second time. Only for choosing: 196 patches embedded and
        # compared with 14 and then 7 tokens.
        (SelectiveMaeObjective(name="selective_mae"), 4.542 + 29 * 768 * 768e-9, 196 * 768 * (768 + 21) * 1e-9),
        (SelectiveMaeObjective(name="selective_mae", decoder_depth=8), 3.928 + 29 * 768 * 768e-9, 0.118766),
    ],
)
def test_arithmetic_of_vit_b(config, analytic, chosen):
    with torch.device("meta"):
        counted = multiply_adds(build_objective(config, EncoderConfig()))
    assert sum(counted) / 1e9 == pytest.approx(analytic, rel=0.003)
    assert counted.untrained / 1e9 == pytest.approx(chosen, rel=1e-4)
    assert counted.training_operations == 6 * counted.trained + 2 * counted.untrained


def test_parts_of_a_step_add_up():
    clock = PartsClock(torch.device("cpu"))
    clock("start")
    time.sleep(0.02)
    clock("sleep")
    clock("nothing")
    (one, slept), (other, none) = clock.read()
    assert (one, other) == ("sleep", "nothing") and slept > 0.02 > none and clock.read() == []


def test_the_peak_is_that_of_a_matrix_product():
    assert 1e8 < peak_operations(torch.device("cpu"), "fp32", seconds=0.1) < 1e13  # a slow core, a fast machine


def test_one_contender_in_this_process():
    row = time_here(Contender("vit_tiny_patch16_224", "mae", 1, 1, "fp32", "cpu"), repeats=1)
    assert row["label"] == "MAE" and row["mfu"] is None and row["seconds"] > row["optimiser"] > 0


def test_contenders_are_called_as_they_are_compiled():
    model = build(Contender("vit_tiny_patch16_224", "mae", 1, 1, "fp32", "cpu"))
    assert as_compiled(model, "no") is model and not hasattr(model, "_orig_mod")
    for how in ("model", "graphs"):
        assert as_compiled(model, how) is not model
    assert as_compiled(model, "blocks") is model and model.encoder.blocks[0]._compiled_call_impl is not None
