"""A corpus that grows: what was finished stays where it is, byte for byte; what is new comes behind it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows_for_select import image_row, random_tile, recipe, write
from textures import texture

from curation.catalogue import read_table
from curation.cli import main
from curation.select.generations import Generations, read_generations
from curation.select.select import SelectSummary, select

Places = dict[str, tuple[int, int]]


def tiles(source: str, images: int, seed: int) -> list[dict[str, Any]]:
    """Images of three tiles each, none like another."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(images):
        rows.append(image_row(source, f"{number}.tif"))
        rows += [random_tile(rng, source, f"{number}.tif", col, 0, 256, 256, gsd_m=1.0) for col in (0, 256, 512)]
    return rows


def copy_of(tile: dict[str, Any], source: str, image: str, **facts: Any) -> list[dict[str, Any]]:
    looks = {name: tile[name] for name in ("orientations", "phash", "dct16", "content_hash")}
    own = random_tile(np.random.default_rng(1), source, image, 0, 0, 256, 256)
    return [image_row(source, image), own | looks | facts]


class Corpus:
    """Catalogues in a folder, each grown from the one before."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0

    def select(self, rows: list[dict[str, Any]], grow: bool = True, **rules: Any) -> SelectSummary:
        made, sources = recipe("a", "b", **{"shards": {"max_samples": 5}, **rules})
        before = self.path if grow and self.number else None
        self.number += 1
        parts = [write(self.folder / f"tiles-{self.number}.parquet", rows)]
        told = Generations(str(self.number), str(self.number))
        return select(parts, made, sources, self.path, grown_from=before, told=told)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.number}.parquet"

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["tile_id"]: row for row in read_table(self.path, "catalogue").to_pylist()}

    def places(self) -> Places:
        return {name: (row["shard"], row["position"]) for name, row in self.rows().items() if row["verdict"] == "kept"}


def test_what_is_new_comes_in_new_shards_and_its_copies_of_old_tiles_stay_out(tmp_path: Path) -> None:
    corpus, old = Corpus(tmp_path), tiles("b", 6, 0)
    corpus.select(old)
    first = corpus.places()
    better = copy_of(old[1], "a", "better.tif", gsd_m=0.1)  # would be kept instead, were all asked at once
    told = str(corpus.select(old + tiles("a", 2, 1) + better))
    places, rows = corpus.places(), corpus.rows()
    assert {name: places[name] for name in first} == first
    new = {name: place for name, place in places.items() if name not in first}
    assert sorted(new.values()) == [(4, 0), (4, 1), (4, 2), (4, 3), (4, 4), (5, 0)]  # 18 old ones, in shards 0 to 3
    lost = rows[better[1]["tile_id"]]
    assert (lost["verdict"], lost["subject"]) == ("duplicate", old[1]["tile_id"])
    assert "18 stay where they were, 6 new behind shard 3 (--regenerate lays all out anew)" in told
    assert read_generations(corpus.path).ends == (4, 6)
    assert read_generations(corpus.path).of([0, 3, 4, 5]) == [1, 1, 2, 2]
    corpus.select(old + tiles("a", 2, 1) + better, grow=False)
    assert corpus.rows()[better[1]["tile_id"]]["verdict"] == "kept"


def test_the_third_generation_ranks_behind_the_second(tmp_path: Path) -> None:
    corpus, old, later = Corpus(tmp_path), tiles("b", 6, 0), tiles("a", 2, 1)
    corpus.select(old)
    corpus.select(old + later)
    before = corpus.places()
    corpus.select(old + later + copy_of(later[1], "a", "better.tif", gsd_m=0.1))
    assert corpus.places() == before
    assert read_generations(corpus.path).ends == (4, 6)  # nothing new: no generation


def test_a_threshold_that_speaks_against_finished_tiles_leaves_holes(tmp_path: Path) -> None:
    corpus, old = Corpus(tmp_path), tiles("a", 6, 0)
    for number, row in enumerate(old):
        row["std"] = 3.0 if number % 7 == 1 else 30.0
    corpus.select(old)
    before = corpus.places()
    told = str(corpus.select(old, exclude={"min_std": 10}))
    gone = {row["tile_id"] for row in old if row["kind"] == "tile" and row["std"] == 3.0}
    assert corpus.places() == {name: place for name, place in before.items() if name not in gone}
    assert f"{len(gone)} leave their shards" in told
    corpus.select(old)  # let in again: behind the others
    assert {corpus.places()[name][0] for name in gone} == {4}


def test_a_copy_of_what_was_taken_out_stays_out_in_later_generations(tmp_path: Path) -> None:
    corpus, old = Corpus(tmp_path), tiles("b", 6, 0)
    corpus.select(old)
    ids = {"exclude": {"ids": [old[1]["tile_id"]]}}
    corpus.select(old, **ids)
    before = corpus.places()
    copy = copy_of(old[1], "a", "copy.tif", gsd_m=0.1)
    corpus.select(old + copy, **ids)
    assert corpus.places() == before
    rows = corpus.rows()
    assert rows[copy[1]["tile_id"]]["verdict"] == "duplicate"
    assert (rows[old[1]["tile_id"]]["verdict"], rows[old[1]["tile_id"]]["detail"]) == (
        "withdrawn", "ids: taken out before",
    )  # fmt: skip


def test_caps_draw_what_is_finished_first(tmp_path: Path) -> None:
    corpus, old = Corpus(tmp_path), tiles("b", 6, 0)
    corpus.select(old, balance={"total": 10})
    before = corpus.places()
    corpus.select(old + tiles("a", 6, 1), balance={"total": 14})
    after = corpus.places()
    assert len(after) == 14 and {name: after[name] for name in before} == before
    corpus.select(old + tiles("a", 6, 1), balance={"total": 10})
    assert corpus.places() == before


def test_a_catalogue_of_which_nothing_is_left_counts_for_nothing(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    corpus.select(tiles("b", 6, 0))
    corpus.select(tiles("a", 2, 1))
    assert read_generations(corpus.path).ends == (2,) and min(corpus.places().values()) == (0, 0)


# ------------------------------------------------------------------------------------------------ whole runs


BOTH = "name: r\nsources: [{id: b, path: b, priority: 9}, {id: a, path: a}]\nshards: {max_samples: 5}\n"


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one source, ``first``, and what it became with a second source, ``out``."""
    root = tmp_path_factory.mktemp("grown")
    for name, seeds in (("a", range(12)), ("b", range(100, 104))):
        (root / name).mkdir()
        for seed in seeds:
            texture(seed).save(root / name / f"{seed}.jpg", quality=90)
    texture(3).save(root / "b/copy.jpg", quality=95)
    (root / "one.yaml").write_text("name: r\nsources: [{id: a, path: a}]\nshards: {max_samples: 5}\n")
    (root / "two.yaml").write_text(BOTH)
    assert run(root / "one.yaml", root / "first") == 0
    shutil.copytree(root / "first", root / "out")
    (root / "mtime").write_text(json.dumps(times(root / "out")))
    assert run(root / "two.yaml", root / "out") == 0
    return root


