"""Taking a part apart that brings its process down, until the image at fault is alone and gives its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from curation.base.errors import RscorpusError, WorkError

Alone: TypeAlias = Callable[[Any], tuple[Any, str | None]]
"""Runs a part in a process of its own: its result, or what became of the process."""


@runtime_checkable
class Divisible(Protocol):
    """A part that can be taken apart when it brings its process down; a protocol, hence without bodies."""

    def split(self) -> Sequence[Divisible]:
        """Two smaller parts; the part itself when it is one image."""
        ...

    def without(self, what: str) -> Divisible:
        """The part with its images given up, ``what`` being what happened."""
        ...

    def join(self, pieces: Sequence[Divisible]) -> None:
        """Make this part's result from those of its pieces."""
        ...


def isolate(fn: Callable[[Any], Any], part: Any, alone: Alone) -> Any:
    """Run a part that killed workers: in a process of its own, halved until one image is alone.

    Raises:
        WorkError: the part cannot be taken apart.
    """
    result, what = alone(part)
    if what is None:
        return result
    if not isinstance(part, Divisible):
        raise WorkError(f"{part}: brought its process down ({what})")
    pieces = part.split()
    if len(pieces) < 2:
        return _blame(part, alone)
    for piece in pieces:
        isolate(fn, piece, alone)
    part.join(pieces)
    return fn(part)


def _blame(part: Divisible, alone: Alone) -> Any:
    """Give up one image, unless it lives when it is tried again: someone else may have ended its process."""
    result, what = alone(part)
    if what is None:
        return result
    for _ in range(2):
        result, again = alone(part.without(what))
        if again is None:
            return result
    raise WorkError(f"{part}: brought its process down without being opened ({again})")


def answer(fn: Callable[[Any], Any], part: Any) -> tuple[Any, Exception | None]:
    """What a process of its own runs."""
    try:
        return fn(part), None
    except Exception as error:  # noqa: BLE001 (handed to the parent, which raises it)
        return None, error


def told_apart(part: Any, result: Any, error: Exception | None) -> tuple[Any, str | None]:
    """An answer as :data:`Alone` gives it; raises what is no image's fault."""
    if error is not None and (isinstance(error, RscorpusError | OSError) or not isinstance(part, Divisible)):
        raise error
    return result, None if error is None else f"{type(error).__name__}: {error}"
