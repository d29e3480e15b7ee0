"""What follows from a survey: which sources a recipe should name, with which fields, and the fact behind each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from curation.containers import CONTAINERS
from curation.imagery.band_names import rgb_bands
from curation.imagery.stretch import SENTINELS
from curation.sources.source import IMAGE_SUFFIXES, BandFiles
from curation.start.look import Look
from curation.start.names import Kind, plain
from curation.start.survey import Met, Survey

ENOUGH = 64
"""Images whose percentiles make a stretch that is not remarked on."""
HUGE = 4_096
"""Side in pixels from which a raster is better cut by a grid."""
_BAND = re.compile(r"[_\-.](b(?:and)?_?(?:\d{1,2}|8a))((?:_\d+m)?)", re.I)


@dataclass
class Draft:
    """One source that a recipe should name."""

    met: list[Met]
    container: str
    dtype: str
    """Of most images; ``uint8`` for all that needs no stretch."""
    shape: str
    """``rgb``, ``grey``, ``n bands``, or ``one band per file``."""
    images: list[str] = field(default_factory=list)
    """Globs; empty where the default takes just these."""
    masks: list[Met] = field(default_factory=list)
    leave: list[str] = field(default_factory=list)
    """Globs that keep what other sources take out of this one."""
    bands_in_files: BandFiles | None = None
    beside: list[Met] = field(default_factory=list)
    """Of one file per band: the other bands, which are not taken."""

    @property
    def files(self) -> int:
        """Images, as far as counted."""
        files = round(sum(each.kind.count for each in self.met))
        return files if self.bands_in_files is None else files // 3

    @property
    def opened(self) -> list[Look]:
        """Images that were read."""
        return _opened(self.met)

    @property
    def failed(self) -> list[Look]:
        """Images that could not be read."""
        return [look for each in self.met for look in each.looks if look.error]

    @property
    def deep(self) -> list[Look]:
        """Those of more than 8 bits."""
        return [look for look in self.opened if look.deep]

    @property
    def types(self) -> Counter[str]:
        """Native types; one stretch fits images of one type."""
        return Counter(look.dtype for look in self.opened)

    @property
    def named(self) -> Counter[tuple[int, int, int]]:
        """Bands that files mark or name as red, green and blue."""
        return Counter(look.rgb for look in self.opened if look.rgb is not None and not look.grey)

    @property
    def unnamed(self) -> list[Look]:
        """Images of so many bands that the first three may be any, and which do not say which are red, green, blue."""
        many = [look for look in self.opened if look.bands > (3 if look.deep else 4)]
        return [] if self.bands_in_files else [look for look in many if look.rgb is None]

    @property
    def splits(self) -> dict[str, list[str]]:
        """Globs of the folders that say the name of a split."""
        found: dict[str, list[str]] = {}
        for each in self.met:
            if (split := each.kind.split()) is not None and split[1] not in found.setdefault(split[0], []):
                found[split[0]].append(split[1])
        return found

    @property
    def nodata(self) -> float | None:
        """A usual value of missing pixels that no tag declares."""
        if len(self.types) > 1:
            return None
        lowest = [float(np.nanmin(look.values)) for look in self.deep if np.isfinite(look.values).any()]
        return next((value for value in SENTINELS if np.isclose(lowest, value, rtol=1e-6).any()), None)

    @property
    def stretch(self) -> tuple[float, float] | None:
        """2nd and 98th percentile of the values of images of more than 8 bits, three digits of each."""
        values = [look.values[np.isfinite(look.values).all(axis=1)].reshape(-1) for look in self.deep]
        together = np.concatenate(values) if values else np.zeros(0)
        if self.nodata is not None:
            together = together[~np.isclose(together, self.nodata, rtol=1e-6)]
        if not len(together):
            return None
        low, high = (float(f"{value:.3g}") for value in np.percentile(together, (2, 98)))
        return (low, high) if low < high else None

    @property
    def gsds(self) -> list[float]:
        """Metres per pixel of those images that say so."""
        return sorted(look.gsd_m for look in self.opened if look.gsd_m is not None)

    @property
    def longest(self) -> int:
        """Longest side, in pixels."""
        return max((max(look.width, look.height) for look in self.opened), default=0)


def draft(survey: Survey) -> list[Draft]:
    """Sources that a recipe of this folder should name, the largest first; empty where it holds no image."""
    images = [each for each in survey.images() if each.kind.suffix or each.kind.container != "folder"]
    masks = [each for each in images if each.mask is not None]
    taken = [each for each in images if each.mask is None]
    if not taken:
        taken, masks = masks, []
    drafts = [*_of_band_files(taken), *_of_others(taken)]
    for one in drafts:
        _choose(one, [other for other in drafts if other is not one], survey)
        one.masks = [each for each in masks if each.kind.container == one.container and _takes(one, each.kind)]
    return sorted(drafts, key=lambda one: -one.files)


def _of_band_files(taken: list[Met]) -> list[Draft]:
    """Sources of one file per band, where the names say which are red, green and blue; takes them out of ``taken``."""
    groups: dict[tuple[str, str, str], list[Met]] = {}
    for each in taken:
        if (band := _BAND.fullmatch(each.kind.tail)) and all(look.grey for look in each.opened):
            groups.setdefault((each.kind.container, each.kind.suffix, band[2].lower()), []).append(each)
    drafts = []
    for (container, suffix, size), group in groups.items():
        tails = list(dict.fromkeys(each.kind.tail.lower() for each in group))
        found = rgb_bands([tail.strip("_-.") for tail in tails]) if container == "folder" else None
        if found is None:
            continue
        chosen = [tails[band - 1] for band in found]
        red, green, blue = (f"**/*{plain(tail)}{suffix}" for tail in chosen)
        either = "|".join(re.escape(tail.removesuffix(size)) for tail in chosen)
        bands = BandFiles(r=red, g=green, b=blue, key=rf"(?i)(.*)(?:{either}){re.escape(size + suffix)}$")
        mine = [each for each in group if each.kind.tail.lower() in chosen]
        beside = [each for each in group if each not in mine]
        drafts.append(
            Draft(mine, container, _nature(_opened(mine))[0], "one band per file", bands_in_files=bands, beside=beside)
        )
        for each in group:
            taken.remove(each)
    return drafts


def _of_others(taken: Iterable[Met]) -> list[Draft]:
    """Sources of images alike: what they lie in, their type, and how many bands they have."""
    groups: dict[tuple[str, str, str], list[Met]] = {}
    unknown = []
    for each in taken:
        if each.opened:
            groups.setdefault((each.kind.container, *_nature(each.opened)), []).append(each)
        else:
            unknown.append(each)
    for each in unknown:  # goes along with the largest that lies in the same
        alike = [key for key in groups if key[0] == each.kind.container]
        key = max(alike, key=lambda key: sum(one.kind.count for one in groups[key]), default=None)
        groups.setdefault(key or (each.kind.container, "uint8", "rgb"), []).append(each)
    return [Draft(group, *key) for key, group in groups.items()]


def _opened(met: Iterable[Met]) -> list[Look]:
    return [look for each in met for look in each.opened]


def _nature(opened: Sequence[Look]) -> tuple[str, str]:
    """Type and shape of most of a kind's images."""
    counts = Counter((look.dtype if look.deep else "uint8", _shape(look)) for look in opened)
    return counts.most_common(1)[0][0] if counts else ("uint8", "rgb")


