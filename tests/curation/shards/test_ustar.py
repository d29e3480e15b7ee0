"""Headers and ends of tars against the standard library's."""

from __future__ import annotations

import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from curation.shards import ustar


@given(st.text("0123456789abcdef-.", min_size=1, max_size=100), st.integers(0, (1 << 33) - 1))
def test_a_header_is_what_tarfile_writes(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    expected = info.tobuf(tarfile.USTAR_FORMAT)
    assert ustar.header(name, size) == expected
    assert ustar.stored_size(expected) == size
    assert ustar.stored_name(expected) == (name.encode() if len(name) < 100 else None)


@given(st.lists(st.binary(max_size=20_000), max_size=5))
def test_a_whole_tar_is_what_tarfile_writes(contents: list[bytes]) -> None:
    expected, own = io.BytesIO(), b""
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, content in enumerate(contents):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
            own += ustar.header(info.name, len(content)) + content + ustar.padding(len(content))
    assert own + ustar.end(len(own)) == expected.getvalue()


def test_sizes_of_other_writers_are_read() -> None:
    info = tarfile.TarInfo("large")
    info.size = 1 << 40  # GNU tar writes it in base 256
    assert ustar.stored_size(info.tobuf(tarfile.GNU_FORMAT)) == 1 << 40
    assert ustar.stored_size(bytes(512)) is None
