"""What both commands share: how they parse, what they tell a person, and what they exit with.

Exit code 0 for success, 2 for wrong input with one clear line on standard error, 1 for a failure during work, 130 when
the user interrupts.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence

from curation.errors import OpticalrsError
from curation.progress import Progress


class Terminal:
    """Tells a person what a command does: results on standard output, progress on standard error."""

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, flush=True)

    def progress(self, description: str, total: int, unit: str) -> Progress:
        """Show progress of long work."""
        return Progress(description, total, unit)


def counted(number: int, noun: str) -> str:
    """``1 shard``, ``2 shards``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse; ``key=value`` may stand anywhere after the command, which argparse alone takes only before the options."""
    options, rest = parser.parse_known_args(arguments)
    loose = [word for word in rest if "=" in word and not word.startswith("-")]
    if unknown := [word for word in rest if word not in loose]:
        parser.error(f"unknown: {' '.join(unknown)}; see {parser.prog} --help")
    if loose and "assignments" not in options:
        parser.error(f"{loose[0]}: this command takes no key=value")
    if loose:
        options.assignments += loose
    return options


def run_command(program: str, command: Callable[[], int | None], on_interrupt: str) -> int:
    """Run a command; errors that were raised on purpose become one line and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        return command() or 0
    except OpticalrsError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of a table (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"{program}: the disk is full; free some space, and the same command goes on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: {on_interrupt}", file=sys.stderr)
        return 130
