"""Verify: every fault that is put into sound shards is found and named, and an interrupted check goes on."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from shard_samples import sample, shard_samples, write_folder

from curation.cli import main
from curation.shards.foreign import index_folder
from curation.shards.format import (
    Sample,
    open_index,
    read_checksums,
    read_index,
    write_checksums,
    write_index,
    write_shard,
)
from curation.shards.verify import verify

RNG = np.random.Generator


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "shards")


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def some(folder: Path, rng: RNG) -> tuple[Path, dict[str, Any]]:
    """A random shard and a random sample of it."""
    index, paths = open_index(folder)
    with index:
        number = int(rng.integers(len(paths)))
        return paths[number], rng.choice(index.read_row_group(number).to_pylist())  # type: ignore[return-value]


def flipped_image(folder: Path, rng: RNG) -> str:
    path, row = some(folder, rng)
    flip(path, row["image_offset"] + int(rng.integers(row["image_size"])))
    return f"{path.name}: {row['key']}: its image differs from index.parquet"


def flipped_json(folder: Path, rng: RNG) -> str:
    path, row = some(folder, rng)
    flip(path, row["json_offset"] + int(rng.integers(row["json_size"])))
    return f"{path.name}: its bytes differ from checksums.json"


def flipped_header(folder: Path, rng: RNG) -> str:
    path, row = some(folder, rng)
    flip(path, row[rng.choice(["image_offset", "json_offset"])] - 1 - int(rng.integers(512)))
    return f"{path.name}: {row['key']}: a header in the tar is not the one"


def flipped_end(folder: Path, rng: RNG) -> str:
    path, _ = some(folder, rng)
    flip(path, path.stat().st_size - 1 - int(rng.integers(1024)))
    return f"{path.name}: its bytes differ from checksums.json"


def truncated(folder: Path, rng: RNG) -> str:
    path, _ = some(folder, rng)
    with path.open("r+b") as file:
        file.truncate(int(rng.integers(path.stat().st_size)))
    return rf"{path.name}: has [0-9,]+ bytes, checksums.json says"


def missing(folder: Path, rng: RNG) -> str:
    path, _ = some(folder, rng)
    path.unlink()
    return f"{path.name}: listed in index.parquet, but absent"


def extra(folder: Path, rng: RNG) -> str:
    shutil.copy(some(folder, rng)[0], folder / "stray.tar")
    return "stray.tar: not listed in index.parquet"


def swapped_tars(folder: Path, rng: RNG) -> str:
    one, other = (folder / f"x-{n:06d}.tar" for n in rng.permutation(3)[:2])
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    return f"{one.name}: its bytes differ from checksums.json"


def flipped_index(folder: Path, rng: RNG) -> str:
    path = folder / "index.parquet"
    flip(path, 4 + int(rng.integers(path.stat().st_size * 2 // 3)))
    return "index.parquet: its bytes differ from checksums.json"


def swapped_rows(folder: Path, rng: RNG) -> str:
    """One value of the index becomes that of another row, and the checksum is made to fit."""
    table, name = read_index(folder), str(rng.choice(["key", "image_offset", "image_size", "image_sha256", "gsd_m"]))
    path, row = some(folder, rng)
    values = table[name].to_pylist()
    at = table["key"].to_pylist().index(row["key"])
    values[at] = 7.0 if name == "gsd_m" else next(value for value in values[at // 4 * 4 :] if value != values[at])
    field = table.schema.field(name)
    rewritten = table.set_column(table.column_names.index(name), field, pa.array(values, field.type))
    pq.write_table(rewritten, folder / "index.parquet", row_group_size=4)
    checksums = read_checksums(folder)
    write_checksums(checksums.shards, folder, "abc")
    text = json.loads((folder / "checksums.json").read_text())
    (folder / "checksums.json").write_text(json.dumps(text | {"index": ""}))
    return path.name


def duplicate_key(folder: Path, rng: RNG) -> str:
    """The tile of another shard under a key of its own: nothing but the id tells."""
    again = shard_samples(int(rng.integers(3)))[int(rng.integers(4))]
    renamed = Sample(f"00000300000-{again.key[12:]}", again.image, again.image_format, again.meta)
    infos = [write_shard(shard_samples(n), folder / f"x-{n:06d}.tar") for n in range(3)]
    infos.append(write_shard([renamed], folder / "x-000003.tar"))
    write_index(infos, folder)
    write_checksums(infos, folder, "abc")
    return f"index.parquet: tile '{again.key[12:]}' comes 2 times"


def swapped_json(folder: Path, rng: RNG) -> str:
    """The metadata of two samples, exchanged by whoever wrote the tar: all checksums fit."""
    number, (one, other) = int(rng.integers(3)), rng.choice([[0, 1], [1, 3], [0, 2]])
    samples = shard_samples(number)
    metas = [each.meta for each in samples]
    metas[one], metas[other] = metas[other], metas[one]
    samples = [Sample(s.key, s.image, s.image_format, meta) for s, meta in zip(samples, metas, strict=True)]
    infos = [write_shard(samples if n == number else shard_samples(n), folder / f"x-{n:06d}.tar") for n in range(3)]
    write_index(infos, folder)
    write_checksums(infos, folder, "abc")
    return f"x-{number:06d}.tar: {samples[one].key}: its JSON is that of another tile"


FAULTS = [
    flipped_image, flipped_json, flipped_header, flipped_end, truncated, missing, extra, swapped_tars, flipped_index,
    swapped_rows, duplicate_key, swapped_json,
]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found_and_named(folder: Path, fault: Callable[[Path, RNG], str], seed: int) -> None:
    assert verify(folder) == []
    told = fault(folder, np.random.default_rng([FAULTS.index(fault), seed]))
    found = "\n".join(str(problem) for problem in verify(folder))
    assert re.search(told, found), found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fault", [flipped_image, truncated, missing, extra, flipped_index])
def test_faults_are_found_in_shards_from_elsewhere(
    tmp_path: Path, fault: Callable[[Path, RNG], str], seed: int
) -> None:
    long = "/".join(["a folder with a long name"] * 5)
    for number in range(3):
        with webdataset.TarWriter(str(tmp_path / f"x-{number:06d}.tar")) as writer:
            for each in shard_samples(number):
                key = f"{long}/{each.key}" if each.key[10] == "1" else each.key
                writer.write({"__key__": key, each.image_format: each.image, "json": each.meta, "txt": "something"})
    index_folder(tmp_path, lambda _: _Silent())
    assert verify(tmp_path) == []
    told = fault(tmp_path, np.random.default_rng(seed))
    found = "\n".join(str(problem) for problem in verify(tmp_path))
    assert re.search(told, found), found


class _Silent:
    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None: ...

    def advance(self, _: int) -> None: ...


def test_the_quick_level_reads_no_tar_and_finds_what_sizes_tell(folder: Path) -> None:
    path, row = some(folder, np.random.default_rng(0))
    flip(path, row["image_offset"])
    assert verify(folder, "quick") == []
    with path.open("ab") as file:
        file.write(b"x")
    assert [problem.where for problem in verify(folder, "quick")] == [path.name]


def test_verify_decodes_every_image(tmp_path: Path) -> None:
    good = sample(0, 0)
    cut = Sample("00000000001-0", good.image[:-300], "jpg", good.meta)
    infos = [write_shard([good, cut], tmp_path / "x-000000.tar")]
    write_index(infos, tmp_path)
    write_checksums(infos, tmp_path)
    assert verify(tmp_path) == []
    (problem,) = verify(tmp_path, "decode")
    assert "00000000001-0: cannot be decoded" in str(problem)


def test_bytes_of_another_format_are_a_plain_fault(tmp_path: Path) -> None:
    """PostScript under the name of a JPEG must not reach Pillow's loader, which would start Ghostscript."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 20\n%%EndComments\n(%pipe%touch x) (w) file\n%%EOF\n"
    with Image.open(io.BytesIO(script)) as image:  # what Pillow makes of it when it is not told what to expect
        assert (image.format, image.size) == ("EPS", (30, 20))
    good = sample(0, 0)
    infos = [write_shard([Sample(good.key, script, "jpg", good.meta)], tmp_path / "x-000000.tar")]
    write_index(infos, tmp_path)
    write_checksums(infos, tmp_path)
    assert verify(tmp_path) == []
    (problem,) = verify(tmp_path, "decode")
    assert "cannot be decoded (cannot identify image file" in str(problem)


