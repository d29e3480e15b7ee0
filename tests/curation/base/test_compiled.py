"""Compiled loops work where nothing can be cached: a read-only installation and a user without a home."""

from __future__ import annotations

import pytest
from numba.core.caching import CompileResultCacheImpl

from curation.base.compiled import compiled


def doubled(value):
    return 2 * value


def test_without_a_folder_for_the_cache_it_compiles_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", [])
    assert compiled()(doubled)(21) == 42
    assert "set NUMBA_CACHE_DIR" in caplog.text


def test_other_errors_are_not_hidden(monkeypatch):
    def broken(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(CompileResultCacheImpl, "__init__", broken)
    with pytest.raises(RuntimeError, match="something else"):
        compiled()(doubled)
