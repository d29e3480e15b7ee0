"""Confusion of the exclusion rules on a folder of images whose role is known: what is kept, what is left out, and why.

    python benchmarks/exclusion.py DATA [--truth SOURCES.csv] [--show-errors] [--jpeg 75 --every 10]

DATA holds images and a CSV with columns ``path``, ``role`` and ``optical_keep`` (1 keep, 0 leave out, anything else:
depends on the policy). Every image goes through scan and select as a plain folder source with the default rules. An
image counts as kept when at least one of its tiles is, or is a duplicate. With ``--jpeg`` every image that can be read
is encoded again as RGB first, at the quality given: what lossy copies of the same images come to.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from PIL import Image as Picture

from curation import catalogue
from curation.base.errors import UnreadableImage
from curation.imagery.image import open_image
from curation.imagery.location import Location
from curation.scan import parts as scan_parts
from curation.scan import scan
from curation.select import select
from curation.sources.recipe import ExcludeRules, Recipe, resolve
from curation.sources.source import Source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--show-errors", action="store_true")
    parser.add_argument("--jpeg", type=int, metavar="QUALITY", help="encode the images again as JPEG")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="take each N-th image of a role of 100 or more"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    truth = thinned(read_truth(options.truth or options.data / "SOURCES.csv"), options.every)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if options.jpeg is not None:
            data = Path(folder)
            truth = encoded(options.data, truth, data, options.jpeg)
        outcome = scan_all(data, sorted(truth))
    print(f"{len(truth)} files in {time.perf_counter() - start:.0f} s")
    table = confusion(truth, outcome)
    show(table)
    if options.show_errors:
        for path, (role, keep) in sorted(truth.items()):
            kept, why = outcome[path]
            if keep in ("0", "1") and kept != (keep == "1"):
                print(f"{'kept' if kept else 'left out'}: {path} ({role}) {why}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


def read_truth(path: Path) -> dict[str, tuple[str, str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["path"]: (row["role"], row["optical_keep"]) for row in rows if row["optical_keep"] != "n/a"}


def thinned(truth: dict[str, tuple[str, str]], every: int) -> dict[str, tuple[str, str]]:
    """Each ``every``-th of the roles that have many images, all of the others."""
    many = {role for role, count in Counter(role for role, _ in truth.values()).items() if count >= 100}
    seen: Counter[str] = Counter()
    chosen = {}
    for path, group in sorted(truth.items()):
        seen[group[0]] += 1
        if group[0] not in many or seen[group[0]] % every == 0:
            chosen[path] = group
    return chosen


def encoded(data: Path, truth: dict[str, tuple[str, str]], out: Path, quality: int) -> dict[str, tuple[str, str]]:
    """Write the images below ``out`` as JPEG under their own names; those that can be read, and are no giants."""
    written = {}
    for path, group in truth.items():
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_image(Location(data, path), Source(id="all"), ExcludeRules()) as image:
                if image.width * image.height > 40_000_000:
                    continue
                Picture.fromarray(image.read(image.area)[0]).save(target, "JPEG", quality=quality)
        except UnreadableImage:
            continue
        written[path] = group
    return written


def scan_all(data: Path, paths: list[str]) -> dict[str, tuple[bool, str]]:
    """Whether an image is kept, and its reason or its tiles' reasons."""
    recipe = Recipe(name="exclusion", sources=[{"id": "all", "path": str(data.resolve())}])
    source = resolve(recipe, None)[0]
    rows = [
        {"source": "all", "image": path, "file": path, "bytes": (data / path).stat().st_size, "mtime_ns": 0}
        for path in paths
    ]
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "images.parquet"
        catalogue.write_table(catalogue.table_from_rows("images", rows), listing, "images")
        parts = scan_parts.plan_parts(listing, Path(folder), scan_parts.ScanJob.of(source, recipe))
        for part in parts:
            scan.scan_part(part)
        select.select([part.out for part in parts], recipe, [source], Path(folder) / "catalogue.parquet")
        table = catalogue.read_table(Path(folder) / "catalogue.parquet", "catalogue")
    kept: set[str] = set()
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in table.select(["image", "verdict", "detail"]).to_pylist():
        if row["verdict"] in (catalogue.KEPT, "duplicate"):
            kept.add(row["image"])
        elif row["verdict"] != catalogue.SLICED:
            reasons[row["image"]].append(f"{row['verdict']}: {row['detail']}")
    return {path: (path in kept, "; ".join(reasons[path][:3])) for path in paths}


def confusion(truth: dict[str, tuple[str, str]], outcome: dict[str, tuple[bool, str]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for path, group in truth.items():
        kept, why = outcome[path]
        groups[group]["kept" if kept else "out"] += 1
        if not kept:
            groups[group][": ".join(part.strip() for part in why.split(":")[:2])] += 1
    table = []
    for (role, keep), counts in sorted(
        groups.items(), key=lambda item: (-item[0][1].isdigit(), item[0][1], item[0][0])
    ):
        reasons = {name: n for name, n in counts.most_common() if name not in ("kept", "out")}
        table.append({"role": role, "should": keep, "kept": counts["kept"], "out": counts["out"], "reasons": reasons})
    return table


def show(table: list[dict[str, Any]]) -> None:
    print("| role | should be | kept | left out | by |\n|---|---|---|---|---|")
    for row in table:
        should = {"1": "kept", "0": "left out"}.get(str(row["should"]), "policy")
        reasons = ", ".join(f"{name} ({count})" for name, count in row["reasons"].items())
        print(f"| {row['role']} | {should} | {row['kept']} | {row['out']} | {reasons} |")
    for should, wanted in (("1", "kept"), ("0", "out")):
        chosen = [row for row in table if row["should"] == should]
        right = sum(int(str(row[wanted])) for row in chosen)
        total = sum(int(str(row["kept"])) + int(str(row["out"])) for row in chosen)
        print(f"{right} of {total} ({right / max(total, 1):.1%}) rightly {'kept' if should == '1' else 'left out'}")


if __name__ == "__main__":
    main()
