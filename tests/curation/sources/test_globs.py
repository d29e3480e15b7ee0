"""Globs, against glob-like libraries of the standard library and against hostile names."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.base.errors import InputError
from curation.sources.globs import compile_globs, expand_braces


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.jpg", "a.jpg", True),
        ("*.jpg", "A.JPG", True),
        ("*.jpg", "x/a.jpg", False),
        ("**/*.jpg", "a.jpg", True),
        ("**/*.jpg", "x/y/a.jpg", True),
        ("x/**/*.jpg", "x/a.jpg", True),
        ("x/**/*.jpg", "y/x/a.jpg", False),
        ("x/**", "x/y/z", True),
        ("x/**", "x", False),
        ("**", "x/y", True),
        ("**/img/**/*_rgb.{tif,tiff}", "a/img/b/c/1_RGB.tiff", True),
        ("**/img/**/*_rgb.{tif,tiff}", "a/imgs/b/c/1_rgb.tif", False),
        ("{train,val}/*/img_?.png", "val/x/img_1.png", True),
        ("{train,val}/*/img_?.png", "val/x/img_10.png", False),
        ("{train,val}/*/img_?.png", "test/x/img_1.png", False),
        ("img[0-9].png", "img7.png", True),
        ("img[!0-9].png", "img7.png", False),
        ("a?b", "a/b", False),
        ("a[!x]b", "a/b", False),
        ("a*b*a*b", "abab", True),
        ("a*b*a*b", "abaab", True),
        ("a*b*a*b", "aba", False),
        ("a+(1).tif", "a+(1).tif", True),
        ("{a,b{c,d}}.x", "bd.x", True),
        ("München/*", "München/x", True),  # composed and decomposed: paths are NFC, patterns become it
        ("**/x/**/y/*.t", "x/x/y/y/1.t", True),
        ("tiles-[(]1).tif", "tiles-(1).tif", True),
    ],
)
def test_table(pattern: str, path: str, matches: bool) -> None:
    assert compile_globs([pattern])(path) is matches


@given(st.text("ab*?.", max_size=8), st.text("ab.", max_size=10))
def test_one_name_is_as_fnmatch_says(pattern: str, name: str) -> None:
    expected = fnmatch.fnmatchcase(name, pattern)
    if pattern == "**":
        expected = name != ""
    assert compile_globs([pattern])(name) is expected


@given(
    st.lists(st.sampled_from(["**", "a", "b", "*", "a*"]), min_size=1, max_size=5),
    st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=6),
)
def test_folders_match_as_the_plain_recursion_says(pattern: list[str], path: list[str]) -> None:
    def plain(glob: list[str], names: list[str]) -> bool:
        if not glob:
            return not names
        if glob == ["**"]:
            return bool(names)
        if glob[0] == "**":
            return plain(glob[1:], names) or (bool(names) and plain(glob, names[1:]))
        return bool(names) and fnmatch.fnmatchcase(names[0], glob[0]) and plain(glob[1:], names[1:])

    assert compile_globs(["/".join(pattern)])("/".join(path)) is plain(pattern, path)


def test_no_glob_matches_nothing() -> None:
    assert not compile_globs([])("a")


@pytest.mark.parametrize("pattern", ["{a", "a}", "{a,{b}"])
def test_unbalanced_braces_are_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="glob"):
        compile_globs([pattern])


def test_too_many_alternatives_are_refused() -> None:
    with pytest.raises(InputError, match="1000"):
        expand_braces("{a,b}" * 11)


def test_hostile_names_do_not_backtrack_without_end() -> None:
    matches = compile_globs(["**/*a*a*a*a*a*b.jpg", "**/a*/**/a*/**/a*/*.png"])
    started = time.process_time()
    assert not matches("a" * 4_000 + ".jpg")
    assert not matches("a/" * 500 + "a.gif")
    assert time.process_time() - started < 5  # a backtracking matcher would take years
