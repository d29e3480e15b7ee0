"""Whatever becomes of the compiler or of its work, there is a library that runs, or none; no process ends of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation.base import native
from curation.base.native import function, library

SOURCE = "int answer(void) { return 42; }\n"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(native, "kept_in", lambda: tmp_path / "kept")
    monkeypatch.delenv("CC", raising=False)
    path = tmp_path / "answer.c"
    path.write_text(SOURCE)
    if library(path) is None:
        pytest.skip("no C compiler")
    return path


def kept(source: Path) -> list[Path]:
    return sorted((source.parent / "kept").iterdir())


def test_it_is_compiled_once_and_again_for_another_state(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    found = library(source)
    assert found is not None and found.answer() == 42 and len(kept(source)) == 1
    source.write_text(SOURCE.replace("42", "43"))
    assert library(source) is None
    monkeypatch.delenv("CC")
    found = library(source)
    assert found is not None and found.answer() == 43 and len(kept(source)) == 2


@pytest.mark.parametrize("left", [0, 100])
def test_what_was_cut_short_is_compiled_anew(source: Path, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its header; one that ends behind that would end the process, so it is on the disk before it has its name."""
    (built,) = kept(source)
    elsewhere = source.with_name("elsewhere")  # what a process has loaded under a name stays as it is
    elsewhere.mkdir()
    (elsewhere / built.name).write_bytes(built.read_bytes()[:left])
    monkeypatch.setattr(native, "kept_in", lambda: elsewhere)
    found = library(source)
    assert found is not None and found.answer() == 42


@pytest.mark.parametrize(
    "text",
    [
        "no program",
        "#!/bin/sh\nprintf '\\377' >&2; exit 1\n",
        "#!/bin/sh\nexit 0\n",
        '#!/bin/sh\necho rubbish > "$5"\n',
    ],
    ids=["cannot be run", "fails", "leaves nothing", "leaves rubbish"],
)
def test_a_compiler_that_fails_is_none(source: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = source.with_name("compiler")
    compiler.write_text(text)
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    source.write_text(SOURCE.replace("42", "44"))
    assert library(source) is None
    monkeypatch.delenv("CC")
    found = library(source)
    assert found is not None and found.answer() == 44


@pytest.mark.parametrize("words", ["", " ", "cc -O1", "cc -DUNUSED='1 2'"])
def test_a_compiler_may_have_arguments(source: Path, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", words)
    source.write_text(SOURCE.replace("42", "45"))
    found = library(source)
    assert found is not None and found.answer() == 45


def test_a_compiler_whose_name_makes_no_sense_is_none(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc '-O1")
    source.write_text(SOURCE.replace("42", "46"))
    assert library(source) is None


def test_a_compiler_that_hangs_is_none(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = source.with_name("compiler")
    compiler.write_text("#!/bin/sh\nexec sleep 60\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setattr(native, "PATIENCE_S", 0.2)
    source.write_text(SOURCE.replace("42", "47"))
    assert library(source) is None


def test_a_function_that_is_not_there_is_none(source: Path) -> None:
    answer = function(source, "answer", [])
    assert answer is not None and answer() == 42
    assert function(source, "question", []) is None
    assert function(source, "answer", [], can="can_answer") is None
    source.write_text(SOURCE + "int can_answer(void) { return 0; }\n")
    assert function(source, "answer", [], can="can_answer") is None


def test_a_folder_that_another_process_removed_is_none(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "kept_in", lambda: source.with_name("gone"))
    assert library(source) is None
