"""What single images hold, read in throw-away processes: a decoder that crashes or hangs ends its own process alone."""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.base import watchdog
from curation.base.errors import InputError, UnreadableImage
from curation.executor.nursery import Child, Line, Nursery
from curation.imagery.stretch import EIGHT_BIT
from curation.start.names import FoundFile, Kinds, plain

PRELOAD = ("curation.imagery.image", "curation.containers", "curation.start.look")
"""What processes import before they are forked."""

SECONDS = 5.0
"""What one image or archive is given; the start of a process does not count."""
START_S = 60.0
"""For a process to start: imports come first."""
TOGETHER = 8
"""Images that one process looks at."""
WINDOW = 384
"""Side of the nine windows that are read of an image."""
COLOURS = 65_536
"""Pixels whose distinct colours are counted."""
VALUES = 4_096
"""Pixels of an image that percentiles are taken from."""
MOST_MEMBERS = 100_000
"""Members of an archive that are listed."""


@dataclass(frozen=True)
class Look:
    """What one image holds."""

    place: FoundFile
    error: str = ""
    """Why it cannot be read; all else is empty then."""
    is_image: bool = True
    """Whether its first bytes are those of an image."""
    format: str = ""
    width: int = 0
    height: int = 0
    bands: int = 0
    dtype: str = ""
    crs: str | None = None
    gsd_m: float | None = None
    rgb: tuple[int, int, int] | None = None
    """1-based bands that the file marks or names as red, green and blue; of formats without names: 1, 2, 3."""
    colours: int = 0
    """Distinct colours or grey levels among :data:`COLOURS` pixels."""
    grey: bool = False
    """All that is shown is one channel."""
    values: Any = None
    """``(N, 1 or 3)`` native values of what is shown; only where there are more than 8 bits."""

    @property
    def deep(self) -> bool:
        """More than 8 bits, so that a stretch is needed."""
        return bool(self.dtype) and self.dtype not in EIGHT_BIT


def look(nursery: Nursery, root: Path, places: Iterable[FoundFile], seconds: float) -> Iterator[Look]:
    """Look at images, several at a time, until all are done or time is up.

    Args:
        nursery: where processes are forked.
        root: their folder.
        places: where they lie.
        seconds: time after which none is begun.
    """
    waiting = list(places)
    batches = [waiting[at : at + TOGETHER] for at in range(0, len(waiting), TOGETHER)]
    for batch, result, what in _each(nursery, _look_at, [(root, batch) for batch in batches], seconds):
        if what is None:
            yield from result
            continue
        for task, alone, again in _each(nursery, _look_at, [(root, [place]) for place in batch[1]], seconds):
            yield from alone if again is None else [Look(task[1][0], f"crashed: {again}")]


def list_archives(
    nursery: Nursery, root: Path, files: Sequence[tuple[str, str, str]], seconds: float, seed: int
) -> Iterator[tuple[str, Kinds | str]]:
    """Kinds of files in archives, or why one cannot be listed.

    Args:
        nursery: where processes are forked.
        root: their folder.
        files: path, glob and kind of each archive.
        seconds: time after which none is begun.
        seed: of the draw.
    """
    for task, result, what in _each(nursery, _list, [(root, *file, seed) for file in files], seconds):
        yield task[1], result if what is None else what


def _each(
    nursery: Nursery, fn: Any, tasks: Sequence[tuple[Any, ...]], seconds: float
) -> Iterator[tuple[Any, Any, str | None]]:
    """Run tasks in processes of their own: each with its result, or with what became of its process."""
    waiting, until = list(reversed(tasks)), math.inf
    running: list[tuple[Child, Any]] = []
    while waiting or running:
        while waiting and len(running) < len(os.sched_getaffinity(0)) and time.monotonic() < until:
            task = waiting.pop()
            running.append((nursery.fork(fn, *task), task))
        if not running:
            return
        for child, task in list(running):
            child.listen(0.02)
            if child.pid is not None and until == math.inf:
                until = time.monotonic() + seconds  # from the first one that lives: imports come before
            what = None if child.done else _fault(child)
            if child.done or what is not None:
                running.remove((child, task))
                yield task, child.result, what
                child.end()


