"""A lazy value is computed once, when it is asked for, and for each object."""

from __future__ import annotations

from curation.base.lazy import lazy


class Asked:
    def __init__(self, value: int) -> None:
        self.value, self.times = value, 0

    @lazy
    def square(self) -> int:
        """The value's square."""
        self.times += 1
        return self.value**2


def test_it_is_computed_once_for_each_object() -> None:
    three, four = Asked(3), Asked(4)
    assert three.times == 0
    assert (three.square, three.square, four.square) == (9, 9, 16)
    assert (three.times, four.times) == (1, 1)
    assert Asked.square.__doc__ == "The value's square."
