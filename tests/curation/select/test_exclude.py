"""Exclusion rules on images whose kind is known, generated here or read from the reference folder."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rasterio
from PIL import Image

from curation.base.errors import InputError
from curation.base.settings import validate
from curation.catalogue import REASONS, read_table, table_from_rows, write_table
from curation.scan import admission, fingerprint, measurements
from curation.scan.parts import ScanJob, plan_parts
from curation.scan.scan import scan_part
from curation.select import exclude
from curation.sources.recipe import ExcludeRules, FingerprintRules, Recipe, ResolvedSource, SliceRules
from curation.sources.source import Source

RULES = ExcludeRules()


def scene(height: int = 256, width: int = 256, seed: int = 0) -> np.ndarray:
    """Ground as a camera sees it: shapes at several scales, a little colour, noise that the channels share."""
    noise = np.random.default_rng(seed)
    total = np.full((height, width, 3), (120.0, 115.0, 100.0))
    for side, strength in ((4, 40), (16, 30), (64, 20), (height, 12)):
        size = (min(side, height), min(side, width))
        grey = noise.normal(0, strength, (*size, 1)) + noise.normal(0, strength / 6, (*size, 3))
        for band in range(3):
            layer = Image.fromarray(grey[..., band].astype(np.float32)).resize((width, height))
            total[..., band] += np.asarray(layer)
    return np.clip(total, 0, 255).astype(np.uint8)


def verdict(path: Path, **manifest: Any) -> str | None:
    """Name of the rule that speaks against a file, scanned and judged as in a run."""
    row, number = judged(path, **manifest)
    if number != exclude.NONE:
        return exclude.RULES[number].name
    return None if row["detail"] is None else str(row["detail"]).split(":")[0]


def judged(path: Path, rules: ExcludeRules = RULES, **manifest: Any) -> tuple[dict[str, Any], int]:
    """The image's row of the scan, and the number of the rule that speaks against it."""
    source = Source(id="s", **manifest)
    with tempfile.TemporaryDirectory() as name:
        listing, folder = Path(name) / "images.parquet", Path(name)
        row = {"source": "s", "image": path.name, "file": path.name, "bytes": path.stat().st_size, "mtime_ns": 0}
        write_table(table_from_rows("images", [row]), listing, "images")
        job = ScanJob(ResolvedSource(source, path.parent, SliceRules(), 0, None), rules, FingerprintRules(), 0)
        (part,) = plan_parts(listing, folder, job)
        scan_part(part)
        table = read_table(part.out, "tiles")
    numbers = exclude.judge_table(table, {"s": source.kind}, rules)
    return table.to_pylist()[0], int(numbers[0])


def save(folder: Path, pixels: np.ndarray, name: str = "a.png", **options: Any) -> Path:
    Image.fromarray(pixels).save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize(("name", "options"), [("a.png", {}), ("a.jpg", {"quality": 75}), ("a.webp", {"quality": 70})])
