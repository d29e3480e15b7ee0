"""Position tables against the official ones."""

from __future__ import annotations

import math

import pytest
import torch
from official import load

from pretrain.models.positions import gsd_sincos_2d, sincos_2d


@pytest.mark.parametrize("dim", [48, 768])
@pytest.mark.parametrize("grid", [4, 14])
def test_gsd_tables_equal_the_official_ones(shared, dim, grid):
    reference = load(shared, "scale_mae_pos")
    expected = reference[f"pos_d{dim}_g{grid}"][:, 1:]
    assert torch.allclose(gsd_sincos_2d((grid, grid), dim, reference["res"]), expected, atol=1e-4)


def test_one_metre_is_the_plain_table():
    table = gsd_sincos_2d((14, 14), 384, torch.ones(1))[0]
    assert torch.allclose(table, sincos_2d((14, 14), 384), atol=2e-6)


def test_a_value_worked_out_by_hand():
    table = sincos_2d((2, 3), 8).reshape(2, 3, 8)
    # D/4 = 2 frequencies: 1 and 1/100. Row 1, column 2.
    expected = [
        math.sin(2),
        math.sin(0.02),
        math.cos(2),
        math.cos(0.02),
        math.sin(1),
        math.sin(0.01),
        math.cos(1),
        math.cos(0.01),
    ]
    assert table[1, 2].tolist() == pytest.approx(expected, abs=1e-6)


def test_refuses_a_width_that_four_does_not_divide():
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_2d((2, 2), 6)


def test_ten_metres_worked_out_by_hand():
    table = gsd_sincos_2d((2, 3), 8, torch.tensor([1.0, 10.0]))[1].reshape(2, 3, 8)
    angles = (20, 0.2), (10, 0.1)  # column 2 and row 1, ten times as far apart as at the reference of 1 m
    expected = [wave(angle) for pair in angles for wave in (math.sin, math.cos) for angle in pair]
    assert table[1, 2].tolist() == pytest.approx(expected, abs=1e-5)
