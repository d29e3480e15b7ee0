"""What both commands share: how they parse, what they tell a person, and what they exit with.

Exit code 0 for success, 2 for wrong input with one clear line on standard error, 1 for a failure during work, 130 when
the user interrupts, 143 when the process is told to end (SIGTERM). Nothing is printed but here and in ``progress``.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import select
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeAlias

from curation.base.errors import NO_ROOM, NOT_ALLOWED, InputError, RscorpusError
from curation.base.progress import Progress

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What argparse's ``add_subparsers`` gives."""


class Terminal:
    """Tells a person what a command does: results on standard output, progress on standard error."""

    def say(self, text: str) -> None:
        """Print one line; work goes on when nobody reads it any more."""
        try:
            print(text, flush=True)
        except BrokenPipeError:
            _drop_output()
            tell("nobody reads standard output any more; the work goes on")

    def progress(self, description: str, total: int, unit: str) -> Progress:
        """Show progress of long work."""
        return Progress(description, total, unit)


def tell(line: str) -> None:
    """Print one line on standard error, if anybody reads it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def sized(count: float) -> str:
    """Bytes in words: ``1.5 MB``, ``2.0 GB``."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def counted(number: int, noun: str) -> str:
    """``1 shard``, ``2 shards``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that ends with an example, instead of a block of usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, with what to type instead, and exit with 2."""
        missing = message.removeprefix("the following arguments are required: ")
        told = message if missing == message else f"{missing} is missing"
        tell(f"{self.prog}: {told}; {self.epilog or f'see {self.prog} --help'}")
        raise SystemExit(2)


def give_examples(commands: Commands, examples: Mapping[str, str]) -> None:
    """Let the help and the errors of every command end with its example."""
    for name, parser in commands.choices.items():
        parser.epilog = f"example: {examples[name]}"


def positive(text: str) -> int:
    """An argument that is a whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number above 0")
    return int(text)


def natural(text: str) -> int:
    """An argument that is a whole number, 0 among them."""
    return 0 if text == "0" else positive(text)


def width() -> int | None:
    """Columns of the terminal that results are shown on; None where they go to a file or another program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse; ``key=value`` may stand anywhere after the command, which argparse alone takes only before the options.

    The result holds the line itself as well, as ``typed``.
    """
    options, rest = parser.parse_known_args(arguments)
    options.typed = shlex.join([parser.prog, *(sys.argv[1:] if arguments is None else arguments)])
    loose = [word for word in rest if "=" in word and not word.startswith("-")]
    if unknown := [word for word in rest if word not in loose]:
        parser.error(f"unknown: {' '.join(unknown)}; see {parser.prog} --help")
    if loose and "assignments" not in options:
        parser.error(f"{loose[0]}: this command takes no key=value")
    if loose:
        options.assignments += loose
    return options


def refuse_urls(options: argparse.Namespace) -> None:
    """Refuse ``s3://bucket/name`` where a folder of this machine is needed; it would become a folder named ``s3:``.

    Raises:
        InputError: an option of type path is a URL.
    """
    for value in vars(options).values():
        if isinstance(value, Path):
            local_folder(value)


def local_folder(path: Path) -> Path:
    """The absolute path; workers may run elsewhere than where the user typed it.

    Raises:
        InputError: it is a URL.
    """
    if found := re.match(r"([a-z][a-z0-9+.-]+):/+", str(path)):  # a Path holds one slash of two
        url = f"{found.group(1)}://{str(path)[found.end() :]}"
        raise InputError(
            f"{url}: is a URL where a folder of this machine is needed; give a folder, and copy between the two with "
            "rclone, aws s3 sync or the like"
        )
    return path.absolute()


def run_command(program: str, command: Callable[[], int | None], on_interrupt: str) -> int:
    """Run a command; errors that were raised on purpose become one line and an exit code.

    So does what a command refuses of its arguments (:meth:`Parser.error`).
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # tasks of Dask that were pending when the command ended
    try:
        with _stopping(program, on_interrupt):
            return command() or 0
    except RscorpusError as error:
        tell(f"{program}: {error}")
        return error.exit_code
    except SystemExit as refused:
        return int(refused.code or 0)
    except KeyboardInterrupt as stop:
        tell(f"{program}: {on_interrupt}")
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        _drop_output()
        return 0  # the reader of a table (head, less) has seen enough
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in NOT_ALLOWED:
            tell(f"{program}: {where}{error.strerror}; give a folder that you may read and write")
            return InputError.exit_code
        if error.errno not in NO_ROOM:
            raise
        _drop_output()
        tell(f"{program}: {where}the disk is full ({error.strerror}); free some space, and the same command goes on")
        return 1


@contextmanager
def _stopping(program: str, on_interrupt: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block as an interrupt, and a second one the process at once.

    Without the second, whoever presses Ctrl-C again while workers are ended gets a traceback of whatever was under way.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def at_once(number: int, frame: FrameType | None) -> None:
        """The second signal: say so and end."""
        tell(f"{program}: {on_interrupt}")
        os._exit(128 + number)

    def stop(number: int, frame: FrameType | None) -> None:
        """The first signal: an interrupt, after which a second one ends the process."""
        for each in before:
            signal.signal(each, at_once)
        raise KeyboardInterrupt(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: old for number, old in before.items() if old is not signal.SIG_IGN}  # nohup, or a shell's "&"
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt as stopped:
        if stopped.args:  # one more Ctrl-C, while the interpreter ends, would end it by the signal
            before = before | {signal.SIGINT: signal.SIG_IGN}
        raise
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _nobody_reads() -> bool:
    """Whether standard output is a pipe that is closed at its other end."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), select.POLLERR)
    except (OSError, ValueError):
        return False
    return bool(poll.poll(0))


def _drop_output() -> None:
    """Point standard output nowhere, or the interpreter would stumble over what it has not written yet."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