def _shape(look: Look) -> str:
    if look.bands > 4:
        return f"{look.bands} bands"
    return "grey" if look.grey else "rgb"


# ------------------------------------------------------------------------------------------------ globs


def _choose(one: Draft, others: Sequence[Draft], survey: Survey) -> None:
    """Set the globs that take this source's images and none of the others'."""
    if one.bands_in_files is not None:
        return
    kind = CONTAINERS.get(one.container)
    if kind is not None:
        if not kind.is_table and others:
            found = [suffix for suffix in kind.suffixes if any(suffix in each.kind.folder for each in one.met)]
            one.images = [f"**/*{suffix}/**/*.{_braces(_suffixes(one))}" for suffix in found]
        return
    suffixes = _suffixes(one)
    alike = [other for other in others if other.container == one.container]
    rivals = [each.kind for other in alike for each in (*other.met, *other.beside)]
    if not rivals:
        strange = set(suffixes) - set(IMAGE_SUFFIXES)
        one.images = [f"**/*.{_braces(suffixes)}"] if strange else []
        return
    levels: tuple[Callable[[Kind], str], ...] = (_by_suffix, _by_top, lambda kind: kind.glob)
    for level in levels:
        one.images = sorted({level(each.kind) for each in one.met})
        if not set(one.images) & {level(rival) for rival in rivals}:
            break
    mine = {(each.kind.folder, each.kind.suffix) for each in one.met if not each.kind.tail}
    one.leave = sorted({rival.glob for rival in rivals if rival.tail and (rival.folder, rival.suffix) in mine})


def _by_suffix(kind: Kind) -> str:
    return f"**/*{kind.suffix}"


def _by_top(kind: Kind) -> str:
    top = kind.folder.split("/")[0]
    return f"{top}/**/*{kind.suffix}" if top else f"*{kind.suffix}"


def _suffixes(one: Draft) -> list[str]:
    return sorted({each.kind.suffix.lstrip(".") for each in one.met})


def _braces(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else "{" + ",".join(words) + "}"


def _takes(one: Draft, mask: Kind) -> bool:
    """Whether a source's globs would take a mask too."""
    from curation.sources.globs import compile_globs

    if one.bands_in_files is not None:
        return False
    example = mask.glob.replace("**", "x").replace("*", "x")
    return not one.images or compile_globs(one.images)(example)