def test_ground_is_kept_in_every_format(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    assert verdict(save(tmp_path, scene(), name, **options)) is None


def test_masks_are_left_out_even_as_rgb_and_jpeg(tmp_path: Path) -> None:
    small = np.random.default_rng(1).integers(0, 9, (12, 12))
    colours = np.random.default_rng(2).integers(0, 2, (9, 3)) * 255
    mask = np.kron(colours[small], np.ones((24, 24, 1))).astype(np.uint8)
    assert verdict(save(tmp_path, mask)) == "max_flat"
    assert verdict(save(tmp_path, mask, "a.jpg", quality=60)) in ("max_flat", "max_colour_spread")
    binary = np.where(mask[..., 0] > 100, 255, 0).astype(np.uint8)
    assert verdict(save(tmp_path, binary)) in ("max_flat", "min_coloured")
    assert verdict(save(tmp_path, (small + 1).repeat(20, 0).repeat(20, 1).astype(np.uint8)), kind="grey") == "max_flat"


def test_one_band_is_left_out_unless_the_manifest_says_grey(tmp_path: Path) -> None:
    grey = scene()[..., 1]
    for pixels in (grey, np.stack([grey] * 3, -1)):
        assert verdict(save(tmp_path, pixels)) == "min_coloured"
        assert verdict(save(tmp_path, pixels), kind="grey") is None


def test_radar_composites_and_noise_are_left_out(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    vv, vh = noise.gamma(4, 20, (2, 256, 256))
    composite = np.stack([vv, vh, np.abs(vv - vh)], -1)
    assert verdict(save(tmp_path, np.clip(composite, 0, 255).astype(np.uint8))) in (
        "min_agreement",
        "max_colour_spread",
    )
    speckle = np.clip(noise.normal(120, 12, (256, 256, 3)), 0, 255).astype(np.uint8)
    assert verdict(save(tmp_path, speckle)) == "min_agreement"


def test_calm_water_is_not_taken_for_radar(tmp_path: Path) -> None:
    water = np.clip(np.random.default_rng(0).normal((40, 60, 70), 1.2, (256, 256, 3)), 0, 255).astype(np.uint8)
    assert verdict(save(tmp_path, water)) is None  # its tiles may be blank, but it is optical


def test_flat_water_under_strong_compression_is_kept(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    tint = noise.normal(0, 1.2, (32, 32, 1)).astype(np.float32) + np.array([60, 80, 85], np.float32)
    water = np.stack([np.asarray(Image.fromarray(tint[..., b]).resize((512, 512))) for b in range(3)], -1).astype(
        np.uint8
    )
    found = measurements.measure(water)
    assert found.flat > RULES.max_flat and found.gentle > 0.95
    assert verdict(save(tmp_path, water)) is None


def test_figures_with_smooth_transparent_edges_are_left_out(tmp_path: Path) -> None:
    alpha = np.full((256, 256, 1), 255, np.uint8)
    assert verdict(save(tmp_path, np.concatenate([scene(), alpha], -1))) is None
    alpha[::20] = 120
    assert verdict(save(tmp_path, np.concatenate([scene(), alpha], -1))) == "max_soft_alpha"


def test_values_that_are_no_light(tmp_path: Path) -> None:
    decibels = np.random.default_rng(0).normal(-12, 4, (3, 100, 100)).astype(np.float32)
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", height=100, width=100, count=3, dtype="float32") as out:
        out.write(decibels)
    assert verdict(tmp_path / "a.tif") == "values"


@pytest.mark.parametrize(
    ("value", "said"), [(-9999.0, "-9999.0"), (-32768.0, "-32768.0"), (-3.4028235e38, "-3.40282346")]
)
def test_a_sentinel_without_a_tag_names_what_to_set(tmp_path: Path, value: float, said: str) -> None:
    pixels = np.moveaxis(scene(), -1, 0).astype(np.float32)
    pixels[:, :100] = value
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", height=256, width=256, count=3, dtype="float32") as out:
        out.write(pixels)
    row, number = judged(path)
    nodata = re.search(r"set nodata: (\S+) for", exclude.RULES[number].details([row], RULES)[0])
    assert nodata is not None and nodata[1].startswith(said)
    assert verdict(path, nodata=float(nodata[1])) is None  # what it says to set helps


def test_other_planets(tmp_path: Path) -> None:
    mars = "+proj=eqc +lat_ts=0 +lon_0=0 +x_0=0 +y_0=0 +R=3396190 +units=m +no_defs"
    profile = {"driver": "GTiff", "height": 256, "width": 256, "count": 3, "dtype": "uint8", "crs": mars}
    with rasterio.open(tmp_path / "a.tif", "w", transform=rasterio.Affine(5, 0, 0, 0, -5, 0), **profile) as out:
        out.write(np.moveaxis(scene(), -1, 0))
    assert verdict(tmp_path / "a.tif") == "earth_only"


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), None), ((63, 400), "min_side"), ((64, 512), None), ((64, 513), "max_aspect"),
        ((4000, 40), "max_aspect"), ((3, 3), "min_side"), ((1, 1), "min_side"), ((1, 70), "max_aspect"),
    ],
)  # fmt: skip
def test_shape(tmp_path: Path, size: tuple[int, int], expected: str | None) -> None:
    kind = "grey" if min(size) < 10 else "rgb"  # so few pixels have no colour to speak of
    noise = np.random.default_rng(0).integers(60, 200, (*size, 1), np.uint8).repeat(3, 2)
    pixels = scene(*size) if min(size) >= 40 else noise
    row, _ = judged(path := save(tmp_path, pixels), kind=kind)
    assert verdict(path, kind=kind) == expected
    assert (row["short_side"], row["elongation"]) == (min(size), pytest.approx(max(size) / min(size)))


