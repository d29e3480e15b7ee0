"""What a corpus holds that somebody else made: ``rs-curate audit``.

The same scan and the same select as for a corpus of one's own, without shards: every image that is read is asked
whether it is optical imagery, whether the corpus holds it twice, and whether it shows an evaluation image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from curation.base.columns import table
from curation.base.errors import InputError
from curation.base.progress import Observer
from curation.base.terminal import counted
from curation.catalogue import KEPT, SLICED, VERDICTS, open_table
from curation.containers import container_of
from curation.pipeline import RunOptions, run
from curation.sources.recipe import Recipe, load_recipe
from curation.sources.source import slug
from curation.start.init import recipe_of

WHOLE = 4096
"""Sides up to which an image is asked about as a whole; larger ones are cut into tiles."""


@dataclass
class Finding:
    """Rows of one verdict."""

    images: int = 0
    tiles: int = 0
    example: str = ""
    """The first of them: path and detail."""
    subjects: Counter[str] = field(default_factory=Counter)
    """Of leaks: tiles by benchmark."""


@dataclass(frozen=True)
class Audit:
    """What was found."""

    report: Path
    catalogue: Path
    images: int
    tiles: int
    findings: dict[str, Finding]
    """By verdict, in order of precedence."""

    def text(self, width: int | None = None) -> str:
        """A table for a terminal of ``width`` columns."""
        sound = self.findings.get(KEPT, Finding()).tiles
        lines = [
            f"{counted(self.images, 'image')}, {counted(self.tiles, 'tile')}; nothing speaks against {sound:,} of them"
        ]
        rows = [
            (verdict, f"{found.images:,}", f"{found.tiles:,}", _by_subject(found), found.example)
            for verdict, found in self.findings.items()
            if verdict not in (KEPT, SLICED)
        ]
        header = ("verdict", "images", "tiles", "of", "for example")
        return "\n".join([*lines, table(header, rows, (1, 2), width)] if rows else lines)


def _by_subject(found: Finding) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in found.subjects.most_common())


def audit(corpus: Path, out: Path, guard: Sequence[str], options: RunOptions, observer: Observer) -> Audit:
    """Audit a folder, an archive or the shards of another tool.

    Args:
        corpus: a folder with images, with archives or with both; or one archive.
        out: folder for the catalogue and the report, apart from the corpus.
        guard: benchmarks to look for; empty: all whose fingerprints lie in ``options.fingerprints``.
        options: workers and switches; nothing beyond the select stage is run.
        observer: who is told.

    Raises:
        InputError: the corpus cannot be read or holds no image, a fingerprint file is absent, ``out`` is of another
            corpus.
    """
    recipe = recipe_for(corpus, out, guard or _fingerprinted(options.fingerprints), observer)
    if not recipe.guard.benchmarks:
        observer.say("warning: no evaluation set is looked for; --fingerprints names the folder of their fingerprints")
    result = run(recipe, None, out, replace(options, until="select"), observer)
    catalogue, report = (out / name for name in result.made)
    return _summary(catalogue, report)


def recipe_for(corpus: Path, out: Path, guard: Sequence[str], observer: Observer) -> Recipe:
    """The recipe that asks about every image of a corpus; what init would leave out is asked about, too."""
    asked = {
        "slice": {"mode": "whole", "whole_up_to": WHOLE},
        "exclude": {"max_unreadable": 1.0, "splits": []},
        "guard": {"benchmarks": list(guard)},
    }
    if corpus.is_file():
        source = _archive(corpus)
        return Recipe.model_validate({"name": source["id"], "sources": [source], **asked})
    path, told = recipe_of(f"{corpus}/", out)
    if told:
        observer.say(told.partition("\n\nNext")[0])
    given = load_recipe(path).model_dump(exclude_unset=True)
    for source in given["sources"]:
        source.pop("leave", None)
    return Recipe.model_validate(given | asked)


def _archive(path: Path) -> dict[str, object]:
    container = container_of(path.name)
    if container is None:
        raise InputError(f"{path}: neither a folder nor an archive that is read; give the folder that it lies in")
    name = slug(path.name.partition(".")[0], "_")
    return {"id": name, "path": str(path.absolute().parent), "container": container.name, "images": [f"{path.name}/**"]}


def _fingerprinted(folder: Path | None) -> list[str]:
    if folder is None:
        return []
    found = sorted(path.stem for path in folder.glob("*.parquet"))
    if not found:
        raise InputError(f"--fingerprints {folder}: holds no fingerprints; `rs-curate fingerprint` makes them")
    return found


def _summary(catalogue: Path, report: Path) -> Audit:
    found = {verdict: Finding() for verdict in VERDICTS}
    with open_table(catalogue, "catalogue") as file:
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number, columns=["kind", "image", "verdict", "subject", "detail"])
            for verdict in pc.unique(rows["verdict"]).cast(pa.string()).to_pylist():
                _count(found[verdict], verdict, rows.filter(pc.equal(rows["verdict"].cast(pa.string()), verdict)))
    met = {verdict: each for verdict, each in found.items() if each.images or each.tiles}
    images, tiles = (sum(getattr(each, name) for each in met.values()) for name in ("images", "tiles"))
    return Audit(report, catalogue, images, tiles, met)


def _count(finding: Finding, verdict: str, rows: pa.Table) -> None:
    of_image = pc.sum(pc.equal(rows["kind"].cast(pa.string()), "image")).as_py()
    finding.images, finding.tiles = finding.images + of_image, finding.tiles + len(rows) - of_image
    if verdict == "leak":
        finding.subjects.update(rows["subject"].cast(pa.string()).to_pylist())
    if not finding.example and verdict not in (KEPT, SLICED):
        first = rows.slice(0, 1).to_pylist()[0]
        finding.example = f"{first['image']}: {first['detail'] or ''}".rstrip(": ")
