"""Which bands of a raster are red, green and blue, by what the file says of them: never by how many there are.

Known are colour interpretations, plain names (``red``, ``Green``), and the band numbers of Sentinel-2 and Landsat,
which differ: red is B4 in Sentinel-2 and in Landsat 8 and 9, and B3 in Landsat 4 to 7, which have no B8 to B12.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Bands = tuple[int, int, int]
"""1-based bands of red, green, blue."""

_COLOURS = ("red", "green", "blue")
_PLAIN = {colour: re.compile(rf"(^|[^a-z]){colour}([^a-z]|$)") for colour in _COLOURS}
_OTHERS = re.compile(r"(edge|coast|near|infra|nir|swir|yellow|green_?i\b|green i\b|vegetation|aerosol|[a-z]red|deep)")
_NUMBERED = re.compile(r"(?:^|[^a-z0-9])(?:sr_|toa_|st_)?b(?:and)?[ _-]?0*(\d{1,2})(a?)(?![a-z0-9])")
_NEWER = re.compile(r"(^|[^a-z0-9])(s2[abc]?|sentinel[ _-]?2|msi|oli|l[89]|lc0[89]|landsat[ _-]?[89])([^a-z0-9]|$)")
_THERMAL = re.compile(r"temp|therm|tir|kelvin")
"""What band 6 is in Landsat 4 to 7; later ones have a short-wave band there."""
_NEW = {"red": "4", "green": "3", "blue": "2"}
_OLD = {"red": "3", "green": "2", "blue": "1"}


def rgb_bands(names: Sequence[str | None], interpretations: Sequence[str] = ()) -> Bands | None:
    """Red, green and blue of a raster, or None where nothing in the file says which they are.

    Args:
        names: description of each band, None where it has none.
        interpretations: GDAL's colour interpretation of each band, in lower case; may be empty.
    """
    if all(colour in interpretations for colour in _COLOURS):
        red, green, blue = (list(interpretations).index(colour) + 1 for colour in _COLOURS)
        return red, green, blue
    return _by_word(names) or _by_number(names)


def advice(source: str, files: str, bands: int) -> str:
    """Warning that nothing says which bands are red, green and blue, with the line that ends it.

    Args:
        source: its id.
        files: how many images say nothing, in words.
        bands: how many bands they have.
    """
    return (
        f"{source}: {files} have {bands} bands and do not say which are red, green and blue, so that bands 1, 2, 3 are "
        f"taken; set, under the source, bands: [RED, GREEN, BLUE], counted from 1 ({_ORDERS})"
    )


def grey_advice(source: str, grey: int, files: int) -> str:
    """Warning that images of one band are left out of a source of ``kind: rgb``, with the line that ends it."""
    return (
        f"{source}: {grey:,} of {files:,} images have one band, and a source of kind: rgb leaves those out as "
        "not_optical; if they are panchromatic imagery set, under the source, kind: grey"
    )


_ORDERS = (
    "Sentinel-2 in its own order and Landsat 8 and 9: [4, 3, 2]; Landsat 4 to 7: [3, 2, 1]; NAIP: [1, 2, 3]; "
    "PlanetScope: [3, 2, 1] of four bands, [6, 4, 2] of eight"
)


def _by_word(names: Sequence[str | None]) -> Bands | None:
    found = []
    for colour in _COLOURS:
        places = [at + 1 for at, name in enumerate(names) if name and _is_plain(name.lower(), colour)]
        if len(places) != 1:
            return None
        found.append(places[0])
    return found[0], found[1], found[2]


def _is_plain(name: str, colour: str) -> bool:
    return _PLAIN[colour].search(name) is not None and _OTHERS.search(name) is None


def _by_number(names: Sequence[str | None]) -> Bands | None:
    """Sentinel-2 and Landsat: whether the numbers are the old ones shows in which others there are."""
    matches = [_NUMBERED.search((name or "").lower()) for name in names]
    numbers = [match.group(1) + match.group(2) if match else "" for match in matches]
    present = set(numbers) - {""}
    is_newer = any(_NEWER.search((name or "").lower()) for name in names)
    has_old_thermal = "6" in numbers and _THERMAL.search((names[numbers.index("6")] or "").lower()) is not None
    may_be_old = has_old_thermal or not {"6", "7"} <= present
    if not is_newer and present <= {"1", "2", "3", "4", "5", "6", "7"} and may_be_old:
        wanted = _OLD if {"1", "2", "3", "5"} <= present else None
    else:
        wanted = _NEW
    if wanted is None or not set(wanted.values()) <= present:
        return None
    red, green, blue = (numbers.index(wanted[colour]) + 1 for colour in _COLOURS)
    return red, green, blue
