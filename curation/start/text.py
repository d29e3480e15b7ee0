"""A draft as people read it: a commented recipe, and a table with what needs a look."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from curation.base.columns import table
from curation.base.terminal import counted
from curation.imagery import band_names
from curation.sources.source import slug
from curation.start.draft import ENOUGH, HUGE, Draft
from curation.start.survey import UNREAD, Met, Survey

WRAP = 112
"""Characters of a comment's line."""
_SOME = 6
"""Words that a list gives as examples."""


def recipe_text(survey: Survey, drafts: Sequence[Draft]) -> str:
    """A recipe in YAML, every line with the fact that it follows from.

    Args:
        survey: what was found.
        drafts: sources to name; at least one.
    """
    how = "all of them" if survey.names.complete else "a random part, since time was up"
    lines = [
        *_comment(
            f"What rs-curate init found in {survey.folder}: {survey.names.files:,} files in "
            f"{counted(survey.names.folders, 'folder')} ({how}), {survey.looks:,} of them opened. Change what you know "
            "better; docs/curate.md lists every field."
        ),
        "",
        f"name: {slug(survey.folder.name, '-')}",
        "sources:",
    ]
    for one, name in zip(drafts, names(survey, drafts), strict=True):
        lines += [f"  - id: {name}", f"    path: {_quoted(str(survey.folder))}", *_source(one, survey), ""]
    lines += [line for note in notes(survey, drafts) for line in _comment(note)]
    return "\n".join(lines).rstrip() + "\n"


def summary(survey: Survey, drafts: Sequence[Draft], width: int | None = None) -> str:
    """The table of sources, for a terminal of ``width`` columns, and what needs a look."""
    header = ("source", "images", "opened", "format", "bands", "type", "pixels", "GSD in m", "masks left out")
    about = "" if survey.names.complete else "> "
    rows = [
        (
            name,
            f"{about}{one.files:,}",
            f"{len(one.opened):,}",
            _most(look.format for look in one.opened),
            _most(str(look.bands) for look in one.opened),
            _most(look.dtype for look in one.opened),
            _range([max(look.width, look.height) for look in one.opened]),
            _range(one.gsds) or "?",
            f"{sum(each.kind.count for each in one.masks):,.0f}" if one.masks else "",
        )
        for one, name in zip(drafts, names(survey, drafts), strict=True)
    ]
    told = [*_warnings(survey, drafts), *notes(survey, drafts)]
    return "\n\n".join([table(header, rows, (1, 2), width), *(["\n".join(told)] if told else [])])


def names(survey: Survey, drafts: Sequence[Draft]) -> list[str]:
    """Ids of the sources: the folder's name, and what tells them apart."""
    base = slug(survey.folder.name, "_")[:40]
    if len(drafts) == 1:
        return [base]
    found: list[str] = []
    for one in drafts:
        bits = "" if one.dtype == "uint8" else f"_{one.dtype}"
        inside = "" if one.container == "folder" else f"_{one.container}"
        name = slug(f"{base}_{one.shape}{bits}{inside}", "_")
        found.append(name if name not in found else f"{name}_{len(found) + 1}")
    return found


# ------------------------------------------------------------------------------------------------ one source


def _source(one: Draft, survey: Survey) -> list[str]:
    return [f"    {line}" for part in (_content, _place, _globs, _pixels, _size) for line in part(one, survey)]


def _content(one: Draft, survey: Survey) -> Iterator[str]:
    suffixes: Counter[str] = Counter()
    for each in one.met:
        suffixes[each.kind.suffix or "without suffix"] += round(each.kind.count)
    shapes = Counter(f"{look.format} of {counted(look.bands, 'band')}, {look.dtype}" for look in one.opened)
    fact = f"{counted(one.files, 'image')} ({_counts(suffixes)}); opened {len(one.opened):,}: {_counts(shapes)}."
    if one.failed:
        fact += f" {len(one.failed):,} cannot be read, such as {one.failed[0].place.file}: {one.failed[0].error}."
    yield from _comment(fact)
    if one.container != "folder":
        yield f"container: {one.container}  # {counted(survey.archives[one.container], 'file')}, read in place"
    if survey.names.outside:
        lead = os.path.commonpath(survey.names.outside)
        yield f"follow_links: {_quoted(lead)}  # {sum(survey.names.outside.values()):,} links lead there"