def test_a_border_that_leaves_nothing_is_too_small(tmp_path: Path) -> None:
    row, number = judged(save(tmp_path, scene(100, 100)), trim=(50, 0, 50, 0))
    assert (row["verdict"], row["detail"], number) == ("too_small", "trim: nothing is left of 100 x 100 pixels", -1)


def test_licence_and_split() -> None:
    source = Source(id="s", licence="CC-BY-4.0", redistributable="no")
    assert admission.by_licence(source, RULES) is None
    assert admission.by_licence(source, ExcludeRules(licences=("CC0-1.0",))).verdict == "licence"  # type: ignore[union-attr]
    assert admission.by_licence(source, ExcludeRules(redistributable_only=True)).verdict == "licence"  # type: ignore[union-attr]
    assert admission.by_split("test", ExcludeRules(splits=("test",))).verdict == "excluded_split"  # type: ignore[union-attr]
    assert admission.by_split(None, ExcludeRules(splits=("test",))) is None


def test_declared_false_colour(tmp_path: Path) -> None:
    path = save(tmp_path, scene())
    assert verdict(path, kind="false_colour") == "false_colour"
    assert judged(path, ExcludeRules(false_colour=True), kind="false_colour")[1] == exclude.NONE


# ------------------------------------------------------------------------------------------------ the rules themselves


def image_table(**measured: Any) -> pa.Table:
    row = {"kind": "image", "tile_id": "0", "source": "s", "image": "a", **measured}
    return table_from_rows("tiles", [row])


@pytest.mark.parametrize(
    ("measured", "field", "value", "expected"),
    [
        ({"coloured": 0.2}, "min_coloured", 0.2, None),
        ({"coloured": 0.2}, "min_coloured", 0.21, "min_coloured"),
        ({"elongation": 3.7}, "max_aspect", 3.7, None),  # 3.7 as float32 exceeds 3.7 as float64
        ({"elongation": 3.8}, "max_aspect", 3.7, "max_aspect"),
        ({"flat": 0.9, "gentle": 0.4}, "min_gentle", 0.4, None),
        ({"flat": 0.9, "gentle": 0.4}, "min_gentle", 0.41, "max_flat"),
        ({"agreement": 0.1, "edge": 6.0}, "agreement_from", 6.0, "min_agreement"),
        ({"agreement": 0.1, "edge": 6.0}, "agreement_from", 6.1, None),
        ({"soft_alpha": 0.1}, "max_soft_alpha", 0.05, "max_soft_alpha"),
        ({"soft_alpha": 0.1, "on_earth": True}, "max_soft_alpha", 0.05, None),
        ({"on_earth": False}, "earth_only", True, "earth_only"),
        ({"on_earth": False}, "earth_only", False, None),
        ({"band_middle": -0.1}, "earth_only", True, "values"),
        ({}, "min_coloured", 1.0, None),  # not measured, not asked
    ],
)
def test_a_threshold_is_met_when_it_is_equalled(
    measured: dict[str, Any], field: str, value: Any, expected: str | None
) -> None:
    (number,) = exclude.judge_table(image_table(**measured), {"s": "rgb"}, ExcludeRules(**{field: value}))
    assert (None if number == exclude.NONE else exclude.RULES[number].name) == expected


def test_one_band_sources_are_not_asked_for_colour_and_gentle_steps_say_nothing_there() -> None:
    table = image_table(flat=0.9, gentle=0.99, coloured=0.0, agreement=-1.0, edge=50.0, colour_spread=200.0)
    for kind, expected in (("rgb", "min_coloured"), ("grey", "max_flat"), ("false_colour", "max_flat")):
        (number,) = exclude.judge_table(table, {"s": kind}, RULES)
        assert exclude.RULES[number].name == expected


