"""The study's arithmetic: intervals worked out by hand, and what the page says of cells."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from imagery import MakeShards, picture
from labelled_images import write_tree
from PIL import Image
from small_run import ENCODER, SMALL, Quiet, config

from pretrain.data.augment import Box
from pretrain.data.stream import batches
from pretrain.evaluate.labelled import DataSet, open_dataset
from pretrain.evaluate.protocols import Knn
from pretrain.train import train


@pytest.fixture
def page(repository, monkeypatch):
    monkeypatch.syspath_prepend(repository)
    from benchmarks.study import page

    return page


def cell(arm, seed, right, **changes):
    packed = np.packbits(np.array(right, dtype=bool)).tobytes().hex()
    answers = {"A": {"linear": {"accuracy": float(np.mean(right)), "right": packed, "images": len(right)}}}
    return {
        "preset": "pilot", "budget": "seconds", "arm": arm, "words": arm, "seed": seed, "epochs": 3, "images": 24,
        "cpu_seconds": 5.4, "rate": 5e-4, "answers": answers,
    } | changes  # fmt: skip


def test_an_interval_holds_seeds_and_images(page):
    # Accuracies 25, 50, 75 %: deviation 25, over the root of 3 seeds 14.43, times t(0.975; 2) = 4.3027: 62.1.
    # The images' means 1, 1/3, 2/3, 0: deviation 0.4303, over the root of 4 images 0.2152, times 1.96: 42.2.
    right = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0]], dtype=float)
    found = page.estimate(right)
    assert found.mean == pytest.approx(50) and found.seeds == 3
    assert found.half == pytest.approx(np.hypot(62.1, 42.2), abs=0.05)


def test_only_seeds_that_both_were_asked_alike_are_compared(page, tmp_path):
    tuned = cell("mae", 2, [0, 0, 0, 0])
    for each in (tuned, other := cell("random", 2, [1, 1, 1, 1])):
        each["answers"]["A"]["fine-tuned"] = each["answers"]["A"]["linear"]
    cells = [cell("mae", 1, [0, 0, 0, 0]), tuned, cell("random", 1, [0, 0, 0, 0]), other]
    told = {"mae": cells[:2], "random": cells[2:]}
    row = page.differences(told, "mae").splitlines()[2]
    assert row.split(" | ")[2].startswith("+50.0 ±") and row.split(" | ")[3] == "+100.0 ± 0.0 (one seed) |"


def test_what_was_not_swept_is_compared_with_the_published_arm_at_its_rate(page):
    """Else a change would be credited with what the rate does."""
    swept = dict(page.compared(page.PRESETS["pilot"]))
    assert {"random", "mae"} <= swept["selective"] and "targets_half" in swept["selective_plain"]
    assert not swept["selective"] & swept["selective_plain"]
    assert "targets_half" in dict(page.compared(page.PRESETS["gpu"]))["selective"]


def test_a_curve_begins_before_training_and_is_the_mean_of_the_seeds_that_were_asked(page):
    from benchmarks.study.curve import points

    way = {"quarters": [[6, {"linear": 0.25}]], "images": 24}
    cells = {
        "untrained": [cell("untrained", 1, [1, 0, 0, 0]), cell("untrained", 3, [1, 1, 1, 1])],
        "mae": [
            cell("mae", 1, [1, 1, 1, 0], **way),
            cell("mae", 2, [1, 1, 0, 0], **way | {"quarters": [[6, {"linear": 0.75}]]}),
            cell("mae", 3, [0, 0, 0, 0]),
        ],
    }
    assert points(cells, "mae", "linear") == [(0, 0.25), (6, 0.5), (24, 0.625)]
    assert points(cells, "random", "linear") == []


def test_one_seed_says_so(page):
    # Half of 100 images: 1.96 * sqrt(0.25 / 99) = 9.8 points.
    assert str(page.estimate(np.array([[0, 1] * 50], dtype=float))) == "50.0 ± 9.8 (one seed)"


def test_the_page_pairs_seeds_reports_what_diverged_and_keeps_the_words(page, tmp_path):
    cells = [
        cell("mae", 1, [1, 1, 0, 0] * 3), cell("mae", 2, [1, 0, 0, 0] * 3), cell("selective", 2, [1, 1, 1, 0] * 3),
        cell("random", 1, [0], answers={}, failed="step 7: the loss is nan"),
    ]  # fmt: skip
    for number, each in enumerate(cells):
        (tmp_path / f"{number}-seed1.json").write_text(json.dumps(each))
    (tmp_path / "pilot-half-sweep-seeds_targets_uniform.json").write_text('{"0.0005": 0.7}')  # no cell
    out = tmp_path / "study.md"
    out.write_text(f"before\n\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.write_page(tmp_path, out)
    text = out.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    beside_mae, _, beside_selective = text.partition("Difference to SelectiveMAE as in the paper")
    rows = {line.split(" | ")[0].strip("| "): line for line in beside_mae.splitlines() if line.startswith("| ")}
    assert "| 1, 2 | 0.0005 | 3 | 24 | 5 | 37.5 ±" in rows["MAE, mask 0.75"]
    assert "+50.0 ±" in rows["SelectiveMAE as in the paper"]  # seed 2 against seed 2: 75 - 25 %
    assert "| MAE, mask 0.75 | 1 | -50.0 ±" in beside_selective
    assert "seed 1: step 7: the loss is nan" in text


@pytest.fixture
def study(page, make_shards: MakeShards, tmp_path):
    from benchmarks.study.arms import PRESETS
    from benchmarks.study.cells import Study

    preset = replace(
        PRESETS["smoke"], encoder=ENCODER["args"], decoder=SMALL, budgets={"images": 32}, protocols={"kNN": Knn(k=1)}
    )
    sets = {"colours": open_dataset(DataSet(path=write_tree(tmp_path / "data", {"red": 4, "blue": 4})))}
    return Study("smoke", preset, sets, make_shards([9, 8]), 17, tmp_path / "out", tmp_path / "results", batches)


def test_a_cell_is_trained_asked_kept_and_never_made_again(study):
    from benchmarks.study.arms import ARMS
    from benchmarks.study.cells import cell

    study = replace(study, preset=replace(study.preset, encoder=ENCODER["args"] | {"img_size": 64}))
    told = cell(study, "random", ARMS["random"], 1, "images")
    assert (told["epochs"], told["images"], told["curve"][-1][0]) == (2, 32, 32)  # two epochs of 16 of the 17
    assert told["answers"]["colours"]["kNN"]["accuracy"] == 1.0  # plain red and plain blue
    assert told["quarters"] == [[8, {"kNN": 1.0}], [16, {"kNN": 1.0}], [24, {"kNN": 1.0}]]
    assert [path.name for path in study.results.iterdir()] == ["smoke-images-random-seed1.json"]
    assert not list((study.out / "runs").iterdir())
    kept = next(study.results.iterdir())
    before = kept.stat().st_mtime_ns
    assert cell(study, "random", ARMS["random"], 1, "images") == told and kept.stat().st_mtime_ns == before


def test_equal_seconds_are_spent_by_what_a_step_costs(study, monkeypatch):
    from benchmarks.study import cost
    from benchmarks.study.arms import ARMS
    from benchmarks.study.cells import epochs_of

    monkeypatch.setattr(cost, "ROUNDS", 2)
    small = replace(study.preset, encoder=ENCODER["args"] | {"img_size": 64}, budgets={"seconds": 20.0, "half": 11.0})
    study = replace(study, preset=small)
    assert epochs_of(study, "random", ARMS["random"], "half") >= 1
    kept = study.results / "smoke-cost.json"
    measured = json.loads(kept.read_text())
    assert measured.keys() == {"mae", "random"} and min(measured.values()) > 0
    kept.write_text(json.dumps({"mae": 0.5, "random": 0.25}))  # 4 seconds for an epoch of 16 images
    assert [epochs_of(study, "random", ARMS["random"], budget) for budget in ("seconds", "half")] == [5, 3]


def test_a_run_that_diverges_is_a_result(study):
    from benchmarks.study.arms import ARMS
    from benchmarks.study.cells import cell

    wild = replace(study, preset=replace(study.preset, rate=1e30))
    told = cell(wild, "mae", ARMS["mae"], 2, "images")
    assert told["answers"] == {} and "not finite" in told["failed"]


def test_a_cell_of_another_rate_or_of_fewer_questions_is_made_again(study, monkeypatch):
    from benchmarks.study import cells
    from benchmarks.study.arms import ARMS

    study = replace(study, preset=replace(study.preset, encoder=ENCODER["args"] | {"img_size": 64}))
    first = cells.cell(study, "random", ARMS["random"], 1, "images")
    swept = replace(study, preset=replace(study.preset, rates=(1e-4, 2e-4), sweep_budget="images"))
    scores = {1e-4: 0.5, 2e-4: 0.75}
    monkeypatch.setattr(cells, "swept", lambda study, name, arm, budget, rate: scores[rate])
    assert (first["rate"], cells.cell(swept, "random", ARMS["random"], 1, "images")["rate"]) == (5e-4, 2e-4)
    assert json.loads((study.results / "smoke-images-sweep-random.json").read_text()) == {"0.0001": 0.5, "0.0002": 0.75}
    others = replace(swept, preset=replace(swept.preset, whole=("mae",)))  # not swept: back at its own rate
    assert cells.cell(others, "random", ARMS["random"], 1, "images")["rate"] == 5e-4
    more = {"kNN": Knn(k=1), "2-NN": Knn(k=2)}
    asked = cells.cell(
        replace(others, preset=replace(others.preset, protocols=more)), "random", ARMS["random"], 1, "images"
    )
    assert asked["answers"]["colours"].keys() == {"kNN", "2-NN"}


def test_images_held_in_memory_are_cropped_as_pillow_does(page):
    from benchmarks.study.resident import cut, stacked

    images, box = [picture(1, 100, 90), picture(2, 60, 110)], Box(11, 7, 45, 50)
    held = stacked(images)
    assert held.shape == (2, 3, 110, 110)
    crops = cut(held, [box, box], 16)
    for crop, image in zip(crops, images, strict=True):
        area = (box.left, box.top, box.left + box.width, box.top + box.height)
        expected = Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC, area)
        assert np.abs(crop.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected, int)).mean() < 2


def test_a_run_on_images_held_in_memory_learns_from_the_same_samples(page, make_shards: MakeShards, tmp_path):
    from benchmarks.study.resident import Resident

    shards, seen = make_shards([9, 8]), []
    resident = Resident(torch.device("cpu"))

    def noted(*arguments, **options):
        for batch in resident(*arguments, **options):
            seen.append(batch.sample_id.tolist())
            yield batch

    assert train(config(shards, epochs=2), tmp_path / "run", Quiet(), feed=noted).finished
    assert [len(batch) for batch in seen] == [4] * 8
    assert len({sample for batch in seen[:4] for sample in batch}) == 16  # of 17, none twice in an epoch
