"""One run of the pipeline: what it was asked, what it works with, and what it made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from curation.base.progress import Observer
from curation.record import Needs
from curation.shards.shard_folder import ShardFolder
from curation.sources.recipe import Recipe, ResolvedSource

if TYPE_CHECKING:
    from curation.executor.executor import Executor


LOOK_AT = "Progress: parts that are done; Task Stream: a row a worker, gaps are waiting"
"""What to look at on Dask's dashboard."""


@dataclass(frozen=True)
class RunOptions:
    """What a run does besides its recipe; what changes what comes out is written into the recipe that is recorded."""

    workers: int | None = None
    scheduler: str | None = None
    replace: bool = False
    """Finished shards may change."""
    regenerate: bool = False
    """Finished shards need not stay: all are laid out anew."""
    relist: bool = False
    strict: bool = False
    unguarded: tuple[str, ...] = ()
    fingerprints: Path | None = None
    performance_report: Path | None = None
    dashboard: tuple[str, int] | None = None
    """Host and port of Dask's dashboard, which is then there from the first line on; by default a free port of this
    machine, once there is work."""
    pictures: int = 5_000
    """About how many the report shows."""
    share: bool = False
    """Make the report as ``report-share.html``, without pixels of sources that may not be redistributed."""
    until: Literal["select"] | None = None
    """Stop after this stage: catalogue and report are made beside the finished ones, and no shard is touched."""
    limit: int | None = None
    """Take so many images, drawn by the seed, instead of all."""
    only: tuple[str, ...] = ()
    """Ids of the sources to run; empty: all."""
    skip_absent: bool = False
    """Leave out sources whose folder is missing or empty."""
    dry_run: bool = False
    """List the sources, scan some drawn images, and say what the run would take."""
    command: str = ""
    """What was typed; the report repeats it."""


@dataclass(frozen=True)
class RunResult:
    """What a run made."""

    out: Path
    images: int
    kept: int
    shards: int
    worked: tuple[str, ...]
    """Stages that did any work; empty when everything was there already."""
    made: tuple[str, ...] = ("shards", "catalogue.parquet", "report.html")
    """What lies below ``out`` now."""


@dataclass
class Run:
    """State of one run: where it writes, who works for it, what it did."""

    recipe: Recipe
    sources: list[ResolvedSource]
    data: Path | None
    out: Path
    given: Path
    """``out`` as it was typed, for what is told."""
    options: RunOptions
    observer: Observer
    stack: ExitStack
    shards: ShardFolder
    """What was finished before."""
    needs: Needs = field(default_factory=Needs)
    worked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the report says first."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> how long it took, for the report."""
    _executor: Executor | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note how long the block takes."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start

    def remark(self, text: str, kind: str = "") -> None:
        """Say something that the report repeats; ``kind`` comes before it in the terminal alone."""
        self.notes.append(text)
        self.observer.say(kind + text)

    def stage(self, name: str, key: str) -> Path:
        """Folder of a stage's results, noted as needed."""
        self.needs.stages.append(f"{name}-{key}")
        return self.out / ".stages" / f"{name}-{key}"

    def executor(self) -> Executor:
        """Workers, started by the first stage that has work for them."""
        if self._executor is None:
            from curation.executor.executor import Executor

            options, folder = self.options, self.out / ".stages" / "workers"
            executor = Executor(
                options.workers, options.scheduler, folder, options.performance_report, dashboard=options.dashboard
            )
            self._executor = self.stack.enter_context(executor)
            if self._executor.dashboard:
                self.observer.say(f"dashboard: {self._executor.dashboard} ({LOOK_AT})")
        return self._executor

    def map(
        self, what: str, unit: str, fn: Callable[[Any], Any], parts: Sequence[Any], size: Callable[[Any], int]
    ) -> Iterator[Any]:
        """Map ``fn`` over parts on the workers, showing progress; yields results as they come."""
        if not parts:
            return
        self.worked.append(what)
        with self.observer.progress(what, sum(size(part) for part in parts), unit) as progress:
            for part, result in self.executor().map_parts(fn, parts):
                progress.advance(size(part))
                yield result

    def pictures(self, fn: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
        """Map ``fn`` over parts of the report's pictures."""
        return self.map("report", "pictures", fn, parts, lambda part: len(part.rows))