def test_the_first_verdict_in_precedence_is_given() -> None:
    order = [REASONS.index(rule.verdict) for rule in exclude.RULES]
    assert order == sorted(order)
    (number,) = exclude.judge_table(image_table(elongation=90.0, short_side=2, coloured=0.0), {"s": "rgb"}, RULES)
    assert exclude.RULES[number].name == "min_coloured"


def test_the_detail_says_rule_value_and_threshold() -> None:
    rules = {rule.name: rule for rule in exclude.RULES if "rgb" in rule.kinds}
    assert rules["min_side"].details([{"short_side": 12}], RULES) == ["min_side: 12 pixels, at least 64"]
    assert rules["max_flat"].details([{"flat": 0.98, "gentle": 0.1}], RULES) == [
        "max_flat: 0.980 of the pixels equal their neighbours and 0.100 of the others nearly, "
        "at most 0.65 unless at least 0.5"
    ]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"column": "flatt"}, "nothing is measured of images as 'flatt'"),
        ({"of": "tile"}, "nothing is measured of tiles as 'flat'"),
        ({"value": "{flatt}"}, "nothing is measured of images as 'flatt'"),
        ({"name": "max_flatt"}, "ExcludeRules has no field 'max_flatt'"),
        ({"limit": "{max_flatt}"}, "ExcludeRules has no field 'max_flatt'"),
        ({"verdict": "flat"}, "no verdict is named 'flat'"),
    ],
)
def test_a_rule_on_what_is_not_measured_is_refused_by_name(wrong: dict[str, Any], said: str) -> None:
    right = {"verdict": "not_optical", "name": "max_flat", "column": "flat", "bound": "at most", "value": "{flat}"}
    exclude.Rule(**right)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        exclude.Rule(**(right | wrong))


LARGEST = {  # of what each threshold is compared with: by hand, or the extreme image beside
    "std": 127.5,  # half black, half white
    "edge": 255.0,
    "colour_spread": np.hypot(255.0, 255.0),
    **dict.fromkeys(("flat", "gentle", "coloured", "soft_alpha", "valid_share", "agreement"), 1.0),
}


@pytest.mark.parametrize(
    ("field", "column"),
    [*((rule.name, rule.column) for rule in exclude.RULES), ("min_gentle", "gentle"), ("agreement_from", "edge")],
)
def test_a_threshold_beyond_its_measurements_range_is_refused(field: str, column: str | None) -> None:
    if column in LARGEST:
        beyond = LARGEST[column] + 0.5
        with pytest.raises(InputError, match=rf"exclude\.{field}: .*less than or equal to"):
            validate(Recipe, {"name": "a", "sources": ["s"], "exclude": {field: beyond}}, "recipe.yaml")
    if column in LARGEST or column in ("short_side", "elongation"):
        with pytest.raises(InputError, match=rf"exclude\.{field}: .*greater than or equal to"):
            validate(Recipe, {"name": "a", "sources": ["s"], "exclude": {field: -2}}, "recipe.yaml")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_colour": 0.1}, "exclude.min_colour: unknown key; did you mean 'min_coloured'"),
        ({"min_std": False}, "exclude.min_std: a number is needed here; yes and no are none"),
        ({"min_std": float("nan")}, "exclude.min_std: .*finite"),
        ({"earth_only": 3}, "exclude.earth_only: .*boolean"),
    ],
)
def test_a_threshold_that_would_be_wrong_silently_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        validate(Recipe, {"name": "a", "sources": ["s"], "exclude": given}, "recipe.yaml")


def test_extreme_images_stay_within_the_ranges() -> None:
    half = np.zeros((64, 64, 3), np.uint8)
    half[:, ::2] = 255
    assert fingerprint.fingerprint([half]).std[0] == LARGEST["std"]
    assert measurements.measure(half).edge == LARGEST["edge"]
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[::2, ::2], colours[::2, 1::2], colours[1::2, ::2], colours[1::2, 1::2] = (
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0),
    )  # fmt: skip
    assert 180 < measurements.measure(colours).colour_spread < LARGEST["colour_spread"]


