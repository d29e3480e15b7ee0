"""What a scan found, read from its finished parts: verdicts of the raw images, how they were stretched, their bands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.base.errors import UnreadableImage
from curation.catalogue import REASONS, SLICED, open_table
from curation.imagery import band_names, stretch
from curation.imagery.gdal_windows import Raster
from curation.imagery.image import open_image
from curation.imagery.location import Location
from curation.scan.parts import Part, PartSummary, listed
from curation.sources.source import Source

LOOKED_AT = 8
"""Images of many bands whose names are looked at."""
MOSTLY = 0.9
"""Share of images of one band from which on a source is taken for panchromatic."""


@dataclass
class Findings:
    """What the scan of one source found."""

    verdicts: Counter[str] = field(default_factory=Counter)
    """Raw images by verdict; ``sliced`` where nothing speaks against one."""
    own_limits: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 6)))
    """``(N, 6)`` low and high of each channel of the images that were stretched and not left out."""
    bands: Counter[int] = field(default_factory=Counter)
    """Images that are not left out, by number of bands."""
    silent: int = 0
    """Of :data:`LOOKED_AT` images of so many bands that the first three may be any: those that name no colours."""
    many: Counter[int] = field(default_factory=Counter)
    """All such images, by number of bands."""

    def advice(self, source: Source) -> list[str]:
        """What a person should know of how this source's pixels were read, with the lines to add."""
        told = []
        if source.stretch is None:
            told.append(stretch.advice(source.id, self.own_limits))
        if self.silent:
            told.append(band_names.advice(source.id, f"{self.many.total():,} images", max(self.many)))
        one = self.bands[1] / max(self.bands.total(), 1)
        if source.kind == "rgb" and source.bands_in_files is None and one >= MOSTLY:
            told.append(band_names.grey_advice(source.id, self.bands[1], self.bands.total()))
        return [text for text in told if text is not None]


def of(parts: Sequence[Part]) -> Findings:
    """Read what the finished parts of one source hold."""
    found, limits = Findings(), []
    for part in parts:
        with open_table(part.out, "tiles") as file:
            rows = file.read(columns=["kind", "verdict", "stretch", "image", "bands", "dtype"])
        images = rows.filter(pc.equal(rows["kind"].cast(pa.string()), "image"))
        found.verdicts.update(images["verdict"].cast(pa.string()).fill_null(SLICED).to_pylist())
        good = images.filter(pc.is_null(images["verdict"]))
        stretched = good.filter(pc.is_valid(good["stretch"]))
        limits.append(stretched["stretch"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, 6))
        found.bands.update(good["bands"].drop_null().to_pylist())
        _count_bands(found, part, good)
    if limits:
        found.own_limits = np.concatenate(limits)
    return found


def _count_bands(found: Findings, part: Part, images: pa.Table) -> None:
    """Count images of many bands, and look at the first of them: whether the file names its colours is no column."""
    source = part.job.source.source
    if source.bands is not None or source.bands_in_files is not None:
        return
    deep = pc.invert(pc.is_in(images["dtype"].cast(pa.string()), pa.array(stretch.EIGHT_BIT)))
    several = images.filter(pc.greater(images["bands"], pc.if_else(deep, 3, 4)))
    before = found.many.total()
    found.many.update(several["bands"].to_pylist())
    if len(several) and before < LOOKED_AT:
        found.silent += _silent(part, several["image"].to_pylist()[: LOOKED_AT - before])


def _silent(part: Part, images: Sequence[str]) -> int:
    """How many of some images do not mark or name their red, green and blue."""
    rows = listed(part)
    rows = rows.filter(pc.is_in(rows["image"], pa.array(images, pa.string())))
    return sum(_is_silent(part, row["file"], row["member"]) for row in islice(rows.to_pylist(), LOOKED_AT))


def _is_silent(part: Part, file: str, member: str | None) -> bool:
    job = part.job
    try:
        with open_image(
            Location(job.source.root, file, member, None, job.source.source.remote), job.source.source, job.exclude
        ) as image:
            return isinstance(image.pixels, Raster) and image.pixels.told is None
    except UnreadableImage:
        return False


def say_verdicts(found: Iterable[Findings]) -> str:
    """How many raw images were left out, and why."""
    counts = sum((each.verdicts for each in found), Counter[str]())
    reasons = ", ".join(f"{counts[reason]:,} {reason}" for reason in REASONS if counts[reason])
    return f"scan: {counts.total():,} images, {reasons or 'none left out'}"


def say_speed(done: Sequence[PartSummary]) -> str:
    """How many images were opened, and how fast a worker was."""
    opened, size = sum(part.opened for part in done), sum(part.bytes for part in done)
    seconds = max(sum(part.seconds for part in done), 1e-9)
    rates = f"{opened / seconds:,.0f} images/s, {size / seconds / 1e6:,.1f} MB/s a worker"
    return f"scan: opened {opened:,} images in {seconds:,.1f} s of work: {rates}"