def test_equal_keys_in_two_shards_are_found(tmp_path: Path) -> None:
    infos = [write_shard(shard_samples(0), tmp_path / f"x-{n:06d}.tar") for n in range(2)]
    write_index(infos, tmp_path)
    write_checksums(infos, tmp_path)
    assert sum("comes 2 times" in str(problem) for problem in verify(tmp_path)) == 4


def test_an_interrupted_check_goes_on_and_a_finished_one_leaves_nothing(folder: Path) -> None:
    journal, seen = folder.parent / "journal", []

    def until_the_third(work: Callable[[Any], Any], parts: list[Any]) -> Any:
        for part in parts:
            if len(seen) == 2:
                raise KeyboardInterrupt
            seen.append(part.path.name)
            yield part, work(part)

    flip(folder / "x-000000.tar", 700)
    with pytest.raises(KeyboardInterrupt):
        verify(folder, map_parts=until_the_third, journal=journal)
    with journal.open("a") as file:
        file.write('["x-000002.tar", 1')  # cut short by a kill
    seen.clear()

    def noted(work: Callable[[Any], Any], parts: list[Any]) -> Any:
        seen.extend(part.path.name for part in parts)
        return ((part, work(part)) for part in parts)

    problems = verify(folder, map_parts=noted, journal=journal)
    assert seen == ["x-000002.tar"]
    assert {problem.where.partition(":")[0] for problem in problems} == {"x-000000.tar"}
    assert not journal.exists()
    seen.clear()
    verify(folder, map_parts=noted, journal=journal)
    assert len(seen) == 3


