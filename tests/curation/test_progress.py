"""Progress: lines where no terminal is."""

from __future__ import annotations

import io

from curation.progress import Progress


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
