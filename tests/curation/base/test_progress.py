"""Progress: lines where no terminal is."""

from __future__ import annotations

import contextlib
import io
import os
import time

from curation.base.progress import Progress


def test_without_a_terminal_the_end_is_one_line_with_count_rate_and_facts() -> None:
    stream = io.StringIO()
    with Progress("scan", 10, "images", stream) as progress:
        progress.advance(4)
        progress.advance(6, kept=9, loss=0.123456)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("scan: 10 of 10 images in 0 s, ")
    assert lines[0].endswith("images/s  kept=9 loss=0.1235")


def test_failed_work_claims_no_end() -> None:
    stream = io.StringIO()
    try:
        with Progress("scan", 10, "images", stream):
            raise ValueError
    except ValueError:
        pass
    assert stream.getvalue() == ""


def test_a_line_comes_within_seconds_even_where_nothing_gets_done() -> None:
    stream = io.StringIO()
    with Progress("scan", 10, "images", stream):
        deadline = time.monotonic() + 30
        while not stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert stream.getvalue().startswith("scan: 0 of 10 images in ")


def test_work_goes_on_when_nobody_reads_its_progress() -> None:
    ends = os.pipe()
    os.close(ends[0])
    stream = os.fdopen(ends[1], "w")
    with Progress("scan", 1, "images", stream) as progress:
        progress.advance(1)
    with contextlib.suppress(BrokenPipeError):
        stream.close()
    assert progress.done == 1
