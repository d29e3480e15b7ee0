"""Tables of text that fit a terminal."""

from __future__ import annotations

from collections.abc import Sequence

_NARROWEST = 9
"""Characters that a cut column keeps."""


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), width: int | None = None
) -> str:
    """Columns as wide as their content, two blanks apart; ``right`` names those that align to the right.

    With a ``width`` the longest columns of words are cut, never the first one, until a line has so many characters;
    where that is not enough, the last columns are left out, and named below.
    """
    every = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    widths = _fitted(every, right, width)
    unseen = (
        f"\n(too wide for {width} columns: {', '.join(header[len(widths) :])})" if len(widths) < len(header) else ""
    )
    header, *rows = ([_cut(cell, size) for cell, size in zip(row, widths, strict=False)] for row in (header, *rows))

    def line(row: Sequence[str]) -> str:
        """One line of the table."""
        cells = [
            cell.rjust(size) if column in right else cell.ljust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), line(["-" * size for size in widths]), *(line(row) for row in rows)]) + unseen


def _fitted(widths: list[int], right: Sequence[int], width: int | None) -> list[int]:
    """Widths of those columns that fit a line, the longest shortened as far as one can still read them."""
    able, fitted = [column for column in range(1, len(widths)) if column not in right], list(widths)
    while width is not None and sum(fitted) + 2 * (len(fitted) - 1) > width:
        longest = max(able, key=lambda column: fitted[column], default=0)
        if longest == 0 or fitted[longest] <= _NARROWEST:
            return _fitted(widths[:-1], right, width) if len(widths) > 1 else widths
        fitted[longest] -= 1
    return fitted


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"


def number(value: int | None) -> str:
    """A number with thousands marked, nothing for null."""
    return "" if value is None else f"{value:,}"
