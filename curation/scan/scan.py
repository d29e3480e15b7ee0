"""The scan stage: from raw images to rows of tiles, one part of images to one Parquet part.

Every raw image gives a row of its own (null window, fingerprint of the whole image, what the exclusion rules look at)
and, where it can be read and its licence and split are wanted, a row per tile. What is measured is not judged here: no
threshold of a recipe changes a row. Nothing here knows on how many machines it runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.base import watchdog
from curation.base.errors import UnreadableImage
from curation.catalogue import Window, read_table, tile_id
from curation.imagery.image import MAX_FILE, Ground, Image, open_image
from curation.imagery.location import Location
from curation.imagery.stretch import EIGHT_BIT
from curation.remote.reader import ahead, reader
from curation.scan import admission, block_walk, measurements, part_files, reuse, slicing
from curation.scan import parts as scan_parts
from curation.scan.admission import Reason
from curation.scan.fingerprint import Reduced, extra_hashes, get_ready, reduce
from curation.scan.parts import Part, PartSummary, ScanJob, scene_of
from curation.scan.tile_rows import Row, TileRows
from curation.sources.recipe import ResolvedSource

# ------------------------------------------------------------------------------------------------ scanning


def scan_part(part: Part) -> PartSummary:
    """Scan one part, unless it was scanned before; images that earlier parts hold unchanged are not opened.

    Raises:
        InputError: the listing is gone.
    """
    get_ready()
    start = time.perf_counter()
    lines = scan_parts.listed(part)
    stamps = scan_parts.stamps(lines, part.job)
    done = part_files.footer(part.out)
    if done is not None and np.array_equal(done.stamps, stamps):
        return _summary(read_table(part.out, "tiles", ["kind", "verdict"]))
    images = lines["image"].to_pylist()
    known, tables, hashes = reuse.known(part, images, stamps)
    lines = lines.filter(pc.invert(pc.is_in(lines["image"], pa.array(known, pa.string()))))
    new = lines.select(scan_parts.COLUMNS).to_pylist()
    scanned = _scanned(new, part, dict(zip(images, part.rows, strict=True)))
    table = pa.concat_tables([*tables, scanned.table()]) if tables else scanned.table()
    table = reuse.in_order(table, "image", images) if tables else table
    if part.job.fingerprint.extra:
        hashes.append(_hashes(scanned.rows, part))
        part_files.write_extra(
            reuse.in_order(pa.concat_tables(hashes), "tile_id", table["tile_id"].to_pylist()), part.out
        )
    part_files.write_part_file(table, part.out, stamps)
    return _summary(table, len(new), sum(listed["bytes"] for listed in new), time.perf_counter() - start)


def _scanned(images: Sequence[Mapping[str, Any]], part: Part, rows: Mapping[str, int]) -> TileRows:
    """Open images; ``rows`` gives each one's row of the listing."""
    collected = TileRows()
    readable = [listed for listed in images if rows[listed["image"]] not in part.lost]
    limits = _scene_limits(readable, part.job)
    for listed in _at_hand(images, part.job.source):
        what = part.lost.get(rows[listed["image"]])
        if what is not None:
            collected.add(_image_row(listed, part.job, Reason("crashed", what)))
            continue
        for row in _scan_image(listed, part.job, limits.get(listed["image"])):
            collected.add(row)
    return collected


def _at_hand(images: Sequence[Mapping[str, Any]], source: ResolvedSource) -> Iterable[Mapping[str, Any]]:
    """The images; remote ones when their bytes are here, while the next are read."""
    access = source.source.remote
    if access is None:
        return images
    reads = reader(source.root, access)
    return ahead(images, lambda listed: (reads, listed["file"], listed["member"]), MAX_FILE)


def _hashes(rows: Sequence[Mapping[str, Any]], part: Part) -> pa.Table:
    tiles = [row for row in rows if "extra" in row]
    columns = {"tile_id": pa.array([row["tile_id"] for row in tiles], pa.string())}
    for kind in part.job.fingerprint.extra:
        columns[kind] = pa.array([row["extra"][kind] for row in tiles], pa.string())
    return pa.table(columns)


