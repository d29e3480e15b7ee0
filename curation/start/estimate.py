"""What a run will take, from a scan of some images that were drawn."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from curation.base.terminal import sized
from curation.catalogue import read_table
from curation.scan.parts import Part, PartSummary
from curation.select.shard_assignment import predicted_bytes
from curation.sources.recipe import ShardRules

DRAWN = 64
"""Images that are scanned to tell of all."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take; all but the first two from a sample."""

    images: int
    parts: int
    drawn: int
    """Images of the sample."""
    drawn_tiles: int
    drawn_bytes: int
    """Predicted, in the shards."""
    drawn_seconds: float | None
    """Of one worker; null where the sample was scanned before."""

    @property
    def factor(self) -> float:
        """Images of the run for one of the sample."""
        return self.images / max(self.drawn, 1)

    def lines(self, workers: int, out: Path) -> list[str]:
        """What a person wants to know before the run."""
        disk = self.drawn_bytes * self.factor
        free = shutil.disk_usage(out).free
        short = "" if disk < free else ": TOO LITTLE"
        return [
            f"images: {self.images:,}, in {self.parts:,} parts of the scan",
            f"tiles:  about {self.drawn_tiles * self.factor:,.0f} before duplicates and thresholds "
            f"({self.drawn:,} images drawn give {self.drawn_tiles:,})",
            f"disk:   at most about {sized(disk)} of shards; {sized(free)} are free{short}",
            f"time:   {self._time(workers)}",
        ]

    def _time(self, workers: int) -> str:
        if self.drawn_seconds is None:
            return "the drawn images were scanned before; see what that run said"
        scan = self.drawn_seconds * self.factor / workers
        return f"about {_time(scan)} to scan with {workers} workers, and at most as long again to write"


def estimate(
    images: int, parts: int, sample: Iterable[Part], done: Sequence[PartSummary], rules: ShardRules
) -> Estimate:
    """Estimate from finished parts of a sample.

    Args:
        images: of the whole run.
        parts: of its scan.
        sample: parts of the drawn images.
        done: what making them came to; fewer than there are where some were there.
        rules: of the shards.
    """
    columns = ["kind", "width", "height", "file_bytes", "pass_through"]
    rows = pa.concat_tables([read_table(part.out, "tiles", columns) for part in sample])
    tiles = rows.filter(pc.equal(rows["kind"].cast(pa.string()), "tile"))
    width, height, own, copied = (tiles[name].to_numpy() for name in columns[1:])
    size = int(predicted_bytes(width, height, own, copied, rules).sum()) if len(tiles) else 0
    drawn, opened = len(rows) - len(tiles), sum(part.opened for part in done)
    seconds = sum(part.seconds for part in done) if opened == drawn else None
    return Estimate(images, parts, drawn, len(tiles), size, seconds)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:,.1f} h"
