"""What a scan found, read from its finished parts: verdicts of the raw images, and how they were stretched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.catalogue import REASONS, SLICED, open_table
from curation.scan.parts import Part, PartSummary


@dataclass
class Findings:
    """What the scan of one source found."""

    verdicts: Counter[str] = field(default_factory=Counter)
    """Raw images by verdict; ``sliced`` where nothing speaks against one."""
    own_limits: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 6)))
    """``(N, 6)`` low and high of each channel of the images that were stretched and not left out."""


def of(parts: Sequence[Part]) -> Findings:
    """Read what the finished parts of one source hold."""
    found, limits = Findings(), []
    for part in parts:
        with open_table(part.out, "tiles") as file:
            rows = file.read(columns=["kind", "verdict", "stretch"])
        images = rows.filter(pc.equal(rows["kind"].cast(pa.string()), "image"))
        found.verdicts.update(images["verdict"].cast(pa.string()).fill_null(SLICED).to_pylist())
        stretched = images.filter(pc.and_(pc.is_null(images["verdict"]), pc.is_valid(images["stretch"])))
        limits.append(stretched["stretch"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, 6))
    if limits:
        found.own_limits = np.concatenate(limits)
    return found


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
