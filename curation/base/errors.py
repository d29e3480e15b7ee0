"""Every error this project raises on purpose, in one tree.

``InputError`` is the user's to mend (exit code 2): its message names the file, field or URL at fault and what to
type next. ``WorkError`` is a failure during work (exit code 1). Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import struct
import zlib

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of an ``OSError`` that more room, or a smaller file, would mend."""
NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""Numbers of an ``OSError`` that another folder, or other permissions, would mend."""
DAMAGED_IMAGE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, AttributeError,
    ZeroDivisionError, MemoryError, AssertionError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's parsers raise on damaged files, besides its ``DecompressionBombError``."""


class RscorpusError(Exception):
    """Root of the tree; ``exit_code`` is what the command line ends with."""

    exit_code = 1


class InputError(RscorpusError):
    """What the user gave is wrong: a path, a field, a value, a format version."""

    exit_code = 2


class FormatVersionError(InputError):
    """A file was written by another format version; the message names both and the way out."""


class WorkError(RscorpusError):
    """Work that was well asked for failed: a full disk, too many bad inputs, a dead cluster."""


class UnreadableImage(RscorpusError):
    """One raw image cannot be decoded, or exceeds the limits. It gets a verdict; the run goes on."""