def _scene_limits(images: Sequence[Mapping[str, Any]], job: ScanJob) -> dict[str, tuple[float, ...]]:
    """Limits of every image whose scene spans files; an unreadable file has no say."""
    from curation.imagery import stretch

    how = job.source.source.stretch
    if how is None or job.scene is None:
        return {}
    scenes: dict[str, list[Mapping[str, Any]]] = {}
    for listed in images:
        scenes.setdefault(scene_of(listed["image"], job.scene), []).append(listed)
    limits: dict[str, tuple[float, ...]] = {}
    for members in scenes.values():
        samples = []
        for listed in members:
            try:
                with _opened(listed, job) as image, watchdog.deadline(_seconds(image)):
                    samples.append(image.samples())
            except UnreadableImage:
                continue
        limits |= {listed["image"]: stretch.percentiles(samples, how.percentiles) for listed in members}
    return limits


def _scan_image(listed: Mapping[str, Any], job: ScanJob, limits: tuple[float, ...] | None) -> list[Row]:
    """Rows of one raw image: its own first, then its tiles."""
    source = job.source.source
    reason = admission.by_licence(source, job.exclude) or admission.by_split(listed["split"], job.exclude)
    if reason is not None:
        return [_image_row(listed, job, reason)]
    facts: dict[str, Any] = {}
    try:
        with _opened(listed, job, limits) as image:
            facts = _facts(image)
            reason = admission.by_type(image.dtype) or _by_area(image)
            if reason is not None:
                return [_image_row(listed, job, reason, facts)]
            with watchdog.deadline(_seconds(image)):
                return _scan_pixels(image, listed, job, facts)
    except UnreadableImage as error:
        return [_image_row(listed, job, Reason("unreadable", str(error)), facts)]


def _opened(listed: Mapping[str, Any], job: ScanJob, limits: tuple[float, ...] | None = None) -> Image:
    """Open a listed image; what is decoded whole is decoded here."""
    with watchdog.deadline(watchdog.seconds(job.exclude.max_pixels, listed["bytes"], slow=False)):
        return open_image(
            Location.of(job.source.root, listed, job.source.source.remote), job.source.source, job.exclude, limits
        )


def _seconds(image: Image) -> float:
    slow = image.dtype not in EIGHT_BIT or image.format == "JP2OpenJPEG"
    return watchdog.seconds(image.width * image.height, image.file_bytes, slow)


def _scan_pixels(image: Image, listed: Mapping[str, Any], job: ScanJob, facts: dict[str, Any]) -> list[Row]:
    source = job.source.source
    patches = block_walk.patches(image)
    found = measurements.together(measurements.measure(patch.rgb, patch.valid) for patch in patches)
    whole = patches[0] if len(patches) == 1 and patches[0].window == image.area else None
    whole_fill = float(found.fill)
    share = block_walk.valid_share(patches, whole_fill)
    windows = slicing.windows(image.area, job.source.slice, job.seed, source.id, listed["image"], share)
    reason = None
    if not windows:
        reason = Reason("too_small", f"slice: {image.width} x {image.height} pixels give no tile")
    facts["stretch"] = None if image.stretch is None else list(image.stretch)
    tiles: list[Row] = []
    ground = dict(zip(windows, image.ground(windows), strict=True)) if image.georeference is not None else {}
    walk = block_walk.BlockWalk(image, windows, whole)
    for patch in walk:
        is_all = patch.window == image.area
        reduced = walk.reduced() if is_all else reduce(patch.rgb, patch.valid, patch.grey)
        fill = whole_fill if is_all else measurements.fill(patch.rgb, patch.valid)
        placed = facts | _ground(ground[patch.window]) if ground else facts
        inside = share if patch is whole else block_walk.valid_share([patch], fill)
        own = _tile_columns(patch.window, inside, image, listed, job)
        if job.fingerprint.extra:
            own["extra"] = extra_hashes(patch.rgb, job.fingerprint.extra)
        tiles.append(Row(own, placed, reduced))
    return [_image_row(listed, job, reason, facts, _measured(image, found), walk.reduced()), *tiles]