def _fault(child: Child) -> str | None:
    if child.ended:
        return child.became()
    silent = time.monotonic() - child.heard
    return f"silent for {silent:.0f} s" if silent > START_S + SECONDS * TOGETHER else None


# ------------------------------------------------------------------------------------------------ in the processes


def _look_at(line: Line, root: Path, places: Sequence[FoundFile]) -> list[Look]:
    watchdog.arm()
    looks = []
    for place in places:
        with watchdog.deadline(SECONDS):
            looks.append(look_at(root, place))
        line.beat()
    return looks


def look_at(root: Path, place: FoundFile) -> Look:
    """Look at one image in this process."""
    from curation.imagery.image import open_image
    from curation.imagery.location import Location
    from curation.sources.recipe import ExcludeRules
    from curation.sources.source import Source

    try:
        with open_image(Location(root, *place), Source(id="survey"), ExcludeRules()) as image:
            return _facts(place, image)
    except UnreadableImage as error:
        return Look(
            place, str(error), is_image="not an image format" not in str(error) and "empty file" not in str(error)
        )
    except OSError as error:
        return Look(place, error.strerror or str(error))


def _facts(place: FoundFile, image: Any) -> Look:
    import numpy as np

    from curation.catalogue import Window
    from curation.imagery.gdal_windows import Raster

    values = _values(image)
    thin = values[:: max(-(-len(values) // COLOURS), 1)]
    grey = values.shape[1] == 1 or bool((thin == thin[:, :1]).all())
    deep = image.dtype not in EIGHT_BIT
    raster = image.pixels if isinstance(image.pixels, Raster) else None
    return Look(
        place,
        format=image.format, width=image.width, height=image.height, bands=image.bands, dtype=image.dtype,
        crs=image.crs, gsd_m=image.ground([Window(0, 0, image.width, image.height)])[0].gsd,
        rgb=(1, 2, 3) if raster is None else raster.told,
        colours=len(np.unique(thin, axis=0)), grey=grey,
        values=values[:: max(-(-len(values) // VALUES), 1)] if deep else None,
    )  # fmt: skip


def _values(image: Any) -> Any:
    """Valid native values ``(N, C)`` of windows that are spread over an image; a huge raster is not read whole."""
    import numpy as np

    from curation.catalogue import Window

    if image.dtype.startswith("complex"):
        raise UnreadableImage(f"values are {image.dtype}: radar")
    width, height = min(image.width, WINDOW), min(image.height, WINDOW)
    lefts = sorted({round(share * (image.width - width)) for share in (0.0, 0.5, 1.0)})
    tops = sorted({round(share * (image.height - height)) for share in (0.0, 0.5, 1.0)})
    found = []
    for top in tops:
        for left in lefts:
            pixels, valid = image.pixels.read(Window(left, top, width, height))
            flat = pixels.reshape(-1, pixels.shape[2])
            found.append(flat if valid is None else flat[valid.reshape(-1)])
    return np.concatenate(found)


def _list(line: Line, root: Path, file: str, glob: str, container: str, seed: int) -> Kinds | str:
    """Kinds of what an archive holds; of one with more than can be listed in time, of its beginning."""
    from curation.containers import list_members

    watchdog.arm()
    kinds, until = Kinds(random.Random(seed)), time.monotonic() + SECONDS
    try:
        with watchdog.deadline(2 * SECONDS):
            for number, member in enumerate(list_members(root / file)):
                if number > MOST_MEMBERS or (number % 64 == 0 and time.monotonic() > until):
                    break
                if "/." not in f"/{member.name}" and not member.name.startswith("__MACOSX"):
                    kinds.add(FoundFile(file, member.locator), member.name, glob, container)
    except InputError as error:
        return getattr(error, "reason", str(error))
    return kinds


def archive_glob(path: str) -> str:
    """Glob of archives that are named like this one."""
    return re.sub(r"\d+", "*", plain(path))