def _place(one: Draft, survey: Survey) -> Iterator[str]:
    places = Counter(_short(look.crs) for look in one.opened if look.crs is not None)
    if places:
        yield from _comment(f"CRS: {_counts(places)}; none in {len(one.opened) - places.total():,}.")
    if one.gsds:
        yield from _comment(f"GSD: {_range(one.gsds)} m, from {counted(len(one.gsds), 'file')}.")
    if len(one.gsds) < len(one.opened) or not one.opened:
        silent = len(one.opened) - len(one.gsds)
        yield f"# gsd_m: 0.5  # metres per pixel, if you know: {counted(silent, 'file')} of those opened do not say"


def _globs(one: Draft, survey: Survey) -> Iterator[str]:
    if one.bands_in_files is not None:
        bands = one.bands_in_files
        yield "bands_in_files:  # by the band's number in the name"
        for field in ("r", "g", "b", "key"):
            yield f"  {field}: {_quoted(getattr(bands, field))}"
        if one.beside:
            yield from _comment(f"Other bands are not taken: {_words(each.kind.tail for each in one.beside)}.")
    if one.images:
        yield "images:"
        yield from (f"  - {_quoted(glob)}" for glob in one.images)
    if one.masks or one.leave:
        yield "leave:"
        yield from (f"  - {_quoted(glob)}  # {why}" for glob, why in _leave(one))
    if one.splits:
        yield "splits:  # by words of folders; test is left out, exclude: {splits: []} takes it"
        yield from (f"  {name}: {json.dumps(globs, ensure_ascii=False)}" for name, globs in one.splits.items())


def _leave(one: Draft) -> Iterator[tuple[str, str]]:
    """Globs of what is left out, and why."""
    yield from _masks(one.masks)
    for glob in one.leave:
        yield glob, "another source takes these"


def _masks(every: Iterable[Met]) -> Iterator[tuple[str, str]]:
    """Globs of masks and labels, and why they are taken for those."""
    found: dict[str, list[Met]] = {}
    for each in every:
        found.setdefault(each.kind.mask_word() or each.kind.glob, []).append(each)
    for glob, masks in found.items():
        files = sum(each.kind.count for each in masks)
        many = max((look.colours for each in masks for look in each.opened), default=0)
        doubt = f", but some show {many:,} colours: look at them" if many > 1_000 else ""
        yield glob, f"{files:,.0f} masks or labels: {masks[0].mask}{doubt}"


def _pixels(one: Draft, survey: Survey) -> Iterator[str]:
    if one.opened and all(look.grey for look in one.opened) and not one.bands_in_files:
        yield f"kind: grey  # one channel in each of {counted(len(one.opened), 'image')} opened"
    elif one.named and not one.bands_in_files and any(look.bands > 3 for look in one.opened):
        told = Counter(f"{red}, {green}, {blue}" for red, green, blue in one.named.elements())
        yield from _comment(f"Red, green and blue by what the files say: {_counts(told, ' in ')}.")
    if one.unnamed:
        yield from _comment(f"Look here: {_advice(one, '').removeprefix(': ')}.")
        yield "# bands: [RED, GREEN, BLUE]"
    if one.nodata is not None:
        yield f"nodata: {one.nodata:g}  # the lowest value of some images, which no tag declares"
    yield from _stretch(one)


def _stretch(one: Draft) -> Iterator[str]:
    if not one.deep:
        return
    if len(one.types) > 1 or one.stretch is None:
        why = f"types differ ({_counts(one.types)})" if len(one.types) > 1 else "no values were found"
        yield from _comment(f"Look here: {why}, so that each image of more than 8 bits is stretched on its own.")
        return
    low, high = (f"{value:.10g}" for value in one.stretch)
    yield from _comment(
        f"2nd and 98th percentile of the pixels of {counted(len(one.deep), 'image')}"
        + ("; more would be surer." if len(one.deep) < min(ENOUGH, one.files) else ".")
    )
    yield f"stretch: {{how: fixed, fixed: [{low}, {high}]}}"


def _size(one: Draft, survey: Survey) -> Iterator[str]:
    sides = [max(look.width, look.height) for look in one.opened]
    if one.longest >= HUGE:
        huge = sum(side >= HUGE for side in sides)
        yield from _comment(f"{huge:,} of {len(sides):,} opened are {HUGE:,} pixels or longer, up to {max(sides):,}.")
        yield "slice: {mode: grid, tile: 512}"
    elif sides:
        yield from _comment(f"Longer side: {_range(sides)} pixels; above 1,024 images are cut into tiles of 512.")


# ------------------------------------------------------------------------------------------------ what needs a look


