"""Compiled loops are kept where there is a place, and are never those of another state of the source."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from curation.base import compiled as module
from curation.base.compiled import compiled, kept_in

CALLED = "from curation.base.compiled import compiled\n@compiled()\ndef factor():\n    return {}\n"
CALLER = """
from curation.base.compiled import compiled
from curation.called import factor
@compiled()
def scaled(value):
    return factor() * value
if __name__ == "__main__":
    print(scaled(10), sum(scaled.stats.cache_hits.values()))
"""


@pytest.fixture
def anew():
    kept_in.cache_clear()
    yield
    kept_in.cache_clear()


def doubled(value):
    return 2 * value


def test_without_a_folder_for_the_cache_it_compiles_and_says_so(monkeypatch, caplog, anew, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "_roots", lambda: iter([tmp_path / "file"]))
    assert compiled()(doubled)(21) == 42
    assert "set NUMBA_CACHE_DIR" in caplog.text


def test_a_folder_that_is_named_is_taken_first(monkeypatch, anew, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))
    assert compiled()(doubled)(21) == 42
    assert list(tmp_path.glob("kernels/kernels-*/*/*.nbi"))


def test_of_old_states_only_the_newest_are_kept(monkeypatch, anew, tmp_path):
    """What somebody else named alike is none of them."""
    states = [f"kernels-{letter * 16}" for letter in "abc"]
    for age, name in enumerate([*states, "kernels-mine"]):
        (tmp_path / name / "inside").mkdir(parents=True)
        os.utime(tmp_path / name, (1_000_000 - age, 1_000_000 - age))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    current = kept_in()
    assert current is not None
    assert {path.name for path in tmp_path.iterdir()} == {*states[:2], "kernels-mine", current.name}


@pytest.mark.parametrize("planted", ["writable", "link", "another's"])
def test_a_folder_that_others_can_write_to_is_not_taken(monkeypatch, caplog, anew, tmp_path, planted):
    """Whoever knows the release could put code there that is then run."""
    shared, own = tmp_path / "shared", tmp_path / "own"
    folder = shared / f"kernels-{module._state()}"
    (tmp_path / "elsewhere").mkdir()
    shared.mkdir()
    if planted == "link":
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777 if planted == "writable" else 0o755)
    if planted == "another's":
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
        monkeypatch.setattr(module, "_TRUSTED", ())
    monkeypatch.setattr(module, "_roots", lambda: iter([shared, own]))
    found = kept_in()
    assert found is None if planted == "another's" else found is not None and found.parent == own
    assert f"{folder} can be written by others" in caplog.text


def test_a_loop_of_another_file_that_changed_is_compiled_in_anew(tmp_path):
    """Numba alone keeps the caller, whose own file did not change, with the old loop within."""
    package = tmp_path / "curation"
    (package / "base").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "base" / "compiled.py").write_bytes(Path(module.__file__).read_bytes())
    (package / "caller.py").write_text(CALLER)

    def printed(factor: int) -> list[str]:
        (package / "called.py").write_text(CALLED.format(factor))
        told = subprocess.run(
            [sys.executable, "-m", "curation.caller"], cwd=tmp_path, check=True, capture_output=True, text=True,
            env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "NUMBA_CACHE_DIR")},
        )  # fmt: skip
        return told.stdout.split()

    assert printed(2) == ["20", "0"]
    assert printed(2) == ["20", "1"]
    assert printed(3) == ["30", "0"]
