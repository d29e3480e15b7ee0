"""Indexing tars that exist already: those that ``webdataset`` or any other tool wrote.

Members are grouped into samples by WebDataset's rule: the key is the path up to the first dot of its last part, the
extension is the rest in lower case, and neighbouring members of one key are one sample.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from curation.base.errors import InputError
from curation.base.files import file_digest
from curation.base.progress import Progress
from curation.shards.format import (
    INDEX_FILE,
    ShardInfo,
    index_rows,
    meta_columns,
    read_checksums,
    write_checksums,
    write_index,
)

IMAGE_EXTENSIONS = {"jpg": "jpg", "jpeg": "jpg", "png": "png", "webp": "webp"}
PILLOW_FORMATS = ("JPEG", "PNG", "WEBP")
"""What these extensions may hold: without a list, bytes of any kind reach any of Pillow's loaders, Ghostscript too."""
MAX_IMAGE_BYTES, MAX_JSON_BYTES = 1 << 28, 1 << 20
"""Larger members are not read: a shard from elsewhere must not fill the memory."""
_SPLIT = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")

Members = dict[str, tarfile.TarInfo]


def index_folder(folder: Path, progress: Callable[[int], Progress]) -> list[ShardInfo]:
    """Index every tar of a folder and write ``index.parquet`` and ``checksums.json`` beside them.

    Args:
        folder: uncompressed tars that another tool wrote; read once, not changed.
        progress: opens a display for so many shards.

    Raises:
        InputError: no tar lies there, one is damaged, or the shards are ours and have their index.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise InputError(f"{folder}: holds no .tar file; give the folder in which they lie")
    held = read_checksums(folder, missing_ok=True)
    if held is not None and held.key:
        if not (folder / INDEX_FILE).exists():
            raise InputError(f"{folder}: rs-curate run wrote these shards; the same command again writes their index")
        raise InputError(f"{folder}: these shards have the index that rs-curate run wrote; there is nothing to do")
    infos = []
    with progress(len(tars)) as display:
        for tar in tars:
            infos.append(index_tar(tar))
            display.advance(1)
    write_index(infos, folder)
    write_checksums(infos, folder)
    return infos


def index_tars(paths: Iterable[Path], *, checksums: bool = True) -> list[ShardInfo]:
    """Index tars in the order given; see :func:`index_tar`."""
    return [index_tar(path, checksums=checksums) for path in paths]


def index_tar(path: Path, *, checksums: bool = True) -> ShardInfo:
    """Index one tar; for a shard of ours the rows equal those that ``write_shard`` returned.

    Args:
        path: an uncompressed tar.
        checksums: also hash the images and the tar, which reads every byte.

    Raises:
        InputError: not an uncompressed tar, a key comes twice, or no sample holds an image.
    """
    rows: list[dict[str, Any]] = []
    with _open(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for key, members in _grouped(tar, path):
                    if row := _row(file, key, members, checksums):
                        rows.append(row)
        except tarfile.TarError as error:
            raise InputError(f"{path}: not an uncompressed tar, or damaged ({error})") from None
        if not rows:
            raise InputError(f"{path}: no member is a .jpg, .jpeg, .png or .webp image")
        _refuse_twins(rows, path)
        digest = file_digest(path) if checksums else ""
    return ShardInfo(path.name, len(rows), path.stat().st_size, digest, index_rows(rows))


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def _grouped(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, Members]]:
    current, members = "", Members()
    for info in tar:
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header in memory
        match = _SPLIT.match(info.name)
        if not match or not info.isreg() or info.issparse() or _META.match(info.name):
            continue
        key, extension = match.group(1), match.group(2).lower()
        if key != current:
            if members:
                yield current, members
            current, members = key, Members()
        if extension in members:
            raise InputError(f"{path}: member {info.name!r} comes twice")
        members[extension] = info
    if members:
        yield current, members


def _row(file: BinaryIO, key: str, members: Members, checksums: bool) -> dict[str, Any] | None:
    extension = next((name for name in IMAGE_EXTENSIONS if name in members), None)
    if extension is None or members[extension].size > MAX_IMAGE_BYTES:
        return None
    image = members[extension]
    meta, json_offset, json_size = _meta(file, members.get("json"))
    width, height = _size(file, image, meta)
    return {
        "key": key,
        "image_offset": image.offset_data,
        "image_size": image.size,
        "image_format": IMAGE_EXTENSIONS[extension],
        "json_offset": json_offset,
        "json_size": json_size,
        "width": width,
        "height": height,
        "image_sha256": hashlib.sha256(_read(file, image)).digest() if checksums else None,
        **meta_columns(meta),
    }


def _read(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    return file.read(member.size)


def _meta(file: BinaryIO, member: tarfile.TarInfo | None) -> tuple[dict[str, Any], int, int]:
    if member is None or member.size > MAX_JSON_BYTES:
        return {}, -1, 0
    try:
        data = json.loads(_read(file, member))
    except (ValueError, RecursionError):
        data = None
    return (data if isinstance(data, dict) else {}), member.offset_data, member.size


def _size(file: BinaryIO, image: tarfile.TarInfo, meta: dict[str, Any]) -> tuple[int, int]:
    """Width and height from the JSON, else from the image's header; zeros when neither can be read."""
    sides = (meta.get("width"), meta.get("height"))
    if all(isinstance(side, int) and 0 < side < 1 << 31 for side in sides):
        return sides  # type: ignore[return-value]
    try:
        with Image.open(io.BytesIO(_read(file, image)), formats=PILLOW_FORMATS) as header:
            return header.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return 0, 0


def _refuse_twins(rows: list[dict[str, Any]], path: Path) -> None:
    seen: set[str] = set()
    for row in rows:
        if row["key"] in seen:
            raise InputError(f"{path}: samples of key {row['key']!r} do not lie side by side, or come twice")
        seen.add(row["key"])