def run(recipe: Path, out: Path, *more: str) -> int:
    line = ["run", str(recipe), "--data", str(recipe.parent), "--out", str(out), "--workers", "1", "--pictures", "0"]
    return main([*line, *more])


def times(out: Path) -> dict[str, list[int]]:
    return {path.name: [path.stat().st_ino, path.stat().st_mtime_ns] for path in (out / "shards").glob("*.tar")}


def checksums(out: Path) -> list[dict[str, Any]]:
    shards: list[dict[str, Any]] = json.loads((out / "shards/checksums.json").read_bytes())["shards"]
    return shards


def test_a_source_more_appends_shards_and_needs_no_replace(grown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = json.loads((grown / "mtime").read_text()), times(grown / "out")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"r-000003.tar"}
    assert checksums(grown / "out")[:3] == checksums(grown / "first")
    assert main(["verify", str(grown / "out"), "--workers", "1", "--decode"]) == 0
    capsys.readouterr()
    assert run(grown / "two.yaml", grown / "out") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["why", str(grown / "out"), "copy.jpg"]) == 0
    assert "a/3.jpg" in capsys.readouterr().out  # of lower priority, and finished before


def test_what_lies_in_the_output_is_enough_to_go_on_from(grown: Path, tmp_path: Path) -> None:
    shutil.copytree(grown / "out", tmp_path / "out", ignore=shutil.ignore_patterns(".stages", "shards"))
    assert run(grown / "two.yaml", tmp_path / "out") == 0
    assert checksums(tmp_path / "out") == checksums(grown / "out")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-5])])
def test_a_catalogue_that_is_lost_is_that_of_its_stage(grown: Path, tmp_path: Path, damage: Any) -> None:
    shutil.copytree(grown / "out", tmp_path / "out")
    damage(tmp_path / "out/catalogue.parquet")
    assert run(grown / "two.yaml", tmp_path / "out") == 0
    assert checksums(tmp_path / "out") == checksums(grown / "out")
    assert (tmp_path / "out/catalogue.parquet").read_bytes() == (grown / "out/catalogue.parquet").read_bytes()


