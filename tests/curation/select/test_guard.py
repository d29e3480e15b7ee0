from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rows_for_select import image_row, random_tile, recipe, texture, write

from curation.base.errors import FormatVersionError, InputError
from curation.catalogue import read_table, table_from_rows
from curation.scan.parts import ScanJob, plan_parts
from curation.scan.scan import scan_part
from curation.select.benchmark_fingerprints import fingerprint_benchmark
from curation.select.guard import fingerprint_files
from curation.select.select import SelectSummary, select
from curation.sources.recipe import SliceRules
from curation.sources.source import Benchmark


def picture(seed: int, side: int = 192) -> np.ndarray:
    """Structure at all scales with the noise of a sensor, so that the exclusion rules take it for imagery."""
    noise = np.random.default_rng([seed, 1]).normal(0, 2, (side, side, 3))
    return np.clip(texture(seed, side) + noise, 0, 255).astype(np.uint8)


def save(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    for name, pixels in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name, quality=90)
    return folder


def run(
    tmp_path: Path,
    pictures: dict[str, np.ndarray],
    prints: dict[str, Path],
    *,
    exclude: Any = None,
    crops: bool = True,
    **slices: Any,
) -> dict[str, Any]:
    """Scan and select some pictures against fingerprint files: verdict, subject and detail of every tile."""
    from curation.sources.inventory import write_inventory

    made, sources = recipe(
        {"id": "corpus", "path": str(save(tmp_path / "corpus", pictures))},
        slice=slices,
        exclude=exclude or {},
        guard={"benchmarks": list(prints), "crops": crops},
    )
    write_inventory(sources, tmp_path / "images.parquet")
    parts = plan_parts(tmp_path / "images.parquet", tmp_path / "scan", ScanJob.of(sources[0], made))
    for part in parts:
        scan_part(part)
    select([part.out for part in parts], made, sources, tmp_path / "c.parquet", benchmarks=prints)
    rows = [row for row in read_table(tmp_path / "c.parquet", "catalogue").to_pylist() if row["kind"] == "tile"]
    return {f"{row['image']} {row['col_off']},{row['row_off']}": row for row in rows}


def test_benchmark_images_are_kept_out_in_any_orientation(tmp_path):
    theirs = {f"class/{n}.jpg": picture(n) for n in range(5)}
    summary = fingerprint_benchmark(
        Benchmark(id="bench"), save(tmp_path / "bench", theirs), tmp_path / "fp/bench.parquet"
    )
    assert (summary.images, summary.fingerprints, summary.unreadable) == (5, 5, 0)
    mine = {
        "turned.png": np.rot90(picture(0)),
        "mirrored.jpg": np.fliplr(picture(1)),
        "small.png": np.asarray(Image.fromarray(picture(2)).resize((120, 120))),
        "same.jpg": picture(3),
        "mine.jpg": picture(77),
    }
    found = run(
        tmp_path, {k: np.ascontiguousarray(v) for k, v in mine.items()}, {"bench": tmp_path / "fp/bench.parquet"}
    )
    assert {name.split()[0]: row["verdict"] for name, row in found.items()} == {
        "turned.png": "leak", "mirrored.jpg": "leak", "small.png": "leak", "same.jpg": "leak", "mine.jpg": "kept",
    }  # fmt: skip
    assert found["turned.png 0,0"]["subject"] == "bench"
    assert found["turned.png 0,0"]["detail"].startswith("bench/class/0.jpg: phash distance ")
    assert found["same.jpg 0,0"]["detail"] == "bench/class/3.jpg: equal pixels"


