"""Precision and recall of the duplicate search, against imagehash and imagededup.

    python benchmarks/dedup_quality.py --data ../shared/data [--tiles 200000] [--out dedup_quality.json]

1. *Labelled pairs* (``truth_duplicates.csv``): each pair by itself.
2. *Chips*: the 2,800 chips of RSSCN7 together; nothing but natural near-duplicates may merge.
3. *Calm tiles*: distinct low-texture tiles (sea, desert, snow, cloud, grass, fields), cropped from real imagery, with
   sensor noise; 5 % get a planted copy. A method removes every tile that is near one that stays, in order of number;
   precision is the share of removed tiles whose stand-in is their own copy, recall the share of planted copies found.

``imagehash`` is ``imagehash.phash`` at distances 4 and 8. ``imagededup`` is its PHash at its defaults, computed by its
own rule (colour image reduced to 32x32 by Lanczos, then grey; median without the mean coefficient; distance 10); where
the package is installed, its codes and its pairs of chips are compared with that.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from curation.catalogue import read_table, schema_of, write_table
from curation.scan.fingerprint import Fingerprints, fingerprint
from curation.select import keep_rule, neighbours, second_opinion
from curation.select.deduplicate import compare_looks
from curation.select.select import select
from curation.select.views import view_codes
from curation.sources.recipe import DeduplicateRules, Recipe, resolve

Image.MAX_IMAGE_PIXELS = None
SIDE = 128
COPIES = ("re-encode q75", "re-encode q40", "resize 75 %", "resize 150 %", "brightness +10 %", "mirror", "rot90")
RULES = DeduplicateRules()


# ------------------------------------------------------------------------------------------------ imagery


def read(path: Path) -> np.ndarray:
    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except OSError:
        import rasterio

        with rasterio.open(path) as raster:
            bands = raster.read([1, 2, 3] if raster.count >= 3 else [1, 1, 1])
        if bands.dtype != np.uint8:
            low, high = np.percentile(bands, [2, 98])
            bands = np.clip((bands.astype(np.float64) - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(bands.transpose(1, 2, 0))


def calm_scenes(data: Path) -> list[np.ndarray]:
    """Imagery in which calm places are found."""
    paths = [data / "rasters/blue_marble_4096x2048.jpg", *sorted((data / "rasters/drone_brighton").glob("*.JPG"))]
    paths += sorted((data / "rasters/sentinel2").glob("*rgb*.tif"))
    return [read(path) for path in [*paths, *sorted((data / "classification/RSSCN7_256").rglob("*.jpg"))]]


def calm_places(scenes: list[np.ndarray], count: int) -> list[tuple[int, int, int, int]]:
    """Distinct (scene, row, column, side): on one grid per side, so that no two share more than about half."""
    places = []
    for number, scene in enumerate(scenes):
        grey = scene.mean(axis=2)
        for side in (40, 56, 80, 112):
            for row in range(0, grey.shape[0] - side, side // 2):
                for column in range(0, grey.shape[1] - side, side // 2):
                    patch = grey[row : row + side, column : column + side]
                    if 0.6 < patch.std() < 12 and 5 < patch.mean() < 250:
                        places.append((number, row, column, side))
    order = np.random.default_rng(0).permutation(len(places))[:count]
    return [places[index] for index in order]


def calm_tile(crop: np.ndarray, seed: int) -> np.ndarray:
    """The place as a tile of its own, with the noise of a sensor (read noise and shot noise)."""
    rng = np.random.default_rng([2, seed])
    clean = np.asarray(
        Image.fromarray(np.ascontiguousarray(crop)).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float64
    )
    noise = rng.normal(0, rng.uniform(0.5, 2.5), clean.shape) + rng.normal(0, 0.08, clean.shape) * np.sqrt(clean)
    return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)


def stored(tile: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(tile)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def copy_of(tile: np.ndarray, how: str) -> np.ndarray:
    if how.startswith("re-encode"):
        return stored(tile, int(how[-2:]))
    if how.startswith("resize"):
        side = SIDE * int(how.split()[1]) // 100
        return np.asarray(Image.fromarray(tile).resize((side, side), Image.Resampling.BICUBIC))
    if how.startswith("brightness"):
        return np.clip(tile * 1.1, 0, 255).astype(np.uint8)
    return stored(np.fliplr(tile) if how == "mirror" else np.rot90(tile), 90)


def imagededup_code(tile: np.ndarray) -> np.uint64:
    from scipy.fftpack import dct

    grey = Image.fromarray(tile).resize((32, 32), Image.Resampling.LANCZOS).convert("L")
    low = dct(dct(np.asarray(grey), axis=0), axis=1)[:8, :8]
    return np.packbits(low >= np.median(low.reshape(-1)[1:])).view(">u8").astype(np.uint64)[0]


# ------------------------------------------------------------------------------------------------ methods


def looks_of(prints: Fingerprints) -> second_opinion.Looks:
    blocks, soft = prints.dct16.reshape(-1, 256), prints.ac_energy < RULES.soft_ac_energy
    codes = view_codes(prints.orientations, blocks, soft, RULES)
    return second_opinion.Looks(codes, second_opinion.thumbnails(blocks, soft), soft)


def joined(parts: list[Fingerprints]) -> Fingerprints:
    names = ("phash", "orientations", "dct16", "dct_scale", "mean", "std", "ac_energy")
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Fingerprints(**columns, content_hash=[value for part in parts for value in part.content_hash])


def ours(prints: Fingerprints, folder: Path) -> np.ndarray:
    """(N,) the tile that stands for each one after the select stage, -1 where it stays; tile n ranks as number n."""
    count = len(prints.phash)
    ids = [f"{number:020x}" for number in range(count)]
    given: dict[str, Any] = dict.fromkeys(("width", "height", "image_width", "image_height"), [SIDE] * count)
    given |= dict.fromkeys(("row_off", "col_off", "file_bytes"), [0] * count)
    given |= {
        "kind": ["tile"] * count, "source": ["bench"] * count, "tile_id": ids, "image": ids,
        "content_hash": prints.content_hash, "phash": prints.phash, "ac_energy": prints.ac_energy,
        "dct16": [block.tobytes() for block in prints.dct16],
        "orientations": list(prints.orientations),
    }  # fmt: skip
    schema = schema_of("tiles")
    arrays = [pa.array(given[f.name], f.type) if f.name in given else pa.nulls(count, f.type) for f in schema]
    write_table(pa.table(arrays, schema=schema), folder / "tiles.parquet", "tiles")
    recipe = Recipe(name="bench", sources=[{"id": "bench", "path": "/nowhere"}])
    select([folder / "tiles.parquet"], recipe, resolve(recipe, None), folder / "catalogue.parquet")
    subjects = read_table(folder / "catalogue.parquet", "catalogue", ["subject"])["subject"].to_pylist()
    return np.array([-1 if subject is None else int(subject, 16) for subject in subjects])


def by_distance(codes: np.ndarray, radius: int) -> np.ndarray:
    """(N,) the same for a method that only compares codes."""
    pairs = neighbours.pairs_within(codes, radius)
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    stands_in = np.full(len(codes), -1, np.int64)
    keep_rule.keep_first(pairs[:, 0].copy(), pairs[:, 1].copy(), stands_in)
    return stands_in


# ------------------------------------------------------------------------------------------------ tests


def labelled_pairs(data: Path) -> list[dict[str, Any]]:
    with (data / "truth_duplicates.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    paths = sorted({pair[key] for pair in pairs for key in "ab"})
    tiles = [read(data / path) for path in paths]
    prints = fingerprint(tiles)
    place = {path: number for number, path in enumerate(paths)}
    a, b = (np.array([place[pair[key]] for pair in pairs]) for key in "ab")
    looks = looks_of(prints)
    found = compare_looks(looks, looks, a, b, RULES.radius, RULES).distance >= 0
    found |= np.array([prints.content_hash[i] == prints.content_hash[j] for i, j in zip(a, b, strict=True)])
    found &= np.minimum(prints.ac_energy[a], prints.ac_energy[b]) >= RULES.min_ac_energy
    far = np.bitwise_count(prints.phash[a] ^ prints.phash[b])
    dedup = np.array([imagededup_code(tile) for tile in tiles])
    others = {
        "imagehash 4": far <= 4,
        "imagehash 8": far <= 8,
        "imagededup": np.bitwise_count(dedup[a] ^ dedup[b]) <= 10,
    }
    rows = []
    for kind in sorted({(pair["is_duplicate"], pair["relation"]) for pair in pairs}, reverse=True):
        chosen = np.array([(pair["is_duplicate"], pair["relation"]) == kind for pair in pairs])
        row = {"duplicate": kind[0], "relation": kind[1], "pairs": int(chosen.sum()), "ours": int(found[chosen].sum())}
        rows.append(row | {name: int(hit[chosen].sum()) for name, hit in others.items()})
    return rows


def chips(data: Path, folder: Path) -> dict[str, Any]:
    paths = sorted((data / "classification/RSSCN7_256").rglob("*.jpg"))
    tiles = [read(path) for path in paths]
    stands_in = {"ours": ours(fingerprint(tiles), folder)}
    codes = fingerprint(tiles).phash
    stands_in |= {f"imagehash {radius}": by_distance(codes, radius) for radius in (4, 8)}
    dedup = np.array([imagededup_code(tile) for tile in tiles])
    stands_in["imagededup"] = by_distance(dedup, 10)
    package = imagededup_itself(tiles, dedup)
    named = {name: [(paths[k].stem, paths[s[k]].stem) for k in np.nonzero(s >= 0)[0]] for name, s in stands_in.items()}
    return {
        "chips": len(paths),
        "merged": {name: len(pairs) for name, pairs in named.items()},
        "which": named,
        "imagededup": package,
    }


def imagededup_itself(tiles: list[np.ndarray], codes: np.ndarray) -> str:
    """Run the package, and say whether its codes and pairs are those of its rule."""
    try:
        from imagededup.methods import PHash
    except ImportError:
        return "not installed"
    method = PHash(verbose=False)
    theirs = {str(number): method.encode_image(image_array=tile) for number, tile in enumerate(tiles)}
    duplicates = method.find_duplicates(encoding_map=theirs)
    pairs = {tuple(sorted((int(a), int(b)))) for a, found in duplicates.items() for b in found}
    same_codes = list(theirs.values()) == [format(int(code), "016x") for code in codes]
    same_pairs = pairs == {(int(a), int(b)) for a, b in neighbours.pairs_within(codes, 10)}
    return f"codes {'equal' if same_codes else 'DIFFER'}, {len(pairs)} pairs {'equal' if same_pairs else 'DIFFER'}"


_SCENES: list[np.ndarray] = []
"""Of the worker processes, which are forked and share them."""


def _calm_part(job: tuple[list[tuple[int, int, int, int]], np.ndarray, int]) -> tuple[Any, ...]:
    places, kinds, start = job
    crops = [_SCENES[n][r : r + side, c : c + side] for n, r, c, side in places]
    tiles = [calm_tile(crop, start + n) for n, crop in enumerate(crops)]
    copies = [copy_of(tiles[n], COPIES[kind]) for n, kind in enumerate(kinds) if kind >= 0]
    codes = [np.array([imagededup_code(tile) for tile in group]) for group in (tiles, copies)]
    return fingerprint(tiles), fingerprint(copies), *codes


def calm(data: Path, count: int, folder: Path, workers: int) -> dict[str, Any]:
    scenes = calm_scenes(data)
    places = calm_places(scenes, count)
    rng = np.random.default_rng(1)
    kinds = np.where(rng.random(len(places)) < 0.05, rng.integers(0, len(COPIES), len(places)), -1)
    step = 1_000
    jobs = [(places[low : low + step], kinds[low : low + step], low) for low in range(0, len(places), step)]
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=fork, initializer=_SCENES.extend, initargs=(scenes,)) as pool:
        parts = list(pool.map(_calm_part, jobs))
    prints = joined([part[0] for part in parts] + [part[1] for part in parts])
    dedup = np.concatenate([part[2] for part in parts] + [part[3] for part in parts])
    original = np.nonzero(kinds >= 0)[0]
    start = time.perf_counter()
    methods = {"ours": ours(prints, folder)}
    seconds = time.perf_counter() - start
    methods |= {f"imagehash {radius}": by_distance(prints.phash, radius) for radius in (4, 8)}
    methods["imagededup"] = by_distance(dedup, 10)
    rows = [judge(name, stands_in, len(places), original, kinds) for name, stands_in in methods.items()]
    return {"tiles": len(places), "planted": len(original), "select_seconds": round(seconds, 1), "methods": rows}


def judge(name: str, stands_in: np.ndarray, count: int, original: np.ndarray, kinds: np.ndarray) -> dict[str, Any]:
    """Precision and recall of one method; the copy of tile ``original[k]`` is number ``count + k``."""
    removed = np.nonzero(stands_in >= 0)[0]
    place = np.concatenate([np.arange(count), original])
    right = place[removed] == place[stands_in[removed]]
    copy_found = stands_in[count:] == original
    row = {"method": name, "removed": len(removed), "wrongly": int((~right).sum())}
    row["precision"] = round(float(right.mean()), 5) if len(removed) else None
    row["recall"] = round(float(copy_found.mean()), 4)
    for kind, how in enumerate(COPIES):
        row[how] = round(float(copy_found[kinds[original] == kind].mean()), 3)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(lines + ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tiles", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = {"rules": RULES.model_dump(), "labelled": labelled_pairs(options.data)}
        print(table(result["labelled"]), flush=True)
        result["chips"] = chips(options.data, Path(folder))
        print(json.dumps(result["chips"]["merged"]), result["chips"]["which"]["ours"], flush=True)
        print("imagededup:", result["chips"]["imagededup"], flush=True)
        result["calm"] = calm(options.data, options.tiles, Path(folder), options.workers)
        print(table(result["calm"]["methods"]))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
