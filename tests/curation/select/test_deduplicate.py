from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rows_for_select import block, image_row, random_tile, recipe, texture, tile_row, write

from curation.catalogue import read_table
from curation.scan.fingerprint import fingerprint, to_imagehash
from curation.select import deduplicate, second_opinion
from curation.select.deduplicate import find_duplicates
from curation.select.rows import load_rows
from curation.select.select import select
from curation.select.views import VIEWS, Box, crop_codes, view_codes
from curation.sources.recipe import DeduplicateRules


def stored(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def oriented(picture: np.ndarray, view: int) -> np.ndarray:
    return np.rot90(np.fliplr(picture) if view >= 4 else picture, view % 4).copy()


def rows_of(pictures: dict[str, np.ndarray], **facts: Any) -> list[dict[str, Any]]:
    prints = fingerprint(list(pictures.values()))
    rows = []
    for number, (name, picture) in enumerate(pictures.items()):
        height, width = picture.shape[:2]
        rows.append(image_row("a", name, image_width=width, image_height=height))
        rows.append(
            tile_row(
                "a", name, (0, 0, width, height), codes=prints.orientations[number], dct16=prints.dct16[number],
                content=prints.content_hash[number], ac_energy=float(prints.ac_energy[number]),
                image_width=width, image_height=height, **facts,
            )
        )  # fmt: skip
    return rows


def verdicts(tmp_path: Path, rows: list[dict[str, Any]], **rules: Any) -> dict[str, tuple[str, str, str]]:
    """Verdict, image that stands in and detail of every tile, by its image."""
    made, sources = recipe("a", "b", deduplicate=rules)
    select([write(tmp_path / "t.parquet", rows)], made, sources, tmp_path / "c.parquet", threads=2)
    table = [row for row in read_table(tmp_path / "c.parquet", "catalogue").to_pylist() if row["kind"] == "tile"]
    name = {row["tile_id"]: row["image"] for row in table}
    return {row["image"]: (row["verdict"], name.get(row["subject"], ""), row["detail"] or "") for row in table}


def test_copies_are_found_however_they_were_made(tmp_path):
    original = texture(0)
    pictures = {name: oriented(original, view) for view, name in enumerate(VIEWS[:8])}
    pictures["other"] = texture(1)
    for name, made in {
        "jpeg": stored(original, 40),
        "half": np.asarray(Image.fromarray(original).resize((80, 80))),
        "bright": np.clip(original * 1.15, 0, 255).astype(np.uint8),
    }.items():
        pictures[name] = made
    found = verdicts(tmp_path, rows_of(pictures, gsd_m=1.0))
    kept = [name for name, (verdict, _, _) in found.items() if verdict == "kept"]
    assert "other" in kept and len(kept) == 2
    best = next(name for name in kept if name != "other")
    assert {stand_in for verdict, stand_in, _ in found.values() if verdict == "duplicate"} == {best}


@pytest.mark.parametrize(("method", "gone"), [("near", {"b", "c"}), ("exact", {"b"}), ("off", set())])
def test_the_method_says_which_copies_go(tmp_path, method, gone):
    pictures = {"a": texture(0), "b": texture(0), "c": stored(texture(0), 40), "d": texture(1)}
    found = verdicts(tmp_path, rows_of(pictures, gsd_m=1.0), method=method)
    duplicates = {name for name, (verdict, _, _) in found.items() if verdict == "duplicate"}
    assert len(duplicates) == len(gone) and "d" not in duplicates
    assert duplicates <= {"a", "b", "c"} and ("c" in duplicates) <= (method == "near")


@pytest.mark.parametrize("view", range(8))
def test_the_orientation_is_named(tmp_path, view):
    original = texture(3)
    rows = rows_of({"as_is": original, "turned": oriented(original, view)})
    rows[1]["gsd_m"] = 0.5
    _, stand_in, detail = verdicts(tmp_path, rows)["turned"]
    assert stand_in == "as_is"
    inverse = {1: 3, 3: 1}.get(view, view)
    expected = {VIEWS[view], VIEWS[inverse]}
    assert "equal pixels" in detail if view == 0 else any(f" {name}," in detail for name in expected)


def test_a_thumbnail_turns_as_its_picture_does():
    original = texture(4)
    thumbs = second_opinion.thumbnails(
        fingerprint([oriented(original, view) for view in range(8)]).dct16.reshape(-1, 256)
    )
    for view in range(8):
        assert second_opinion.correlation(thumbs, view, thumbs, 0, view, -1.0) > 0.995
        # Pearson's coefficient, by numpy, of the clipped thumbnails themselves.
        upright = thumbs.pixels[0, :256].reshape(16, 16)
        by_numpy = oriented(upright, view)
        expected = np.corrcoef(thumbs.pixels[1, :256].astype(float), by_numpy.reshape(-1).astype(float))[0, 1]
        measured = second_opinion.correlation(thumbs, 1, thumbs, 0, view, -1.0)
        assert measured == pytest.approx(expected, abs=1e-3)


def test_the_hash_of_a_centre_needs_no_pixels():
    pictures = [texture(seed) for seed in range(40)]
    prints = fingerprint(pictures)
    found = crop_codes(prints.dct16.reshape(-1, 256))
    centres = [Image.fromarray(picture).crop((8, 8, 152, 152)) for picture in pictures]  # 144 of 160 pixels
    distances = [imagehash.phash(centre) - to_imagehash(code) for centre, code in zip(centres, found, strict=True)]
    assert np.median(distances) <= 2 and max(distances) <= 6
    untouched = [imagehash.phash(Image.fromarray(picture)) for picture in pictures]
    assert np.median([a - imagehash.phash(b) for a, b in zip(untouched, centres, strict=True)]) >= 8


@pytest.mark.parametrize("box", [Box(0, 0, 0.85), Box(0.1, 0.15, 0.85), Box(0, 0.05, 0.95)])
def test_the_hash_of_any_part_needs_no_pixels(box):
    pictures = [texture(seed) for seed in range(40)]
    found = crop_codes(fingerprint(pictures).dct16.reshape(-1, 256), box)
    top, left, side = (round(160 * share) for share in box)
    parts = [Image.fromarray(picture).crop((left, top, left + side, top + side)) for picture in pictures]
    distances = [imagehash.phash(part) - to_imagehash(code) for part, code in zip(parts, found, strict=True)]
    assert np.median(distances) <= 2 and np.mean(np.array(distances) <= 6) >= 0.95


@pytest.mark.parametrize("share", [0.89, 0.90, 0.92])
def test_a_centre_crop_is_a_duplicate_in_either_order(tmp_path, share):
    original, edge = texture(6, 320), round(160 * (1 - share))
    crop = original[edge : 320 - edge, edge : 320 - edge].copy()
    pictures = {"original": original, "crop": stored(crop, 90), "other": texture(7, 320)}
    found = verdicts(tmp_path, rows_of(pictures, gsd_m=1.0))
    assert found["crop"][:2] == ("duplicate", "original") and "centre crop" in found["crop"][2]
    assert found["other"][0] == found["original"][0] == "kept"
    rows = rows_of(pictures, gsd_m=1.0)
    rows[3]["gsd_m"] = 0.5
    assert verdicts(tmp_path, rows)["original"][:2] == ("duplicate", "crop")
    assert {verdict for verdict, _, _ in verdicts(tmp_path, rows, crops=False).values()} == {"kept"}


def test_a_bright_corner_does_not_make_two_seas_one(tmp_path):
    rng = np.random.default_rng(5)
    pictures = {}
    for name in ("one", "two"):
        sea = texture(int(rng.integers(1000))).astype(np.float64)
        calm = 90 + (sea - sea.mean()) * 0.03
        calm += 200 * np.exp(-np.arange(160)[:, None] / 14 - np.arange(160)[None, :] / 20)[:, :, None]
        pictures[name] = calm.astype(np.uint8)
    rows = rows_of(pictures)
    tiles = [row for row in rows if row["kind"] == "tile"]
    assert (tiles[0]["phash"] ^ tiles[1]["phash"]).bit_count() <= 10, "the hash alone would merge them"
    assert {verdict for verdict, _, _ in verdicts(tmp_path, rows, radius=10).values()} == {"kept"}


def test_nothing_chains(tmp_path):
    rng = np.random.default_rng(6)
    code, picture = rng.integers(0, 2**64, 8, dtype=np.uint64), block(rng)
    rows = []
    for number, bits in enumerate((0, 0b111, 0b111111)):
        codes = code.copy()
        codes[0] ^= np.uint64(bits)
        rows.append(tile_row("a", f"{number}", codes=codes, dct16=picture, content=rng.bytes(16), gsd_m=number + 1.0))
    found = verdicts(tmp_path, rows, radius=4, orientations=False)
    assert [found[name][0] for name in "012"] == ["kept", "duplicate", "kept"]
    assert found["1"][1] == "0"


def test_without_texture_only_equal_pixels_count(tmp_path):
    rng = np.random.default_rng(7)
    calm = random_tile(rng, "a", "0", ac_energy=0.1)
    rows = [
        calm,
        calm | random_tile(rng, "a", "1") | {key: calm[key] for key in ("orientations", "dct16", "ac_energy")},
    ]
    rows.append(rows[1] | {"image": "2", "tile_id": "0" * 20})
    found = verdicts(tmp_path, rows)
    assert [found[name][0] for name in "012"].count("kept") == 2
    assert found["0"][0] == "kept"


def test_soft_tiles_are_near_within_a_wider_radius(tmp_path):
    rng = np.random.default_rng(8)
    rows = []
    for energy in (2.0, 20.0):
        tile = random_tile(rng, "a", f"{energy}", ac_energy=energy)
        far = [code ^ 0b11111111 for code in tile["orientations"]]
        twin = random_tile(rng, "a", f"{energy} twin") | {"dct16": tile["dct16"], "orientations": far}
        rows += [tile, twin | {"ac_energy": energy}]
    found = verdicts(tmp_path, rows)
    assert {found[name][0] for name in ("2.0", "2.0 twin")} == {"kept", "duplicate"}
    assert {found[name][0] for name in ("20.0", "20.0 twin")} == {"kept"}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"gsd_m": 0.3}, {"gsd_m": 0.5, "width": 512, "height": 512}),
        ({"gsd_m": 9.0}, {"gsd_m": None}),
        ({"width": 300}, {"file_bytes": 99_000}),
        ({"file_bytes": 60_000}, {}),
    ],
)
def test_the_better_tile_stays(tmp_path, better, worse):
    rng = np.random.default_rng(9)
    base = random_tile(rng, "a", "worse")
    twin = random_tile(rng, "a", "better") | {key: base[key] for key in ("orientations", "dct16")}
    found = verdicts(tmp_path, [base | worse, twin | better])
    assert found["worse"][:2] == ("duplicate", "better")