def test_a_run_that_was_killed_behind_its_shards_is_neither_locked_nor_published(
    grown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(grown / "out", out)
    for name in ("catalogue.parquet", ".stages/made.json", ".stages/runs.json"):
        shutil.copy(grown / "first" / name, out / name)
    for line in (["lock", str(out)], ["publish", str(out), (tmp_path / "to").as_uri(), "--lock-only"]):
        assert main(line) == 2
        assert "did not finish; run its recipe once more" in capsys.readouterr().err
    assert run(grown / "two.yaml", out) == 0
    assert main(["lock", str(out)]) == 0


def test_regenerate_gives_what_a_new_run_gives(grown: Path, tmp_path: Path) -> None:
    assert run(grown / "two.yaml", tmp_path / "fresh") == 0
    shutil.copytree(grown / "out", tmp_path / "out")
    assert run(grown / "two.yaml", tmp_path / "out", "--regenerate") == 0
    assert checksums(tmp_path / "out") == checksums(tmp_path / "fresh") != checksums(grown / "out")
    assert (tmp_path / "out/catalogue.parquet").read_bytes() == (tmp_path / "fresh/catalogue.parquet").read_bytes()


def test_a_lock_of_a_corpus_that_has_grown_gives_the_same_shards_and_grows_on(
    grown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lock", str(grown / "out"), "--to", str(tmp_path / "lock")]) == 0
    again = tmp_path / "again"
    line = ["rebuild", str(tmp_path / "lock"), "--data", str(grown), "--out", str(again), "--workers", "1"]
    assert main(line) == 0
    assert checksums(again) == checksums(grown / "out")
    assert main(["lock", str(grown / "first"), "--to", str(tmp_path / "older")]) == 0
    back = ["rebuild", str(tmp_path / "older"), *line[2:]]
    assert main(back) == 2
    assert "run again with --replace" in capsys.readouterr().err
    assert main([*back, "--replace"]) == 0 and checksums(again) == checksums(grown / "first")
    assert main(line) == 0 and checksums(again) == checksums(grown / "out")
    shutil.copy(grown / "first/catalogue.parquet", tmp_path / "lock")
    assert main(line) == 2 and "catalogue and checksums are of two runs" in capsys.readouterr().err
    (tmp_path / "c").mkdir()
    texture(300).save(tmp_path / "c/300.jpg", quality=90)
    (grown / "three.yaml").write_text(BOTH.replace("sources: [", f"sources: [{{id: c, path: {tmp_path / 'c'}}}, "))
    assert run(grown / "three.yaml", again) == 0
    assert checksums(again)[:-1] == checksums(grown / "out")


def test_one_percent_more_rewrites_at_most_two_percent(tmp_path: Path) -> None:
    """Of the bytes that lie in the shards' folder, and of those that are published."""
    (tmp_path / "many").mkdir()
    for seed in range(101):
        texture(1000 + seed, 800).save(tmp_path / "many" / f"{seed}.jpg", quality=100)
    (tmp_path / "many/100.jpg").rename(tmp_path / "later.jpg")
    source = "{id: many, path: many, licence: CC0-1.0, redistributable: yes}"
    (tmp_path / "r.yaml").write_text(f"name: r\nsources: [{source}]\nshards: {{max_samples: 20}}\n")
    made = []
    for more in ([], ["--relist"]):
        assert run(tmp_path / "r.yaml", tmp_path / "out", *more) == 0
        assert main(["publish", str(tmp_path / "out"), (tmp_path / "to").as_uri()]) == 0
        files = [path for top in ("out/shards", "to") for path in (tmp_path / top).rglob("*") if path.is_file()]
        made.append({path: (path.stat().st_ino, path.stat().st_size) for path in files})
        assert ("| generation 2 | 1 tiles in 1 shards |" in (tmp_path / "to/README.md").read_text()) is bool(more)
        (tmp_path / "later.jpg").replace(tmp_path / "many/100.jpg") if not more else None
    before, after = made
    for top in ("out/shards", "to"):
        files = [path for path in after if path.is_relative_to(tmp_path / top)]
        new = sum(after[path][1] for path in files if before.get(path) != after[path])
        assert 0.009 < new / sum(after[path][1] for path in files) < 0.02
