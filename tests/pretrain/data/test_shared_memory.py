"""Docker's shared memory is too small for many workers; a run says so before it starts."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from curation.base.errors import InputError
from pretrain.data.shared_memory import refuse_little_shared_memory
from pretrain.data.stream import StreamPlan


def test_dockers_default_is_refused_with_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight workers with two batches of 256 crops of 224 px, and two in use: 677,376 KiB; Docker gives 65,536."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=64 << 20))
    plan = StreamPlan(0, 2048, 256)
    with pytest.raises(InputError, match=r"has 64 MB free, and 8 workers may have 662 MB .*--shm-size=\d+m"):
        refuse_little_shared_memory(plan, 224, 8, 2)
    refuse_little_shared_memory(plan, 224, 0, 2)
    with pytest.raises(InputError, match="may have 1758 MB"):  # files of 400,000 bytes that the GPU decodes
        refuse_little_shared_memory(plan, 224, 8, 2, 400_000)
    with pytest.raises(InputError, match="16 workers may have 1323 MB"):  # of two processes
        refuse_little_shared_memory(plan, 224, 8, 2, processes=2)
    refuse_little_shared_memory(StreamPlan(0, 64, 16), 224, 1, 2)