@pytest.mark.parametrize(
    ("first", "second"),
    [({"redistributable": "no"}, {"redistributable": "yes"}), ({"priority": 0}, {"priority": 3})],
)
def test_freer_licence_and_priority_decide_between_sources(tmp_path, first, second):
    rng = np.random.default_rng(10)
    base = random_tile(rng, "a", "0")
    twin = random_tile(rng, "b", "1") | {key: base[key] for key in ("orientations", "dct16")}
    made, sources = recipe({"id": "a", "path": "/x"} | first, {"id": "b", "path": "/y"} | second)
    rows = load_rows([write(tmp_path / "t.parquet", [base, twin])], ["a", "b"], made.deduplicate)
    found = find_duplicates(rows, np.arange(2), sources, made.deduplicate, threads=1)
    assert (found.row.tolist(), found.subject.tolist()) == ([0], [1])


def by_definition(rows: list[dict[str, Any]], radius: int, least: float) -> dict[str, str]:
    """The rule read literally, one tile after the other; only equal source, area and GSD, so that the id ranks."""
    blocks = np.stack([np.frombuffer(row["dct16"], np.int8) for row in rows])
    thumbs = second_opinion.thumbnails(blocks)
    orientations = np.array([row["orientations"] for row in rows], np.uint64)
    codes = view_codes(orientations, blocks, np.zeros(len(rows), bool), DeduplicateRules()).tolist()
    order = sorted(range(len(rows)), key=lambda n: rows[n]["tile_id"])
    kept, gone = [], {}
    for n in order:
        for k in kept:
            same = rows[n]["content_hash"] == rows[k]["content_hash"]
            for view in range(9):
                for i, j in ((k, n), (n, k)):
                    near = (codes[i][0] ^ codes[j][view]).bit_count() <= radius
                    same |= near and second_opinion.correlation(thumbs, i, thumbs, j, view, least) >= least
            if same:
                gone[rows[n]["image"]] = rows[k]["image"]
                break
        else:
            kept.append(n)
    return gone


