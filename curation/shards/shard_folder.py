"""The folder of finished shards: what of it counts, and how other shards take its place.

``checksums.json`` means: complete, and every tar is what it says. While shards are exchanged it is absent, and then a
tar counts only for the bytes that are read from it. So what a kill leaves is never taken for what it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curation.base.errors import InputError
from curation.base.files import file_digest, sync_folder
from curation.shards import format as shard_format
from curation.shards.format import Checksums, ShardInfo

REPLACE = (
    "run again with --replace to replace them, with --until select to see what would change, or give another --out"
)


@dataclass(frozen=True)
class ShardFolder:
    """Finished shards, perhaps of another recipe, perhaps none."""

    path: Path
    done: Checksums | None

    @classmethod
    def open(cls, path: Path, replace: bool) -> ShardFolder:
        """Look at a folder; with ``replace`` one that cannot be read is as good as empty.

        Raises:
            InputError: its checksums cannot be read, or are of another format version.
        """
        try:
            return cls(path, shard_format.read_checksums(path, missing_ok=True))
        except InputError:
            if not replace:
                raise
            return cls(path, None)

    def holds(self, key: str) -> list[ShardInfo] | None:
        """The shards of a key when they are all there, whole; ``rs-curate verify`` reads them, this only looks."""
        if self.done is None or self.done.key != key or not self._has_index():
            return None
        return self.done.shards if all(_has_size(self.path / each.file, each) for each in self.done.shards) else None

    def _has_index(self) -> bool:
        """Whether the index is there and this release reads it; it is made again from the tars' own rows."""
        try:
            shard_format.open_index(self.path)[0].close()
        except InputError:
            return False
        return True

    def tar_of(self, info: ShardInfo) -> Path | None:
        """The tar here that has the bytes of ``info``, perhaps under another name."""
        if self.done is not None:
            names = [each.file for each in self.done.shards if each.sha256 == info.sha256]
            return next((self.path / name for name in names if _has_size(self.path / name, info)), None)
        path = self.path / info.file
        return path if _has_size(path, info) and file_digest(path) == info.sha256 else None

    def allow(self, infos: Sequence[ShardInfo | None], key: str, replace: bool, way_out: str = REPLACE) -> None:
        """Check that the finished shards stay as they are, or may be replaced.

        Args:
            infos: what is known of the shards that take their place; None: not made yet.
            key: theirs; under the same key only what is damaged is made again.
            replace: whether the user said so.
            way_out: what to type otherwise.

        Raises:
            InputError: a shard would change, and may not.
        """
        if replace or self.done is None or self.done.key == key:
            return
        stay = {(info.file, info.sha256) for info in infos if info is not None}
        lost = sum((each.file, each.sha256) not in stay for each in self.done.shards)
        if lost:
            of = f"of which {lost:,} of {len(self.done.shards):,} would change"
            raise InputError(f"{self.path}: holds shards of another recipe or other data, {of}; {way_out}")

    def replace(self, made: Sequence[tuple[ShardInfo, Path]], key: str) -> None:
        """Put tars in place, then the index, then the checksums, whose presence means: complete.

        Args:
            made: every shard, in order, and where its tar lies: here already, or on the same file system.
            key: of all of them together.
        """
        self.path.mkdir(exist_ok=True)
        (self.path / shard_format.CHECKSUMS).unlink(missing_ok=True)
        sync_folder(self.path)
        kept = {tar for _, tar in made}
        for stale in self.path.glob("*.tar"):
            if stale not in kept:
                stale.unlink()
        for info, tar in made:
            if tar != self.path / info.file:
                tar.replace(self.path / info.file)
        sync_folder(self.path)
        infos = [info for info, _ in made]
        shard_format.write_index(infos, self.path)
        shard_format.write_checksums(infos, self.path, key)


def _has_size(path: Path, info: ShardInfo) -> bool:
    return path.exists() and path.stat().st_size == info.bytes