def _warnings(survey: Survey, drafts: Sequence[Draft]) -> Iterator[str]:
    for one, name in zip(drafts, names(survey, drafts), strict=True):
        if one.unnamed:
            yield f"warning: {_advice(one, name)}"
        grey = [look for look in one.opened if look.bands == 1 and look.grey]
        if 0 < len(grey) < len(one.opened):
            yield (
                f"warning: {name}: {len(grey):,} of {len(one.opened):,} opened have one band, such as "
                f"{grey[0].place.file}, and a source of kind: rgb leaves those out; if they are panchromatic imagery, "
                "name them in a source of their own with kind: grey"
            )
        if one.deep and len(one.types) > 1:
            yield f"warning: {name}: types differ ({_counts(one.types)}), so that no stretch fits all"
        if one.failed:
            yield f"warning: {name}: {len(one.failed):,} of {len(one.failed) + len(one.opened):,} cannot be read"


def _advice(one: Draft, name: str) -> str:
    files = f"{len(one.unnamed):,} of the images opened"
    return band_names.advice(name, files, max(look.bands for look in one.unnamed))


def notes(survey: Survey, drafts: Sequence[Draft]) -> list[str]:
    """What is not taken, and what was not seen."""
    told = [_unread(each) for each in survey.others()]
    bare = [each for each in survey.images() if not each.kind.suffix and each.kind.container == "folder"]
    told += [
        f"{each.kind.count:,.0f} images in {each.kind.folder or '.'} have no suffix: name them under images, such as "
        f'"{each.kind.glob}"'
        for each in bare
    ]
    told += [f"not taken: {glob}: {why}" for glob, why in _masks(_elsewhere(survey, drafts))]
    beside = Counter({each.kind.suffix: 0 for each in survey.met})
    for each in survey.met:
        if not each.is_image and each not in survey.others():
            beside[each.kind.suffix] += round(each.kind.count)
    if +beside:
        told.append(f"Beside the images: {_counts(+beside)}")
    told += [f"not whole: {broken}" for broken in survey.broken]
    if survey.names.unread:
        told.append(f"cannot be listed: {_words(survey.names.unread)}")
    if not survey.names.complete:
        told.append(f"{counted(survey.names.folders, 'folder')} were seen in {survey.names.seconds:.0f} s, not all")
    return told


def _elsewhere(survey: Survey, drafts: Sequence[Draft]) -> list[Met]:
    """Masks and labels that no source's globs take, so that none has to leave them out."""
    told = {id(each) for one in drafts for each in (*one.met, *one.masks, *one.beside)}
    return [each for each in survey.images() if each.mask is not None and id(each) not in told]


def _unread(each: Met) -> str:
    kind = each.kind
    inside = "" if kind.container == "folder" else f" inside of {kind.container} files"
    files = "1 file ends" if kind.count == 1 else f"{kind.count:,.0f} files end"
    do = UNREAD.get(kind.suffix, "unpack it" if each.looks and each.looks[0].error == "an archive" else "")
    why = "" if do or not each.looks else f" ({each.looks[0].error})"
    ending = f"in {kind.suffix}" if kind.suffix else "without a suffix"
    return f"not read: {files} {ending}{inside} in {kind.folder or '.'}{f': {do}' if do else why}"


# ------------------------------------------------------------------------------------------------ words


def _comment(text: str) -> Iterator[str]:
    """Text as lines of comments."""
    import textwrap

    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    yield from (f"# {line}" for line in textwrap.wrap(clean, WRAP, break_on_hyphens=False, break_long_words=False))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _counts(counts: Counter[str], between: str = "") -> str:
    """The most common with their numbers."""
    if between:
        return ", ".join(f"{what}{between}{number:,}" for what, number in counts.most_common(_SOME))
    more = f" and {len(counts) - _SOME} more" if len(counts) > _SOME else ""
    return ", ".join(f"{number:,} {what}" for what, number in counts.most_common(_SOME)) + more


def _words(words: Iterable[str]) -> str:
    every = list(dict.fromkeys(words))
    return ", ".join(every[:_SOME]) + (f" and {len(every) - _SOME} more" if len(every) > _SOME else "")


def _most(words: Iterable[str]) -> str:
    """The most common word, with a mark where there are others."""
    counts = Counter(words).most_common(2)
    return counts[0][0] + ("+" if len(counts) > 1 else "") if counts else ""


def _range(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, middle, high = min(values), median(values), max(values)
    if f"{low:.3g}" == f"{high:.3g}":
        return _number(middle)
    return f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _short(crs: str) -> str:
    return crs if len(crs) < 20 else re.sub(r'^\w+\["([^"]*)".*', r"\1", crs, flags=re.DOTALL)[:40]
