"""The trainer's errors: those of curation, so that both commands share one tree and its exit codes."""

from curation.base.errors import FormatVersionError, InputError, RscorpusError, UnreadableImage, WorkError

__all__ = ["FormatVersionError", "InputError", "RscorpusError", "UnreadableImage", "WorkError"]