def test_a_shard_that_changed_since_it_was_noted_is_read_again(folder: Path) -> None:
    journal = folder.parent / "journal"

    def one_alone(work: Callable[[Any], Any], parts: list[Any]) -> Any:
        yield parts[0], work(parts[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(folder, map_parts=one_alone, journal=journal)
    flip(folder / "x-000000.tar", 700)
    assert any("x-000000.tar" in problem.where for problem in verify(folder, journal=journal))


def test_the_command_takes_workers_and_the_folder_of_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder.parent), "--workers", "2"]) == 0
    assert f"{folder}: sound" in capsys.readouterr().out
    flip(folder / "x-000001.tar", 5)
    assert main(["verify", str(folder), "--workers", "2", "--decode"]) == 1
    shown = capsys.readouterr().out
    assert "error: x-000001.tar: its bytes differ from checksums.json" in shown
    assert "2 errors" in shown
    assert sorted(path.name for path in folder.parent.iterdir()) == ["shards"]


def test_a_check_killed_at_any_moment_goes_on_and_ends_with_the_same_answer(tmp_path: Path) -> None:
    (tmp_path / "out/.stages").mkdir(parents=True)
    folder = write_folder(tmp_path / "out/shards", 40)
    flip(folder / "x-000030.tar", 700)
    code = "import sys; from curation.cli import main; print(flush=True); sys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", code, "verify", str(folder), "--workers", "1"]
    for delay in np.random.default_rng(8).uniform(0.1, 0.6, 6):
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
            assert running.stdout is not None and running.stdout.readline() == b"\n"
            time.sleep(delay)
            running.send_signal(signal.SIGKILL)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: x-000030.tar: its bytes differ from checksums.json" in done.stdout
    assert done.stdout.strip().endswith("2 errors")
    assert not list((tmp_path / "out/.stages").iterdir())
