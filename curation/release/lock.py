"""The lock: all that another copy of the raw sources needs to become the same shards.

A folder with ``catalogue.parquet``, ``index.parquet`` and ``checksums.json`` as they are, and ``lock.json``: the recipe
and the manifests as they were resolved, the encoder, the limits of every stretched scene, and the versions of the
libraries that read and wrote; of remote sources also ``remote.parquet``, the pinned places. It holds no pixel, so it
can be published where imagery may not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from curation import __version__
from curation.base.errors import FormatVersionError, InputError
from curation.base.files import atomic, digest
from curation.catalogue import open_table
from curation.record import Made, read_made, read_record
from curation.release.pins import write_pins
from curation.shards.format import CHECKSUMS, INDEX_FILE, VERSIONS, Checksums, read_checksums
from curation.sources.recipe import Recipe
from curation.sources.source import Source

LOCK_VERSION = 1
LOCK_FILE, CATALOGUE_FILE = "lock.json", "catalogue.parquet"
FILES = (CATALOGUE_FILE, INDEX_FILE, CHECKSUMS, LOCK_FILE)


@dataclass(frozen=True)
class Lock:
    """A lock that was read."""

    folder: Path
    recipe: Recipe
    sources: dict[str, Source]
    """Manifests as they were resolved, in the recipe's order."""
    versions: dict[str, list[dict[str, str]]]
    """Of the libraries that scanned (``scan``) and wrote (``write``); more than one where an update came between."""
    checksums: Checksums

    @property
    def catalogue(self) -> Path:
        """The catalogue."""
        return self.folder / CATALOGUE_FILE


def write_lock(out: Path, folder: Path) -> Path:
    """Write the lock of a finished run.

    Args:
        out: folder of the run.
        folder: where the lock goes; what an earlier one left there is replaced.

    Raises:
        InputError: the run is not finished, or nothing says how it was made.
    """
    (made, checksums), shards = read_finished(out), out / "shards"
    (folder / LOCK_FILE).unlink(missing_ok=True)
    for path in (out / CATALOGUE_FILE, shards / INDEX_FILE, shards / CHECKSUMS):
        with atomic(folder / path.name) as aside:
            shutil.copyfile(path, aside)
    write_pins(out, made, folder)
    with atomic(folder / LOCK_FILE) as aside:
        told = _lock(out, made, checksums)
        aside.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder / LOCK_FILE


def read_finished(out: Path) -> tuple[Made, Checksums]:
    """How a finished run was made, and its shards.

    Raises:
        InputError: the run is not finished, or nothing says how it was made.
    """
    made, checksums = read_made(out), read_checksums(out / "shards")
    assert checksums is not None
    if made.key not in ("", checksums.key):  # killed when its shards were in place, and catalogue and record were not
        raise InputError(f"{out}: the run that wrote its shards did not finish; run its recipe once more")
    return made, checksums


def _lock(out: Path, made: Made, checksums: Checksums) -> dict[str, Any]:
    rules = made.recipe["shards"]
    return {
        "lock_version": LOCK_VERSION,
        "release": __version__,
        "key": checksums.key,
        "recipe": _portable(made.recipe),
        "sources": made.sources,
        "manifests": {name: digest(manifest) for name, manifest in made.sources.items()},
        "unguarded": made.unguarded,
        "encoder": {name: rules[name] for name in ("encoder", "quality", "pass_through")},
        "stretches": _stretches(out / CATALOGUE_FILE, made),
        "versions": _versions(out),
    }


def _portable(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without folders of this machine: a lock is for others, and ``--data`` says where theirs are."""
    sources = [
        {**each, "path": None} if each["path"] and Path(each["path"]).expanduser().is_absolute() else each
        for each in recipe["sources"]
    ]
    return {**recipe, "sources": sources, "guard": {**recipe["guard"], "fingerprints": None}}


def _stretches(catalogue: Path, made: Made) -> dict[str, dict[str, list[float]]]:
    """Per source and scene the low and high of red, green, blue that became 0 and 255; scenes that are given together.

    Limits of images that are scenes of their own stand in the catalogue, in each row's ``stretch``.
    """
    from curation.scan.parts import scene_of

    scenes = {name: (told.get("stretch") or {}).get("scene") for name, told in made.sources.items()}
    patterns = {name: str(pattern) for name, pattern in scenes.items() if pattern}
    found: dict[str, dict[str, list[float]]] = {}
    if patterns:
        with open_table(catalogue, "catalogue") as file:
            for number in range(file.num_row_groups):
                for row in file.read_row_group(number, columns=["source", "image", "stretch"]).to_pylist():
                    if row["source"] in patterns and row["stretch"] is not None:
                        scene = scene_of(row["image"], patterns[row["source"]])
                        found.setdefault(row["source"], {})[scene] = row["stretch"]
    return found


def _versions(out: Path) -> dict[str, list[dict[str, str]]]:
    """What the parts of the scan and the tars say of the libraries that made them."""
    needs = read_record(out).get("finished")
    if needs is None:
        raise InputError(f"{out}: its last run was not finished; run its recipe once more")
    stages = out / ".stages"
    scans = [
        path for name in needs.stages if name.startswith("scan.") for path in (stages / name).glob("part-*.parquet")
    ]
    tars = [stages / "write" / f"{key}.parquet" for key in needs.tars]
    return {"scan": _told(scans), "write": _told(tars)}


def _told(paths: Iterable[Path]) -> list[dict[str, str]]:
    found = {(pq.read_metadata(path).metadata or {}).get(VERSIONS.encode(), b"{}") for path in paths if path.exists()}
    return [told for each in sorted(found) if (told := json.loads(each))]


def read_lock(folder: Path) -> Lock:
    """Read a lock.

    Raises:
        InputError: a file of it is absent or is not what :func:`write_lock` writes.
        FormatVersionError: another release wrote it.
    """
    path = folder / LOCK_FILE
    try:
        told = json.loads(path.read_bytes())
        version = told["lock_version"]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; rs-curate lock OUT writes one") from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a lock ({error})") from None
    if version != LOCK_VERSION:
        raise FormatVersionError(
            f"{path}: lock version {version}, this release reads {LOCK_VERSION}; install its release"
        )
    checksums = read_checksums(folder)
    assert checksums is not None
    try:
        sources = {name: Source.model_validate(manifest) for name, manifest in told["sources"].items()}
        return Lock(folder, Recipe.model_validate(told["recipe"]), sources, told["versions"], checksums)
    except (KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a lock ({error})") from None
