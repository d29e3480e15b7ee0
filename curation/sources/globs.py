"""Globs over paths inside a source: POSIX, case-insensitive, matched in linear time.

``**`` spans folders, ``*`` and ``?`` stay inside one name, ``[abc]`` and ``[!abc]`` are one character, ``{a,b}`` are
alternatives. A pattern becomes one regular expression whose stars are atomic groups that take the leftmost fit. That is
enough for a glob, and it keeps a hostile file name from making the match backtrack without end.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable

from curation.base.errors import InputError

MAX_ALTERNATIVES = 1_000
"""Most patterns that the braces of one pattern may stand for."""


def compile_globs(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Compile patterns into one predicate on relative POSIX paths: True when any pattern matches the whole path.

    Raises:
        InputError: a pattern has unbalanced braces, or stands for too many.
    """
    regexes = [glob_regex(pattern) for pattern in patterns]
    if not regexes:
        return lambda path: False
    match = re.compile("|".join(regexes), re.IGNORECASE).fullmatch
    return lambda path: match(path) is not None


def glob_regex(pattern: str) -> str:
    """Translate one pattern into the source of a regular expression for ``re.fullmatch`` with ``re.IGNORECASE``.

    Raises:
        InputError: see :func:`compile_globs`.
    """
    plain = expand_braces(unicodedata.normalize("NFC", pattern))
    return "(?:" + "|".join(_translate(one) for one in plain) + ")"


def expand_braces(pattern: str) -> list[str]:
    """Write out the alternatives of ``{a,b}``, nested ones too, in order.

    Raises:
        InputError: see :func:`compile_globs`.
    """
    start = pattern.find("{")
    if start < 0:
        if "}" in pattern:
            raise InputError(f"glob {pattern!r}: '}}' without '{{'")
        return [pattern]
    end, commas = _closing(pattern, start)
    bounds = [start, *commas, end]
    choices = [pattern[a + 1 : b] for a, b in itertools.pairwise(bounds)]
    tails = expand_braces(pattern[end + 1 :])
    result = [pattern[:start] + head + tail for choice in choices for head in expand_braces(choice) for tail in tails]
    if len(result) > MAX_ALTERNATIVES:
        raise InputError(f"glob {pattern!r}: stands for more than {MAX_ALTERNATIVES} patterns; write fewer braces")
    return result


def _closing(pattern: str, start: int) -> tuple[int, list[int]]:
    """Position of the brace that closes the one at ``start``, and of the commas between them at that level."""
    depth = 0
    commas: list[int] = []
    for position in range(start, len(pattern)):
        character = pattern[position]
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return position, commas
        if character == "," and depth == 1:
            commas.append(position)
    raise InputError(f"glob {pattern!r}: '{{' without '}}'")


def _translate(pattern: str) -> str:
    """Translate a pattern without braces. Runs of names between ``**`` become atomic groups, the last one excepted."""
    names = pattern.split("/")
    chunks: list[list[str]] = [[]]
    for name in names:
        if name != "**":
            chunks[-1].append(name)
        elif chunks[-1] or len(chunks) == 1:
            chunks.append([])
    bodies = ["/".join(_translate_name(name) for name in chunk) for chunk in chunks]
    if len(bodies) == 1:
        return bodies[0]
    first, *middle, last = bodies
    regex = f"{first}/" if first else ""
    for body in middle:
        regex += f"(?>(?:[^/]++/)*?{body}/)"
    return regex + (f"(?:[^/]++/)*{last}" if last else ".+")


def _translate_name(name: str) -> str:
    """Translate one folder's or file's name; every star but the last takes the leftmost fit of what follows it."""
    pieces: list[str] = [""]
    position = 0
    while position < len(name):
        character = name[position]
        position += 1
        if character == "*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append("")
        elif character == "?":
            pieces[-1] += "[^/]"
        elif character == "[" and (end := name.find("]", position + 1 + (name[position : position + 1] == "!"))) > 0:
            inside = name[position:end]
            negate = inside.startswith("!")
            pieces[-1] += f"(?!/)[{'^' * negate}{_escape_class(inside[negate:])}]"
            position = end + 1
        else:
            pieces[-1] += re.escape(character)
    if len(pieces) == 1:
        return pieces[0]
    first, *middle, last = pieces
    return first + "".join(f"(?>[^/]*?{piece})" for piece in middle) + f"[^/]*{last}"


def _escape_class(text: str) -> str:
    return re.sub(r"([\\\[\]^&~|])", r"\\\1", text)