@pytest.mark.parametrize("many", [20_000, 3])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_equals_the_definition(tmp_path_factory, many, seed):
    rng = np.random.default_rng(seed)
    centres, blocks = rng.integers(0, 2**64, (6, 8), dtype=np.uint64), [block(rng) for _ in range(3)]
    rows = []
    for number in range(40):
        codes = np.roll(centres[rng.integers(6)], 0 if rng.random() < 0.7 else int(rng.integers(8)))
        codes = codes ^ (np.uint64(1) << rng.integers(0, 64, 8).astype(np.uint64)) ^ np.uint64(rng.integers(0, 4))
        content = bytes([1 + rng.integers(25)]) * 16
        rows.append(tile_row("a", f"{number}", codes=codes, dct16=blocks[rng.integers(3)], content=content))
    for row in rows:  # equal pixels have equal fingerprints
        first = next(other for other in rows if other["content_hash"] == row["content_hash"])
        row |= {key: first[key] for key in ("orientations", "dct16")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deduplicate, "_MANY", many)
        patch.setattr(deduplicate, "_crowded", lambda codes, radius: False)
        found = verdicts(tmp_path_factory.mktemp("rule"), rows, radius=3, soft_radius=0)
    gone = {image: stand_in for image, (verdict, stand_in, _) in found.items() if verdict == "duplicate"}
    assert gone == by_definition(rows, 3, 0.9)