@pytest.mark.parametrize("crops", [True, False])
def test_what_is_cut_out_of_a_benchmarks_image_is_found_wherever_it_was_cut(tmp_path, crops):
    theirs = {f"{n}.jpg": picture(n, 256) for n in range(8)}
    fingerprint_benchmark(Benchmark(id="bench"), save(tmp_path / "bench", theirs), tmp_path / "fp/bench.parquet")
    places = [
        (0, 0, 224),
        (32, 0, 224),
        (10, 30, 220),
        (16, 16, 224),
        (0, 36, 218),
        (20, 4, 240),
        (38, 38, 218),
        (5, 5, 246),
    ]
    mine = {f"{n}.jpg": theirs[f"{n}.jpg"][top:, left:][:side, :side] for n, (top, left, side) in enumerate(places)}
    mine = {name: np.rot90(np.fliplr(part) if n % 2 else part, n // 2) for n, (name, part) in enumerate(mine.items())}
    mine |= {f"mine{n}.jpg": picture(100 + n, 224) for n in range(8)}
    found = run(
        tmp_path,
        {name: np.ascontiguousarray(part) for name, part in mine.items()},
        {"bench": tmp_path / "fp/bench.parquet"},
        crops=crops,
    )
    leaks = {name.split()[0]: row for name, row in found.items() if row["verdict"] == "leak"}
    if not crops:
        assert len(leaks) <= 1  # the nearly whole one
        return
    assert set(leaks) == set(theirs)
    assert all(row["detail"].startswith(f"bench/{name}: ") for name, row in leaks.items())
    assert "cut out, mirror" in leaks["1.jpg"]["detail"] and "gradients correlate" in leaks["1.jpg"]["detail"]


def test_no_shore_is_taken_for_a_part_of_another(tmp_path, shared):
    """Of two beaches one can nearly always be cut so that water and sand lie as in the other."""
    beaches = sorted((shared / "data/classification/UCMerced_256/beach").iterdir())
    pictures = {path.name: np.asarray(Image.open(path).convert("RGB")) for path in beaches}
    names = sorted(pictures)
    theirs = {name: pictures[name] for name in names[::2]}
    fingerprint_benchmark(Benchmark(id="bench"), save(tmp_path / "bench", theirs), tmp_path / "fp/bench.parquet")
    found = run(
        tmp_path,
        {name: pictures[name] for name in names[1::2]},
        {"bench": tmp_path / "fp/bench.parquet"},
        exclude={"min_std": 0, "max_flat": 1, "min_coloured": 0},
    )
    leaks = {name.split()[0]: row["detail"] for name, row in found.items() if row["verdict"] == "leak"}
    assert list(leaks) == ["beach75.jpg"] and leaks["beach75.jpg"].startswith(
        "bench/beach74.jpg: "
    )  # one groyne, twice


def test_a_whole_image_that_leaks_takes_all_its_tiles_out(tmp_path):
    large = picture(5, 512)
    bench = save(tmp_path / "bench", {"a.png": large})
    fingerprint_benchmark(Benchmark(id="bench"), bench, tmp_path / "bench.parquet")
    mine = {"copy.png": np.fliplr(large).copy(), "mine.png": picture(6, 512)}
    found = run(tmp_path, mine, {"bench": tmp_path / "bench.parquet"}, mode="grid", tile=128, whole_up_to=128)
    assert len(found) == 32
    assert {row["verdict"] for name, row in found.items() if name.startswith("copy")} == {"leak"}
    assert {row["verdict"] for name, row in found.items() if name.startswith("mine")} == {"kept"}


def test_a_tile_on_the_benchmarks_grid_is_found_in_a_larger_image(tmp_path):
    tiles = [picture(10 + n, 128) for n in range(4)]
    bench = save(tmp_path / "bench", {"one.png": tiles[2]})
    fingerprint_benchmark(Benchmark(id="bench"), bench, tmp_path / "bench.parquet")
    mosaic = np.block([[[tiles[0]], [tiles[1]]], [[tiles[2]], [tiles[3]]]])
    found = run(
        tmp_path, {"m.png": mosaic}, {"bench": tmp_path / "bench.parquet"}, mode="grid", tile=128, whole_up_to=128
    )
    assert [name for name, row in found.items() if row["verdict"] == "leak"] == ["m.png 0,128"]


def test_large_benchmark_images_are_fingerprinted_tile_by_tile_too(tmp_path):
    bench = save(tmp_path / "bench", {"a.png": picture(5, 512)})
    grid = SliceRules(mode="grid", tile=256, whole_up_to=256)
    assert fingerprint_benchmark(Benchmark(id="bench"), bench, tmp_path / "b.parquet", grid).fingerprints == 5
    mine = {"quarter.png": picture(5, 512)[256:, :256]}
    found = run(tmp_path, {k: v.copy() for k, v in mine.items()}, {"bench": tmp_path / "b.parquet"})
    assert found["quarter.png 0,0"]["verdict"] == "leak"


def test_only_the_test_splits_are_guarded(tmp_path):
    bench = save(tmp_path / "bench", {"train/0.jpg": picture(0), "test/1.jpg": picture(1)})
    manifest = Benchmark(id="bench", splits={"train": ("train/*",), "test": ("test/*",)}, test_splits=("test",))
    fingerprint_benchmark(manifest, bench, tmp_path / "b.parquet")
    assert read_table(tmp_path / "b.parquet", "tiles")["image"].to_pylist() == ["test/1.jpg"]


def test_a_benchmark_without_such_images_is_an_input_error(tmp_path):
    bench = save(tmp_path / "bench", {"train/0.jpg": picture(0)})
    manifest = Benchmark(id="bench", splits={"test": ("test/*",)}, test_splits=("test",))
    with pytest.raises(InputError, match="no image of test"):
        fingerprint_benchmark(manifest, bench, tmp_path / "b.parquet")


def test_a_benchmark_with_a_broken_archive_is_not_guarded_in_part(tmp_path):
    bench = save(tmp_path / "bench", {"1.jpg": picture(1)})
    (bench / "2.zip").write_bytes(b"cut short")
    with pytest.raises(InputError, match=r"benchmark bench: 2\.zip: not a whole archive .* fetch it again"):
        fingerprint_benchmark(Benchmark(id="bench", container="zip"), bench, tmp_path / "b.parquet")
    assert not (tmp_path / "b.parquet").exists()


def test_a_second_benchmark_is_told_from_the_first(tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        fingerprint_benchmark(
            Benchmark(id=name), save(tmp_path / name, {"x.png": picture(seed)}), tmp_path / f"{name}.parquet"
        )
    prints = {name: tmp_path / f"{name}.parquet" for name in ("one", "two")}
    found = run(tmp_path, {"a.png": picture(2), "b.png": picture(1)}, prints)
    assert [row["subject"] for row in found.values()] == ["two", "one"]


def test_absent_fingerprints_stop_the_run_with_the_command(tmp_path):
    made, _ = recipe("a", guard={"benchmarks": ["aid", "dior"]})
    write(tmp_path / "aid.parquet", [])
    with pytest.raises(InputError, match=r"rs-curate fingerprint --benchmark dior --data DIR.*--unguarded dior"):
        fingerprint_files(made, tmp_path)
    assert fingerprint_files(made, tmp_path, ["dior"]) == {"aid": tmp_path / "aid.parquet"}
    with pytest.raises(InputError, match="--unguarded nwpu"):
        fingerprint_files(made, tmp_path, ["nwpu"])


def test_the_summary_repeats_what_is_not_guarded(tmp_path):
    made, sources = recipe("a", guard={"benchmarks": ["aid"]})
    rows = [random_tile(np.random.default_rng(0), "a", "0")]
    summary = select([write(tmp_path / "t.parquet", rows)], made, sources, tmp_path / "c.parquet", unguarded=["aid"])
    assert summary == SelectSummary(1, 1, 1, {}, ("aid",))
    assert str(summary) == "1 of 1 tiles kept in 1 shards; not guarded: aid"


def test_a_file_of_another_kind_is_refused(tmp_path):
    made, sources = recipe("a")
    tiles = write(tmp_path / "t.parquet", [image_row("a", "0"), random_tile(np.random.default_rng(0), "a", "0")])
    select([tiles], made, sources, tmp_path / "c.parquet")
    with pytest.raises((InputError, FormatVersionError), match="holds catalogue, expected tiles"):
        select([tiles], made, sources, tmp_path / "d.parquet", benchmarks={"aid": tmp_path / "c.parquet"})


def test_fingerprints_of_another_format_version_stop_the_run_before_its_work(tmp_path):
    made, _ = recipe("a", guard={"benchmarks": ["aid"]})
    old = table_from_rows("tiles", []).replace_schema_metadata({"rscorpus.table": "tiles", "rscorpus.version": "1"})
    pq.write_table(old, tmp_path / "aid.parquet")
    way_out = r"format version 1, this release reads 2; make .* `rs-curate fingerprint --benchmark aid --data DIR`"
    with pytest.raises(FormatVersionError, match=way_out):
        fingerprint_files(made, tmp_path)


def test_what_a_benchmarks_image_looks_like_is_not_asked(tmp_path):
    """A grey strip that every content rule would leave out is guarded all the same."""
    strip = picture(3, 400)[:30, :, :1].repeat(3, 2)
    bench = save(tmp_path / "bench", {"strip.png": strip, "dot.png": strip[:1, :1]})
    summary = fingerprint_benchmark(Benchmark(id="bench"), bench, tmp_path / "b.parquet")
    assert (summary.images, summary.fingerprints, summary.unreadable) == (2, 2, 0)
    rules = {"min_side": 8, "max_aspect": 100, "min_coloured": 0, "max_flat": 1}
    found = run(tmp_path, {"mine.png": strip}, {"bench": tmp_path / "b.parquet"}, exclude=rules)
    assert found["mine.png 0,0"]["verdict"] == "leak"
