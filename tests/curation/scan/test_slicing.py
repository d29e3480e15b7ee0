"""Windows: coverage, bounds, overlap, and the same result everywhere."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.catalogue import Window
from curation.scan import slicing
from curation.sources.recipe import SliceRules

AREAS = st.builds(Window, st.integers(0, 50), st.integers(0, 50), st.integers(1, 3000), st.integers(1, 3000))


def covered(windows: list[Window], area: Window) -> np.ndarray:
    hits = np.zeros((area.height, area.width), np.int32)
    for left, top, width, height in windows:
        hits[
            max(top - area.row_off, 0) : top - area.row_off + height, left - area.col_off : left - area.col_off + width
        ] += 1
    return hits


def inside(window: Window, area: Window) -> bool:
    return (
        window.col_off >= area.col_off
        and window.row_off >= area.row_off
        and window.col_off + window.width <= area.col_off + area.width
        and window.row_off + window.height <= area.row_off + area.height
    )


@settings(max_examples=60, deadline=None)
@given(area=AREAS, tile=st.integers(16, 900), overlap=st.integers(0, 15), remainder=st.sampled_from(["shift", "pad"]))
def test_grid_covers_every_pixel(area: Window, tile: int, overlap: int, remainder: str) -> None:
    rules = SliceRules(mode="grid", tile=tile, overlap=overlap, remainder=remainder, whole_up_to=16)
    windows = slicing.windows(area, rules, 0, "s", "a.tif")
    assert covered(windows, area).min() >= 1
    assert len(set(windows)) == len(windows)
    assert windows == sorted(windows, key=lambda w: (w.row_off, w.col_off))
    if remainder == "shift":
        assert all(inside(window, area) for window in windows)
    elif len(windows) > 1:
        assert all((window.width, window.height) == (tile, tile) for window in windows)


@pytest.mark.parametrize(
    ("length", "overlap", "starts"),
    [
        (384, 0, [0, 128, 256]),  # nothing remains
        (447, 0, [0, 128, 256]),  # 63 remain: shifted to 319, 65 of 128 would be shared with the tile at 256
        (448, 0, [0, 128, 256, 320]),  # 64 remain: 64 are shared, just half
        (191, 0, [0]),
        (192, 0, [0, 64]),
        (100, 0, [0]),  # shorter than a tile: one of its own length
        (340, 28, [0, 100, 200]),  # 12 remain beyond 328: 116 would be shared
        (392, 28, [0, 100, 200, 264]),  # 64 remain
        (330, 100, [0, 28, 56, 84, 112, 140, 168, 196]),  # 6 remain; the overlap asked for is more than half
    ],
)
def test_tiles_of_the_default_grid_stay_apart(length: int, overlap: int, starts: list[int]) -> None:
    rules = SliceRules(mode="grid", tile=128, overlap=overlap, whole_up_to=16)
    assert rules.remainder == "apart"
    found = slicing.grid(Window(7, 9, length, 128), rules)
    assert found == [Window(7 + start, 9, min(length, 128), 128) for start in starts]
    assert slicing.grid(Window(7, 9, 128, length), rules) == [
        Window(7, 9 + start, 128, min(length, 128)) for start in starts
    ]


@settings(max_examples=40, deadline=None)
@given(area=AREAS, tile=st.integers(16, 900), share=st.floats(0, 0.5))
def test_no_two_tiles_of_the_default_grid_share_more_than_half(area: Window, tile: int, share: float) -> None:
    windows = slicing.grid(area, SliceRules(mode="grid", tile=tile, overlap=int(share * tile), whole_up_to=16))
    assert all(inside(window, area) for window in windows)
    for axis in (0, 1):
        places = sorted({(window[axis], window[axis + 2]) for window in windows})
        for (start, side), (after, _) in pairwise(places):
            assert 2 * (start + side - after) <= side
        # what is given up is less than half a tile
        assert 2 * (area[axis] + area[axis + 2] - sum(places[-1])) < tile


@settings(max_examples=40, deadline=None)
@given(area=AREAS, tile=st.integers(16, 900))
def test_grid_that_drops_the_remainder_has_whole_tiles_only(area: Window, tile: int) -> None:
    rules = SliceRules(mode="grid", tile=tile, remainder="drop", whole_up_to=16)
    windows = slicing.grid(area, rules)
    assert len(windows) == (area.width // tile) * (area.height // tile)
    assert all(inside(window, area) and (window.width, window.height) == (tile, tile) for window in windows)
    assert not windows or covered(windows, area).max() == 1


@settings(max_examples=40, deadline=None)
@given(area=AREAS, seed=st.integers(0, 2**32), density=st.sampled_from([0.5, 1.0, 2.0]))
def test_random_windows_stay_inside_and_overlap_little(area: Window, seed: int, density: float) -> None:
    rules = SliceRules(mode="random", density=density, whole_up_to=64)
    windows = slicing.windows(area, rules, seed, "s", "a.tif")
    assert all(inside(window, area) for window in windows)
    assert windows == slicing.windows(area, rules, seed, "s", "a.tif")
    if max(area.width, area.height) <= 64:
        assert windows == [area]
        return
    assert all(64 <= window.width == window.height <= 1024 for window in windows)
    for at, first in enumerate(windows):
        for second in windows[at + 1 :]:
            across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
            down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
            shared = max(across, 0) * max(down, 0)
            assert shared <= 0.25 * (first[2] * first[3] + second[2] * second[3] - shared)


def test_random_reaches_the_density_of_the_valid_area() -> None:
    area = Window(0, 0, 6000, 5000)
    for share, density in ((1.0, 1.0), (0.3, 1.0), (1.0, 0.5)):
        rules = SliceRules(mode="random", density=density)
        total = sum(w.width * w.height for w in slicing.windows(area, rules, 0, "s", "a.tif", share))
        wanted = share * density * area.width * area.height
        assert wanted <= total < wanted + 1024 * 1024


def test_seed_source_and_path_all_move_the_random_windows() -> None:
    area, rules = Window(0, 0, 3000, 3000), SliceRules(mode="random")
    base = slicing.windows(area, rules, 0, "s", "a.tif")
    others = [slicing.windows(area, rules, *key) for key in ((1, "s", "a.tif"), (0, "t", "a.tif"), (0, "s", "b.tif"))]
    assert all(base != other for other in others)


def test_random_windows_are_the_published_ones() -> None:
    """A change here gives every random corpus other ids: it needs a new format version."""
    rules = SliceRules(mode="random", whole_up_to=64, max_side=256)
    assert slicing.windows(Window(0, 0, 500, 400), rules, 7, "demo", "a/b.tif") == GOLDEN


GOLDEN = [
    Window(161, 1, 173, 173),
    Window(295, 46, 184, 184),
    Window(12, 47, 183, 183),
    Window(98, 108, 233, 233),
    Window(239, 178, 72, 72),
    Window(258, 221, 147, 147),
    Window(71, 226, 124, 124),
    Window(33, 253, 72, 72),
    Window(351, 266, 113, 113),
]


@pytest.mark.parametrize("mode", ["grid", "random", "whole"])
def test_small_images_pass_whole_in_every_mode(mode: str) -> None:
    area = Window(0, 0, 640, 1024)
    assert slicing.windows(area, SliceRules(mode=mode), 0, "s", "a.jpg") == [area]
    assert len(slicing.windows(Window(0, 0, 640, 1025), SliceRules(mode=mode, tile=512), 0, "s", "a.jpg")) > 1
