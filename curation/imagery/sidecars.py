"""Places that are told beside an image: world files, ``.prj`` and GDAL's ``.aux.xml``.

GDAL is told to look beside no file, since that takes several calls an image: in folders of a million chips most of the
time of opening one, and for nothing. Here a folder is listed once, and only suffixes that it holds are looked for.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Sequence
from functools import lru_cache
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

from curation.imagery.georeference import Affine

MAX_BYTES = {"world": 4 << 10, ".prj": 64 << 10, ".aux.xml": 256 << 10}
"""What is read of one: six numbers, a CRS, and the start of a file whose histograms may fill the rest."""

_SRS = re.compile(r"<SRS(?:\s[^<>]*)?>([^<]*)</SRS>")
_TRANSFORM = re.compile(r"<GeoTransform>([^<]*)</GeoTransform>")


class Sidecar(NamedTuple):
    """What the files beside an image say: its CRS, as ``EPSG:n`` or WKT, and its transform."""

    crs: str | None = None
    affine: Affine | None = None


def beside(path: Path | str, *roots: Path) -> Sidecar:
    """Read what lies beside an image; what cannot be read or makes no sense says nothing.

    Args:
        path: the image.
        roots: its source's folder, and perhaps one that links are followed into; files outside of them are not read.
    """
    found = Sidecar()
    try:
        folder = os.path.dirname(path)
        kinds = kinds_in(folder, os.stat(folder).st_mtime_ns)  # noqa: PTH116 (a path is dear)
    except OSError:  # a folder may let its files be read and not be listed
        return found
    if not kinds:
        return found
    for kind in sorted(kinds, key=lambda kind: (kind.lower() != ".aux.xml", kind)):  # GDAL asks .aux.xml first, too
        told = _read(Path(path), kind, roots)
        found = Sidecar(found.crs or told.crs, found.affine or told.affine)
    return found


@lru_cache(maxsize=256)
def kinds_in(folder: str, mtime_ns: int) -> frozenset[str]:
    """Suffixes of sidecars in a folder, as spelled there; ``mtime_ns``, the folder's, tells that it changed."""
    with os.scandir(folder) as items:
        return frozenset(kind for item in items if item.name[-1] in "wWdDjJlL" and (kind := _kind(item.name)))


def _kind(name: str) -> str:
    """Suffix of a sidecar, empty for other files."""
    lower = name.lower()
    if lower.endswith(".aux.xml"):
        return name[-8:]
    suffix = name[max(name.rfind("."), 0) :]
    return suffix if lower.endswith(".prj") or _is_world(suffix.lower()) else ""


def _is_world(suffix: str) -> bool:
    """``.wld``, or three to five letters of which the last is a w: ``.jgw``, ``.tfw``, ``.jpgw``, ``.tiffw``."""
    return suffix == ".wld" or (4 <= len(suffix) <= 6 and suffix[0] == "." and suffix[-1] == "w")


def _read(path: Path, kind: str, roots: Sequence[Path]) -> Sidecar:
    lower, own = kind.lower(), path.suffix.lower()
    if lower == ".aux.xml":
        return _from_pam(_text(path.with_name(path.name + kind), roots, MAX_BYTES[lower]))
    if lower == ".prj":
        return Sidecar(crs=crs_of(_text(path.with_suffix(kind), roots, MAX_BYTES[lower])))
    if lower in (".wld", f"{own}w", f"{own[:2]}{own[-1:]}w"):
        return Sidecar(affine=_from_world(_text(path.with_suffix(kind), roots, MAX_BYTES["world"])))
    return Sidecar()


def _text(path: Path, roots: Sequence[Path], limit: int) -> str:
    """The beginning of a plain file below one of ``roots``; empty where there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a named pipe would wait for a writer
        try:
            plain = stat.S_ISREG(os.fstat(handle).st_mode)
            real = os.path.realpath(path)
            inside = any(real.startswith(f"{os.path.realpath(root)}{os.sep}") for root in roots)
            data = os.read(handle, limit) if plain and inside else b""
        finally:
            os.close(handle)
    except OSError:
        return ""
    return data.decode("utf-8", "replace").removeprefix("\ufeff")


def _numbers(text: str, separator: str | None) -> list[float]:
    """Six finite numbers, or none."""
    words = text.split(separator)
    try:
        values = [float(word) for word in words[:6]]
    except ValueError:
        return []
    return values if len(words) == 6 and all(map(math.isfinite, values)) else []


def _from_world(text: str) -> Affine | None:
    """Six lines: a, d, b, e, and where the *centre* of the upper left pixel lies."""
    if not (values := _numbers(text, None)):
        return None
    a, d, b, e, x, y = values
    return a, b, x - (a + b) / 2, d, e, y - (d + e) / 2


def _from_pam(text: str) -> Sidecar:
    """The two elements that are asked for, by pattern: no parser of XML, whose entities could grow without end."""
    srs, transform = _SRS.search(text), _TRANSFORM.search(text)
    values = _numbers(transform[1], ",") if transform else []
    affine = (values[1], values[2], values[0], values[4], values[5], values[3]) if values else None
    return Sidecar(crs_of(unescape(srs[1])) if srs else None, affine)


@lru_cache(maxsize=256)
def crs_of(text: str) -> str | None:
    """``EPSG:n`` where there is such a code, else WKT; null for what is no WKT, ESRI's spelling or another."""
    import rasterio
    from rasterio.errors import CRSError

    try:
        with rasterio.Env():  # else GDAL prints what it does not understand
            crs = rasterio.crs.CRS.from_wkt(text.strip(), morph_from_esri_dialect=True)
            return named(crs) if crs else None
    except CRSError:
        return None


def named(crs: Any) -> str:
    """``EPSG:n`` of a rasterio CRS where there is such a code, else its WKT."""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt())