def test_collars_without_nodata_tag_are_counted_as_nodata() -> None:
    for value in (0, 255):
        pixels = scene()
        pixels[:100] = value
        found = measurements.measure(pixels)
        assert found.fill == pytest.approx(100 / 256, abs=0.02)
        assert found.flat < 0.65
    assert measurements.measure(scene()).fill < 0.01


@pytest.mark.parametrize("masked", [False, True])
def test_the_share_of_fill_alone_is_that_of_all_statistics(masked: bool) -> None:
    rng = np.random.default_rng(0)
    shares = set()
    for size in (2, 9, 30):
        pixels = rng.integers(0, 5, (12, 40, 3), np.uint8).repeat(size, 0).repeat(size, 1)
        pixels[:, ::7] = 255 - pixels[:, ::7]
        valid = rng.random(pixels.shape[:2]) < 0.8 if masked else None
        assert measurements.fill(pixels, valid) == measurements.measure(pixels, valid).fill
        shares.add(measurements.fill(pixels, valid))
    assert len(shares) == 3 and max(shares) > 0.1


def test_statistics_equal_numpy() -> None:
    pixels, valid = scene(64, 90), np.random.default_rng(0).random((64, 90)) > 0.2
    found = measurements.measure(pixels, valid)
    r, g, b = (pixels[..., band].astype(int) for band in range(3))
    ok = valid[:-1, :-1] & valid[:-1, 1:] & valid[1:, :-1]
    assert found.pixels == ok.sum()
    rg, yb = (r - g)[:-1, :-1][ok], ((r + g - 2 * b) >> 1)[:-1, :-1][ok]
    assert found.colour_spread == pytest.approx(np.hypot(rg.std(), yb.std()))
    across = np.diff(pixels.astype(int), axis=1)[:-1][ok]
    down = np.diff(pixels.astype(int), axis=0)[:, :-1][ok]
    assert found.edge == pytest.approx(np.sqrt((across**2).mean(0).max()))
    product = across.T @ across / np.sqrt(np.outer((across**2).sum(0), (across**2).sum(0)))
    np.fill_diagonal(product, -1)
    assert found.agreement == pytest.approx(product.max(1).min())
    largest = np.abs(np.concatenate([across, down], axis=1)).max(1)
    black = (pixels[:-1, :-1][ok].max(1) <= 2) & (largest == 0)
    assert found.flat == pytest.approx(((largest == 0) & ~black).sum() / (~black).sum())
    assert found.gentle == pytest.approx(((largest > 0) & (largest <= 8)).sum() / (largest > 0).sum())


def test_statistics_of_blocks_equal_numpy() -> None:
    pixels = scene(64, 128)  # sixteen rows of blocks: all are looked at
    valid = np.ones((64, 128), bool)
    valid[8:20, 30:60] = False
    found = measurements.measure(pixels, valid)

    def blocks(side: int) -> np.ndarray:
        return pixels.reshape(64 // side, side, 128 // side, side, 3).mean((1, 3))

    inside = valid.reshape(16, 4, 32, 4).all((1, 3))
    r, g, b = np.moveaxis(blocks(4), -1, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    pairs = inside[:, 1:] & inside[:, :-1]
    steps = [np.diff(plane, axis=1)[pairs] for plane in (luma, r - g, (r + g) / 2 - b)]
    assert found.colour_steps == pytest.approx(
        np.sqrt((steps[1] ** 2 + steps[2] ** 2).sum() / (steps[0] ** 2).sum()), rel=0.02
    )
    fine = np.diff(blocks(2) @ [0.299, 0.587, 0.114], axis=1)
    here = inside.repeat(2, 0).repeat(2, 1)
    triples = here[:, 2:] & here[:, :-2]
    first, second = fine[:, :-1][triples], fine[:, 1:][triples]
    assert found.grain == pytest.approx((first * second).sum() / (first**2).sum(), rel=0.02, abs=0.005)
    total = 16 * (r + g + b) + 480
    cells = ((50 * 16 * r / total).astype(int) * 50 + (50 * 16 * b / total).astype(int))[inside]
    groups = [luma[inside][cells == cell] for cell in np.unique(cells)]
    large = [group for group in groups if len(group) >= 4]
    within = sum(((group - group.mean()) ** 2).sum() for group in large) / sum(len(group) - 1 for group in large)
    assert found.told == pytest.approx(1 - within / luma[inside].var(ddof=1), abs=0.01)


def test_statistics_of_parts_add_up() -> None:
    pixels = scene(256, 128)
    halves = [measurements.measure(pixels[:128]), measurements.measure(pixels[128:])]
    both = measurements.together(halves)
    assert both.pixels == sum(half.pixels for half in halves)
    assert min(half.grain for half in halves) <= both.grain <= max(half.grain for half in halves)
    assert both.cells.sum() == sum(half.cells.sum() for half in halves)
    assert measurements.together(halves[:1]) is halves[0]


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 9])
def test_images_smaller_than_a_block_are_measured(side: int) -> None:
    found = measurements.measure(np.full((side, side + 1, 3), 90, np.uint8))
    assert (found.colour_steps, found.grain, found.told) == (0, 0, 0)


