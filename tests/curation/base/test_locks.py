"""One process at a time in a folder, with the system's lock and where a file system has none."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from curation.base.errors import InputError
from curation.base.locks import hold

HOLDER = """
import errno, fcntl, sys, time
from pathlib import Path
from curation.base.locks import hold
if sys.argv[2] == "without":
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")
    fcntl.flock = flock
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["with", "without"])
def flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both kinds of file systems; the second answers as Lustre does when mounted without ``-o flock``."""
    if request.param == "without":

        def absent(*_: object) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(fcntl, "flock", absent)
    return request.param


def holder(folder: Path, flock: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), flock], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_holds_it_and_takes_over_when_that_dies(tmp_path: Path, flock: str) -> None:
    process = holder(tmp_path, flock)
    try:
        with pytest.raises(InputError, match=f"in use by another run .process {process.pid} on"), hold(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    for _ in range(2):
        with hold(tmp_path), pytest.raises(InputError, match="in use"), hold(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_without_flock_a_holder_of_another_machine_counts_as_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", absent)
    held = tmp_path / ".lock.held"
    held.write_text("process 4194304 on elsewhere (12345, 0d7e-boot pid:[4026531836])")
    with pytest.raises(InputError, match=f"process 4194304 on elsewhere.*no flock.*remove {held}"), hold(tmp_path):
        pass
    held.unlink()
    with hold(tmp_path):
        pass


def test_another_error_of_flock_is_not_taken_for_its_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(OSError, match="Input/output"), hold(tmp_path):
        pass
