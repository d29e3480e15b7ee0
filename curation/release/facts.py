"""What is told of a corpus where it is published: read from its index, its record and its manifests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.base.errors import InputError
from curation.release.lock import read_finished
from curation.select.generations import read_generations
from curation.shards.format import ShardInfo, open_index
from curation.sources.source import Source


@dataclass(frozen=True)
class SourceFacts:
    """One source that has samples in the corpus."""

    source: Source
    samples: int

    @property
    def title(self) -> str:
        """Its name, else its id."""
        return self.source.name or self.source.id


@dataclass(frozen=True)
class CorpusFacts:
    """A corpus."""

    name: str
    description: str
    sources: Sequence[SourceFacts]
    shards: Sequence[ShardInfo]
    gsd: Sequence[tuple[str, float]]
    """Quantiles of the known GSDs, in metres; empty where none is known."""
    without_gsd: int
    width: tuple[int, int]
    height: tuple[int, int]
    generations: Sequence[tuple[int, int]]
    """Shards and samples of each, the first one first."""

    @property
    def samples(self) -> int:
        """Of all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Of all tars."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def licences(self) -> list[str]:
        """Of all sources, each once."""
        return sorted({each.source.licence.pixels for each in self.sources})


def read_facts(out: Path) -> CorpusFacts:
    """Gather what is told of a finished run.

    Raises:
        InputError: it is not finished, or nothing says how it was made.
    """
    made, checksums = read_finished(out)
    counts: Counter[str] = Counter()
    gsds, sides = [], []
    index, _ = open_index(out / "shards")
    with index:
        for number in range(index.num_row_groups):
            rows = index.read_row_group(number, columns=["source", "gsd_m", "width", "height"])
            for pair in pc.value_counts(rows["source"].cast(pa.string())).to_pylist():
                counts[pair["values"]] += pair["counts"]
            gsds.append(rows["gsd_m"].to_numpy())
            sides.append([[int(f(rows[name].to_numpy())) for f in (np.min, np.max)] for name in ("width", "height")])
    width, height = np.array(sides).transpose(1, 2, 0)
    gsd = np.concatenate(gsds)
    known = gsd[np.isfinite(gsd)]
    quantiles = {"least": 0.0, "a quarter below": 0.25, "median": 0.5, "three quarters below": 0.75, "greatest": 1.0}
    return CorpusFacts(
        name=made.recipe["name"],
        description=made.recipe["description"],
        sources=[SourceFacts(_source(made.sources, name), count) for name, count in sorted(counts.items())],
        shards=checksums.shards,
        gsd=[(word, float(np.quantile(known, at))) for word, at in quantiles.items()] if len(known) else [],
        without_gsd=int(len(gsd) - len(known)),
        width=(int(width[0].min()), int(width[1].max())),
        height=(int(height[0].min()), int(height[1].max())),
        generations=_generations(out, checksums.shards),
    )


def _generations(out: Path, shards: Sequence[ShardInfo]) -> list[tuple[int, int]]:
    told = read_generations(out / "catalogue.parquet")
    of = told.of([int(shard.file.rpartition("-")[2].removesuffix(".tar")) for shard in shards])
    counts = [
        [shard.samples for shard, own in zip(shards, of, strict=True) if own == n + 1] for n in range(len(told.ends))
    ]
    return [(len(own), sum(own)) for own in counts]


def _source(sources: dict[str, dict[str, object]], name: str) -> Source:
    return Source.model_validate(sources[name])


def check_licences(facts: CorpusFacts) -> None:
    """Refuse to publish pixels that may not be.

    Raises:
        InputError: a source does not say ``redistributable: yes``, or names no licence.
    """
    refused = [each for each in facts.sources if each.source.redistributable != "yes"]
    if refused:
        told = ", ".join(f"{each.source.id} ({each.source.redistributable})" for each in refused)
        raise InputError(
            f"{facts.name}: pixels are published only of sources that say redistributable: yes, which these do not: "
            f"{told}; leave them out with exclude.redistributable_only=yes, say so in the recipe where it is true, or "
            "publish what rebuilds the corpus, without a pixel: --lock-only"
        )
    unnamed = [each.source.id for each in facts.sources if each.source.licence.pixels == "unknown"]
    if unnamed:
        raise InputError(f"{facts.name}: name the licence of {', '.join(unnamed)} in the recipe, as licence: CC-BY-4.0")