def _by_area(image: Image) -> Reason | None:
    if image.area.width > 0 and image.area.height > 0:
        return None
    return Reason("too_small", f"trim: nothing is left of {image.width} x {image.height} pixels")


# ------------------------------------------------------------------------------------------------ rows


def _facts(image: Image) -> dict[str, Any]:
    """Columns that an image and its tiles share; the limits of its stretch come later."""
    return {
        "image_width": image.width,
        "image_height": image.height,
        "bands": image.bands,
        "dtype": image.dtype,
        "format": image.format,
        "file_bytes": image.file_bytes,
        "crs": image.crs,
        "affine": None if image.affine is None else list(image.affine),
        "raw_sha256": image.raw_sha256,
    } | _ground(image.ground([Window(0, 0, image.width, image.height)])[0])


def _measured(image: Image, found: measurements.Statistics) -> dict[str, Any]:
    """Columns of an image that the exclusion rules look at; pixels say nothing where no valid one has neighbours."""
    short, long = sorted((image.area.width, image.area.height))
    shape = {
        "short_side": short,
        "elongation": long / short,
        "on_earth": None if image.georeference is None else image.georeference.on_earth,
        "sampled": found.pixels,
    }
    if found.pixels == 0:
        return shape
    return shape | _range(image) | {"soft_alpha": image.soft_alpha, "statistics": found.without_cells()}


def _range(image: Image) -> dict[str, float]:
    """Lowest middle and low of a band's range, where the range is the image's own and not the manifest's."""
    limits = image.stretch
    if limits is None or image.source.stretch is not None:
        return {}
    middle = min((low + high) / 2 for low, high in zip(limits[::2], limits[1::2], strict=True))
    return {"band_middle": middle, "band_low": min(limits[::2])}


def _ground(place: Ground) -> dict[str, Any]:
    west, south, east, north = place.bounds or (None,) * 4
    return {"gsd_m": place.gsd, "gsd_from": place.gsd_from, "west": west, "south": south, "east": east, "north": north}


def _image_row(
    listed: Mapping[str, Any],
    job: ScanJob,
    reason: Reason | None,
    facts: Mapping[str, Any] | None = None,
    measured: Mapping[str, Any] | None = None,
    reduced: Reduced | None = None,
) -> Row:
    own = {
        **(measured or {}),
        "kind": "image",
        "tile_id": tile_id(job.source.id, listed["image"], None),
        "source": job.source.id,
        "image": listed["image"],
        "split": listed["split"],
        "verdict": None if reason is None else reason.verdict,
        "detail": None if reason is None else reason.detail,
    }
    return Row(own, facts or {"file_bytes": listed["bytes"]}, reduced)


def _tile_columns(
    window: Window, valid_share: float, image: Image, listed: Mapping[str, Any], job: ScanJob
) -> dict[str, Any]:
    left, top, width, height = window
    is_all = left == top == 0 and width == image.width and height == image.height
    return {
        "kind": "tile",
        "tile_id": tile_id(job.source.id, listed["image"], window),
        "source": job.source.id,
        "image": listed["image"],
        "split": listed["split"],
        "col_off": left,
        "row_off": top,
        "width": width,
        "height": height,
        "pass_through": is_all and image.pass_through,
        "valid_share": valid_share,
    }


def _summary(table: pa.Table, opened: int = 0, size: int = 0, seconds: float = 0.0) -> PartSummary:
    kinds, verdicts = (table[name].cast(pa.string()) for name in ("kind", "verdict"))
    images = pc.sum(pc.equal(kinds, "image")).as_py() or 0
    told = verdicts.filter(pc.or_(pc.equal(kinds, "tile"), verdicts.is_valid())).fill_null("kept")
    counts = {pair["values"]: pair["counts"] for pair in told.value_counts().to_pylist()}
    return PartSummary(images, len(table) - images, counts, opened, size, seconds)
