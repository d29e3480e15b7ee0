"""How numba compiles this package's inner loops: without the interpreter lock, and kept for the next process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
from numba import types

logger = logging.getLogger(__name__)


def compiled(*signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` with the lock released and numba's cache used where there is a place for it.

    A cluster's containers often have neither a writable installation nor a home; numba alone then refuses to import.
    """

    def compile_one(function: Callable[..., Any]) -> Any:
        """Compile with the cache; without, where there is no place for it."""
        try:
            return numba.njit(*signature, nogil=True, cache=True, **options)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
        _warn()
        return numba.njit(*signature, nogil=True, **options)(function)

    return compile_one


def named(cls: type[tuple[Any, ...]], *fields: types.Type) -> types.Type:
    """Numba's type of a ``NamedTuple`` class whose fields have these types, for explicit signatures."""
    return types.BaseTuple.from_types(fields, cls)


@cache
def _warn() -> None:
    logger.warning("numba finds no folder to keep compiled code in: every process compiles anew; set NUMBA_CACHE_DIR")