@pytest.mark.parametrize("quality", [95, 75, 30])
def test_radar_composites_are_left_out_as_jpeg_too(tmp_path: Path, quality: int) -> None:
    """Chroma subsampling makes the fine detail of the channels agree; at twice its scale the speckle is still there."""
    noise = np.random.default_rng(1)
    ground = scene(seed=3).astype(float).mean(-1) / 120
    vv, vh = (
        (ground * 90) * noise.gamma(1, 1, (256, 256)) ** 0.5,
        (ground * 70) * noise.gamma(1, 1, (256, 256)) ** 0.5,
    )
    composite = np.clip(np.stack([vv, vh, 60 * vv / (vh + 1)], -1), 0, 255).astype(np.uint8)
    assert verdict(save(tmp_path, composite, "a.jpg", quality=quality)) == "min_grain"


@pytest.mark.parametrize("name", ["viridis", "terrain", "turbo", "inferno"])
@pytest.mark.parametrize("quality", [95, 75, 30])
def test_colour_mapped_elevation_is_left_out_as_jpeg_too(tmp_path: Path, name: str, quality: int) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    small = np.random.default_rng(5).normal(0, 1, (12, 12)).astype(np.float32)
    height = np.asarray(Image.fromarray(small).resize((256, 256), Image.Resampling.BICUBIC))
    height = (height - height.min()) / np.ptp(height)
    colours = (matplotlib.colormaps[name](height)[..., :3] * 255).astype(np.uint8)
    assert verdict(save(tmp_path, colours, "a.jpg", quality=quality)) in ("max_told", "max_colour_spread", "max_flat")


@pytest.mark.parametrize(
    "name",
    ["RSSCN7_256/aGrass/a119.jpg", "RSSCN7_256/bField/b176.jpg", "RSSCN7_256/bField/b238.jpg",
     "RSSCN7_256/bField/b244.jpg", "UCMerced_256/tenniscourt/tenniscourt85.jpg"],
)  # fmt: skip
@pytest.mark.parametrize("quality", [None, 75, 30])
def test_dull_fields_are_not_taken_for_radar(shared: Path, tmp_path: Path, name: str, quality: int | None) -> None:
    """The optical chips whose colours step most beside their light: lower thresholds of the grain left them out."""
    path = shared / "data" / "classification" / name
    if quality is not None:
        path = save(tmp_path, np.asarray(Image.open(path).convert("RGB")), "a.jpg", quality=quality)
    assert verdict(path) is None


def test_known_roles_of_real_images(shared: Path) -> None:
    """A sample of the measurement in docs/exclusion.md: three images of each kind."""
    import csv

    with (shared / "data" / "SOURCES.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["bytes"]) < 3_000_000 and row["opens"] == "yes"]
    wrong = []
    for role in ("optical_rs_scene", "optical_rs_chip", "label_mask", "sar", "dem", "hillshade", "chart_or_screenshot"):
        for row in [row for row in rows if row["role"] == role][:3]:
            left_out = verdict(shared / "data" / row["path"]) is not None
            if left_out == (row["optical_keep"] == "1"):
                wrong.append(row["path"])
    assert wrong == []
